"""What a job tells, as it tells it: server-sent events, and the same in one answer for who cannot keep a line open.

Kept:    each event carries the cursor as its id, so that whoever was cut off goes on where it was (Last-Event-ID).
         A line that has nothing to say sends a comment now and then, and ends when the job has ended, or with an
         `error` when the key that opened it has: who asks is asked again every few seconds.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from time import monotonic
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from starlette.responses import StreamingResponse

from cerulea.api import schema
from cerulea.api.asking import Needs, Opened
from cerulea.api.problems import problem_of
from cerulea.api.schema import JobId
from cerulea.core.errors import CeruleaError
from cerulea.core.files import json_line
from cerulea.flows.follow import News, news
from cerulea.flows.platform import Platform
from cerulea.flows.submit import Costs
from cerulea.people import Caller

router = APIRouter(prefix="/api", tags=["jobs"])
POLL_S = 0.25
BEAT_S = 10.0  # between comments, so that nothing between here and there thinks the line dead
RECHECK_S = 3.0  # between looks at the key of an open line
needs = Needs("jobs:read")
Reads = Annotated[Caller, Depends(needs)]
CURSOR = r"^([0-9]{1,18}\.[0-9]{1,18}\.[0-9]{1,18})?$"
Cursor = Annotated[str, Query(pattern=CURSOR, description="`cursor` of the last answer; empty for all.")]


@router.get("/jobs/{job}/news", response_model=schema.NewsOut)
def read_news(job: JobId, caller: Reads, platform: Opened, after: Cursor = "") -> Response:
    """What a job told since a cursor: changes of state, metrics, log lines."""
    found = news(platform, job, after, teams=caller.teams)
    items = [{"type": item.kind, "data": item.data} for item in found.items]
    if found.ended:
        items.append({"type": "end", "data": _job(platform, found)})
    body = json_line({"items": items, "cursor": found.cursor, "ended": found.ended})
    return Response(body, media_type="application/json")


@router.get(
    "/jobs/{job}/stream",
    response_class=StreamingResponse,
    responses={
        200: {
            "description": "Events `metric`, `log`, `job` and at last `end`, whose data are as in `news`; or "
            "`error` with a problem, where the key has ended meanwhile.",
            "content": {"text/event-stream": {"schema": {"type": "string"}}},
        }
    },
)
async def stream_news(
    request: Request,
    job: JobId,
    caller: Reads,
    platform: Opened,
    after: Cursor = "",
    last_event_id: Annotated[
        str, Header(alias="Last-Event-ID", pattern=CURSOR, description="The id of the last event that came.")
    ] = "",
) -> Response:
    """What a job tells, as it tells it, until it ends (server-sent events)."""
    first = await run_in_threadpool(news, platform, job, last_event_id or after, teams=caller.teams)
    return StreamingResponse(
        _events(request, platform, first),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


async def _events(request: Request, platform: Platform, found: News) -> AsyncIterator[str]:
    spoke = checked = monotonic()
    yield "retry: 1000\n\n"
    while True:
        if monotonic() - checked > RECHECK_S:
            try:
                caller = await needs(request)
                await run_in_threadpool(platform.queue.get, found.job.id, teams=caller.teams)
            except CeruleaError as error:
                yield f"event: error\ndata: {json_line(problem_of(error).model_dump())}\n\n"
                return
            checked = monotonic()
        for item in found.items:
            yield f"id: {item.cursor}\nevent: {item.kind}\ndata: {json_line(item.data)}\n\n"
            spoke = monotonic()
        if found.ended:
            last = await run_in_threadpool(_job, platform, found)
            yield f"id: {found.cursor}\nevent: end\ndata: {json_line(last)}\n\n"
            return
        if await request.is_disconnected():
            return
        if monotonic() - spoke > BEAT_S:
            yield ": still here\n\n"
            spoke = monotonic()
        if not found.items:
            await asyncio.sleep(POLL_S)
        found = await run_in_threadpool(news, platform, found.job.id, found.cursor)


def _job(platform: Platform, found: News) -> dict[str, Any]:
    return schema.job_out(found.job, Costs(platform)).model_dump()
