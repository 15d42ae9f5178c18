"""Threads that do what blocks for an event loop.

In:      functions, from the loop's own thread.
Out:     what they return, awaited.
Kept:    what was begun goes on where who waits for it is cancelled, and nothing that comes of it is lost: who asked for
         that gets it, and a failure is logged (of what ends after its loop has, failures alone are). Threads are
         started as they are needed, up to a number, and end by `close`, which waits for what is begun; the end of the
         process waits for nothing.
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

from cerulea.core.errors import Busy, Invalid, Refused

T = TypeVar("T")
QUIET = (Invalid, Refused, Busy)  # answers: no trouble where nobody waits for them any more
LOOK_S = 0.005  # between two looks whether all is done

log = logging.getLogger("cerulea.crew")


class Crew:
    """Up to so many threads, for one event loop at a time."""

    def __init__(self, most: int, name: str) -> None:
        self.most, self.name = most, name
        self._todo: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._busy = 0  # functions that wait or run

    async def do(self, work: Callable[[], T], lost: Callable[[T], Any] | None = None) -> T:
        """Run `work` in a thread, which begins before anything is awaited.

        Args:
            lost: gets what came of it where whoever waited was cancelled; called by the loop.

        Raises:
            RuntimeError: no thread can be started.
        """
        future = self._begin(work, lost, QUIET)
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():  # it came in the moment in which its waiter was cancelled
                error = future.exception()
                self._lose(None if error else future.result(), error, lost, QUIET)
            raise

    def leave(self, work: Callable[[], Any]) -> None:
        """Run `work` in a thread; nobody waits for it."""
        self._begin(work, None, ()).cancel()

    async def close(self) -> None:
        """Wait for all that is begun, and for what its losers begin, and end the threads."""
        while self._busy or self._threads:
            while self._busy:
                await asyncio.sleep(LOOK_S)
            threads, self._threads = self._threads, []
            for _ in threads:
                self._todo.put(None)
            for thread in threads:
                thread.join()
            for _ in range(3):  # turns: what they told the loop last, who is woken by it, what that one begins
                await asyncio.sleep(0)

    def _begin(
        self,
        work: Callable[[], T],
        lost: Callable[[T], Any] | None,
        quiet: tuple[type[Exception], ...],
    ) -> asyncio.Future[T]:
        """Let a thread do it.

        Args:
            quiet: failures that are no trouble where nobody waits for them any more.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def done(result: T | None, error: BaseException | None) -> None:
            if future.done():
                self._lose(result, error, lost, quiet)
            elif error is None:
                future.set_result(result)  # type: ignore[arg-type]
            else:
                future.set_exception(error)

        def run() -> None:
            result: T | None = None
            error: BaseException | None = None
            try:
                result = work()
            except (StopIteration, asyncio.CancelledError) as raised:  # these mean something else to whoever awaits
                error = RuntimeError(f"{self.name}: {type(raised).__name__}")
                error.__cause__ = raised
            except BaseException as raised:
                error = raised
            with self._lock:
                self._busy -= 1
            try:
                loop.call_soon_threadsafe(done, result, error)
            except RuntimeError:  # the loop has ended, and with it whoever waited
                self._lose(None, error, None, quiet)
            finally:
                result = error = None  # a frame that its own exception holds is kept until it is collected

        self._make_room()
        self._todo.put(run)
        return future

    def _make_room(self) -> None:
        """Count one more, and start a thread for it where all are busy."""
        with self._lock:
            if self._busy >= len(self._threads) < self.most:
                name = f"{self.name} {len(self._threads) + 1}"
                thread = threading.Thread(target=self._work, name=name, daemon=True)
                try:
                    thread.start()
                    self._threads.append(thread)
                except RuntimeError:  # the system has no more; those that there are do it
                    if not self._threads:
                        raise
            self._busy += 1

    def _lose(
        self,
        result: T | None,
        error: BaseException | None,
        lost: Callable[[T], Any] | None,
        quiet: tuple[type[Exception], ...],
    ) -> None:
        """Nobody waits for this any more."""
        if error is not None:
            level = logging.INFO if isinstance(error, quiet) else logging.ERROR
            log.log(level, "%s: nobody waits any more for what failed", self.name, exc_info=error)
        elif lost is not None:
            lost(result)  # type: ignore[arg-type]

    def _work(self) -> None:
        while (work := self._todo.get()) is not None:
            work()
            del work  # it holds what it was asked with
