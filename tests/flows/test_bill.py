"""A request's bill: what is held, what is leased, what is paid, whatever happens to who asked."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from cerulea.core.clock import FakeClock
from cerulea.core.crew import Crew
from cerulea.core.errors import CapReached, FundTooLow, Invalid, KeyReused, NotFound
from cerulea.core.money import nanos
from cerulea.core.values import Usage
from cerulea.flows.bill import LEASE_MS, Order, open_bill
from cerulea.flows.conduct import BOOKS_S, Conductor
from cerulea.flows.platform import Platform
from cerulea.flows.serving import Gateway
from cerulea.flows.usage import usage_of
from cerulea.flows.work import Desk
from cerulea.ledger.audit import audit
from cerulea.people import Caller

from .bills import PROMPT, WRITTEN, give, opened, settled, used


def test_a_request_pays_its_prompt_and_what_it_wrote(platform: Platform, ada: Caller):
    give(platform, nanos("1"))
    bill = opened(platform, ada)
    assert (bill.leased, bill.repeated) == (64, False)
    assert platform.ledger.holds("lab", "text")[0].amount == 10 * PROMPT + 64 * WRITTEN

    assert bill.extend_now(64) == 64
    bill.settle_now(used(10, 70), finish="stop")

    assert platform.ledger.available("lab", "text") == nanos("1") - 10 * PROMPT - 70 * WRITTEN
    assert platform.ledger.holds("lab") == []
    row = usage_of(platform, ada, "r1")
    assert (row.charged, row.absorbed, row.finish) == (
        10 * PROMPT + 70 * WRITTEN,
        0,
        "stop",
    ) and row.charged == settled(platform)
    assert (row.team, row.fund, row.person, row.api_key) == ("text", "lab", "ada", ada.key)
    assert (row.model, row.version, row.endpoint) == ("brook", 3, "completions")
    assert audit(platform.database).problems == []


def test_choices_share_one_lease(platform: Platform, ada: Caller):
    give(platform, nanos("1"))

    bill = opened(platform, ada, choices=4, most_tokens=100)

    assert bill.leased == 4 * 64
    assert bill.extend_now(1000) == 4 * 36
    assert bill.extend_now(1) == 0


def test_the_first_lease_is_what_there_is_money_for(platform: Platform, ada: Caller):
    give(platform, 10 * PROMPT + 7 * WRITTEN + 399)

    bill = opened(platform, ada)

    assert bill.leased == 7
    assert bill.extend_now(5) == 0


def test_a_strict_request_is_refused_and_not_cut(platform: Platform, ada: Caller):
    give(platform, 10 * PROMPT + 999 * WRITTEN)
    with pytest.raises(FundTooLow):
        opened(platform, ada, strict=True)
    assert platform.ledger.holds("lab") == []

    give(platform, WRITTEN)

    assert opened(platform, ada, strict=True).leased == 1000


def test_without_money_for_the_prompt_and_a_token_a_request_is_refused(platform: Platform, ada: Caller):
    give(platform, 10 * PROMPT + WRITTEN - 1)

    with pytest.raises(FundTooLow) as caught:
        opened(platform, ada)

    assert "0.000001399 available" in str(caught.value) and "cerulea fund draw lab text 0.000000001" in str(
        caught.value
    )


def test_a_prompt_alone_needs_no_token(platform: Platform, ada: Caller):
    give(platform, 10 * PROMPT)

    bill = opened(platform, ada, first_tokens=0, most_tokens=0, endpoint="embeddings")
    bill.settle_now(used(10, 0), finish="stop")

    assert bill.leased == 0 and settled(platform) == 10 * PROMPT


def test_an_extension_is_what_the_money_allows(platform: Platform, ada: Caller):
    give(platform, 10 * PROMPT + 100 * WRITTEN)
    bill = opened(platform, ada)

    assert bill.extend_now(64) == 36
    assert bill.extend_now(64) == 0
    assert bill.leased == 100


def test_a_cap_on_the_key_cuts_as_money_does(platform: Platform, ada: Caller):
    give(platform, nanos("1"))
    platform.ledger.set_cap("key", ada.key, "month", 10 * PROMPT + 70 * WRITTEN, actor="owner")
    bill = opened(platform, ada)

    assert bill.extend_now(64) == 6
    with pytest.raises(CapReached):
        opened(platform, ada, request_id="r2")

    bill.settle_now(used(10, 70), finish="length")
    assert audit(platform.database).problems == []


def test_an_uncapped_fund_is_metered_all_the_same(platform: Platform):
    owner = platform.people.caller()

    bill = opened(platform, owner)
    bill.settle_now(used(10, 5), finish="stop")

    assert usage_of(platform, owner, "r1").charged == settled(platform) == 10 * PROMPT + 5 * WRITTEN


def test_what_computed_nothing_pays_nothing(platform: Platform, ada: Caller):
    give(platform, nanos("1"))

    opened(platform, ada).settle_now(Usage(), finish="abort")

    assert (usage_of(platform, ada, "r1").charged, settled(platform)) == (0, 0)
    assert platform.ledger.available("lab", "text") == nanos("1")


def test_a_cached_prefix_is_not_paid_again(platform: Platform, ada: Caller):
    give(platform, nanos("1"))

    opened(platform, ada).settle_now(used(10, 5), cached_tokens=8, finish="stop")

    row = usage_of(platform, ada, "r1")
    assert (row.charged, row.prompt_tokens, row.cached_tokens) == (2 * PROMPT + 5 * WRITTEN, 10, 8)


def test_what_is_opened_three_times_is_held_once_and_settled_three_times_paid_once(platform: Platform, ada: Caller):
    give(platform, nanos("1"))
    bills = [opened(platform, ada) for _ in range(3)]
    assert [(bill.leased, bill.repeated) for bill in bills] == [(64, False), (64, True), (64, True)]
    assert len(platform.ledger.holds("lab")) == 1

    for n, bill in enumerate(bills):
        bill.settle_now(used(10, 20 + n), finish="stop")
        bill.settle_now(used(10, 40), finish="stop")

    assert settled(platform) == usage_of(platform, ada, "r1").charged == 10 * PROMPT + 20 * WRITTEN
    late = opened(platform, ada)
    assert (late.leased, late.repeated, late.extend_now(5)) == (0, True, 0)
    late.settle_now(used(10, 40), finish="stop")
    assert settled(platform) == 10 * PROMPT + 20 * WRITTEN
    assert audit(platform.database).problems == []


def test_a_repeat_of_a_small_first_lease_is_the_same_request(platform: Platform, ada: Caller):
    """The first time there was money for seven tokens; now there is for more."""
    give(platform, 10 * PROMPT + 7 * WRITTEN)
    opened(platform, ada)
    give(platform, nanos("1"))

    again = opened(platform, ada)

    assert (again.leased, again.repeated) == (7, True)
    assert len(platform.ledger.holds("lab")) == 1


def test_an_id_of_another_team_is_refused(platform: Platform, ada: Caller):
    give(platform, nanos("1"))
    opened(platform, ada)

    with pytest.raises(KeyReused):
        opened(platform, platform.people.caller())


@pytest.mark.parametrize("name", ["", "a/b", "é", "x" * 121, "a b"])
def test_an_id_that_could_be_another_key_is_refused(platform: Platform, ada: Caller, name: str):
    with pytest.raises(Invalid):
        opened(platform, ada, request_id=name)


def test_an_extension_whose_answer_was_lost_holds_once(platform: Platform, ada: Caller, monkeypatch):
    give(platform, nanos("1"))
    bill, extend = opened(platform, ada), platform.ledger.extend

    def lost(*args: Any, **more: Any) -> None:
        extend(*args, **more)
        raise ConnectionError("no answer")

    with monkeypatch.context() as patch:
        patch.setattr(type(platform.ledger), "extend", lambda self, *a, **k: lost(*a, **k))
        with pytest.raises(ConnectionError):
            bill.extend_now(10)
    assert bill.extend_now(10) == 10

    assert platform.ledger.holds("lab")[0].amount == 10 * PROMPT + 74 * WRITTEN


def test_holds_of_requests_end_within_thirty_seconds_of_their_time(platform: Platform, ada: Caller, clock: FakeClock):
    give(platform, nanos("1"))
    conductor = Conductor(platform, Desk(platform))
    conductor.tick()
    opened(platform, ada)
    alive = opened(platform, ada, request_id="r2")
    clock.advance(LEASE_MS - 1)
    conductor.tick()
    assert len(platform.ledger.holds("lab")) == 2

    assert alive.renew_now() is True
    clock.advance(int(BOOKS_S * 1000))
    conductor.tick()

    assert [hold.request for hold in platform.ledger.holds("lab")] == ["r2"]


def test_a_calendar_that_was_set_ahead_ends_no_request_that_says_it_runs(
    platform: Platform, ada: Caller, clock: FakeClock
):
    give(platform, nanos("1"))
    conductor = Conductor(platform, Desk(platform))
    clock.advance(int(BOOKS_S * 1000))
    conductor.tick()
    bill = opened(platform, ada)

    clock.jump(10 * LEASE_MS)
    clock.advance(int(BOOKS_S * 1000))
    conductor.tick()
    assert bill.renew_now() is True
    clock.advance(int(BOOKS_S * 1000))
    conductor.tick()

    assert bill.extend_now(5) == 5


def test_who_settles_after_the_sweep_is_not_charged_and_the_row_says_so(
    platform: Platform, ada: Caller, clock: FakeClock
):
    give(platform, nanos("1"))
    bill = opened(platform, ada)
    clock.advance(LEASE_MS)
    platform.ledger.expire()

    assert bill.extend_now(5) == 0
    assert bill.renew_now() is False
    bill.settle_now(used(10, 20), finish="stop")
    bill.settle_now(used(10, 20), finish="stop")

    row = usage_of(platform, ada, "r1")
    assert (row.charged, row.absorbed, settled(platform)) == (0, 10 * PROMPT + 20 * WRITTEN, 0)
    assert platform.ledger.available("lab", "text") == nanos("1")
    assert audit(platform.database).problems == []


def test_a_models_own_price_goes_before_the_one_for_all(platform: Platform, ada: Caller, tmp_path: Path):
    own = tmp_path / "prices.toml"
    own.write_text(
        '[[price]]\nsku = "completion_tokens/brook"\nnanos = 7\nper = 2\nfrom = 2025-01-01\nsource = "mine"\n'
    )
    platform.prices.load(own)
    give(platform, nanos("1"))

    opened(platform, ada).settle_now(used(10, 5), finish="stop")
    opened(platform, ada, request_id="r2", model="gpt2").settle_now(used(10, 5), finish="stop")

    assert usage_of(platform, ada, "r1").charged == 10 * PROMPT + 18  # 17.5, rounded up once
    assert usage_of(platform, ada, "r2").charged == 10 * PROMPT + 5 * WRITTEN


def test_what_is_free_is_counted_and_holds_nothing(platform: Platform, ada: Caller, tmp_path: Path):
    own = tmp_path / "prices.toml"
    lines = '[[price]]\nsku = "{}"\nnanos = 0\nper = 1\nfrom = 2025-01-01\nsource = "mine"\n'
    own.write_text(lines.format("completion_tokens/brook") + lines.format("prompt_tokens/brook"))
    platform.prices.load(own)

    bill = opened(platform, ada)
    assert (bill.leased, bill.extend_now(10), bill.renew_now()) == (64, 10, True)
    bill.settle_now(used(10, 70), finish="stop")

    row = usage_of(platform, ada, "r1")
    assert (row.charged, row.absorbed, row.completion_tokens) == (0, 0, 70)


def test_what_is_settled_from_all_sides_is_paid_once(platform: Platform, ada: Caller):
    """Three gateways that each believe the request to be theirs, and the sweep, at once; again and again."""
    give(platform, nanos("1"))
    for turn in range(5):
        bills = [opened(platform, ada, request_id=f"r{turn}") for _ in range(3)]
        with ThreadPoolExecutor(4) as pool:
            ends = [pool.submit(bill.settle_now, used(10, 20 + n), finish="stop") for n, bill in enumerate(bills)]
            pool.submit(platform.ledger.expire).result()
        assert [end.exception() for end in ends] == [None] * 3

        assert usage_of(platform, ada, f"r{turn}").charged > 0

    with platform.database.read() as tx:
        assert tx.value("SELECT SUM(charged) FROM request_usage") == settled(platform)
    assert platform.ledger.holds("lab") == []
    assert audit(platform.database).problems == []


def test_what_goes_beyond_its_lease_is_the_houses_and_noticed(platform: Platform, ada: Caller, caplog):
    give(platform, nanos("1"))

    opened(platform, ada).settle_now(used(10, 70), finish="stop")

    row = usage_of(platform, ada, "r1")
    assert (row.charged, row.absorbed) == (10 * PROMPT + 64 * WRITTEN, 6 * WRITTEN)
    assert "beyond its lease" in caplog.text


def test_usage_of_another_team_does_not_exist(platform: Platform, ada: Caller):
    opened(platform, platform.people.caller()).settle_now(used(10, 5), finish="stop")

    with pytest.raises(NotFound):
        usage_of(platform, ada, "r1")


def test_who_is_cancelled_leaves_nothing_held_and_what_is_settled_is_settled(platform: Platform, ada: Caller):
    """The one thread of the crew is busy while they are cancelled, so that nothing has begun yet."""
    give(platform, nanos("1"))
    asked = {"model": "brook", "endpoint": "chat", "prompt_tokens": 10, "first_tokens": 5, "most_tokens": 5}

    async def story() -> None:
        crew = Crew(1, "bill")
        kept = await open_bill(platform, ada, Order(request_id="kept", **asked), crew=crew)
        assert await kept.renew() and await kept.extend(5) == 0
        gate = asyncio.Event()
        loop = asyncio.get_running_loop()

        def block() -> None:
            asyncio.run_coroutine_threadsafe(gate.wait(), loop).result()

        busy = asyncio.create_task(crew.do(block))
        await asyncio.sleep(0)
        opening = asyncio.create_task(open_bill(platform, ada, Order(request_id="gone", **asked), crew=crew))
        settling = asyncio.create_task(kept.settle(used(10, 3), finish="abort"))
        await asyncio.sleep(0)
        for task in (opening, settling):
            task.cancel()
        assert [type(r) for r in await asyncio.gather(opening, settling, return_exceptions=True)] == [
            asyncio.CancelledError
        ] * 2
        gate.set()
        await busy
        await crew.close()
        assert not platform.ledger.holds("lab")

    asyncio.run(story())

    assert usage_of(platform, ada, "gone").finish == usage_of(platform, ada, "kept").finish == "abort"
    assert settled(platform) == 10 * PROMPT + 3 * WRITTEN
    assert audit(platform.database).problems == []


def test_a_gateway_that_closes_waits_for_its_bills_and_ends_their_threads(platform: Platform, ada: Caller):
    give(platform, nanos("1"))
    order = Order(request_id="r1", model="brook", endpoint="chat", prompt_tokens=10, first_tokens=5, most_tokens=5)

    async def story() -> None:
        gateway = Gateway(platform=platform)
        bill = await gateway.bill(ada, order)
        settling = asyncio.create_task(bill.settle(used(10, 3), finish="stop"))
        await asyncio.sleep(0)
        settling.cancel()
        await gateway.close()
        assert not [one for one in threading.enumerate() if one.name.startswith("bill ")]

    asyncio.run(story())

    assert usage_of(platform, ada, "r1").charged == 10 * PROMPT + 3 * WRITTEN
