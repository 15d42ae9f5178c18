"""What a job tells while it runs: changes of state, metrics and log lines, from a cursor on.

In:      an open platform, a job, the cursor of what was seen before.
Out:     News: what came since, and the next cursor; `ended` with the last of it.
Kept:    a cursor given again brings the same; nothing is left out between two cursors.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, NamedTuple

from cerulea.core.clock import iso
from cerulea.core.errors import Invalid
from cerulea.flows.platform import Platform
from cerulea.jobs.job import ENDED, Job

MOST = 500  # entries and lines each, at a time
_CURSOR = re.compile(r"([0-9]{1,18})\.([0-9]{1,18})\.([0-9]{1,18})")


class Item(NamedTuple):
    """One thing that a job told."""

    kind: str  # metric, log or job
    data: dict[str, Any]
    cursor: str  # ask for what comes after it


@dataclass(frozen=True, slots=True)
class News:
    """What came since a cursor."""

    items: list[Item]
    cursor: str
    ended: bool
    job: Job


def news(platform: Platform, job: str, cursor: str = "", *, teams: tuple[str, ...] | None = None) -> News:
    """What a job told since `cursor`; all of it where there is none.

    Raises:
        NotFound: no such job.
        Invalid: a cursor that nobody gave.
    """
    events, entries, lines = read_cursor(cursor)
    # The job first: what it wrote before it ended is then surely among what is read next.
    found = platform.queue.get(job, teams=teams)
    items: list[Item] = []
    told = platform.queue.events(found.id, after=events)
    metrics = platform.journal.since(found.id, entries, MOST)
    logged = platform.journal.logs(found.id, lines, MOST)
    for entry in metrics:
        entries = entry.cursor
        data = {**entry.values, "attempt": entry.attempt, "event": entry.event, "at": iso(entry.at)}
        items.append(Item("metric", data, f"{events}.{entries}.{lines}"))
    for line in logged:
        lines = line.cursor
        data = {"attempt": line.attempt, "channel": line.channel, "text": line.text, "at": iso(line.at)}
        items.append(Item("log", data, f"{events}.{entries}.{lines}"))
    for event in told:
        events = event.seq
        change = {"attempt": event.attempt, "before": event.before, "after": event.after, "reason": event.reason}
        data = {**change, "detail": event.detail, "actor": event.actor, "at": iso(event.at)}
        items.append(Item("job", data, f"{events}.{entries}.{lines}"))
    return News(
        items=items,
        cursor=f"{events}.{entries}.{lines}",
        ended=found.status in ENDED and len(metrics) < MOST and len(logged) < MOST,
        job=found,
    )


def read_cursor(text: str) -> tuple[int, int, int]:
    """The three numbers of a cursor: events, metrics, lines."""
    if not text:
        return 0, 0, 0
    found = _CURSOR.fullmatch(text)
    if found is None:
        raise Invalid(f"{text[:60]!r} is no cursor.", fix="Give back the one that came with the last answer, or none.")
    events, entries, lines = (int(part) for part in found.groups())
    return events, entries, lines
