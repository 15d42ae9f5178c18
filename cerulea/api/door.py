"""The door of a server: a request that finds no place in a model's line is refused before anything else is done.

In:      bytes of a connection, as they come from the socket.
Out:     to a request for a model that is full, 429 with Retry-After, at once; everything else goes on to uvicorn.
Counted: requests for a loaded model, from their coming until they are answered, against the sequences that may run and
         wait there. A burst is so refused as it comes in, and not after its first requests were read, leased and begun.
Order:   of those that are let in one is begun in each turn of the event loop, so that whoever comes meanwhile and is to
         be refused waits for one of them and not for all.
Kept:    nobody comes in by what is remembered here of keys and labels, for that may be old: whoever is let in is asked
         again. Who is not remembered, who has an Idempotency-Key (he may only want an answer that is there), and what
         does not come in one piece is let in, and is refused where all others are (`Served.admit`).
Not here: HTTP (uvicorn), what else a line is bounded by (`flows.loaded`).
"""

from __future__ import annotations

import asyncio
import json
import re
from collections import deque
from collections.abc import Callable, Sequence
from functools import lru_cache
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from cerulea.api import openai_errors, problems
from cerulea.core.clock import new_id
from cerulea.core.errors import QueueFull

if TYPE_CHECKING:
    import h11
    from fastapi import FastAPI

    from cerulea.flows.platform import Platform
    from cerulea.flows.serving import Gateway, Line

LARGEST = 64 << 10  # bytes of a request that is looked at here: a read of a socket brings no more at a time
ROUTES = (b"/v1/completions", b"/v1/chat/completions", b"/v1/embeddings")
_HEAD = re.compile(rb"POST (" + b"|".join(ROUTES) + rb") HTTP/1\.1\r\n")
_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]{1,6})(?=\r\n)", re.IGNORECASE)
_KEY = re.compile(rb"\r\nauthorization: *([^\r\n]+)", re.IGNORECASE)
_ELSE = re.compile(rb"\r\n(?:idempotency-key|transfer-encoding|expect|upgrade|connection: *close)", re.IGNORECASE)
_PROBLEM = problems.MEDIA.encode()


def door_of(app: FastAPI) -> type[asyncio.Protocol]:
    """The protocol of a server of this application, for uvicorn's `http`."""
    gateway: Gateway = app.state.gateway
    platform: Platform = app.state.platform
    refused: Callable[[str], None] = app.state.meter.refused

    entering: deque[tuple[Door, bytes]] = deque()
    turning = False

    def turn(loop: asyncio.AbstractEventLoop) -> None:
        """Begin the next one, and come again; a turn without one is the last."""
        nonlocal turning
        turning = bool(entering)
        if turning:
            door, data = entering.popleft()
            loop.call_soon(turn, loop)
            door.begin(data)

    class Door(H11Protocol):
        """One connection."""

        line: Line | None = None  # in which its request is counted
        waits = 0  # pieces of it among those that enter

        def data_received(self, data: bytes) -> None:
            """Refuse it, or count it and let it in."""
            nonlocal turning
            if self.waits:  # in their order
                self._wait(data)
                return
            if (found := self._line_of(data)) is not None:
                line, route, as_problem = found
                try:
                    line.enter()
                except QueueFull as full:
                    self._unset_keepalive_if_required()
                    self.transport.write(_refusal(full, as_problem, self.server_state.default_headers))
                    self.timeout_keep_alive_task = self.loop.call_later(
                        self.timeout_keep_alive, self.timeout_keep_alive_handler
                    )
                    refused(route)
                    return
                self.line = line
                if turning:
                    self._wait(data)
                    return
                turning = True
                self.loop.call_soon(turn, self.loop)
            super().data_received(data)

        def _wait(self, data: bytes) -> None:
            self.waits += 1
            entering.append((self, data))

        def begin(self, data: bytes) -> None:
            """It is its turn."""
            self.waits -= 1
            if not self.transport.is_closing():
                super().data_received(data)

        def on_response_complete(self) -> None:
            """It is answered."""
            self._leave()
            super().on_response_complete()

        def connection_lost(self, exc: Exception | None) -> None:
            """Nobody waits for the answer; what runs for it is counted by its sequences until it has ended."""
            self._leave()
            super().connection_lost(exc)

        def _leave(self) -> None:
            line, self.line = self.line, None
            if line is not None:
                line.leave()

        def _line_of(self, data: bytes) -> tuple[Line, str, bool] | None:
            """The line of a whole request for a model that is known, on a connection where nothing else is going on."""
            if gateway.draining or len(data) > LARGEST or not _is_idle(self.conn):
                return None
            head, _, body = data.partition(b"\r\n\r\n")
            begins, length, key = _HEAD.match(head + b"\r\n"), _LENGTH.search(head + b"\r\n"), _KEY.search(head)
            if not (begins and length and key) or int(length[1]) != len(body) or _ELSE.search(head):
                return None
            caller = platform.people.known.recall(key[1].decode("latin-1"), within_ms=None)
            if caller is None or not caller.may("models:read"):
                return None
            try:
                label = json.loads(body)["model"]
            except (ValueError, RecursionError, TypeError, KeyError):
                return None
            line = gateway.host.line(caller, label) if isinstance(label, str) else None
            return None if line is None else (line, begins[1].decode(), _PROBLEM in head)

    return Door


def _is_idle(connection: h11.Connection) -> bool:
    import h11

    return connection.our_state is h11.IDLE and connection.their_state is h11.IDLE and not connection.trailing_data[0]


def _refusal(error: QueueFull, as_problem: bool, more: Sequence[tuple[bytes, bytes]]) -> bytes:
    """The same answer that the application gives."""
    head, body = _written(error.what, error.retry_after_s, as_problem)
    lines = b"".join(name + b": " + value + b"\r\n" for name, value in more)
    return b"%s%sx-request-id: %s\r\n\r\n%s" % (head, lines, new_id("req").encode(), body)


@lru_cache(maxsize=256)
def _written(what: str, retry_after_s: float, as_problem: bool) -> tuple[bytes, bytes]:
    """Head and body; a burst is refused in the same words over and over."""
    error = QueueFull(what, retry_after_s=retry_after_s)
    answer: Any = problems.respond(error) if as_problem else openai_errors.respond(error)
    status = HTTPStatus(answer.status_code)
    lines = b"".join(name + b": " + value + b"\r\n" for name, value in answer.raw_headers)
    return f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() + lines, bytes(answer.body)
