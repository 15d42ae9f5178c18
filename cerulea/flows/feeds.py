"""What one watcher of a live match is told, from any thread to the watcher's event loop.

Out:     events in their order; of frames that were not read only the newest.
Not here: matches (`flows.play`), the wire (`api.matches`).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from typing import Any

FEED_EVENTS = 256  # that wait for a slow reader, before it is hung up on


class Feed:
    """What one watcher sees, in the order in which it happens. It belongs to an event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, whose: tuple[str, str] = ("", ""), hand: str = "") -> None:
        self.whose = whose  # the watcher's team and name
        self.hand = hand  # under which places are taken; whoever has two lines has two pairs of hands
        self._loop = loop
        self._events: deque[dict[str, Any]] = deque()
        self._there = asyncio.Event()
        self.broken = False  # the reader was too slow

    def put(self, event: dict[str, Any]) -> None:
        """Something has happened; from any thread."""
        with contextlib.suppress(RuntimeError):  # its loop has ended
            self._loop.call_soon_threadsafe(self._put, event)

    def _put(self, event: dict[str, Any]) -> None:
        # Of frames only the newest is worth anything to who has not seen the one before.
        if event["type"] == "frame" and self._events and self._events[-1]["type"] == "frame":
            self._events.pop()
        self._events.append(event)
        self.broken = self.broken or len(self._events) > FEED_EVENTS
        self._there.set()

    async def next(self) -> dict[str, Any]:
        """The next event."""
        while not self._events:
            self._there.clear()
            await self._there.wait()
        return self._events.popleft()
