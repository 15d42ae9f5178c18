"""Nobody overspends and nobody is refused what there is money for, whatever dies."""

from __future__ import annotations

from pathlib import Path

import pytest

from cerulea.store.database import Database
from tests.flows.leases import REQUESTS, play


@pytest.mark.slow
def test_no_token_is_written_that_is_not_paid_whoever_is_killed(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A few rounds of 64 requests on four processes; benchmarks/leases.py takes 200 (docs/ledger.md)."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2])  # where the processes find this package

    report = play(tmp_path, database.engine.url.render_as_string(hide_password=False), rounds=6)

    assert report.wrong == [], report
    assert report.requests == 6 * REQUESTS and report.finished and report.cut and report.refused
