"""A job, and the states it may go between.

        QUEUED ──▶ STARTING ──▶ RUNNING ──▶ SUCCEEDED
          ▲ │          │           │
          │ │          └─────┬─────┤
          │ ▼                ▼     ▼
          │ CANCELLED ◀── STOPPING ──▶ PAUSED (money) ──▶ QUEUED
          │                  │    └──▶ FAILED
          └── lost, preempted, drained: goes on from the last checkpoint

`status` is what is observed, `desired` what someone asked for, `reason` a code that says why. Every change of
status is one row of EDGES; `queue` makes it one guarded UPDATE with its event in the same transaction.
Not here: SQL (`queue`), who runs next (`schedule`), money (`flows.work`).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any

from cerulea.core.errors import EdgeRefused
from cerulea.core.values import Usage


class Status(StrEnum):
    """Where a job is."""

    QUEUED = "QUEUED"
    STARTING = "STARTING"
    RUNNING = "RUNNING"
    STOPPING = "STOPPING"
    PAUSED = "PAUSED"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


HELD = (Status.STARTING, Status.RUNNING, Status.STOPPING)  # a worker has it, under a lease
ENDED = (Status.SUCCEEDED, Status.FAILED, Status.CANCELLED)

# From → to: who may, and when. Any pair that is not here is refused.
EDGES: dict[tuple[Status, Status], str] = {
    (Status.QUEUED, Status.STARTING): "the conductor placed it, and its first tranche is held",
    (Status.QUEUED, Status.CANCELLED): "a person",
    (Status.STARTING, Status.RUNNING): "its first heartbeat",
    (Status.STARTING, Status.STOPPING): "someone asked, or the money ended",
    (Status.STARTING, Status.QUEUED): "the worker was lost, or the start failed and is tried again",
    (Status.STARTING, Status.FAILED): "the start failed",
    (Status.RUNNING, Status.STOPPING): "cancelled, preempted, out of money, over its time, or the worker drains",
    (Status.RUNNING, Status.SUCCEEDED): "its result is registered",
    (Status.RUNNING, Status.QUEUED): "the worker was lost, or it failed and is tried again",
    (Status.RUNNING, Status.FAILED): "it failed",
    (Status.STOPPING, Status.CANCELLED): "saved after a person's wish",
    (Status.STOPPING, Status.QUEUED): "saved after preemption or draining, or the worker was lost",
    (Status.STOPPING, Status.PAUSED): "saved after the money ended",
    (Status.STOPPING, Status.FAILED): "over its time, or it failed while saving",
    (Status.STOPPING, Status.SUCCEEDED): "it was done before the wish reached it",
    (Status.PAUSED, Status.QUEUED): "money came, or a person resumed it",
    (Status.PAUSED, Status.CANCELLED): "a person",
    (Status.SUCCEEDED, Status.QUEUED): "a person gave it a later end",
    (Status.FAILED, Status.QUEUED): "a person resumed it from its last checkpoint",
    (Status.CANCELLED, Status.QUEUED): "a person resumed it from its last checkpoint",
}

# What became of an attempt that failed. Only the first two are the user's; `platform` burns no retry.
FAILURES = ("user_error", "setup", "no_capacity", "lost", "platform")


def check_edge(job: str, before: Status, after: Status) -> None:
    """Refuse a change of state that the chart does not have.

    Raises:
        EdgeRefused: with what can be done instead.
    """
    if (before, after) not in EDGES:
        ways = [to for start, to in EDGES if start == before]
        raise EdgeRefused(
            f"Job {job} is {before} and cannot become {after}.",
            why=f"From {before} it goes to {', '.join(ways)}." if ways else f"{before} is the end.",
            fix=f"See it: cerulea ps, or start it anew: cerulea rerun {job}",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class NewJob:
    """What a person asks for."""

    kind: str  # text, selfplay, finetune
    name: str  # of the model that comes out
    recipe: dict[str, Any]
    recipe_digest: str
    team: str
    fund: str
    person: str
    api_key: str | None = None
    priority: int = 0  # within the team; higher first
    slots: int = 1  # processes, all at once or none
    device: str = "cpu"
    on_budget: str = "resume"  # when money comes back: go on by itself, or wait for a person (`pause`)
    max_retries: int = 3
    max_cost: int | None = None  # nano-units
    rerun_of: str | None = None
    run: str | None = None  # the run's name; the job's id where none is given
    pinned: int = 0  # 1: runs in the process that submitted it, and nowhere else


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One row of the queue, as it was read."""

    seq: int
    id: str
    kind: str
    name: str
    recipe: dict[str, Any]
    recipe_digest: str
    team: str
    fund: str
    person: str
    api_key: str | None
    priority: int
    slots: int
    device: str
    on_budget: str
    max_retries: int
    max_cost: int | None
    rerun_of: str | None
    pinned: int
    run: str
    status: Status
    desired: str  # run or stop
    reason: str  # a code: cancel, preempt, budget, drain, lost, capacity, quota, …
    reason_detail: str  # a sentence
    version: int
    attempt: int
    retries: int  # burnt by failures of its own
    losses: int  # workers lost in a row without a new checkpoint
    preemptions: int
    not_before: int  # ms; backoff
    token: str | None  # sha256 of the attempt's token; the text is its worker's alone (`flows.tokens`)
    worker: str | None
    lease_expires_at: int | None
    hold_key: str | None
    held: int  # nano-units
    tranche: int
    usage: Usage  # of all attempts, what was repeated after a resume counted once
    charged: int  # nano-units
    step: int
    fraction: float
    checkpoint_step: int | None
    checkpoint_digest: str | None
    checkpoint_tokens: int | None  # the position in the data
    cost_at_start: int  # nano-units: the price of `usage` when this attempt began
    result: dict[str, Any] = field(default_factory=dict)
    submitted_at: int
    queued_at: int
    started_at: int | None
    finished_at: int | None


# A frozen value with this many fields takes longer to build by its own __init__ than its row takes to read, and lists
# and the conductor read thousands.
_SLOTS: list[tuple[str, Any]] = [(spec.name, getattr(Job, spec.name).__set__) for spec in fields(Job)]


def job_of(row: Any) -> Job:
    """A Job from a row of the table."""
    values = row._mapping
    values["status"] = Status(values["status"])
    values["recipe"] = json.loads(values["recipe"])
    values["result"] = json.loads(values["result"])
    values["usage"] = Usage(**json.loads(values["usage"]))
    job = object.__new__(Job)
    for name, put in _SLOTS:
        put(job, values[name])
    return job
