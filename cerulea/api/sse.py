"""An open line that tells a completion as it comes: server-sent events, and what happens when one side goes away.

In:      a Completion and the text of its events.
Out:     an HTTP answer of `data:` lines.
Kept:    when the client hangs up, the completion is aborted at once, also while nothing is being sent; the line is not
         let go before it is settled. A quiet line sends a comment now and then, so that nothing between thinks it dead.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from time import monotonic

from fastapi import Response
from starlette.types import Receive, Scope, Send

from cerulea.flows.complete import Completion

BEAT_S = 15.0  # between comments
BEAT = b": still here\n\n"
DONE = "data: [DONE]\n\n"


class EventStream(Response):
    """The answer that streams a completion."""

    media_type = "text/event-stream"

    def __init__(self, completion: Completion, events: AsyncIterator[str]) -> None:
        headers = {"x-request-id": completion.id, "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(headers=headers)
        del self.headers["content-length"]
        self.completion, self.events = completion, events
        self._told_at = monotonic()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send until either side ends."""
        telling = asyncio.create_task(self._tell(send))
        leaving = asyncio.create_task(hung_up(receive))
        try:
            await asyncio.wait({telling, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if telling.done():
                telling.result()
        finally:
            self.completion.abort()  # changes nothing where it has ended
            for task in (telling, leaving):
                task.cancel()
            await asyncio.wait({telling, leaving})
            await self.completion.ended()

    async def _tell(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        beating = asyncio.create_task(self._beat(send))
        try:
            async for text in self.events:
                self._told_at = monotonic()
                await send({"type": "http.response.body", "body": text.encode(), "more_body": True})
        finally:
            beating.cancel()
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _beat(self, send: Send) -> None:
        """Say that the line is open where nothing was told for BEAT_S."""
        while True:
            left = self._told_at + BEAT_S - monotonic()
            if left <= 0:
                self._told_at, left = monotonic(), BEAT_S
                await send({"type": "http.response.body", "body": BEAT, "more_body": True})
            await asyncio.sleep(left)


async def hung_up(receive: Receive) -> None:
    """Return when the client is gone."""
    while (await receive())["type"] != "http.disconnect":
        pass
