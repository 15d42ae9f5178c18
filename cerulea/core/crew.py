"""Threads that do what blocks for an event loop.

In:      functions, from the loop's own thread.
Out:     futures of that loop.
Kept:    what was begun goes on where who waits for it is cancelled; its failure is logged then. Threads are started as
         they are needed, up to a number, and end with the process.
Why:     a ThreadPoolExecutor does the same by two futures, a semaphore and three turns of the loop: 170 µs for an empty
         function where this takes 100, twice in each request that is paid for.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")

log = logging.getLogger("cerulea.crew")


class Crew:
    """Up to so many threads. To be used by one event loop."""

    def __init__(self, most: int, name: str) -> None:
        self.most, self.name = most, name
        self._todo: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._threads = self._busy = 0  # changed by the loop's thread alone

    def do(self, work: Callable[[], T], lost: Callable[[T], Any] | None = None) -> asyncio.Future[T]:
        """Run `work` in a thread.

        Args:
            lost: gets what came of it where nobody waits for that any more; called by the loop.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def done(result: T | None, error: BaseException | None) -> None:
            self._busy -= 1
            if not future.done():
                if error is None:
                    future.set_result(result)  # type: ignore[arg-type]
                else:
                    future.set_exception(error)
            elif error is not None:
                log.error("%s: nobody waits for this any more", self.name, exc_info=error)
            elif lost is not None:
                lost(result)  # type: ignore[arg-type]

        def run() -> None:
            result, error = None, None
            try:
                result = work()
            except BaseException as raised:
                error = raised
            try:
                loop.call_soon_threadsafe(done, result, error)
            except RuntimeError:  # the loop has ended, and with it whoever waited
                if error is not None:
                    log.error("%s: nobody waits for this any more", self.name, exc_info=error)

        self._busy += 1
        if self._busy > self._threads and self._threads < self.most:
            self._threads += 1
            threading.Thread(target=self._work, name=f"{self.name} {self._threads}", daemon=True).start()
        self._todo.put(run)
        return future

    def _work(self) -> None:
        while True:
            self._todo.get()()
