"""What requests to models used and paid: reports, and one request."""

from __future__ import annotations

import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query
from pydantic import Field

from cerulea.api.asking import Needs, Opened
from cerulea.api.schema import Limit, Moment, Money, Name, Out
from cerulea.core.clock import DAY_MS, iso
from cerulea.core.errors import Invalid
from cerulea.core.money import show
from cerulea.flows import usage as story
from cerulea.people import Caller

router = APIRouter(prefix="/api", tags=["usage"])
Reads = Annotated[Caller, Depends(Needs("fund:read"))]
RequestId = Annotated[
    str,
    Path(pattern=r"^[A-Za-z0-9._:-]{1,120}$", description="A request's id.", examples=["req-1f2e3d4c5b6a"]),
]
DAYS = 30  # that a report covers where nobody says since when
_DAY: Any = {"pattern": r"^20[0-9]{2}-[01][0-9]-[0-3][0-9]$"}


class UsedOut(Out):
    """All requests of one day, team, key or model."""

    name: str = Field(description="The day, team, key's prefix (empty: no key) or model.", examples=["2026-11-23"])
    requests: int
    prompt_tokens: int
    cached_tokens: int = Field(description="Of the prompts, not computed again and not charged.")
    completion_tokens: int
    charged: Money
    absorbed: Money = Field(description="Paid by the house, for a lease had ended before the charge.")


class UsageOut(Out):
    """A report; `since` is its first moment and `until` the one after its last."""

    by: story.By
    since: Moment
    until: Moment
    items: list[UsedOut] = Field(description="Days from the newest on; others by what they were charged.")
    more: bool = Field(description="There were more than `limit`.")


class RequestUsageOut(Out):
    """What one request used and paid."""

    request_id: str = Field(examples=["req-1f2e3d4c5b6a"])
    begun_at: Moment
    ended_at: Moment
    team: str
    fund: str
    person: str
    api_key: str = Field(description="The key's prefix; empty on the machine itself.")
    model: str
    version: int | None
    endpoint: str = Field(examples=["chat/completions"])
    prompt_tokens: int
    cached_tokens: int = Field(description="Of the prompt, not computed again and not charged.")
    completion_tokens: int
    charged: Money
    absorbed: Money = Field(description="Paid by the house, for its lease had ended before the charge.")
    finish: str = Field(description="Why it ended.", examples=["stop"])


@router.get("/usage", response_model=UsageOut)
def show_usage(
    caller: Reads,
    platform: Opened,
    by: Annotated[story.By, Query(description="What the sums are of.")] = "day",
    since: Annotated[
        str | None,
        Query(max_length=40, description="First day (UTC); 30 days ago by default.", json_schema_extra=_DAY),
    ] = None,
    until: Annotated[
        str | None, Query(max_length=40, description="Last day (UTC); today by default.", json_schema_extra=_DAY)
    ] = None,
    team: Annotated[Name | None, Query(description="Of this team only.")] = None,
    key: Annotated[Name | None, Query(description="Asked for with this key's prefix only.")] = None,
    model: Annotated[Name | None, Query(description="Of this model only.")] = None,
    limit: Limit = 100,
) -> UsageOut:
    """What requests to models used and paid, summed by day, team, key or model."""
    tomorrow = (platform.clock.now() // DAY_MS + 1) * DAY_MS
    end = tomorrow if until is None else day_of(until) + DAY_MS
    begin = end - DAYS * DAY_MS if since is None else day_of(since)
    found = story.report(
        platform,
        caller,
        by=by,
        since=begin,
        until=end,
        team=team,
        api_key=None if key is None else key.removeprefix("ck_"),
        model=model,
        limit=limit + 1,
    )
    items = [
        UsedOut(
            name=one.name,
            requests=one.requests,
            prompt_tokens=one.prompt_tokens,
            cached_tokens=one.cached_tokens,
            completion_tokens=one.completion_tokens,
            charged=show(one.charged),
            absorbed=show(one.absorbed),
        )
        for one in found[:limit]
    ]
    return UsageOut(by=by, since=iso(begin), until=iso(end), items=items, more=len(found) > limit)


@router.get("/usage/requests/{request_id}", response_model=RequestUsageOut)
def show_request(request_id: RequestId, caller: Reads, platform: Opened) -> RequestUsageOut:
    """What one request used and paid; known when it has ended."""
    found = story.usage_of(platform, caller, request_id)
    return RequestUsageOut(
        request_id=found.request_id,
        begun_at=iso(found.begun_at),
        ended_at=iso(found.ended_at),
        team=found.team,
        fund=found.fund,
        person=found.person,
        api_key=found.api_key,
        model=found.model,
        version=found.version,
        endpoint=found.endpoint,
        prompt_tokens=found.prompt_tokens,
        cached_tokens=found.cached_tokens,
        completion_tokens=found.completion_tokens,
        charged=show(found.charged),
        absorbed=show(found.absorbed),
        finish=found.finish,
    )


def day_of(text: str) -> int:
    """Milliseconds of a day's beginning, UTC.

    Raises:
        Invalid: no such day.
    """
    try:
        day = datetime.date.fromisoformat(text)
    except ValueError as error:
        raise Invalid(f"{text!r} is no day.", fix="Write it like 2026-11-23.") from error
    if not 2000 <= day.year < 2100:
        raise Invalid(f"{text!r} is too far away.", fix="Name a day of this century.")
    return (day.toordinal() - datetime.date(1970, 1, 1).toordinal()) * DAY_MS
