"""What a key may use in a minute, however many gateways count it."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from cerulea.core.clock import DAY_MS, FakeClock
from cerulea.core.errors import FundTooLow, Invalid, NotFound, RateLimited
from cerulea.core.money import nanos
from cerulea.flows.limits import MINUTE_MS, set_limit
from cerulea.flows.platform import Platform
from cerulea.people import Caller

from .bills import give, opened


def limited(platform: Platform, caller: Caller, requests: int | None = None, tokens: int | None = None) -> None:
    owner = platform.people.caller()
    set_limit(platform, owner, caller.key, requests_per_minute=requests, tokens_per_minute=tokens)


def opens(platform: Platform, caller: Caller, name: str, **more: Any) -> bool:
    try:
        opened(platform, caller, request_id=name, **{"prompt_tokens": 10, "first_tokens": 5, **more})
    except RateLimited:
        return False
    return True


def test_so_many_requests_get_in_and_the_next_minute_as_many_again(platform: Platform, ada: Caller, clock: FakeClock):
    """The refusal says how long that is: to the end of the calendar's minute."""
    give(platform, nanos("1"))
    limited(platform, ada, requests=3)
    clock.advance(MINUTE_MS - clock.now() % MINUTE_MS + 48_200)
    assert [opens(platform, ada, f"a{n}") for n in range(5)] == [True] * 3 + [False] * 2
    with pytest.raises(RateLimited, match="all 3 requests") as caught:
        opened(platform, ada, request_id="a5")
    assert caught.value.retry_after_s == 12

    clock.advance(11_000)
    assert not opens(platform, ada, "a6")
    clock.advance(1_000)

    assert [opens(platform, ada, f"b{n}") for n in range(4)] == [True] * 3 + [False]


def test_tokens_of_the_prompt_and_of_every_lease_count(platform: Platform, ada: Caller):
    give(platform, nanos("1"))
    limited(platform, ada, tokens=40)
    bill = opened(platform, ada, first_tokens=5)
    assert opens(platform, ada, "r2", prompt_tokens=5)
    assert bill.extend_now(100) == 100  # a text that has begun is not cut

    with pytest.raises(RateLimited, match="125 of 40 tokens"):
        opened(platform, ada, request_id="r3", first_tokens=5)


def test_a_first_lease_is_cut_to_what_fits_into_a_minute(platform: Platform, ada: Caller):
    give(platform, nanos("1"))
    limited(platform, ada, tokens=30)

    assert opened(platform, ada, first_tokens=64).leased == 20


def test_what_fits_into_no_minute_is_no_matter_of_waiting(platform: Platform, ada: Caller):
    give(platform, nanos("1"))
    limited(platform, ada, tokens=30)

    with pytest.raises(Invalid, match="may use 30 in a minute"):
        opened(platform, ada, prompt_tokens=30)


def test_what_is_refused_is_not_counted_and_holds_nothing(platform: Platform, ada: Caller):
    limited(platform, ada, requests=1)
    for n in range(3):
        with pytest.raises(FundTooLow):
            opened(platform, ada, request_id=f"r{n}")
    give(platform, nanos("1"))

    assert [opens(platform, ada, f"s{n}") for n in range(2)] == [True, False]
    assert len(platform.ledger.holds("lab")) == 1


def test_a_limit_that_is_lifted_is_none(platform: Platform, ada: Caller):
    give(platform, nanos("1"))
    limited(platform, ada, requests=1)
    assert [opens(platform, ada, f"a{n}") for n in range(2)] == [True, False]

    limited(platform, ada)

    assert all(opens(platform, ada, f"b{n}") for n in range(3))
    assert platform.people.api_keys()[0].requests_per_minute is None


def test_a_clock_that_is_behind_counts_in_the_minute_of_the_others(platform: Platform, ada: Caller, clock: FakeClock):
    """And one that was ahead for hours stops nobody for hours."""
    give(platform, nanos("1"))
    clock.advance(DAY_MS)
    limited(platform, ada, requests=1)
    assert opens(platform, ada, "a")

    clock.jump(-MINUTE_MS)
    assert not opens(platform, ada, "b")
    clock.jump(-60 * MINUTE_MS)

    assert opens(platform, ada, "c")


def test_of_many_at_once_exactly_so_many_get_in(platform: Platform, ada: Caller):
    give(platform, nanos("1"))
    limited(platform, ada, requests=30)
    let_in: list[bool] = []
    gate = threading.Barrier(16)

    def work(number: int) -> None:
        gate.wait()
        let_in.extend(opens(platform, ada, f"r{number}-{n}") for n in range(5))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert (len(let_in), sum(let_in)) == (80, 30)
    assert len(platform.ledger.holds("lab")) == 30


def test_only_a_key_that_exists_can_be_limited(platform: Platform, ada: Caller):
    with pytest.raises(NotFound):
        set_limit(platform, platform.people.caller(), "aaaaaaaa", requests_per_minute=1, tokens_per_minute=None)
    with pytest.raises(NotFound):  # another team's
        set_limit(
            platform,
            Caller(person="eve", team="home", role="viewer", scopes=frozenset()),
            ada.key,
            requests_per_minute=1,
            tokens_per_minute=None,
        )
    with pytest.raises(Invalid):
        set_limit(platform, platform.people.caller(), ada.key, requests_per_minute=0, tokens_per_minute=None)
