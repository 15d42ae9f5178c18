"""How fast the journal takes entries, and how fast it draws a curve of a million points.

    python benchmarks/journal.py
    python benchmarks/journal.py postgresql://user@host:5432/name      # an empty database

Writing: progress entries of eight numbers as a training run has them, each batch one transaction, in batches of 1 (a
slow run), 100 and 1,000. Drawing: a curve of 1,000,000 points, whole and zoomed, in at most 2,000 buckets; the peer is
reading every point and summing it up here.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

from cerulea.jobs import pyramid
from cerulea.jobs.journal import Journal
from cerulea.store.database import Database, Tx

POINTS = 1_000_000
ROUNDS = 7


def progress(step: int) -> dict[str, Any]:
    """An entry as a run writes it."""
    return {
        "event": "progress",
        "step": step,
        "tokens": step * 8192,
        "loss": 3.0 + 1.0 / step,
        "learning_rate": 0.5,
        "gradient_norm": 1.0,
        "tokens_per_s": 1e5,
        "flops_utilization": 0.4,
        "elapsed_s": step * 0.1,
        "fraction": step / 1e6,
        "skipped": "",
    }


def measure_writing(journal: Journal) -> None:
    """Entries and points a second."""
    print("| entries in a batch | entries/s | points/s | median ms a batch |\n|---:|---:|---:|---:|")
    for size, batches in ((1, 1_000), (100, 200), (1_000, 20)):
        times = []
        for batch in range(batches):
            entries = [progress(step) for step in range(batch * size + 1, (batch + 1) * size + 1)]
            began = perf_counter()
            journal.write(f"job-{size}", 1, entries, batch * size)
            times.append(perf_counter() - began)
        rate = size * batches / sum(times)
        print(f"| {size:,} | {rate:,.0f} | {rate * 8:,.0f} | {median(times) * 1e3:.2f} |")


def fill(journal: Journal) -> None:
    """One curve of a million points with one spike."""
    began = perf_counter()
    for first in range(0, POINTS, 10_000):
        entries = [{"step": n, "loss": 99.0 if n == 654_321 else 1.0} for n in range(first, first + 10_000)]
        journal.write("long", 1, entries, first)
    seconds = perf_counter() - began
    print(f"\n{POINTS:,} entries of one number in batches of 10,000: {POINTS / seconds:,.0f} a second")


def measure_drawing(journal: Journal) -> None:
    """Milliseconds, buckets and rows of a curve, against reading all of its points."""
    read = 0
    real = Tx.all

    def counting(self: Tx, sql: str, **values: Any) -> Any:
        nonlocal read
        rows = real(self, sql, **values)
        read += len(rows)
        return rows

    Tx.all = counting  # type: ignore[method-assign]
    print("\n| steps | buckets | rows read | median ms | spike kept |\n|---|---:|---:|---:|---|")
    for first, last in ((None, None), (600_000, 700_000), (654_000, 655_000), (123, 987_654)):
        times = []
        for _ in range(ROUNDS + 1):
            read = 0
            began = perf_counter()
            curve = journal.curve("long", "loss", first=first, last=last)
            times.append(perf_counter() - began)
        kept = "yes" if max(bucket.high or 0.0 for bucket in curve) == 99.0 else "NO"
        span = "all" if first is None else f"{first:,} to {last:,}"
        print(f"| {span} | {len(curve):,} | {read:,} | {median(times[1:]) * 1e3:.1f} | {kept} |")
    Tx.all = real  # type: ignore[method-assign]
    began = perf_counter()
    with journal.database.read() as tx:
        series = tx.value("SELECT id FROM journal_series WHERE job = 'long' AND name = 'loss'")
        singles = [pyramid._single(point) for point in pyramid.tail(tx, series, 0)]
    curve = [pyramid.merge(singles[i : i + 500]) for i in range(0, len(singles), 500)]
    print(f"| all, from the points | {len(curve):,} | {POINTS:,} | {(perf_counter() - began) * 1e3:,.0f} | yes |")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        url = sys.argv[1] if len(sys.argv) > 1 else f"sqlite:///{folder}/telemetry.db"
        database = Database(url, durable=False)
        journal = Journal(database)
        measure_writing(journal)
        fill(journal)
        measure_drawing(journal)
        if database.dialect == "sqlite":
            with database.engine.connect() as connection:
                connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
            print(f"\nfile: {Path(folder, 'telemetry.db').stat().st_size / 1e6:,.0f} MB")
        for job in ("job-1", "job-100", "job-1000", "long"):
            journal.forget(job)
        database.close()
