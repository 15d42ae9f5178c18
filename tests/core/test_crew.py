"""Threads that do what blocks for an event loop."""

from __future__ import annotations

import asyncio
import logging
import threading
import time

import pytest

from cerulea.core.crew import Crew


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
        assert crew._threads == 1
        gate = threading.Event()
        at_work = [0]

        def block() -> None:
            at_work[0] += 1
            gate.wait()

        waiting = [crew.do(block) for _ in range(8)]
        async with asyncio.timeout(20):
            while at_work[0] < 3:
                await asyncio.sleep(0.001)
        assert crew._threads == at_work[0] == 3
        gate.set()
        await asyncio.gather(*waiting)
        assert at_work[0] == 8 and crew._busy == 0

    asyncio.run(story())


def test_work_goes_on_when_its_waiter_is_cancelled(caplog: pytest.LogCaptureFixture):
    lost: list[int] = []

    async def story() -> None:
        crew = Crew(1, "crew")
        gate = threading.Event()
        first = asyncio.ensure_future(crew.do(gate.wait))
        cut = [crew.do(lambda: 5, lost.append), crew.do(lambda: 1 // 0)]
        for one in (first, *cut):
            one.cancel()
        gate.set()
        assert await crew.do(lambda: 9) == 9  # after those before it

    with caplog.at_level(logging.ERROR, "cerulea.crew"):
        asyncio.run(story())

    assert lost == [5]
    assert "nobody waits for this any more" in caplog.text and "ZeroDivisionError" in caplog.text


def test_what_ends_after_its_loop_is_said_only_where_it_failed(caplog: pytest.LogCaptureFixture):
    gate, ended = threading.Event(), threading.Event()

    def fail() -> None:
        gate.wait()
        ended.set()
        raise ZeroDivisionError

    async def story() -> None:
        crew = Crew(2, "crew")
        crew.do(gate.wait)
        crew.do(fail)

    with caplog.at_level(logging.ERROR, "cerulea.crew"):
        asyncio.run(story())
        gate.set()
        assert ended.wait(20)
        deadline = time.monotonic() + 20
        while "ZeroDivisionError" not in caplog.text and time.monotonic() < deadline:
            time.sleep(0.001)

    assert caplog.text.count("nobody waits for this any more") == 1
