"""What a platform answers, as frozen values. Money is decimal text, a time is ISO 8601 text.

Kept:    a key that a newer platform sends beside these is left out, so that an older client goes on working.
"""

from __future__ import annotations

import typing
from dataclasses import asdict, dataclass, fields
from typing import Any, TypeVar

from cerulea.core.errors import Failed

T = TypeVar("T")


def read(kind: type[T], values: Any) -> T:
    """A value of `kind` from what came over the wire.

    Raises:
        Failed: what came is something else; the platform is of another version.
    """
    try:
        return _build(kind, values)
    except (KeyError, TypeError, AttributeError) as error:
        raise Failed(
            f"The platform's answer is no {kind.__name__}: {error}.", fix="Use a client of the platform's version."
        ) from error


def plain(value: Any) -> dict[str, Any]:
    """A value as JSON has it."""
    return asdict(value)


def _build(kind: type[T], values: Any) -> T:
    given = {}
    for name, inner in _plan(kind):
        given[name] = [_build(inner, one) for one in values[name]] if inner else values[name]
    return kind(**given)


_PLANS: dict[type, list[tuple[str, Any]]] = {}


def _plan(kind: type) -> list[tuple[str, Any]]:
    """Each field, and what a list of values in it is made of; looked up once for each kind."""
    if kind not in _PLANS:
        hints = typing.get_type_hints(kind)
        _PLANS[kind] = [(field.name, _inner(hints[field.name])) for field in fields(kind)]
    return _PLANS[kind]


def _inner(hint: Any) -> Any:
    args = typing.get_args(hint)
    return args[0] if typing.get_origin(hint) is list and hasattr(args[0], "__dataclass_fields__") else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Me:
    """Who you are there."""

    person: str
    team: str
    role: str
    key: str
    scopes: list[str]
    everywhere: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A job as it stood."""

    id: str
    kind: str
    name: str  # of the model
    run: str
    team: str
    fund: str
    person: str
    priority: int
    processes: int
    device: str
    status: str
    desired: str
    reason: str
    waits: str  # why it waits; empty where it does not
    detail: str
    attempt: int
    retries: int
    preemptions: int
    step: int
    fraction: float
    checkpoint_step: int | None
    checkpoint_digest: str | None
    cost: str  # so far
    charged: str
    held: str
    max_cost: str | None
    on_budget: str
    usage: dict[str, int]
    result: dict[str, Any]
    rerun_of: str | None
    worker: str | None
    submitted_at: str
    queued_at: str
    started_at: str | None
    finished_at: str | None
    cursor: int

    @property
    def ended(self) -> bool:
        """Whether it is at its end."""
        return self.status in ("SUCCEEDED", "FAILED", "CANCELLED")


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One try of a job."""

    attempt: int
    worker: str
    outcome: str
    detail: str
    resumed_step: int | None
    charged: str
    began_at: str
    ended_at: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobDetail(Job):
    """A job with all that is known of it."""

    recipe: dict[str, Any]
    recipe_digest: str
    position: int | None  # in its team's line
    attempts: list[Attempt]


@dataclass(frozen=True, slots=True, kw_only=True)
class Jobs:
    """A page of jobs, the newest first."""

    items: list[Job]
    next: int | None  # `before` of the next page


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """A change of a job's state."""

    cursor: int
    attempt: int
    before: str
    after: str
    reason: str
    detail: str
    actor: str
    at: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A line of a job's log."""

    cursor: int
    attempt: int
    channel: str
    text: str
    at: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """A stretch of a curve."""

    first_step: int
    last_step: int
    first: float | None
    last: float | None
    low: float | None
    high: float | None
    mean: float | None
    points: int


@dataclass(frozen=True, slots=True, kw_only=True)
class News:
    """One thing that a job told."""

    type: str  # metric, log, job or end
    data: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What a job will probably take."""

    team: str
    fund: str
    device: str
    processes: int
    parameters: int | None
    tokens: int | None
    agent_steps: int | None
    per_hour: str
    low_s: float | None
    high_s: float | None
    low: str | None
    high: str | None
    basis: str
    available: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Team:
    """A team."""

    name: str
    fund: str
    weight: int
    slots: int
    borrows: bool
    created_at: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A person's role in a team; empty where it was taken."""

    person: str
    team: str
    role: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """A person, or a program that acts as one."""

    name: str
    roles: dict[str, str]
    created_at: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """What is kept of a key."""

    prefix: str
    name: str
    person: str
    team: str
    role: str
    scopes: list[str]
    expires_at: str | None
    revoked_at: str | None
    used_at: str | None
    created_at: str
    requests_per_minute: int | None  # None: no limit
    tokens_per_minute: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class MadeKey(Key):
    """A key with its text, this one time."""

    key: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model."""

    model: str
    team: str
    newest: int
    versions: int
    aliases: dict[str, int]
    updated_at: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """A move of an alias."""

    model: str
    alias: str
    before: int | None
    after: int | None
    actor: str
    at: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """A version of a model."""

    label: str
    model: str
    version: int
    team: str
    digest: str
    files: dict[str, dict[str, Any]]
    card: dict[str, Any]
    job: str | None
    run: str | None
    parent: str | None
    corpus: str
    actor: str
    created_at: str
    retired_at: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedVersion(Version):
    """A version with the aliases that name it."""

    aliases: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionDetail(Version):
    """A version with its surroundings."""

    aliases: list[str]
    history: list[Move]
    parents: list[str]
    children: list[str]
    versions: list[int]
    config: dict[str, Any]  # what its config.json says of its shape
    run_record: dict[str, Any] | None  # how its run went


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """A program that runs jobs."""

    id: str
    name: str
    slots: int
    free: int
    device: str
    kinds: list[str]
    status: str
    seen_at: str
    began_at: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Logged:
    """One thing that was done."""

    cursor: int
    at: str
    actor: str
    action: str
    subject: str
    team: str
    detail: dict[str, Any]
