"""What whoever runs the platform looks at: workers, the log of what was done, health, counters."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import Field
from sqlalchemy.exc import SQLAlchemyError
from starlette.responses import PlainTextResponse

from cerulea import __version__
from cerulea.api.asking import Needs, Opened
from cerulea.api.problems import respond
from cerulea.api.schema import FAR, Limit, Moment, Name, Out, Text
from cerulea.core.clock import iso
from cerulea.core.errors import CeruleaError, NotReady, Unreachable
from cerulea.people import Caller
from cerulea.store.schema import VERSIONS, version_of

router = APIRouter(tags=["operation"])
Looks = Annotated[Caller, Depends(Needs("jobs:read"))]
Audits = Annotated[Caller, Depends(Needs("audit:read"))]


class WorkerOut(Out):
    """A program that runs jobs."""

    id: str
    name: str
    slots: int
    free: int
    device: str
    kinds: list[str]
    status: str
    seen_at: Moment
    began_at: Moment


class WorkerList(Out):
    """Workers that are there."""

    items: list[WorkerOut]


class LoggedOut(Out):
    """One thing that was done."""

    cursor: int
    at: Moment
    actor: str
    action: str = Field(examples=["fund.draw"])
    subject: str
    team: str
    detail: dict[str, Any]


class LogOut(Out):
    """A page of the log, the newest first."""

    items: list[LoggedOut]
    next: int | None = Field(description="Give it as `before` for the next page; null on the last one.")


class Healthy(Out):
    """It lives."""

    status: Literal["ok"]
    version: str


@router.get("/api/workers", response_model=WorkerList)
def list_workers(caller: Looks, platform: Opened) -> WorkerList:
    """Workers that are there, with what they have free."""
    return WorkerList(
        items=[
            WorkerOut(
                id=one["id"],
                name=one["name"],
                slots=one["slots"],
                free=int(one["free"]),
                device=one["device"],
                kinds=one["kinds"].split(),
                status=one["status"],
                seen_at=iso(one["seen_at"]),
                began_at=iso(one["began_at"]),
            )
            for one in platform.workers.present()
        ]
    )


@router.get("/api/audit", response_model=LogOut)
def list_log(
    caller: Audits,
    platform: Opened,
    team: Annotated[Name | None, Query(description="Of this team only.")] = None,
    actor: Annotated[Text | None, Query(description="Done by this one only.")] = None,
    action: Annotated[Text | None, Query(description="This action, or all of a noun: `fund`.")] = None,
    subject: Annotated[Text | None, Query(description="Done to this only.")] = None,
    limit: Limit = 100,
    before: Annotated[int, Query(ge=0, le=FAR, description="`next` of the page before.")] = FAR,
) -> LogOut:
    """What was done, by whom and to what, the newest first."""
    found = platform.people.events(
        team=team or "",
        actor=actor or "",
        action=action or "",
        subject=subject or "",
        before=before,
        limit=limit + 1,
    )
    return LogOut(
        items=[
            LoggedOut(
                cursor=one.seq,
                at=iso(one.at),
                actor=one.actor,
                action=one.action,
                subject=one.subject,
                team=one.team,
                detail=one.detail,
            )
            for one in found[:limit]
        ],
        next=found[limit - 1].seq if len(found) > limit else None,
    )


@router.get("/healthz", response_model=Healthy)
async def healthz() -> Healthy:
    """The process lives."""
    return Healthy(status="ok", version=__version__)


@router.get("/readyz", response_model=Healthy)
def readyz(request: Request, platform: Opened) -> Any:
    """The database answers and has this version's tables, and requests are taken."""
    if request.app.state.gateway.draining:
        return respond(NotReady("This server is about to stop.", fix="Ask another one."))
    try:
        found = version_of(platform.database)
    except (CeruleaError, SQLAlchemyError):
        return respond(Unreachable("The database does not answer.", fix="Look at the server's log."))
    if found != VERSIONS[-1]:
        return respond(Unreachable(f"The database has version {found}, this program {VERSIONS[-1]}.", fix="Restart."))
    return Healthy(status="ok", version=__version__)


@router.get("/metrics", response_class=PlainTextResponse)
def metrics(request: Request) -> Response:
    """Counters in Prometheus's text format."""
    return PlainTextResponse(request.app.state.meter.text(), media_type="text/plain; version=0.0.4; charset=utf-8")
