"""Fixtures of the ledger's tests."""

from __future__ import annotations

import pytest

from cerulea.core.clock import FakeClock
from cerulea.ledger.book import Ledger
from cerulea.store.database import Database


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def book(database: Database, clock: FakeClock) -> Ledger:
    """A limited fund `lab` with 100.00, of which team `text` has drawn 40.00 and team `games` nothing."""
    return furnished(database, clock)


def furnished(database: Database, clock: FakeClock) -> Ledger:
    book = Ledger(database, clock)
    book.create_fund("lab")
    book.open_purse("lab", "text")
    book.open_purse("lab", "games")
    book.grant("lab", 100_000_000_000, key="grant", actor="ada")
    book.draw("lab", "text", 40_000_000_000, key="draw", actor="ada")
    return book
