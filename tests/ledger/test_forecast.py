"""When the money ends, if things go on as they do."""

from __future__ import annotations

import pytest

from cerulea.core.clock import DAY_MS, FakeClock
from cerulea.core.errors import NotFound
from cerulea.core.money import nanos
from cerulea.ledger.book import Ledger
from cerulea.ledger.forecast import forecast


def spend(book: Ledger, amount: str, key: str) -> None:
    book.hold("lab", "text", nanos(amount), key=key)
    book.settle(key, nanos(amount), key=f"{key}/post")


def test_without_spending_no_day_is_named(book: Ledger, clock: FakeClock):
    found = forecast(book.database, clock, "lab")

    assert (found.left, found.burn_24h, found.burn_7d, found.burn_committed) == (nanos("100"), 0, 0, 0)
    assert (found.ends_at, found.earliest, found.latest) == (None, None, None)


def test_steady_spending_ends_when_it_must(book: Ledger, clock: FakeClock):
    """2.00 a day for six days leaves 88.00: 44 days, whichever way one looks."""
    for day in range(6):
        spend(book, "2", f"h{day}")
        clock.advance(DAY_MS)
    clock.advance(-1)

    found = forecast(book.database, clock, "lab")

    assert (found.left, found.burn_24h) == (nanos("88"), nanos("2"))
    assert found.burn_7d == pytest.approx(nanos("2"), rel=1e-6)
    assert found.ends_at == pytest.approx(clock.now() + 44 * DAY_MS, rel=1e-6)


def test_views_that_disagree_make_a_band(book: Ledger, clock: FakeClock):
    """1.00 six days ago, 5.00 today, and a hold of 10.00 for a day: between 9 and 94 days."""
    spend(book, "1", "h1")
    clock.advance(6 * DAY_MS)
    spend(book, "5", "h2")
    book.hold("lab", "text", nanos("10"), key="h3", expires_ms=DAY_MS)

    found = forecast(book.database, clock, "lab")

    assert (found.burn_24h, found.burn_7d, found.burn_committed) == (nanos("5"), nanos("1"), nanos("10"))
    days = [(at - clock.now()) / DAY_MS for at in (found.earliest, found.ends_at, found.latest)]
    assert days == pytest.approx([9.4, 18.8, 94])


def test_an_uncapped_fund_never_ends(book: Ledger, clock: FakeClock):
    book.create_fund("home", limited=False)
    book.open_purse("home", "text")
    book.hold("home", "text", nanos("3"), key="h")
    book.settle("h", nanos("3"), key="p")

    found = forecast(book.database, clock, "home")

    assert (found.burn_24h, found.ends_at) == (nanos("3"), None)


def test_a_fund_that_is_not_there_is_named(book: Ledger, clock: FakeClock):
    with pytest.raises(NotFound):
        forecast(book.database, clock, "lob")
