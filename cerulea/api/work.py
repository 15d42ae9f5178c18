"""Where workers report: `flows.work.Desk` over HTTP. `client.desk` is the other end.

Kept:    a key of role service opens all of it; the token of one attempt opens the reports of that one job and nothing
         else. Whoever holds a token that owns nothing learns nothing but that.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from fastapi import APIRouter, Depends, Request
from pydantic import Field

from cerulea.api.asking import Needs, NeedsLease, lease_token
from cerulea.api.schema import FAR, Count, In, JobId, Name, Out, Slots, Text
from cerulea.core.errors import Invalid, KeyUnknown
from cerulea.flows.work import Desk
from cerulea.jobs.protocol import Ending, Report, wire
from cerulea.people import Caller

T = TypeVar("T", Report, Ending)
router = APIRouter(prefix="/api/work", tags=["work"])
Works = Annotated[Caller, Depends(Needs("work"))]
Token = Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[!-~]+$", description="Of this attempt.")]


class Enlisting(In):
    """A worker is there."""

    worker: Name
    name: Text
    slots: Slots
    device: Literal["cpu", "cuda"]
    kinds: list[Name] = Field(max_length=32)


class Who(In):
    """A worker."""

    worker: Name


class Beat(In):
    """How a job stands."""

    token: Token
    report: dict[str, Any]


class Batch(In):
    """Metrics or log lines, numbered from `first_seq` within their stream of this attempt."""

    token: Token
    attempt: Count
    entries: list[dict[str, Any]] = Field(max_length=100_000)
    first_seq: Count
    stream: Name


class End(In):
    """How an attempt ended."""

    token: Token
    ending: dict[str, Any]


class Death(In):
    """Its process ended without a word."""

    token: Token
    detail: str = Field(max_length=10_000)
    crash: bool


class Assigned(Out):
    """What a worker was given and has not begun."""

    assignments: list[dict[str, Any]]


class Other(Out):
    """A worker that is not gone."""

    id: str
    name: str


class Enlisted(Out):
    """Who else is there."""

    others: list[Other]


class Told(Out):
    """It was taken."""

    status: str = Field(description="Of the job, or of the worker.")


async def _desk(request: Request) -> Desk:
    desk: Desk = request.app.state.desk
    return desk


AtDesk = Annotated[Desk, Depends(_desk)]


@router.post("/enlist", response_model=Enlisted)
def enlist(body: Enlisting, caller: Works, desk: AtDesk) -> Enlisted:
    """A worker is there, now and every few seconds."""
    others = desk.enlist(body.worker, name=body.name, slots=body.slots, device=body.device, kinds=body.kinds)
    return Enlisted(others=[Other(id=worker, name=name) for worker, name in others])


@router.post("/bury", response_model=Told)
def bury(body: Who, caller: Works, desk: AtDesk) -> Told:
    """A worker is surely dead, and its jobs' processes with it."""
    desk.bury(body.worker)
    return Told(status="gone")


@router.post("/drain", response_model=Told)
def drain(body: Who, caller: Works, desk: AtDesk) -> Told:
    """A worker is about to go: nothing new for it."""
    desk.drain(body.worker)
    return Told(status="draining")


@router.post("/leave", response_model=Told)
def leave(body: Who, caller: Works, desk: AtDesk) -> Told:
    """A worker goes."""
    desk.leave(body.worker)
    return Told(status="gone")


@router.post("/claim", response_model=Assigned)
def claim(body: Who, caller: Works, desk: AtDesk) -> Assigned:
    """What the worker was given and has not begun."""
    return Assigned(assignments=[wire(assignment) for assignment in desk.claim(body.worker)])


def _opened(request: Request, desk: Desk, job: str, token: str) -> None:
    """Refuse whoever came with a token that is not this job's now."""
    bearer = lease_token(request)
    if bearer is None:
        return
    if bearer != token:
        raise KeyUnknown("The token in the body is not the one in the header.", fix="Send the attempt's own in both.")
    desk.holder(job, token)


Reports = Annotated[Caller | None, Depends(NeedsLease("work"))]


@router.post("/jobs/{job}/heartbeat")
def heartbeat(job: JobId, body: Beat, caller: Reports, desk: AtDesk, request: Request) -> dict[str, Any]:
    """Report, renew the lease, and be told how to go on."""
    _opened(request, desk, job, body.token)
    return wire(desk.heartbeat(job, body.token, _read(Report, body.report)))


@router.post("/jobs/{job}/record", response_model=Told)
def record(job: JobId, body: Batch, caller: Reports, desk: AtDesk, request: Request) -> Told:
    """Keep metrics or log lines; a repeat of the same numbers is kept once."""
    _opened(request, desk, job, body.token)
    desk.record(job, body.token, body.attempt, body.entries, body.first_seq, body.stream)
    return Told(status="kept")


@router.post("/jobs/{job}/finish", response_model=Told)
def finish(job: JobId, body: End, caller: Reports, desk: AtDesk, request: Request) -> Told:
    """Say how an attempt ended."""
    _opened(request, desk, job, body.token)
    return Told(status=desk.finish(job, body.token, _read(Ending, body.ending)).status.value)


@router.post("/jobs/{job}/died", response_model=Told)
def died(job: JobId, body: Death, caller: Works, desk: AtDesk) -> Told:
    """Say that a job's process ended without a word."""
    return Told(status=desk.died(job, body.token, _text(body.detail), crash=body.crash).status.value)


def _read(kind: type[T], values: dict[str, Any]) -> T:
    """A report or an ending from the wire, checked as far as the database needs it."""
    try:
        value = kind.of(_text(values))
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise Invalid(
            f"That is no {kind.__name__.lower()}: {error}.", fix="Is the worker of the same version?"
        ) from error
    report: Report = value.report if isinstance(value, Ending) else value
    numbers = [*report.usage.as_json().values(), report.step, report.checkpoint_step or 0, report.resumed_step or 0]
    numbers.append(report.checkpoint_tokens or 0)
    texts = [report.checkpoint_digest or "", report.run or ""]
    if isinstance(value, Ending):
        texts += [value.outcome, value.reason, value.detail]
    right = all(type(n) is int and 0 <= n < FAR for n in numbers) and all(isinstance(text, str) for text in texts)
    if not right or not isinstance(report.fraction, (int, float)) or not 0 <= report.fraction <= 1e9:
        raise Invalid(
            f"That is no {kind.__name__.lower()}: a value cannot be.", fix="Is the worker of the same version?"
        )
    return value


def _text(value: Any) -> Any:
    """The same with text that every database takes: no NUL, no half of a surrogate pair."""
    match value:
        case str():
            return value.replace("\0", "\ufffd").encode("utf-8", "replace").decode("utf-8")
        case dict():
            return {_text(name): _text(item) for name, item in value.items()}
        case list():
            return [_text(item) for item in value]
    return value
