"""What is acknowledged is in the books, whatever dies."""

from __future__ import annotations

from pathlib import Path

import pytest

from cerulea.store.database import Database
from tests.ledger.crash import crash


def test_nothing_acknowledged_is_lost_or_doubled_by_kill_9(database: Database, monkeypatch: pytest.MonkeyPatch):
    """A few rounds; `main` of tests/ledger/crash.py takes 200 (docs/ledger.md)."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2])  # where the process that is killed finds this package
    report = crash(database.url, rounds=6)

    assert report.acknowledged > 0
    assert (report.missing, report.doubled, report.open_after_sweep) == (0, 0, 0), report
    assert (report.problems, report.errors) == ([], [])
