"""A loaded model: the process of its engine, what is asked of it, and who waits for what.

In:      Requests; what the process says, as `flows.host` hears it.
Out:     Flows, which yield the Deltas of one request.
Kept:    what lives as long as the model does (its tokenizer, its template, its grammars) is held by its Served alone.
Not here: which models are loaded (`flows.host`), the program of the process (`serve.process`).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from cerulea.core.errors import NotReady, QueueFull
from cerulea.core.restoring import restore
from cerulea.flows.grammars import Checker
from cerulea.flows.model_folders import Model
from cerulea.serve.process import Options
from cerulea.serve.request import Delta, Request
from cerulea.text.tokenizer import Tokenizer, load_tokenizer

STOP_S = 10.0  # until a process that was asked to end is killed


class Flow:
    """One request in an engine, as its deltas come."""

    def __init__(self, engine: Engine, request: Request) -> None:
        self._engine, self.id = engine, request.id
        self.prompt_tokens = len(request.prompt)
        self._deltas: asyncio.Queue[Delta] = asyncio.Queue()
        self.begun = False

    async def __aiter__(self) -> AsyncIterator[Delta]:
        while True:
            delta = await self._deltas.get()
            if delta.finish == "error" and delta.detail.startswith("{"):
                raise restore(json.loads(delta.detail))  # it was refused, before anything was computed
            yield delta
            if delta.finish:
                return

    def lease(self, tokens: int) -> None:
        """Let it write this many tokens in all."""
        self._engine.tell({"lease": [self.id, tokens]})

    def abort(self) -> None:
        """End it; its last delta still comes."""
        self._engine.tell({"abort": self.id})

    def put(self, delta: Delta) -> None:
        """A delta has come."""
        self.begun = True
        self._deltas.put_nowait(delta)


@dataclass(slots=True, kw_only=True, eq=False)
class Engine:
    """A process with one model, and what is asked of it."""

    model: Model
    options: Options
    need_bytes: int
    pinned: bool = False
    served: Served | None = None
    process: asyncio.subprocess.Process | None = None
    ready: asyncio.Future[dict[str, Any]] | None = None
    flows: dict[str, Flow] = field(default_factory=dict)
    waiting_tokens: int = 0
    used: float = 0.0
    stats: dict[str, Any] = field(default_factory=dict)
    reader: asyncio.Task[None] | None = None
    gone: bool = False  # its process ends, or has ended
    ended: asyncio.Event = field(default_factory=asyncio.Event)  # it has, and its memory is the machine's again

    @property
    def loaded(self) -> bool:
        """Whether it answers."""
        return self.ready is not None and self.ready.done() and not self.ready.exception() and not self.gone

    def tell(self, message: dict[str, Any]) -> None:
        """Send it a message; one that has ended hears nothing."""
        if self.gone or self.process is None or self.process.stdin is None or self.process.stdin.is_closing():
            return
        self.process.stdin.write(json.dumps(message, separators=(",", ":")).encode() + b"\n")


class Served:
    """A loaded model."""

    def __init__(self, engine: Engine, info: dict[str, Any], bounds: Options) -> None:
        self._engine, self._bounds, self.info = engine, bounds, info
        model = engine.model
        self.label, self.name, self.version = model.label, model.name, model.version
        self.folder = model.folder
        self._requests = 0  # that came through the server's door and are not answered yet
        self.context, self.vocab = int(info["context"]), int(info["vocab"])

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """Its tokenizer."""
        return load_tokenizer(self.folder)

    @cached_property
    def grammars(self) -> Checker:
        """What tells whether a grammar can be met."""
        return Checker(self.tokenizer, self.vocab)

    @cached_property
    def template(self) -> Any:
        """Its chat template, or None."""
        from cerulea.text.chat import load_template

        return load_template(self.folder)

    def enter(self) -> None:
        """Count a request as it comes, before it is read.

        Raises:
            QueueFull: as many came already as may run and wait.
        """
        here = max(self._requests, len(self._engine.flows))
        most = self._bounds.most_running + self._bounds.most_waiting
        if here >= most:
            raise QueueFull(
                f"{here:,} requests run and wait for {self.label}; the most is {most:,}.",
                retry_after_s=self._patience(),
            )
        self._requests += 1

    def leave(self) -> None:
        """A request that had entered was answered, or nobody waits for it any more."""
        self._requests -= 1

    def admit(self, sequences: int, prompt_tokens: int) -> None:
        """Nothing where so much more would be taken now; asked once for each request, whatever it consists of.

        Raises:
            QueueFull: too much waits already.
            NotReady: its process has ended.
        """
        engine = self._engine
        if engine.gone:
            raise NotReady(f"The engine of {self.label} has ended and is started again.", retry_after_s=2)
        most = self._bounds.most_running + self._bounds.most_waiting
        # A request of more than may wait at all is taken when nothing else is there.
        if engine.flows and len(engine.flows) + sequences > most:
            raise QueueFull(
                f"{len(engine.flows):,} sequences run and wait for {self.label}; the most is {most:,}.",
                retry_after_s=self._patience(),
            )
        most_tokens = self._bounds.most_waiting_tokens or 64 * self.context
        if engine.waiting_tokens and engine.waiting_tokens + prompt_tokens > most_tokens:
            raise QueueFull(
                f"{engine.waiting_tokens:,} prompt tokens wait for {self.label}; the most is {most_tokens:,}.",
                retry_after_s=self._patience(),
            )

    def submit(self, request: Request) -> Flow:
        """Hand a request to the engine.

        Raises:
            NotReady: its process has ended.
        """
        engine = self._engine
        if engine.gone:
            raise NotReady(f"The engine of {self.label} has ended and is started again.", retry_after_s=2)
        engine.used = time.monotonic()
        flow = Flow(engine, request)
        engine.flows[request.id] = flow
        engine.waiting_tokens += flow.prompt_tokens
        engine.tell({"submit": request.as_json()})
        return flow

    def _patience(self) -> float:
        """Seconds after which there is room, roughly: the line moves by a row's worth each 64 steps."""
        step_s = float(self._engine.stats.get("step_ms", 20.0)) / 1000
        return max(1.0, 64 * step_s)


async def end(process: asyncio.subprocess.Process | None) -> None:
    """End a process by ending its input; one that does not listen is killed."""
    if process is None:
        return
    if process.stdin is not None:
        process.stdin.close()
    try:
        await asyncio.wait_for(process.wait(), STOP_S)
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
