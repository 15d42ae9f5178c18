"""Money: funds, grants, draws and who approves them, caps, prices, the books."""

from __future__ import annotations

import datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Response

from cerulea.api import money_schema as schema
from cerulea.api.asking import Needs, Opened, Writes
from cerulea.api.schema import NAME, FundName, Name
from cerulea.core.errors import MoneyInvalid
from cerulea.core.money import nanos, nanos_or_zero, show
from cerulea.flows import fund as story
from cerulea.ledger.book import DrawRequest
from cerulea.people import Caller
from cerulea.store.database import Tx

router = APIRouter(prefix="/api", tags=["money"])
Reads = Annotated[Caller, Depends(Needs("fund:read"))]
Manages = Annotated[Caller, Depends(Needs("fund:write"))]
Draws = Annotated[Caller, Depends(Needs("fund:write", "jobs:write"))]
Audits = Annotated[Caller, Depends(Needs("audit:read"))]
RequestId = Annotated[str, Path(pattern=NAME, description="A draw request.", examples=["draw-1f2e3d4c5b6a"])]


@router.get("/funds", response_model=schema.FundList)
def list_funds(caller: Reads, platform: Opened) -> schema.FundList:
    """Funds, by name."""
    return schema.FundList(items=[schema.fund_out(fund) for fund in story.funds(platform, caller)])


@router.post("/funds", status_code=201, response_model=schema.FundOut)
def create_fund(body: schema.NewFund, caller: Manages, platform: Opened, write: Writes) -> Response:
    """Make a fund, empty."""
    return write(
        lambda tx, key: schema.fund_out(
            story.create_fund(platform, caller, body.name, approval=body.approval, limited=not body.uncapped, tx=tx)
        ),
        status=201,
    )


@router.get("/funds/{fund}/statement", response_model=schema.StatementOut)
def show_statement(fund: FundName, caller: Reads, platform: Opened) -> schema.StatementOut:
    """What became of a fund's money."""
    return schema.statement_out(story.statement(platform, caller, fund))


@router.get("/funds/{fund}/forecast", response_model=schema.ForecastOut)
def show_forecast(fund: FundName, caller: Reads, platform: Opened) -> schema.ForecastOut:
    """When a fund's money ends if it goes on like this."""
    return schema.forecast_out(story.foretell(platform, caller, fund))


@router.get("/funds/{fund}/grants", response_model=schema.GrantList)
def list_grants(fund: FundName, caller: Reads, platform: Opened) -> schema.GrantList:
    """What came into a fund, the newest first."""
    return schema.GrantList(items=[schema.grant_out(one) for one in story.grants(platform, caller, fund)])


@router.post("/funds/{fund}/grants", status_code=201, response_model=schema.MovedOut)
def grant(fund: FundName, body: schema.NewGrant, caller: Manages, platform: Opened, write: Writes) -> Response:
    """Bring money into a fund."""
    amount, until = nanos(body.amount), None if body.until is None else end_of(body.until)
    return write(
        lambda tx, key: schema.moved_out(
            story.grant(platform, caller, fund, amount, key=key, until=until, sponsor=body.sponsor, tx=tx), fund
        ),
        status=201,
    )


@router.post("/funds/{fund}/draws", status_code=201, response_model=schema.DrawOut)
def draw(fund: FundName, body: schema.NewDraw, caller: Draws, platform: Opened, write: Writes) -> Response:
    """Move money from a fund to a team; where the fund wants approval and you cannot give it, ask for it."""
    amount = nanos(body.amount)
    return write(
        lambda tx, key: schema.draw_out(
            story.draw(platform, caller, fund, body.team, amount, key=key, tx=tx), fund, body.team
        ),
        status=201,
    )


@router.post("/funds/{fund}/returns", status_code=201, response_model=schema.MovedOut)
def give_back(fund: FundName, body: schema.NewDraw, caller: Draws, platform: Opened, write: Writes) -> Response:
    """Move what a team does not need back to the fund."""
    amount = nanos(body.amount)
    return write(
        lambda tx, key: schema.moved_out(
            story.give_back(platform, caller, fund, body.team, amount, key=key, tx=tx), fund, body.team
        ),
        status=201,
    )


@router.get("/draws", response_model=schema.DrawList)
def list_requests(
    caller: Reads,
    platform: Opened,
    fund: Annotated[Name | None, Query(description="On this fund only.")] = None,
) -> schema.DrawList:
    """Draws that were asked for, those that wait first."""
    found = story.requests(platform, caller, fund)
    return schema.DrawList(items=[schema.draw_out(one, one.fund, one.team) for one in found])


@router.post("/draws/{request}/approve", response_model=schema.DrawOut)
def approve(request: RequestId, caller: Manages, platform: Opened, write: Writes) -> Response:
    """Say yes to a draw: the money moves."""
    return write(lambda tx, key: _decided(story.decide(platform, caller, request, approve=True, tx=tx)))


@router.post("/draws/{request}/deny", response_model=schema.DrawOut)
def deny(request: RequestId, caller: Manages, platform: Opened, write: Writes) -> Response:
    """Say no to a draw."""
    return write(lambda tx, key: _decided(story.decide(platform, caller, request, approve=False, tx=tx)))


@router.get("/caps", response_model=schema.CapList)
def list_caps(caller: Reads, platform: Opened) -> schema.CapList:
    """Limits on what teams, keys and jobs may hold and spend."""
    return schema.CapList(items=[schema.cap_out(cap) for cap in story.caps(platform, caller)])


@router.put("/caps", response_model=schema.CapOut)
def set_cap(body: schema.CapIn, caller: Manages, platform: Opened, write: Writes) -> Response:
    """Set a limit, or lift it."""
    amount = None if body.amount is None else nanos_or_zero(body.amount)

    def work(tx: Tx) -> schema.CapOut:
        story.set_cap(platform, caller, body.scope, body.subject, body.period, amount, tx=tx)
        shown = None if amount is None else show(amount)
        return schema.CapOut(scope=body.scope, subject=body.subject, period=body.period, amount=shown)

    return write(lambda tx, key: work(tx))


@router.get("/prices", response_model=schema.PriceList)
def list_prices(caller: Reads, platform: Opened) -> schema.PriceList:
    """What everything costs, with every earlier price."""
    return schema.PriceList(items=[schema.price_out(price) for price in platform.prices.every()])


@router.get("/books/audit", response_model=schema.AuditOut)
def audit(caller: Audits, platform: Opened) -> schema.AuditOut:
    """Add the books up from nothing and name what does not fit; takes its time with many transfers."""
    return schema.audit_out(story.examine(platform))


def end_of(text: str) -> int:
    """Milliseconds of a moment, or of the end of a day, UTC.

    Raises:
        MoneyInvalid: no such day.
    """
    try:
        if len(text) == 10:
            day = datetime.date.fromisoformat(text) + datetime.timedelta(days=1)
            return int(datetime.datetime.combine(day, datetime.time(), datetime.UTC).timestamp()) * 1000
        found = datetime.datetime.fromisoformat(text)
        found = found if found.tzinfo else found.replace(tzinfo=datetime.UTC)
        return int(found.timestamp() * 1000)
    except (ValueError, OverflowError) as error:
        raise MoneyInvalid(f"{text!r} is no date.", fix="Write it like 2027-03-31.") from error


def _decided(found: DrawRequest) -> schema.DrawOut:
    return schema.draw_out(found, found.fund, found.team)
