"""An answer that takes a while is given once, whoever dies or comes again meanwhile."""

from __future__ import annotations

import asyncio

import pytest

from cerulea.core.clock import FakeClock
from cerulea.core.errors import EngineFailed, Invalid, KeyReused, NotReady
from cerulea.core.money import nanos
from cerulea.flows import attach as story
from cerulea.flows.attach import DEAD_MS, Claim, Kept, attach
from cerulea.flows.once import forget_answers
from cerulea.flows.platform import Platform
from cerulea.flows.serving import Gateway
from cerulea.flows.usage import usage_of
from cerulea.ledger.audit import audit
from cerulea.people import Caller
from tests.flows.bills import PROMPT, WRITTEN, give, opened, settled, used

ANSWER = Kept("r1", '{"text": "calm\\n"}')


def gateways(platform: Platform) -> tuple[Gateway, Gateway]:
    """Two processes on one database."""
    return Gateway(platform=platform), Gateway(platform=platform)


async def never(claim: Claim) -> Kept:
    raise AssertionError("it was done already")


async def done(claim: Claim) -> Kept:
    claim.platform.database.write(lambda tx: claim.keep(tx, ANSWER))
    return ANSWER


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

    async def fails(claim: Claim) -> Kept:
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

        async def works(claim: Claim) -> Kept:
            begun.set()
            await go.wait()
            return await done(claim)

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

        async def works(claim: Claim) -> Kept:
            begun.set()
            await go.wait()
            return await done(claim)

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
    dead, other = Claim(platform, "ada", "k"), Claim(platform, "ada", "k")
    assert story._claim(dead, "f") is dead
    assert story._claim(other, "f") is None
    clock.advance(DEAD_MS - 1000)
    dead.touch()
    clock.advance(DEAD_MS - 1000)
    assert story._claim(other, "f") is None, "it said that it lives"
    clock.advance(2000)

    found = asyncio.run(attach(Gateway(platform=platform), "ada", "k", "f", done))
    assert not platform.database.write(lambda tx: dead.keep(tx, Kept("r0", "late")))
    dead.release()

    assert asyncio.run(attach(Gateway(platform=platform), "ada", "k", "f", never)) == found._replace(repeated=True)


def test_who_waits_for_another_process_is_told_at_once_when_his_own_stops(platform: Platform):
    one, other = gateways(platform)

    async def scenario() -> None:
        begun, go = asyncio.Event(), asyncio.Event()

        async def works(claim: Claim) -> Kept:
            begun.set()
            await go.wait()
            return await done(claim)

        first = asyncio.create_task(attach(one, "ada", "k", "f", works))
        await begun.wait()
        second = asyncio.create_task(attach(other, "ada", "k", "f", never))
        while not other.keyed:
            await asyncio.sleep(0)
        other.draining = one.draining = True
        with pytest.raises(NotReady, match="about to stop"):
            await second
        await other.idle()
        assert not first.done(), "what this process works at itself is finished"
        go.set()
        assert await first == ANSWER

    asyncio.run(asyncio.wait_for(scenario(), 60))


def test_a_charge_and_its_answer_stand_or_fall_together(platform: Platform, ada: Caller, clock: FakeClock):
    """Its process dies as the transaction that settles ends: the repeat works and pays, the lost one does not."""
    give(platform, nanos("1"))
    lost = Claim(platform, "ada", "k")
    assert story._claim(lost, "f") is lost
    bill = opened(platform, ada, request_id="lost")

    def dies(tx):
        assert lost.keep(tx, Kept("lost", "{}"))
        raise SystemExit("kill -9")

    with pytest.raises(BaseException, match=r"kill -9|interrupted"):
        bill.settle_now(used(10, 3), finish="stop", keep=dies)
    assert settled(platform) == 0
    clock.advance(DEAD_MS + 1000)

    async def works(claim: Claim) -> Kept:
        paid = opened(platform, ada, request_id="paid")
        paid.settle_now(used(10, 3), finish="stop", keep=lambda tx: claim.keep(tx, ANSWER))
        return ANSWER

    assert asyncio.run(attach(Gateway(platform=platform), "ada", "k", "f", works)) == ANSWER
    assert asyncio.run(attach(Gateway(platform=platform), "ada", "k", "f", never)).body == ANSWER.body
    assert settled(platform) == 10 * PROMPT + 3 * WRITTEN
    assert audit(platform.database).problems == []


def test_who_lost_the_claim_while_it_stood_still_is_not_charged(platform: Platform, ada: Caller, clock: FakeClock):
    """Two processes worked for one key: one is paid, and both give its answer."""
    give(platform, nanos("1"))

    async def beside(claim: Claim) -> Kept:
        bill = opened(platform, ada, request_id="beside")
        bill.settle_now(used(10, 3), finish="stop", keep=lambda tx: claim.keep(tx, ANSWER))
        return ANSWER

    async def slow(claim: Claim) -> Kept:
        bill = opened(platform, ada, request_id="slow")
        clock.advance(DEAD_MS + 1000)
        assert await attach(Gateway(platform=platform), "ada", "k", "f", beside) == ANSWER
        bill.settle_now(used(10, 3), finish="stop", keep=lambda tx: claim.keep(tx, Kept("slow", "{}")))
        return Kept("slow", "{}")

    found = asyncio.run(attach(Gateway(platform=platform), "ada", "k", "f", slow))

    assert found == ANSWER._replace(repeated=True)
    assert settled(platform) == 10 * PROMPT + 3 * WRITTEN
    row = usage_of(platform, ada, "slow")
    assert (row.charged, row.absorbed) == (0, 10 * PROMPT + 3 * WRITTEN)
    assert audit(platform.database).problems == []


def test_answers_are_forgotten_in_time(platform: Platform, clock: FakeClock):
    asyncio.run(attach(Gateway(platform=platform), "ada", "k", "f", done))
    clock.advance(31 * 86_400_000)

    assert forget_answers(platform) == 1
