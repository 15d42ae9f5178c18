"""What a decision about the queue depends on, and what it says: frozen values.

Times are milliseconds since 1970 UTC. Not here: how it is decided (`schedule`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from cerulea.jobs.share import ENTRY_MS


@dataclass(frozen=True, slots=True, kw_only=True)
class Team:
    """Who shares the machines."""

    name: str
    weight: int = 1  # > 0; twice the weight is due twice the slots
    slots: int = 0  # its own: it gets them back from whoever borrows them
    borrows: bool = True  # may use more than its own while others leave it
    used: float = 0.0  # slot-milliseconds, faded to now (`share.charge`)


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """A program that runs jobs."""

    id: str
    slots: int
    free: int
    device: str = "cpu"
    kinds: frozenset[str] = frozenset({"text"})
    alive: bool = True  # neither silent nor draining: it may be given new jobs


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """A job in the queue."""

    id: str
    seq: int  # first come, first served
    team: str
    kind: str = "text"
    device: str = "cpu"
    slots: int = 1
    priority: int = 0  # within its team; higher first
    queued_at: int = 0
    not_before: int = 0  # ms; after a failure
    max_ms: int | None = None  # it surely ends within this; None where nobody knows
    spans: bool = True  # may use slots of several workers
    promised: bool = False  # the last decision freed slots for it (its reason was `preempting`)
    gave_way_to: frozenset[str] = frozenset()  # jobs that it was stopped for before; it does not stop them in turn


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A job that has slots."""

    id: str
    team: str
    slots: Mapping[str, int]  # by worker
    priority: int = 0
    started_at: int = 0
    ends_at: int | None = None
    preemptible: bool = True  # it can save and go on later
    stopping: bool = False  # it was told to end; its slots come free


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """All that a decision depends on."""

    teams: Sequence[Team]
    workers: Sequence[Worker]
    waiting: Sequence[Waiting]
    running: Sequence[Running] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What may be tuned."""

    entry_ms: int = ENTRY_MS  # of a job, charged to its team when it starts
    exempt_ms: int = 60_000  # a job runs for this long before a team may take back its slots; a borrower waits entry_ms
    short_ms: int = 600_000  # a job this short may run before one whose start nobody knows


class Reason(NamedTuple):
    """Why a job waits."""

    code: str  # backoff, no_worker, kind, device, size, quota, preempting, gang, capacity or turn
    sentence: str  # the same from decision to decision while nothing changes


class Preemption(NamedTuple):
    """A running job that is to save and go back to the queue."""

    job: str
    beneficiary: str  # the waiting job that gets its slots


@dataclass(frozen=True, slots=True)
class Decision:
    """What is to be done now."""

    placements: dict[str, dict[str, int]] = field(default_factory=dict)  # job → worker → slots
    preemptions: list[Preemption] = field(default_factory=list)
    reasons: dict[str, Reason] = field(default_factory=dict)  # of every job that is not placed
    positions: dict[str, int] = field(
        default_factory=dict
    )  # in line over all teams, from 1; of those in line for slots
