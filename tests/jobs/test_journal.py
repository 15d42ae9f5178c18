"""What jobs tell: kept once, in order, and drawn without losing a spike."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cerulea.core.clock import FakeClock
from cerulea.core.errors import Invalid
from cerulea.jobs import journal as journal_module
from cerulea.jobs.journal import Entry, Journal
from cerulea.jobs.pyramid import Bucket
from cerulea.store.database import Database
from tests.databases import Databases


@pytest.fixture
def journal(database: Database) -> Journal:
    return Journal(database, FakeClock())


def steps(first: int, last: int, **more: object) -> list[dict[str, object]]:
    """Progress entries of a run whose loss is its step."""
    return [{"event": "progress", "step": step, "loss": float(step), **more} for step in range(first, last + 1)]


def drawn(buckets: list[Bucket]) -> list[tuple[int, float | None]]:
    return [(bucket.first_step, bucket.first) for bucket in buckets]


# -- entries ---------------------------------------------------------------------------------------------


def test_entries_come_back_as_they_were_written(journal: Journal):
    """A stream like metrics.jsonl can be written again from them."""
    entries = [
        {"event": "started", "run": "brook", "resumed_step": 0},
        {"event": "progress", "step": 1, "at": 5, "loss": 3.5, "skipped": ""},
        {"event": "eval", "step": 1, "bits_per_byte": 1.25, "sample": "Der Fluß – 川"},
        {"event": "checkpoint", "step": 1, "digest": "abc"},
    ]

    journal.write("job-1", 1, entries)

    assert [entry.values for entry in journal.since("job-1")] == entries
    now = FakeClock().now()
    assert [(e.event, e.step, e.at) for e in journal.since("job-1")] == [
        ("started", None, now),
        ("progress", 1, 5),
        ("eval", 1, now),
        ("checkpoint", 1, now),
    ]


def test_a_batch_that_comes_again_is_kept_once(journal: Journal):
    """The answer was lost: the sender repeats it, whole, or with what came since."""
    assert journal.write("job-1", 1, steps(1, 3), 0) == 3
    assert journal.write("job-1", 1, steps(1, 3), 0) == 0
    assert journal.write("job-1", 1, steps(1, 5), 0) == 2
    assert journal.write("job-1", 1, [], 5) == 0

    assert [entry.step for entry in journal.since("job-1")] == [1, 2, 3, 4, 5]
    assert [bucket.first_step for bucket in journal.curve("job-1", "loss")] == [1, 2, 3, 4, 5]


def test_attempts_streams_and_jobs_number_their_own(journal: Journal):
    journal.write("job-1", 1, [{"event": "note"}], 0)
    journal.write("job-1", 2, [{"event": "note"}], 0)
    journal.write("job-1", 1, [{"event": "note"}], 0, stream="other")
    journal.write("job-2", 1, [{"event": "note"}], 0)

    assert len(journal.since("job-1")) == 3
    assert len(journal.since("job-2")) == 1


def test_a_cursor_shows_what_came_after_it(journal: Journal):
    journal.write("job-1", 1, steps(1, 3), 0)
    first = journal.since("job-1", 0, limit=2)
    journal.write("job-1", 1, steps(4, 4), 3)

    rest = journal.since("job-1", first[-1].cursor)

    assert [entry.step for entry in first + rest] == [1, 2, 3, 4]
    assert journal.since("job-1", rest[-1].cursor) == []
    assert journal.since("nobody") == []


def test_a_reader_that_follows_misses_nothing_while_others_write(journal: Journal):
    """Four senders of one job at once: a cursor never passes an entry that appears later."""
    seen: list[Entry] = []

    def send(attempt: int) -> None:
        for seq in range(25):
            journal.write("job-1", attempt, [{"event": "note", "text": f"{attempt}.{seq}"}], seq)

    senders = [threading.Thread(target=send, args=(attempt,)) for attempt in range(4)]
    for sender in senders:
        sender.start()
    while len(seen) < 100:
        alive = any(sender.is_alive() for sender in senders)
        seen += (more := journal.since("job-1", seen[-1].cursor if seen else 0))
        if not alive and not more:
            break
    for sender in senders:
        sender.join()

    assert {entry.values["text"] for entry in seen} == {f"{a}.{s}" for a in range(4) for s in range(25)}
    assert [entry.cursor for entry in seen] == list(range(1, 101))


def test_text_that_a_database_cannot_hold_is_made_to_fit(journal: Journal):
    journal.write("job-1", 1, [{"event": "no\0te", "text": "a\0b\ud800c"}])
    journal.write("job-1", 1, [{"text": "a\0b\ud800c" + "x" * 20_000, "channel": "stderr"}], stream="log")

    assert journal.since("job-1")[0].event == "no\ufffdte"
    line = journal.logs("job-1")[0]
    assert line.text.startswith("a\ufffdb?c") and len(line.text) <= 8_192
    assert line.channel == "stderr"


def test_an_entry_of_megabytes_is_named_but_not_kept(journal: Journal):
    journal.write("job-1", 1, [{"event": "note", "step": 3, "text": "x" * 1_000_000}])

    assert set(journal.since("job-1")[0].values) == {"event", "step", "dropped"}


# -- logs ------------------------------------------------------------------------------------------------


def test_logs_are_read_from_a_cursor_or_from_the_end(journal: Journal):
    lines = [{"text": f"line {n}", "at": n} for n in range(10)]
    assert journal.write("job-1", 1, lines, 0, stream="log") == 10
    assert journal.write("job-1", 1, lines, 0, stream="log") == 0

    assert [line.text for line in journal.logs("job-1", tail=2)] == ["line 8", "line 9"]
    assert [line.text for line in journal.logs("job-1", after=8)] == ["line 8", "line 9"]
    assert [line.at for line in journal.logs("job-1", limit=2)] == [0, 1]
    assert journal.since("job-1") == []


def test_only_the_last_lines_of_a_chatty_job_are_kept(journal: Journal, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(journal_module, "MOST_LINES", 20)
    journal.write("job-1", 1, [{"text": str(n)} for n in range(50)], 0, stream="log")
    journal.write("job-1", 1, [{"text": str(n)} for n in range(50, 55)], 50, stream="log")

    assert [line.text for line in journal.logs("job-1")] == [str(n) for n in range(35, 55)]
    assert journal.logs("job-1")[-1].cursor == 55


# -- curves ----------------------------------------------------------------------------------------------


def test_numbers_of_entries_with_a_step_are_curves(journal: Journal):
    """Those of progress under their own names, others under their kind's; booleans and text are not numbers."""
    journal.write("job-1", 1, [{"event": "progress", "step": 1, "loss": 3.5, "tokens": 7, "best": True, "skipped": ""}])
    journal.write("job-1", 1, [{"event": "eval", "step": 1, "loss": 3.25}], 1)
    journal.write("job-1", 1, [{"step": 2, "values": {"loss": 3.0}}], 2)
    journal.write("job-1", 1, [{"event": "started", "parameters": 10}], 3)

    assert journal.names("job-1") == ["eval/loss", "loss", "tokens"]
    assert drawn(journal.curve("job-1", "loss")) == [(1, 3.5), (2, 3.0)]
    assert drawn(journal.curve("job-1", "eval/loss")) == [(1, 3.25)]
    assert journal.curve("job-1", "nothing") == []


def test_a_resumed_attempt_takes_the_curve_over_where_it_begins(journal: Journal):
    """The first came to step 30 and died; the second went on from the checkpoint at 20 and is at 25."""
    journal.write("job-1", 1, steps(1, 30))
    journal.write("job-1", 2, [{"event": "progress", "step": n, "loss": -float(n)} for n in range(21, 26)])

    curve = drawn(journal.curve("job-1", "loss"))

    assert curve == [(n, float(n)) for n in range(1, 21)] + [(n, -float(n)) for n in range(21, 26)]
    assert len(journal.since("job-1")) == 35


def test_what_an_earlier_attempt_sends_late_changes_nothing_after_its_end(journal: Journal):
    journal.write("job-1", 1, steps(1, 10), 0)
    journal.write("job-1", 2, steps(13, 15), 0)
    journal.write("job-1", 1, [{"step": n, "loss": 99.0} for n in range(11, 15)], 10)

    assert drawn(journal.curve("job-1", "loss")) == [
        *((n, float(n)) for n in range(1, 11)), (11, 99.0), (12, 99.0), *((n, float(n)) for n in range(13, 16)),
    ]  # fmt: skip


def test_steps_out_of_order_are_sorted_in(journal: Journal):
    journal.write("job-1", 1, [{"step": step, "loss": float(step)} for step in (40, 2, 39, 1, 2)])
    journal.write("job-1", 1, [{"step": 2, "loss": 7.0}, {"step": 20, "loss": 20.0}], 5)

    assert drawn(journal.curve("job-1", "loss")) == [(1, 1.0), (2, 7.0), (20, 20.0), (39, 39.0), (40, 40.0)]


def test_what_is_no_number_is_counted_and_not_drawn(journal: Journal):
    values = [1.0, math.nan, math.inf, None, -math.inf, 10**400, 3.0]
    journal.write("job-1", 1, [{"step": step, "loss": value} for step, value in enumerate(values)])

    curve = journal.curve("job-1", "loss")
    (one,) = journal.curve("job-1", "loss", first=0, last=6, points=4)[:1]

    assert [bucket.first for bucket in curve] == [1.0, None, None, None, None, None, 3.0]
    assert sum(bucket.odd for bucket in curve) == 5
    assert one.low == 1.0
    assert journal.since("job-1")[1].values == {"step": 1, "loss": None}


def test_a_spike_is_never_lost(journal: Journal):
    """One step in 20,000, drawn in 100 buckets."""
    entries = steps(1, 20_000)
    for entry in entries:
        entry["loss"] = 1.0
    entries[12_344]["loss"] = 50.0

    for first in range(0, 20_000, 5_000):
        journal.write("job-1", 1, entries[first : first + 5_000], first)
    curve = journal.curve("job-1", "loss", points=100)

    assert len(curve) <= 100
    (spike,) = [bucket for bucket in curve if bucket.high == 50.0]
    assert spike.first_step <= 12_345 <= spike.last_step
    assert drawn(journal.curve("job-1", "loss", first=12_345, last=12_345)) == [(12_345, 50.0)]


def test_a_long_curve_is_drawn_without_reading_its_points(sqlite_database: Database, monkeypatch: pytest.MonkeyPatch):
    """100,000 points in 500 buckets: about one row each is read."""
    journal = Journal(sqlite_database)
    journal.write("job-1", 1, steps(1, 100_000))
    read = 0
    real = journal_module.Tx.all

    def counting(self, sql, **values):
        nonlocal read
        rows = real(self, sql, **values)
        read += len(rows)
        return rows

    monkeypatch.setattr(journal_module.Tx, "all", counting)
    curve = journal.curve("job-1", "loss", points=500)

    assert 250 <= len(curve) <= 500
    assert read <= 600


def test_a_curve_of_three_points_is_refused(journal: Journal):
    with pytest.raises(Invalid):
        journal.curve("job-1", "loss", points=3)


def test_names_without_end_are_not_all_drawn(journal: Journal, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(journal_module, "MOST_NAMES", 5)

    journal.write("job-1", 1, [{"step": 1, "values": {f"m{n:02}": 1.0 for n in range(10)}}])

    assert len(journal.names("job-1")) == 5
    assert len(journal.since("job-1")[0].values["values"]) == 10


# -- removing --------------------------------------------------------------------------------------------


def test_pruning_keeps_the_curves_of_jobs_long_silent(database: Database, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(journal_module, "PIECE", 7)
    clock = FakeClock()
    journal = Journal(database, clock)
    journal.write("old", 1, steps(1, 40))
    journal.write("old", 1, [{"text": "line"}], stream="log")
    clock.advance(1_000)
    journal.write("new", 1, steps(1, 4))

    assert journal.prune(clock.now()) == 1
    assert journal.prune(clock.now()) == 0

    assert journal.since("old") == [] and journal.logs("old") == []
    assert len(journal.curve("old", "loss")) == 40
    assert len(journal.since("new")) == 4


def test_a_forgotten_job_can_begin_anew(journal: Journal, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(journal_module, "PIECE", 7)
    journal.write("job-1", 1, steps(1, 40))
    journal.write("job-2", 1, steps(1, 4))

    journal.forget("job-1")

    assert journal.names("job-1") == []
    assert journal.write("job-1", 1, steps(1, 20)) == 20
    assert [entry.cursor for entry in journal.since("job-1")] == list(range(1, 21))
    assert len(journal.curve("job-1", "loss")) == 20
    assert len(journal.curve("job-2", "loss")) == 4


def test_a_journal_opens_again_on_what_is_there(database: Database):
    Journal(database).write("job-1", 1, steps(1, 3))

    assert len(Journal(database).since("job-1")) == 3


# -- any run ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shelf(databases: Databases) -> Iterator[Journal]:
    """One journal for many examples, each under a job of its own."""
    database = databases.make("sqlite")
    yield Journal(database)
    databases.drop(database)


VALUES = st.floats(-100, 100) | st.sampled_from([math.nan, math.inf])
BATCHES = st.lists(st.lists(VALUES, min_size=1, max_size=40), min_size=1, max_size=12)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_curve_is_the_sum_of_exactly_its_points(shelf: Journal, data: st.DataObject):
    """Attempts that resume anywhere, batches of any size sent twice, drawn at any width between any two steps."""
    job = f"job-{data.draw(st.integers(0, 1 << 60))}"
    shelf.forget(job)
    expected: dict[int, float] = {}
    step = 0
    for attempt in range(1, data.draw(st.integers(1, 4)) + 1):
        step = data.draw(st.integers(0, step))
        expected = {n: value for n, value in expected.items() if n <= step}
        seq = 0
        for values in data.draw(BATCHES):
            entries = [{"step": step + i, "loss": value} for i, value in enumerate(values, 1)]
            shelf.write(job, attempt, entries, seq)
            shelf.write(job, attempt, json.loads(json.dumps(entries)), seq)
            expected.update({int(entry["step"]): entry["loss"] for entry in entries})
            seq, step = seq + len(values), step + len(values)
    first, last = sorted((data.draw(st.integers(0, step)), data.draw(st.integers(0, step))))
    points = data.draw(st.integers(4, 200))

    curve = shelf.curve(job, "loss", points=points, first=first, last=last)

    inside = [n for n in sorted(expected) if first <= n <= last]
    if not any(math.isfinite(value) for n, value in expected.items() if n <= last):
        # A curve begins with its first number; what was written beside that one may be drawn, and shows none.
        assert all(bucket.low is None and bucket.points == bucket.odd for bucket in curve)
        return
    started = [n for n in inside if not curve or n >= curve[0].first_step]
    assert len(curve) <= points
    assert sum(bucket.points for bucket in curve) == len(started)
    for bucket in curve:
        steps_, started = started[: bucket.points], started[bucket.points :]
        finite = [expected[n] for n in steps_ if math.isfinite(expected[n])]
        assert (bucket.first_step, bucket.last_step) == (steps_[0], steps_[-1])
        assert bucket.odd == len(steps_) - len(finite)
        if finite:
            assert (bucket.first, bucket.last) == (finite[0], finite[-1])
            assert (bucket.low, bucket.high) == (min(finite), max(finite))
            assert bucket.mean == pytest.approx(sum(finite) / len(finite), abs=1e-9)
        else:
            assert bucket.low is bucket.high is bucket.mean is None
