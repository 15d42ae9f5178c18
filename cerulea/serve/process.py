"""The process of one engine: messages in, deltas out, one line of JSON for each step.

In:      on standard input, one line of JSON a message: first the options (`Options`), then
         {"submit": request}, {"lease": [id, tokens]}, {"abort": id}.
Out:     on standard output: {"ready": {...}} or {"failed": error}, then after each step {"deltas": [...], "stats": {}}.
Kept:    it ends when its input ends, and while it loads, when nobody reads its input, with the process that started it;
         whatever a library prints goes to standard
         error. A request that is refused is answered with a delta, as one that failed is.
Not here: who starts it (`flows.host`), what an engine does (`engine`, `vllm_engine`).
"""

from __future__ import annotations

import json
import os
import select
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from cerulea.core import heap
from cerulea.core.errors import CeruleaError, Failed
from cerulea.core.parent import die_with_parent
from cerulea.core.values import Usage
from cerulea.serve.engine import Stats
from cerulea.serve.request import Delta, Request, request_from_json

READ_BYTES = 1 << 20
MOST_FAILURES = 5  # steps in a row, after which the process ends: a device that failed once may fail for ever


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """All that decides how a model is run."""

    folder: str  # of the model
    weights: str = "auto"  # fp32, bf16, int8, or what the probe finds fastest without int8
    most_running: int = 16
    spare_rows: int = 2  # beyond those, for teams with nothing running
    cached_rows: int = 14  # and beyond those, for cached prefixes
    most_waiting: int = 256  # sequences, beside those that run
    most_waiting_tokens: int = 0  # of their prompts; 0 takes 64 contexts
    most_wait_s: float = 120.0
    max_len: int = 0  # tokens of a row; 0 takes the model's context
    threads: int = 0  # 0 takes every core
    device: str = "auto"
    extra: Mapping[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


class Steps(Protocol):
    """An engine, as this process drives it: one thread, everything else between steps."""

    failures: int  # steps that failed one after the other

    @property
    def idle(self) -> bool:
        """Whether a step would do nothing."""
        ...

    @property
    def stats(self) -> Stats:
        """Counters, as of now."""
        ...

    def submit(self, request: Request) -> None:
        """Let a request wait for its turn; a CeruleaError says why not."""
        ...

    def lease(self, request_id: str, tokens: int) -> None:
        """Let a sequence write this many tokens in all; the same number again says that there will be no more."""
        ...

    def abort(self, request_id: str) -> None:
        """End a sequence."""
        ...

    def step(self) -> list[Delta]:
        """Compute one step, and say what it brought."""
        ...


class Inbox:
    """Lines of JSON from a file descriptor, as they come."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor, self._left = descriptor, b""
        self.open = True

    def messages(self, wait_s: float | None = 0.0) -> Iterator[dict[str, Any]]:
        """What has come; waits for something where nothing has. None waits for as long as it takes."""
        if not self.open or not select.select([self._descriptor], [], [], wait_s)[0]:
            return
        data = os.read(self._descriptor, READ_BYTES)
        if not data:
            self.open = False
            return
        *lines, self._left = (self._left + data).split(b"\n")
        for line in lines:
            yield json.loads(line)


def run(engine: Steps, inbox: Inbox, say: Callable[[dict[str, Any]], None]) -> None:
    """Step until the input ends."""
    said = 0.0
    while inbox.open and engine.failures < MOST_FAILURES:
        idle = engine.idle
        refused = [delta for message in inbox.messages(None if idle else 0.0) for delta in _take(engine, message)]
        deltas = refused + engine.step()
        now = time.monotonic()
        if deltas or now - said > 1.0:
            said = now
            say({"deltas": [delta.as_json() for delta in deltas], "stats": asdict(engine.stats)})


def _take(engine: Steps, message: Mapping[str, Any]) -> Iterator[Delta]:
    """Do what one message asks; a refusal is told in a delta."""
    if "submit" in message:
        request = request_from_json(message["submit"])
        try:
            engine.submit(request)
        except CeruleaError as error:
            yield Delta(id=request.id, finish="error", detail=json.dumps(error.as_json()), usage=Usage())
    elif "lease" in message:
        engine.lease(*message["lease"])
    elif "abort" in message:
        engine.abort(message["abort"])


def main(make: Callable[[Options], tuple[Steps, dict[str, Any]]]) -> int:
    """Run an engine on standard input and output.

    Args:
        make: the engine for the options, and what to say of it when it is ready.
    """
    die_with_parent()
    heap.keep_small()
    out = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # what libraries print must not stand between our lines

    def say(message: dict[str, Any]) -> None:
        out.write(json.dumps(message, separators=(",", ":")).encode() + b"\n")

    inbox = Inbox(0)
    first: list[dict[str, Any]] = []
    while inbox.open and not first:
        first = list(inbox.messages(None))
    if not first:
        return 0
    began = time.perf_counter()
    try:
        engine, ready = make(Options(**first[0]))
    except CeruleaError as error:
        say({"failed": error.as_json(), "kind": type(error).__name__})
        return 1
    except Exception as error:
        failure = Failed(f"The model cannot be loaded: {type(error).__name__}: {str(error)[:300]}.")
        say({"failed": failure.as_json(), "kind": "Failed"})
        raise
    say({"ready": {**ready, "load_s": round(time.perf_counter() - began, 3)}})
    for message in first[1:]:
        for delta in _take(engine, message):
            say({"deltas": [delta.as_json()], "stats": asdict(engine.stats)})
    try:
        run(engine, inbox, say)
    except BrokenPipeError:  # who started it is gone
        return 0
    return 0


__all__ = ["Inbox", "Options", "Steps", "main", "run"]


if __name__ == "__main__":
    from cerulea.serve.load import make_engine

    sys.exit(main(make_engine))
