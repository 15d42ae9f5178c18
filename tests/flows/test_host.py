"""Models in processes of their own: loaded once, unloaded for others, lost and started anew. The model is a toy."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import json
import os
import signal
import subprocess
import sys
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from cerulea.core.errors import EngineFailed, ModelTooLarge, NotFound, NotReady, QueueFull, WeightsInvalid
from cerulea.core.settings import Settings
from cerulea.flows.curate import set_alias
from cerulea.flows.host import Host
from cerulea.flows.platform import Platform, open_platform
from cerulea.people import ROLES, Caller
from cerulea.serve.process import Options
from cerulea.serve.request import Delta, Request, SamplingParams
from cerulea.text.tokenizer import bytes_tokenizer
from tests.flows.test_model_folders import OWNER, keep
from tests.running import alive
from tests.serve.toys import continuation
from tests.toy_models import wait_for

TOY = (sys.executable, "-m", "tests.serve.toy_process")


@pytest.fixture
def platform(tmp_path: Path):
    with open_platform(Settings(home=tmp_path / "home")) as opened:
        keep(opened, tmp_path, "brook", "one")
        keep(opened, tmp_path, "creek", "two")
        yield opened


@asynccontextmanager
async def hosting(platform: Platform, *, memory: int = 100, need: int = 10, **options) -> AsyncIterator[Host]:
    host = Host(
        platform,
        Options(folder="", **{"most_running": 4, **options}),
        memory_bytes=memory,
        plan=lambda folder, options, most: (options, need),
        command=TOY,
    )
    try:
        yield host
    finally:
        await host.close()


def request(name: str = "a", **values) -> Request:
    sampling = SamplingParams(**{"max_tokens": 8, "temperature": 0.0, **values})
    return Request(id=name, team="home", prompt=(3, 4, 5), sampling=sampling, leased=100_000)


async def all_of(flow) -> list[Delta]:
    return [delta async for delta in flow]


def run(work: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(work(), 60))


def test_a_model_is_loaded_once_and_continues_what_it_is_given(platform: Platform):
    async def work() -> None:
        async with hosting(platform) as host:
            first, second = await asyncio.gather(host.open(OWNER, "brook"), host.open(OWNER, "brook@1"))
            assert first is second
            assert (first.label, first.context, first.vocab) == ("brook@1", 64, 50)
            flows = [first.submit(request(f"r{i}")) for i in range(3)]
            for deltas in await asyncio.gather(*(all_of(flow) for flow in flows)):
                assert [token for delta in deltas for token in delta.tokens] == continuation((3, 4, 5), 8)
                assert deltas[-1].usage.completion_tokens == 8
            assert host.loaded()[0][0] == "brook@1"
            assert host.loaded()[0][1]["written_tokens"] == 24

    run(work)


def test_an_abort_ends_a_flow_with_what_was_used(platform: Platform):
    async def work() -> None:
        async with hosting(platform, extra={"context": 5000}) as host:
            served = await host.open(OWNER, "brook")
            flow = served.submit(Request(
                id="a", team="home", prompt=(3, 4), leased=4000, sampling=SamplingParams(max_tokens=4000)
            ))  # fmt: skip
            deltas = []
            async for delta in flow:
                deltas.append(delta)
                if len(deltas) == 5:
                    flow.abort()
            assert deltas[-1].finish == "abort"
            written = sum(len(delta.tokens) for delta in deltas)
            assert deltas[-1].usage.completion_tokens == written < 4000

    run(work)


def test_what_cannot_be_loaded_says_why_and_is_tried_again(platform: Platform):
    async def work() -> None:
        async with hosting(platform, extra={"fails": True}) as host:
            for _ in range(2):
                with pytest.raises(WeightsInvalid, match="tensor is missing"):
                    await host.open(OWNER, "brook")
        async with hosting(platform, extra={"dies": True}) as host:
            with pytest.raises(EngineFailed, match="ended while"):
                await host.open(OWNER, "brook")

    run(work)


def test_a_killed_engine_tells_its_requests_and_is_started_anew(platform: Platform):
    async def work() -> None:
        async with hosting(platform, extra={"context": 5000}) as host:
            served = await host.open(OWNER, "brook")
            flow = served.submit(request(max_tokens=4000))
            await anext(aiter(flow))
            os.kill(host._engines["brook@1"].process.pid, signal.SIGKILL)
            last = (await all_of(flow))[-1]
            assert (last.finish, last.usage) == (
                "error",
                None,
            )  # what was written until then is known to whoever read it
            with pytest.raises(NotReady):
                served.submit(request("b"))
            again = await host.open(OWNER, "brook")
            assert len(await all_of(again.submit(request("c")))) == 8

    run(work)


def test_a_failing_step_is_told_and_a_refused_request_raises(platform: Platform):
    async def work() -> None:
        async with hosting(platform, extra={"breaks": True}) as host:
            served = await host.open(OWNER, "brook")
            (last,) = await all_of(served.submit(request()))
            assert "no memory" in last.detail
            too_long = Request(id="b", team="home", prompt=(1,) * 64, leased=5)
            with pytest.raises(Exception, match="context is 64"):
                await all_of(served.submit(too_long))

    run(work)


def test_too_much_is_refused_at_once(platform: Platform):
    async def work() -> None:
        async with hosting(platform, most_running=1, most_waiting=2) as host:
            served = await host.open(OWNER, "brook")
            flows = [served.submit(request(f"r{i}")) for i in range(3)]
            with pytest.raises(QueueFull) as full:
                served.admit(1, 3)
            assert full.value.retry_after_s >= 1
            served.admit(0, 0)  # whoever was admitted is not asked again for each of its sequences
            for deltas in await asyncio.gather(*map(all_of, flows)):
                assert deltas[-1].finish == "length"
            served.submit(request("e"))

    run(work)


def test_a_line_is_counted_by_requests_as_they_come(platform: Platform):
    keyed = dataclasses.replace(OWNER, key="abcdefgh")

    async def work() -> None:
        async with hosting(platform, most_running=1, most_waiting=2) as host:
            assert host.line(keyed, "brook") is None, "nobody has asked for it"
            served = await host.open(keyed, "brook")
            line = host.line(keyed, "brook")
            assert line is served and host.line(OWNER, "brook") is not None
            for _ in range(3):
                line.enter()
            with pytest.raises(QueueFull, match="the most is 3"):
                line.enter()
            line.leave()
            line.enter()
            await host.unload("brook@1")
            assert host.line(keyed, "brook") is None

    run(work)


def test_a_model_that_nobody_uses_makes_room(platform: Platform):
    async def work() -> None:
        async with hosting(platform, memory=15, extra={"context": 90_000}) as host:
            served = await host.open(OWNER, "brook")
            flow = served.submit(request(max_tokens=80_000))
            with pytest.raises(NotReady, match="in use"):
                await host.open(OWNER, "creek")
            flow.abort()
            await all_of(flow)
            await host.open(OWNER, "creek")
            assert [label for label, _ in host.loaded()] == ["creek@1"]
            await host.open(OWNER, "brook")
        async with hosting(platform, memory=5) as host:
            with pytest.raises(ModelTooLarge, match=r"CERULEA_SERVE_MEMORY_GB"):
                await host.open(OWNER, "creek")

    run(work)


def test_memory_is_free_when_its_process_has_ended(platform: Platform, tmp_path: Path):
    """An unloaded model whose process takes its time to end still has its memory, and nothing is loaded into that."""
    gone = tmp_path / "gone"

    async def work() -> None:
        async with hosting(platform, memory=15, extra={"lingers": str(gone)}) as host:
            await host.open(OWNER, "brook")
            brook = host._engines["brook@1"].process
            opening = asyncio.create_task(host.open(OWNER, "creek"))
            while "creek@1" not in host._engines:
                await asyncio.sleep(0)
            while brook.stdin is None or not brook.stdin.is_closing():
                await asyncio.sleep(0)
            for _ in range(50):
                await asyncio.sleep(0.001)
                assert brook.returncode is None and host._engines["creek@1"].process is None
            gone.touch()
            assert (await opening).label == "creek@1"
            assert brook.returncode is not None and not host._leaving

    run(work)


def test_an_engine_that_loads_dies_with_whoever_started_it(tmp_path: Path):
    """It reads nothing while it loads, so that the end of its input tells it nothing."""
    told = tmp_path / "pid"
    options = json.dumps(Options(folder="", extra={"hangs": str(told)}).as_json())
    program = (
        "import os, subprocess, sys, time\n"
        "from cerulea.core.parent import PARENT\n"
        f"engine = subprocess.Popen({list(TOY)!r}, stdin=subprocess.PIPE, start_new_session=True,"
        " env={**os.environ, PARENT: str(os.getpid())})\n"
        f"engine.stdin.write({options!r}.encode() + b'\\n')\n"
        "engine.stdin.flush()\n"
        "engine.wait()\n"
    )
    with subprocess.Popen([sys.executable, "-c", program]) as parent:
        wait_for(lambda: told.exists() and told.read_text(), 60)
        parent.kill()
    wait_for(lambda: not alive(int(told.read_text())), 60)


def test_what_a_model_was_asked_for_goes_with_it(platform: Platform):
    """Grammars are kept by the loaded model and by nothing else."""
    pytest.importorskip("llguidance")

    async def work() -> None:
        async with hosting(platform) as host:
            served = await host.open(OWNER, "brook")
            bytes_tokenizer().save(served.folder)
            await served.grammars.check('{"regex": "a+"}')
            kept = weakref.ref(served.grammars), weakref.ref(served.tokenizer)
            del served
            await host.unload("brook@1")
        gc.collect()
        assert [one() for one in kept] == [None, None]

    run(work)


def test_models_with_the_alias_are_loaded_before_anybody_asks_and_stay(platform: Platform):
    set_alias(platform, OWNER, "creek", "served")

    async def work() -> None:
        async with hosting(platform, memory=15) as host:
            assert await host.preload() == []
            assert [label for label, _ in host.loaded()] == ["creek@1"]
            with pytest.raises(NotReady):
                await host.open(OWNER, "brook")

    run(work)


def test_a_model_of_another_team_is_not_there(platform: Platform):
    stranger = Caller(person="ann", team="sea", role="developer", scopes=ROLES["developer"])

    async def work() -> None:
        async with hosting(platform) as host:
            with pytest.raises(NotFound):
                await host.open(stranger, "brook")

    run(work)


def test_a_draining_host_takes_nothing_new_and_ends_what_runs(platform: Platform):
    async def work() -> None:
        async with hosting(platform) as host:
            served = await host.open(OWNER, "brook")
            flow = served.submit(request(max_tokens=40))
            closing = asyncio.create_task(host.close(30))
            await asyncio.sleep(0)
            with pytest.raises(NotReady):
                await host.open(OWNER, "brook")
            assert (await all_of(flow))[-1].finish == "length"
            await closing
            assert host.loaded() == []

    run(work)
