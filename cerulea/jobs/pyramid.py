"""Curves of any length drawn from a few thousand rows: points, and above them a pyramid of buckets.

A bucket of level k sums up 8 · 2^k points in a row: first and last, lowest and highest, mean. It is written once, when
its last point is there, so a curve of a million points has a quarter of a million buckets beside it; what is not in a
full bucket yet is read from the level below. Points are counted, not steps: a curve that has a point every thousand
steps is drawn as well as one that has every step.
Kept:    steps of a series only grow; a bucket is the sum of exactly its points, so no spike is lost at any width.
Not here: jobs, attempts, names (`journal`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from cerulea.store.database import Tx

WIDTH = 8  # points of a bucket of level 0


class Bucket(NamedTuple):
    """Points of a curve that are drawn as one; a single point is a bucket of one."""

    first_step: int
    last_step: int
    first: float | None  # values; None where no point of it is a finite number
    last: float | None
    low: float | None
    high: float | None
    mean: float | None  # of the finite ones
    points: int
    odd: int  # of them not finite: NaN or infinite
    at: int  # ms, of the last point


class Point(NamedTuple):
    """One value of a series."""

    step: int
    at: int
    attempt: int
    value: float | None  # None: not a finite number


def append(tx: Tx, series: int, count: int, points: Sequence[Point]) -> int:
    """Add points whose steps are beyond all there are, and the buckets that they fill; returns the new count."""
    tx.many(
        "INSERT INTO journal_point (series, step, n, at, attempt, value) "
        "VALUES (:series, :step, :n, :at, :attempt, :value)",
        [{"series": series, "n": n, **point._asdict()} for n, point in enumerate(points, count)],
    )
    total = count + len(points)
    low, high = count // WIDTH, total // WIDTH  # buckets of level 0 that are full now and were not before
    if low == high:
        return total
    before = tx.all(
        "SELECT step, at, value FROM journal_point WHERE series = :series AND step < :step "
        "ORDER BY step DESC LIMIT :limit",
        series=series,
        step=points[0].step,
        limit=count % WIDTH,
    )
    singles = [_single(row) for row in reversed(before)] + [_single(point) for point in points]
    buckets = [merge(singles[i : i + WIDTH]) for i in range(0, (high - low) * WIDTH, WIDTH)]
    rows, level = [], 0
    while buckets:
        rows += [{"series": series, "level": level, "n": low + i, **b._asdict()} for i, b in enumerate(buckets)]
        if low % 2:
            buckets = _read(tx, series, level, low - 1, low) + buckets
        buckets = [merge(buckets[i : i + 2]) for i in range(0, len(buckets) - 1, 2)]
        low, level = low // 2, level + 1
    tx.many(
        "INSERT INTO journal_bucket (series, level, n, first_step, last_step, first, last, low, high, mean, points, "
        "odd, at) VALUES (:series, :level, :n, :first_step, :last_step, :first, :last, :low, :high, :mean, :points, "
        ":odd, :at)",
        rows,
    )
    return total


def cut(tx: Tx, series: int, count: int, step: int) -> int:
    """Remove the points from `step` on, and the buckets that hold any of them; returns the count that is left."""
    left = tx.value(
        "SELECT n FROM journal_point WHERE series = :series AND step >= :step ORDER BY step LIMIT 1",
        series=series,
        step=step,
    )
    if left is None:
        return count
    tx.run("DELETE FROM journal_point WHERE series = :series AND step >= :step", series=series, step=step)
    level = 0
    while WIDTH << level <= count:
        tx.run(
            "DELETE FROM journal_bucket WHERE series = :series AND level = :level AND n >= :n",
            series=series,
            level=level,
            n=left // (WIDTH << level),
        )
        level += 1
    return int(left)


def tail(tx: Tx, series: int, step: int) -> list[Point]:
    """The points from `step` on."""
    rows = tx.all(
        "SELECT step, at, attempt, value FROM journal_point WHERE series = :series AND step >= :step ORDER BY step",
        series=series,
        step=step,
    )
    return [Point(*row) for row in rows]


def draw(tx: Tx, series: int, points: int, first: int, last: int) -> list[Bucket]:
    """The curve from step `first` to step `last` in at most `points` buckets, `points` ≥ 4.

    Reads at most 8 rows for each bucket, most often one, however long the curve is.
    """
    ends = [
        tx.value(
            f"SELECT n FROM journal_point WHERE series = :series AND step >= :first AND step <= :last "
            f"ORDER BY step {way} LIMIT 1",
            series=series,
            first=first,
            last=last,
        )
        for way in ("ASC", "DESC")
    ]
    if ends[0] is None:
        return []
    low, high = ends[0], ends[1] + 1
    width = -(-(high - low) // (points - 2)) if high - low > points else 1  # points of a bucket
    if width < WIDTH:
        singles = _singles(tx, series, first, last, "ASC", high - low)
        if width == 1:
            return singles
        shift = low % width  # buckets begin at the same points however far the curve has come
        starts = range(-shift, len(singles), width)
        return [merge(singles[max(0, i) : i + width]) for i in starts]
    level = (-(-width // WIDTH) - 1).bit_length()
    return _from_pyramid(tx, series, level, (low, high), (first, last))


def merge(buckets: Sequence[Bucket]) -> Bucket:
    """Neighbours as one."""
    if len(buckets) == 1:
        return buckets[0]
    finite = [b for b in buckets if b.mean is not None]
    start, end = buckets[0], buckets[-1]
    count, odd = sum(b.points for b in buckets), sum(b.odd for b in buckets)
    if not finite:
        return Bucket(start.first_step, end.last_step, None, None, None, None, None, count, odd, end.at)
    share = 1.0 / (count - odd)
    return Bucket(
        start.first_step,
        end.last_step,
        finite[0].first,
        finite[-1].last,
        min(b.low for b in finite),  # type: ignore[type-var]
        max(b.high for b in finite),  # type: ignore[type-var]
        sum(b.mean * ((b.points - b.odd) * share) for b in finite if b.mean is not None),
        count,
        odd,
        end.at,
    )


def _from_pyramid(tx: Tx, series: int, level: int, span: tuple[int, int], steps: tuple[int, int]) -> list[Bucket]:
    """Points span[0] to span[1]: full buckets of `level`, and at each end one of what smaller ones hold."""
    position, high = span
    wide = WIDTH << level
    left: list[Bucket] = []
    if position % WIDTH:
        need = min(-position % WIDTH, high - position)
        left += _singles(tx, series, *steps, "ASC", need)
        position += need
    for small in range(level):
        if position % (WIDTH << small + 1) and position + (WIDTH << small) <= high:
            left += _read(tx, series, small, position >> 3 + small, (position >> 3 + small) + 1)
            position += WIDTH << small
    body: list[Bucket] = []
    if position % wide == 0:
        body = _read(tx, series, level, position // wide, high // wide)
        position = max(position, high // wide * wide)
    right: list[Bucket] = []
    for small in reversed(range(level)):
        if position + (WIDTH << small) <= high:
            right += _read(tx, series, small, position >> 3 + small, (position >> 3 + small) + 1)
            position += WIDTH << small
    if position < high:
        right += reversed(_singles(tx, series, *steps, "DESC", high - position))
    return ([merge(left)] if left else []) + body + ([merge(right)] if right else [])


def _read(tx: Tx, series: int, level: int, low: int, high: int) -> list[Bucket]:
    rows = tx.all(
        "SELECT first_step, last_step, first, last, low, high, mean, points, odd, at FROM journal_bucket "
        "WHERE series = :series AND level = :level AND n >= :low AND n < :high ORDER BY n",
        series=series,
        level=level,
        low=low,
        high=high,
    )
    return [Bucket(*row) for row in rows]


def _singles(tx: Tx, series: int, first: int, last: int, way: str, limit: int) -> list[Bucket]:
    rows = tx.all(
        f"SELECT step, at, value FROM journal_point WHERE series = :series AND step >= :first AND step <= :last "
        f"ORDER BY step {way} LIMIT :limit",
        series=series,
        first=first,
        last=last,
        limit=limit,
    )
    return [_single(row) for row in rows]


def _single(point: Any) -> Bucket:
    step, at, value = point.step, point.at, point.value
    return Bucket(step, step, value, value, value, value, value, 1, int(value is None), at)


def in_order(points: Iterable[Point]) -> list[Point]:
    """One point for each step, the later attempt's, within an attempt the one that came last; by step."""
    by_step: dict[int, Point] = {}
    for point in points:
        there = by_step.get(point.step)
        if there is None or point.attempt >= there.attempt:
            by_step[point.step] = point
    return [by_step[step] for step in sorted(by_step)]
