"""Threads that do what blocks for an event loop."""

from __future__ import annotations

import asyncio
import logging
import threading
import time

import pytest

from cerulea.core.crew import Crew
from cerulea.core.errors import CeruleaError, FileTrouble, FundTooLow, Unreachable


def test_results_and_errors_come_back_from_other_threads():
    async def story() -> None:
        crew = Crew(2, "crew")
        here = threading.get_ident()

        assert await crew.do(threading.get_ident) != here
        with pytest.raises(ZeroDivisionError):
            await crew.do(lambda: 1 // 0)
        assert await crew.do(lambda: 7) == 7

    asyncio.run(story())


def test_threads_are_started_as_they_are_needed_up_to_a_number():
    async def story() -> None:
        crew = Crew(3, "many")
        for _ in range(5):
            await crew.do(int)
        assert len(crew._threads) == 1
        gate = threading.Event()
        at_work: list[int] = []

        def block() -> None:
            at_work.append(1)
            gate.wait()

        waiting = [asyncio.create_task(crew.do(block)) for _ in range(8)]
        async with asyncio.timeout(20):
            while len(at_work) < 3:
                await asyncio.sleep(0.001)
        assert len(crew._threads) == len(at_work) == 3
        gate.set()
        await asyncio.gather(*waiting)
        assert len(at_work) == 8 and crew._busy == 0

    asyncio.run(story())


def test_work_goes_on_when_its_waiter_is_cancelled(caplog: pytest.LogCaptureFixture):
    lost: list[int] = []

    async def story() -> None:
        crew = Crew(1, "crew")
        gate = threading.Event()
        works = (gate.wait, lambda: 5, lambda: 1 // 0)
        cut = [asyncio.create_task(crew.do(work, lost.append if i == 1 else None)) for i, work in enumerate(works)]
        await asyncio.sleep(0)
        for one in cut:
            one.cancel()
        gate.set()
        assert await crew.do(lambda: 9) == 9  # after those before it

    with caplog.at_level(logging.ERROR, "cerulea.crew"):
        asyncio.run(story())

    assert lost == [5]
    assert "nobody waits any more for what failed" in caplog.text and "ZeroDivisionError" in caplog.text


def test_what_ends_after_its_loop_is_said_only_where_it_failed(caplog: pytest.LogCaptureFixture):
    gate, ended = threading.Event(), threading.Event()

    def fail() -> None:
        gate.wait()
        ended.set()
        raise ZeroDivisionError

    async def story() -> None:
        crew = Crew(2, "crew")
        crew.leave(gate.wait)
        crew.leave(fail)

    with caplog.at_level(logging.ERROR, "cerulea.crew"):
        asyncio.run(story())
        gate.set()
        assert ended.wait(20)
        deadline = time.monotonic() + 20
        while "ZeroDivisionError" not in caplog.text and time.monotonic() < deadline:
            time.sleep(0.001)

    assert caplog.text.count("nobody waits any more for what failed") == 1


def test_what_came_in_the_moment_in_which_its_waiter_was_cancelled_is_not_lost(caplog: pytest.LogCaptureFixture):
    lost: list[int] = []

    async def story() -> None:
        crew = Crew(1, "crew")
        for work in (lambda: 5, lambda: 1 // 0):
            task = asyncio.create_task(crew.do(work, lost.append))
            async with asyncio.timeout(20):
                while task._fut_waiter is None or not task._fut_waiter.done():  # type: ignore[attr-defined]
                    await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    with caplog.at_level(logging.ERROR, "cerulea.crew"):
        asyncio.run(story())

    assert lost == [5]
    assert "ZeroDivisionError" in caplog.text


def test_closing_waits_for_what_is_begun_and_for_what_its_losers_begin_and_ends_the_threads():
    done: list[str] = []

    async def story() -> None:
        crew = Crew(2, "closing")

        def slow() -> str:
            time.sleep(0.05)
            done.append("slow")
            return "again"

        lost = asyncio.create_task(crew.do(slow, lambda what: crew.leave(lambda: done.append(what))))
        await asyncio.sleep(0)
        lost.cancel()
        await crew.close()
        assert done == ["slow", "again"]
        assert not [one for one in threading.enumerate() if one.name.startswith("closing")]
        assert await crew.do(lambda: 3) == 3  # it can be used again
        await crew.close()

    asyncio.run(story())


def test_a_system_without_threads_is_survived(monkeypatch: pytest.MonkeyPatch):
    def full(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def story() -> None:
        crew = Crew(2, "crew")
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", full)
            for _ in range(3):
                with pytest.raises(RuntimeError):
                    await crew.do(int)
        gate = threading.Event()
        first = asyncio.create_task(crew.do(gate.wait))
        await asyncio.sleep(0)
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", full)
            second = asyncio.create_task(crew.do(lambda: 2))  # by the one that there is
            await asyncio.sleep(0)
        gate.set()
        assert await first and await second == 2
        await crew.close()

    asyncio.run(story())


def test_an_exception_that_means_something_else_to_a_coroutine_is_wrapped():
    async def story() -> None:
        crew = Crew(1, "crew")
        with pytest.raises(RuntimeError, match="StopIteration"):
            await asyncio.wait_for(crew.do(lambda: next(iter(()))), 20)
        await crew.close()

    asyncio.run(story())


@pytest.mark.parametrize(
    ("error", "by_leave", "logged"),
    [(FundTooLow, False, False), (Unreachable, False, True), (FileTrouble, False, True), (FundTooLow, True, True)],
)
def test_a_refusal_that_nobody_waits_for_is_no_trouble_and_trouble_is_said(
    error: type[CeruleaError], by_leave: bool, logged: bool, caplog: pytest.LogCaptureFixture
):
    def fail() -> None:
        raise error("no")

    async def story() -> None:
        crew = Crew(1, "crew")
        if by_leave:
            crew.leave(fail)
        else:
            task = asyncio.create_task(crew.do(fail))
            await asyncio.sleep(0)
            task.cancel()
        await crew.close()

    with caplog.at_level(logging.ERROR, "cerulea.crew"):
        asyncio.run(story())

    assert ("nobody waits any more" in caplog.text) == logged
