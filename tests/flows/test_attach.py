"""An answer that takes a while is given once, whoever dies or comes again meanwhile."""

from __future__ import annotations

import asyncio

import pytest

from cerulea.core.clock import FakeClock
from cerulea.core.errors import EngineFailed, Invalid, KeyReused
from cerulea.flows import attach as story
from cerulea.flows.attach import DEAD_MS, Kept, attach
from cerulea.flows.once import forget_answers
from cerulea.flows.platform import Platform
from cerulea.flows.serving import Gateway


def gateways(platform: Platform) -> tuple[Gateway, Gateway]:
    """Two processes on one database."""
    return Gateway(platform=platform), Gateway(platform=platform)


async def never() -> Kept:
    raise AssertionError("it was done already")


async def done() -> Kept:
    return Kept("r1", '{"text": "calm\\n"}')


def test_a_repeat_gets_the_first_answer_from_any_process(platform: Platform):
    one, other = gateways(platform)

    first = asyncio.run(attach(one, "ada", "k", "f", done))
    again = [asyncio.run(attach(gateway, "ada", "k", "f", never)) for gateway in (one, other)]

    assert first == Kept("r1", '{"text": "calm\\n"}') and again == [first._replace(repeated=True)] * 2
    assert asyncio.run(attach(one, "bob", "k", "f", done)) == first, "a key is of one caller"


def test_another_request_under_the_key_is_refused(platform: Platform):
    one, other = gateways(platform)
    asyncio.run(attach(one, "ada", "k", "f", done))

    with pytest.raises(KeyReused):
        asyncio.run(attach(other, "ada", "k", "g", never))


def test_what_cannot_be_a_key_is_refused(platform: Platform):
    with pytest.raises(Invalid):
        asyncio.run(attach(Gateway(platform=platform), "ada", "", "f", never))


def test_a_failure_is_given_to_all_who_wait_and_is_not_kept(platform: Platform):
    one, other = gateways(platform)

    async def fails() -> Kept:
        await asyncio.sleep(0)
        raise EngineFailed("A step failed.")

    async def both() -> list[object]:
        return await asyncio.gather(
            attach(one, "ada", "k", "f", fails), attach(one, "ada", "k", "f", never), return_exceptions=True
        )

    assert [type(found) for found in asyncio.run(both())] == [EngineFailed, EngineFailed]
    assert asyncio.run(attach(other, "ada", "k", "f", done)).id == "r1"


def test_who_leaves_ends_nothing_and_finds_the_answer_later(platform: Platform):
    one, _ = gateways(platform)

    async def scenario() -> Kept:
        begun, go = asyncio.Event(), asyncio.Event()

        async def works() -> Kept:
            begun.set()
            await go.wait()
            return await done()

        first = asyncio.create_task(attach(one, "ada", "k", "f", works))
        await begun.wait()
        first.cancel()
        second = asyncio.create_task(attach(one, "ada", "k", "f", never))
        await asyncio.sleep(0)
        go.set()
        return await second

    assert asyncio.run(scenario()) == Kept("r1", '{"text": "calm\\n"}', repeated=True)


def test_another_process_waits_while_one_works(platform: Platform, monkeypatch: pytest.MonkeyPatch):
    one, other = gateways(platform)
    monkeypatch.setattr(story, "LOOK_S", 0.001)

    async def scenario() -> list[Kept]:
        begun, go = asyncio.Event(), asyncio.Event()

        async def works() -> Kept:
            begun.set()
            await go.wait()
            return await done()

        first = asyncio.create_task(attach(one, "ada", "k", "f", works))
        await begun.wait()
        second = asyncio.create_task(attach(other, "ada", "k", "f", never))
        while not other.keyed:
            await asyncio.sleep(0)
        go.set()
        return [await first, await second]

    first, second = asyncio.run(scenario())
    assert second == first._replace(repeated=True)


def test_a_dead_process_is_followed_by_the_next_one(platform: Platform, clock: FakeClock):
    """A claim without a beat for so long is taken over; its old owner, if it lives after all, keeps nothing."""
    assert story._claim(platform, "ada", "k", "f", "claim-dead") == "claim-dead"
    assert story._claim(platform, "ada", "k", "f", "claim-2") is None
    clock.advance(DEAD_MS - 1000)
    story._touch(platform, "ada", "k", "claim-dead")
    clock.advance(DEAD_MS - 1000)
    assert story._claim(platform, "ada", "k", "f", "claim-2") is None, "it said that it lives"
    clock.advance(2000)

    found = asyncio.run(attach(Gateway(platform=platform), "ada", "k", "f", done))
    story._keep(platform, "ada", "k", "claim-dead", Kept("r0", "late"))
    story._release(platform, "ada", "k", "claim-dead")

    assert asyncio.run(attach(Gateway(platform=platform), "ada", "k", "f", never)) == found._replace(repeated=True)


def test_answers_are_forgotten_in_time(platform: Platform, clock: FakeClock):
    asyncio.run(attach(Gateway(platform=platform), "ada", "k", "f", done))
    clock.advance(31 * 86_400_000)

    assert forget_answers(platform) == 1
