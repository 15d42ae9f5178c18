"""Jobs: submit, look, cancel, resume, rerun, estimate; what one tells, page by page."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Response
from pydantic_core import to_json

from cerulea.api import schema
from cerulea.api.asking import Needs, Opened, Writes
from cerulea.api.schema import FAR, NAME, JobId, Limit, Name
from cerulea.core.clock import iso
from cerulea.core.money import nanos
from cerulea.flows import submit as story
from cerulea.flows.known import find_record
from cerulea.flows.submit import Costs, Wish
from cerulea.jobs.job import Status
from cerulea.people import Caller

router = APIRouter(prefix="/api", tags=["jobs"])
Reads = Annotated[Caller, Depends(Needs("jobs:read"))]
Changes = Annotated[Caller, Depends(Needs("jobs:write"))]
RunName = Annotated[str, Path(pattern=NAME, description="A run's name.", examples=["job-7f3a91c2d0b4"])]
After = Annotated[int, Query(ge=0, le=FAR, description="The cursor of the last one seen; 0 for all.")]


@router.post("/jobs", status_code=201, response_model=schema.JobOut)
def submit_job(body: schema.NewRun, caller: Changes, platform: Opened, write: Writes) -> Response:
    """Queue a job."""
    wish = _wish(body)
    return write(
        lambda tx, key: schema.job_out(story.submit(platform, caller, wish, key=key, tx=tx), Costs(platform)),
        status=201,
    )


@router.get("/jobs", response_model=schema.JobList)
def list_jobs(
    caller: Reads,
    platform: Opened,
    team: Annotated[Name | None, Query(description="Of this team only.")] = None,
    status: Annotated[list[Status] | None, Query(max_length=8, description="In one of these states only.")] = None,
    limit: Limit = 50,
    before: Annotated[int | None, Query(ge=0, le=FAR, description="`next` of the page before.")] = None,
) -> Response:
    """Jobs, the newest first."""
    teams = caller.teams if team is None else (team,) if caller.teams is None or team in caller.teams else ()
    wanted = list(dict.fromkeys(status or []))
    found = platform.queue.newest(teams=teams, statuses=wanted, limit=limit + 1, before_seq=before, recipes=False)
    costs = Costs(platform)
    page = {
        "items": [schema.job_values(job, costs) for job in found[:limit]],
        "next": found[limit - 1].seq if len(found) > limit else None,
    }
    return _written(page)


@router.get("/jobs/{job}", response_model=schema.JobDetail)
def show_job(job: JobId, caller: Reads, platform: Opened) -> schema.JobDetail:
    """One job: why it waits, its place in line, what it cost so far, its tries."""
    found = platform.queue.get(job, teams=caller.teams)
    tries = platform.queue.attempts(found.id)
    return schema.job_detail(platform, found, story.position(platform, found), tries)


@router.post("/jobs/{job}/cancel", response_model=schema.JobOut)
def cancel_job(job: JobId, caller: Changes, platform: Opened, write: Writes) -> Response:
    """Stop a job; one that runs saves first."""
    return write(lambda tx, key: schema.job_out(story.cancel(platform, caller, job, tx=tx), Costs(platform)))


@router.post("/jobs/{job}/resume", response_model=schema.JobOut)
def resume_job(job: JobId, caller: Changes, platform: Opened, write: Writes) -> Response:
    """Let a paused, cancelled or failed job go on from its last checkpoint."""
    return write(lambda tx, key: schema.job_out(story.resume(platform, caller, job, tx=tx), Costs(platform)))


@router.post("/jobs/{job}/rerun", status_code=201, response_model=schema.JobOut)
def rerun_job(job: JobId, caller: Changes, platform: Opened, write: Writes) -> Response:
    """Queue the same recipe as a new job."""
    return write(
        lambda tx, key: schema.job_out(story.rerun(platform, caller, job, key=key, tx=tx), Costs(platform)), status=201
    )


@router.get("/jobs/{job}/events", response_model=schema.EventList)
def list_events(job: JobId, caller: Reads, platform: Opened, after: After = 0) -> schema.EventList:
    """What happened to a job, oldest first."""
    found = platform.queue.get(job, teams=caller.teams)
    return schema.EventList(items=[schema.event_out(event) for event in platform.queue.events(found.id, after=after)])


@router.get("/jobs/{job}/logs", response_model=schema.LineList)
def list_lines(
    job: JobId,
    caller: Reads,
    platform: Opened,
    after: After = 0,
    limit: Annotated[int, Query(ge=1, le=5000, description="Most lines.")] = 1000,
    tail: Annotated[int | None, Query(ge=1, le=5000, description="The last so many lines instead.")] = None,
) -> Response:
    """Lines of a job's log, oldest first."""
    found = platform.queue.get(job, teams=caller.teams)
    lines = platform.journal.logs(found.id, after, limit, tail=tail)
    return _written({"items": [{**line._asdict(), "at": iso(line.at)} for line in lines]})


@router.get("/jobs/{job}/metrics", response_model=schema.CurveOut)
def draw_curve(
    job: JobId,
    caller: Reads,
    platform: Opened,
    name: Annotated[schema.Text, Query(min_length=1, description="One of metrics/names.", examples=["loss"])],
    points: Annotated[int, Query(ge=4, le=2000, description="Most buckets.")] = 2000,
    first: Annotated[int | None, Query(ge=0, le=FAR, description="First step.")] = None,
    last: Annotated[int | None, Query(ge=0, le=FAR, description="Last step.")] = None,
) -> Response:
    """A curve; where it has more points than asked for, each bucket keeps its lowest and highest."""
    found = platform.queue.get(job, teams=caller.teams)
    buckets = platform.journal.curve(found.id, name, points=points, first=first, last=last)
    names = tuple(schema.BucketOut.model_fields)
    drawn = [{field: getattr(bucket, field) for field in names} for bucket in buckets]
    return _written({"job": found.id, "name": name, "buckets": drawn})


@router.get("/jobs/{job}/metrics/names", response_model=schema.NamesOut)
def list_curves(job: JobId, caller: Reads, platform: Opened) -> schema.NamesOut:
    """The curves that a job has."""
    return schema.NamesOut(items=platform.journal.names(platform.queue.get(job, teams=caller.teams).id))


@router.get("/runs/{run}", response_model=schema.RunOut)
def show_run(run: RunName, caller: Reads, platform: Opened) -> Response:
    """What a run was and how it went, where its folder lies beside the platform."""
    job, record = find_record(platform, run, teams=caller.teams)
    return _written({"run": run, "job": job.id, "record": record})


@router.post("/estimate", response_model=schema.EstimateOut)
def estimate_job(body: schema.NewRun, caller: Reads, platform: Opened) -> schema.EstimateOut:
    """What a job would take and cost; nothing is written."""
    return schema.estimate_out(story.estimate(platform, caller, _wish(body)))


def _written(values: dict[str, Any]) -> Response:
    """Many values of our own making, as they are: to check them would take longer than it took to read them."""
    return Response(to_json(values, inf_nan_mode="null"), media_type="application/json")


def _wish(body: schema.NewRun) -> Wish:
    return Wish(
        recipe=body.recipe,
        name=body.name,
        team=body.team,
        fund=body.fund,
        priority=body.priority,
        processes=body.processes,
        device=body.device,
        max_cost=None if body.max_cost is None else nanos(body.max_cost),
        on_budget=body.on_budget,
    )
