"""The wire format of money: funds, grants, draws, statements, caps, prices."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from cerulea.api.schema import MONEY, Amount, In, Moment, Money, Name, Out, moment
from cerulea.core.clock import iso
from cerulea.core.money import show
from cerulea.flows.fund import Granted
from cerulea.ledger.audit import Audit
from cerulea.ledger.book import Account, Cap, DrawRequest, Statement, Transfer
from cerulea.ledger.forecast import Forecast
from cerulea.ledger.prices import Price


class NewFund(In):
    """A fund to make."""

    name: Name
    approval: bool = Field(False, description="A draw waits for somebody who may write funds.")
    uncapped: bool = Field(False, description="Metered alone: teams spend without drawing.")


class FundOut(Out):
    """A fund."""

    name: str = Field(examples=["lab"])
    approval: bool
    uncapped: bool
    closed: bool
    available: Money = Field(description="What can still be drawn; of an uncapped fund what nobody gave it, 0.00.")
    created_at: Moment


class FundList(Out):
    """Funds, by name."""

    items: list[FundOut]


class NewGrant(In):
    """Money that comes in."""

    amount: Amount
    until: str | None = Field(
        None,
        max_length=40,
        description="A day (2027-03-31, its end in UTC) or a moment, ISO 8601; then what nobody drew goes back.",
        examples=["2027-03-31"],
        json_schema_extra={"pattern": r"^20[0-9]{2}-[01][0-9]-[0-3][0-9]"},
    )
    sponsor: Name = Field("sponsor", description="Who gives it.")


class NewDraw(In):
    """Money that a team wants."""

    team: Name
    amount: Amount


class MovedOut(Out):
    """A movement of money."""

    id: int = Field(description="Its row in the books.")
    fund: str
    team: str | None
    amount: Money
    debit: str
    credit: str
    at: Moment


class DrawOut(Out):
    """What became of a draw."""

    status: Literal["asked", "drawn", "denied"]
    request: str | None = Field(
        description="Its number where somebody has to approve it.", examples=["draw-1f2e3d4c5b6a"]
    )
    fund: str
    team: str
    amount: Money
    asked_by: str
    decided_by: str | None
    at: Moment
    decided_at: Moment | None


class DrawList(Out):
    """Draws that were asked for, those that wait first."""

    items: list[DrawOut]


class GrantOut(Out):
    """Money that came in."""

    sponsor: str
    amount: Money
    until: Moment | None
    lapsed: Money = Field(description="What of it went back at its end.")
    at: Moment


class GrantList(Out):
    """Grants, the newest first."""

    items: list[GrantOut]


class TeamPart(Out):
    """What one team did with its part."""

    team: str
    drawn: Money
    held: Money
    settled: Money
    available: Money
    inference: Money = Field(description="Of what is settled, for requests to models.")


class StatementOut(Out):
    """What became of a fund's money. granted = lapsed + drawn + available; drawn = held + settled + what teams have."""

    fund: str
    uncapped: bool
    granted: Money
    lapsed: Money
    drawn: Money
    held: Money
    settled: Money
    available: Money
    inference: Money = Field(description="Of what is settled, for requests to models.")
    teams: list[TeamPart]


class ForecastOut(Out):
    """When the money ends if it goes on like this."""

    fund: str
    left: Money
    burn_24h: Money = Field(description="Per day, as in the last 24 hours.")
    burn_7d: Money = Field(description="Per day, the mean of the last seven.")
    burn_committed: Money = Field(description="Per day, as what runs now has held.")
    ends_at: Moment | None
    earliest: Moment | None
    latest: Moment | None


class AuditOut(Out):
    """The books, added up from nothing."""

    balanced: bool
    transfers: int
    sealed: int
    problems: list[str]


class CapIn(In):
    """A limit on what may be held and spent."""

    scope: Literal["team", "key", "job"]
    subject: Name = Field(description="The team, the key's prefix, the job's id.")
    period: Literal["month", "day", "total"]
    amount: str | None = Field(
        max_length=80,
        description="A decimal amount, 0 included; null lifts the cap.",
        examples=["100.00"],
        json_schema_extra={"pattern": MONEY},
    )


class CapOut(Out):
    """A limit that holds."""

    scope: str
    subject: str
    period: str
    amount: Money | None


class CapList(Out):
    """Caps."""

    items: list[CapOut]


class PriceOut(Out):
    """A line of the price list: `price` for each `per` of `sku`, from a day on."""

    sku: str = Field(examples=["device_ms.cpu"])
    price: Money
    per: int
    valid_from: Moment
    source: str
    own: bool = Field(description="The operator's, before the package's.")


class PriceList(Out):
    """Every price with its history."""

    items: list[PriceOut]


def fund_out(fund: Account) -> FundOut:
    """A fund on the wire."""
    return FundOut(
        name=str(fund.fund),
        approval=bool(fund.approval),
        uncapped=not fund.limited,
        closed=bool(fund.closed),
        available=show(fund.cr_posted - fund.dr_posted if fund.limited else 0),
        created_at=iso(fund.created_at),
    )


def moved_out(moved: Transfer, fund: str, team: str | None = None) -> MovedOut:
    """A movement on the wire."""
    return MovedOut(
        id=moved.seq,
        fund=fund,
        team=team,
        amount=show(moved.amount),
        debit=moved.debit,
        credit=moved.credit,
        at=iso(moved.at),
    )


def draw_out(moved: Transfer | DrawRequest, fund: str, team: str) -> DrawOut:
    """A draw on the wire, done or asked for."""
    if isinstance(moved, Transfer):
        return DrawOut(
            status="drawn",
            request=None,
            fund=fund,
            team=team,
            amount=show(moved.amount),
            asked_by=moved.actor,
            decided_by=moved.actor,
            at=iso(moved.at),
            decided_at=iso(moved.at),
        )
    return DrawOut(
        status=moved.status,  # type: ignore[arg-type]
        request=moved.id,
        fund=moved.fund,
        team=moved.team,
        amount=show(moved.amount),
        asked_by=moved.asked_by,
        decided_by=moved.decided_by,
        at=iso(moved.at),
        decided_at=moment(moved.decided_at),
    )


def grant_out(found: Granted) -> GrantOut:
    """A grant on the wire."""
    return GrantOut(
        sponsor=found.sponsor,
        amount=show(found.amount),
        until=moment(found.until),
        lapsed=show(found.lapsed),
        at=iso(found.at),
    )


def statement_out(found: Statement) -> StatementOut:
    """A statement on the wire."""
    return StatementOut(
        fund=found.fund,
        uncapped=found.uncapped,
        granted=show(found.granted),
        lapsed=show(found.lapsed),
        drawn=show(found.drawn),
        held=show(found.held),
        settled=show(found.settled),
        available=show(found.available),
        inference=show(found.inference),
        teams=[
            TeamPart(
                team=row.team,
                drawn=show(row.drawn),
                held=show(row.held),
                settled=show(row.settled),
                available=show(row.available),
                inference=show(row.inference),
            )
            for row in found.teams
        ],
    )


def forecast_out(found: Forecast) -> ForecastOut:
    """A forecast on the wire."""
    return ForecastOut(
        fund=found.fund,
        left=show(found.left),
        burn_24h=show(found.burn_24h),
        burn_7d=show(found.burn_7d),
        burn_committed=show(found.burn_committed),
        ends_at=moment(found.ends_at),
        earliest=moment(found.earliest),
        latest=moment(found.latest),
    )


def audit_out(found: Audit) -> AuditOut:
    """An audit on the wire."""
    return AuditOut(balanced=found.balanced, transfers=found.transfers, sealed=found.sealed, problems=found.problems)


def cap_out(cap: Cap) -> CapOut:
    """A cap on the wire."""
    return CapOut(scope=cap.scope, subject=cap.subject, period=cap.period, amount=show(cap.amount))


def price_out(price: Price) -> PriceOut:
    """A price on the wire."""
    return PriceOut(
        sku=price.sku,
        price=show(price.nanos),
        per=price.per,
        valid_from=iso(price.valid_from),
        source=price.source,
        own=price.own,
    )
