"""The wire format: what each request may hold and what each answer holds. Jobs, and what all parts share.

Kept:    money is a decimal string, a time is ISO 8601 in UTC; unknown keys are refused; text has no control characters
         and a length, numbers have bounds, so that nothing can be sent that the database could not keep.
Not here: money (`money_schema`), people and models (`people_schema`).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import Path, Query
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

from cerulea.core.clock import iso
from cerulea.core.money import show
from cerulea.flows.estimate import Estimate
from cerulea.flows.platform import Platform
from cerulea.flows.submit import Costs
from cerulea.jobs.job import Job, Status
from cerulea.jobs.reads import Event

FAR = 2**53  # beyond it JSON numbers are not exact everywhere
NAME = r"^[A-Za-z0-9][A-Za-z0-9._@+~-]{0,99}$"
LABEL = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}([@:][A-Za-z0-9._-]{1,100})?$"
MONEY = r"^[0-9]{1,10}(\.[0-9]{1,9})?$"
SHOWN_MONEY = r"^-?[0-9]{1,10}\.[0-9]{2,9}$"

Name = Annotated[str, StringConstraints(pattern=NAME), Field(examples=["lab"])]
Text = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f]*$", max_length=200)]
# JSON knows one kind of number: 5.0 is a whole one, true is none.
WHOLE = BeforeValidator(lambda v: int(v) if isinstance(v, float) and v.is_integer() else v)
Priority = Annotated[int, Field(ge=-1000, le=1000), WHOLE]
Processes = Annotated[int, Field(ge=1, le=1024), WHOLE]
Weight = Annotated[int, Field(ge=1, le=1_000_000), WHOLE]
Slots = Annotated[int, Field(ge=0, le=1_000_000), WHOLE]
Days = Annotated[int, Field(ge=1, le=36_500), WHOLE]
Count = Annotated[int, Field(ge=0, le=FAR), WHOLE]
# Any text: what is no amount is refused by the one reader of money, with its own code.
Amount = Annotated[
    str,
    Field(
        max_length=80,
        description="A decimal amount above zero.",
        examples=["25.00"],
        json_schema_extra={"pattern": MONEY},
    ),
]
Money = Annotated[str, Field(pattern=SHOWN_MONEY, description="A decimal amount.", examples=["12.50"])]
Moment = Annotated[str, Field(description="ISO 8601, UTC.", examples=["2026-11-23T07:15:00.000+00:00"])]
JobId = Annotated[str, Path(pattern=NAME, description="A job's id.", examples=["job-7f3a91c2d0b4"])]
FundName = Annotated[str, Path(pattern=NAME, description="A fund's name.", examples=["lab"])]
Limit = Annotated[int, Query(ge=1, le=500, description="Most items.")]


class In(BaseModel):
    """A request's body: what it does not know is refused."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Out(BaseModel):
    """An answer."""

    model_config = ConfigDict(extra="forbid", ser_json_inf_nan="null")


class NewRun(In):
    """A job to queue."""

    recipe: dict[str, Any] = Field(
        description="What a recipe's TOML file holds; docs/recipes.md lists every key.",
        examples=[{"kind": "text", "name": "brook", "data": {"train": ["stdlib"]}, "train": {"steps": 60}}],
    )
    name: Text | None = Field(None, description="The model's name instead of the recipe's.", examples=["brook"])
    team: Name | None = Field(None, description="Whose job it is; your own team by default.", examples=["home"])
    fund: Name | None = Field(None, description="What pays; the team's fund by default.", examples=["home"])
    priority: Priority = Field(0, description="Within the team; higher goes first.")
    processes: Processes = Field(1, description="Slots, all at once or none.")
    device: Literal["cpu", "cuda"] | None = Field(None, description="What the workers have, by default.")
    max_cost: Amount | None = Field(None, description="The job is charged no more than this.", examples=["5.00"])
    on_budget: Literal["resume", "pause"] = Field(
        "resume", description="When money comes back: go on by itself, or wait for a person."
    )


class Used(Out):
    """What a job used; each meter only grows."""

    trained_tokens: int
    prompt_tokens: int
    completion_tokens: int
    agent_steps: int
    device_ms: int


class JobOut(Out):
    """A job as it stands."""

    id: str = Field(examples=["job-7f3a91c2d0b4"])
    kind: str = Field(examples=["text"])
    name: str = Field(description="Of the model that comes out.", examples=["brook"])
    run: str = Field(description="The run's name, as its folder is called.")
    team: str
    fund: str
    person: str
    priority: int
    processes: int
    device: str
    status: Status
    desired: str = Field(description="run, or stop where someone asked for it.")
    reason: str = Field(description="A code: why it is in this state.", examples=["capacity"])
    waits: str = Field(description="Why it waits, as a sentence; empty where it does not.")
    detail: str = Field(description="What else is to be said of its state.")
    attempt: int
    retries: int
    preemptions: int
    step: int
    fraction: float = Field(description="How much of it is done, from 0 to 1.")
    checkpoint_step: int | None
    checkpoint_digest: str | None
    cost: Money = Field(description="So far: charged, and used since.")
    charged: Money
    held: Money
    max_cost: Money | None
    on_budget: str
    usage: Used
    result: dict[str, Any] = Field(description="Scores, seconds, the model's version; when it ended.")
    rerun_of: str | None
    worker: str | None
    submitted_at: Moment
    queued_at: Moment
    started_at: Moment | None
    finished_at: Moment | None
    cursor: int = Field(description="Its place in the list: ask for what is before it.")


class AttemptOut(Out):
    """One try of a job."""

    attempt: int
    worker: str
    outcome: str = Field(description="Empty while it runs.")
    detail: str
    resumed_step: int | None
    charged: Money
    began_at: Moment
    ended_at: Moment | None


class JobDetail(JobOut):
    """A job with its recipe, its tries and its place in line."""

    recipe: dict[str, Any]
    recipe_digest: str
    position: int | None = Field(description="Its place in its team's line, from 1; null where it does not wait.")
    attempts: list[AttemptOut]


class JobList(Out):
    """A page of jobs, the newest first."""

    items: list[JobOut]
    next: int | None = Field(description="Give it as `before` for the next page; null on the last one.")


class EventOut(Out):
    """A change of a job's state."""

    cursor: int
    attempt: int
    before: str
    after: str
    reason: str
    detail: str
    actor: str
    at: Moment


class EventList(Out):
    """What happened to a job, oldest first."""

    items: list[EventOut]


class LineOut(Out):
    """A line of a job's log."""

    cursor: int
    attempt: int
    channel: str
    text: str
    at: Moment


class LineList(Out):
    """Lines, oldest first."""

    items: list[LineOut]


class BucketOut(Out):
    """A stretch of a curve: one point, or many between the lowest and the highest."""

    first_step: int
    last_step: int
    first: float | None
    last: float | None
    low: float | None
    high: float | None
    mean: float | None
    points: int


class CurveOut(Out):
    """A curve in at most as many buckets as were asked for."""

    job: str
    name: str
    buckets: list[BucketOut]


class RunOut(Out):
    """A run's record."""

    run: str
    job: str = Field(description="The newest job that trained it.")
    record: dict[str, Any] = Field(description="run.json, the last step, and the evaluations.")


class NamesOut(Out):
    """The curves that a job has."""

    items: list[str]


class NewsItem(Out):
    """One thing that a job told: a metric, a log line, a change of state, or its end."""

    type: Literal["metric", "log", "job", "end"]
    data: dict[str, Any]


class NewsOut(Out):
    """What is new in a job since a cursor."""

    items: list[NewsItem]
    cursor: str = Field(description="Give it as `after`, or as Last-Event-ID.", examples=["12.340.7"])
    ended: bool = Field(description="The job has ended, and this was the last of it.")


class EstimateOut(Out):
    """What a job will probably take."""

    team: str
    fund: str
    device: str
    processes: int
    parameters: int | None = Field(description="Null for an agent: what its game shows decides.")
    tokens: int | None
    agent_steps: int | None
    per_hour: Money
    low_s: float | None
    high_s: float | None
    low: Money | None
    high: Money | None
    basis: Literal["minutes", "history", "machine", "unknown"]
    available: Money | None = Field(description="What the team has left in the fund; null: no limit.")


def job_out(job: Job, costs: Costs) -> JobOut:
    """A job on the wire."""
    return JobOut(**job_values(job, costs))


def job_detail(platform: Platform, job: Job, position: int | None, tries: list[dict[str, Any]]) -> JobDetail:
    """A job on the wire, with all that is known of it."""
    return JobDetail(
        **job_values(job, Costs(platform)),
        recipe=job.recipe,
        recipe_digest=job.recipe_digest,
        position=position,
        attempts=[
            AttemptOut(
                attempt=one["attempt"],
                worker=one["worker"],
                outcome=one["outcome"],
                detail=one["detail"],
                resumed_step=one["resumed_step"],
                charged=show(one["charged"]),
                began_at=iso(one["began_at"]),
                ended_at=moment(one["ended_at"]),
            )
            for one in tries
        ],
    )


def job_values(job: Job, costs: Costs) -> dict[str, Any]:
    """A job's values on the wire, as JobOut has them."""
    waits = job.status in (Status.QUEUED, Status.PAUSED)
    return {
        "id": job.id,
        "kind": job.kind,
        "name": job.name,
        "run": job.run,
        "team": job.team,
        "fund": job.fund,
        "person": job.person,
        "priority": job.priority,
        "processes": job.slots,
        "device": job.device,
        "status": job.status,
        "desired": job.desired,
        "reason": job.reason,
        "waits": (job.reason_detail or _WAITS.get(job.reason, "Waits for its turn.")) if waits else "",
        "detail": "" if waits else job.reason_detail,
        "attempt": job.attempt,
        "retries": job.retries,
        "preemptions": job.preemptions,
        "step": job.step,
        "fraction": job.fraction,
        "checkpoint_step": job.checkpoint_step,
        "checkpoint_digest": job.checkpoint_digest,
        "cost": show(costs.of(job)),
        "charged": show(job.charged),
        "held": show(job.held),
        "max_cost": None if job.max_cost is None else show(job.max_cost),
        "on_budget": job.on_budget,
        "usage": job.usage.as_json(),
        "result": job.result,
        "rerun_of": job.rerun_of,
        "worker": job.worker,
        "submitted_at": iso(job.submitted_at),
        "queued_at": iso(job.queued_at),
        "started_at": moment(job.started_at),
        "finished_at": moment(job.finished_at),
        "cursor": job.seq,
    }


_WAITS = {
    "budget": "Waits for money.",
    "preempt": "Gave its place to another job; goes on when there is room.",
    "drain": "Its worker went away; waits for another one.",
    "lost": "Its worker was lost; waits for another one.",
    "crash": "Failed and is tried again.",
    "platform": "The platform failed; it is tried again.",
}


def event_out(event: Event) -> EventOut:
    """A change of state on the wire."""
    return EventOut(
        cursor=event.seq,
        attempt=event.attempt,
        before=event.before,
        after=event.after,
        reason=event.reason,
        detail=event.detail,
        actor=event.actor,
        at=iso(event.at),
    )


def estimate_out(found: Estimate) -> EstimateOut:
    """An estimate on the wire."""

    def amount(nanos: int | None) -> str | None:
        return None if nanos is None else show(nanos)

    return EstimateOut(
        team=found.team,
        fund=found.fund,
        device=found.device,
        processes=found.processes,
        parameters=found.parameters,
        tokens=found.tokens,
        agent_steps=found.agent_steps,
        per_hour=show(found.per_hour),
        low_s=found.low_s,
        high_s=found.high_s,
        low=amount(found.low),
        high=amount(found.high),
        basis=found.basis,  # type: ignore[arg-type]
        available=amount(found.available),
    )


def moment(ms: int | None) -> str | None:
    """A time on the wire, or null."""
    return None if ms is None else iso(ms)
