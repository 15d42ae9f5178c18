"""Stories of money: make a fund, grant, draw (or ask, and be answered), give back, cap; statements and forecasts.

In:      an open platform, who asks, names and amounts, a key for each write.
Out:     what the ledger says, as far as it is the caller's to see.
Kept:    a movement and its line in the log commit together. A caller who sees only his own teams sees the funds that
         they draw on, and of these his teams' part; what else there is does not exist for him.
Not here: how money moves (`ledger`), the wire (`api`).
"""

from __future__ import annotations

import dataclasses
import difflib
from typing import Any

from cerulea.core.clock import iso
from cerulea.core.errors import Conflict, FundTooLow, Invalid, NotFound
from cerulea.core.money import Nanos, show
from cerulea.flows.platform import Platform
from cerulea.ledger.audit import Audit, audit
from cerulea.ledger.book import Account, Cap, DrawRequest, Statement, Transfer
from cerulea.ledger.forecast import Forecast, forecast
from cerulea.ledger.statement import TeamRow
from cerulea.people import Caller
from cerulea.store.database import Tx

SHOWN = 5  # teams that a refusal names


def create_fund(
    platform: Platform, caller: Caller, name: str, *, approval: bool, limited: bool = True, tx: Tx | None = None
) -> Account:
    """A new fund, empty.

    Raises:
        Conflict: there is one of that name.
    """

    def work(tx: Tx) -> Account:
        if any(fund.fund == name for fund in platform.ledger.funds(tx=tx)):
            raise Conflict(f"There is a fund {name!r} already.", fix="See it: cerulea fund statement " + name)
        made = platform.ledger.create_fund(name, limited=limited, approval=approval, actor=caller.actor, tx=tx)
        detail = {"approval": approval, "limited": limited}
        platform.people.record(caller.actor, "fund.create", name, "", detail, tx=tx)
        return made

    return platform.database.within(tx, work)


def grant(
    platform: Platform,
    caller: Caller,
    fund: str,
    amount: Nanos,
    *,
    key: str,
    until: int | None = None,
    sponsor: str = "sponsor",
    tx: Tx | None = None,
) -> Transfer:
    """Bring money into a fund.

    Raises:
        NotFound, MoneyInvalid, KeyReused.
    """

    def work(tx: Tx) -> Transfer:
        find_fund(platform, caller, fund, tx)
        moved = platform.ledger.grant(fund, amount, key=key, actor=caller.actor, sponsor=sponsor, until=until, tx=tx)
        detail = {"amount": show(amount), "sponsor": sponsor, **({} if until is None else {"until": iso(until)})}
        platform.people.record(caller.actor, "fund.grant", fund, "", detail, tx=tx)
        return moved

    return platform.database.within(tx, work)


def draw(
    platform: Platform,
    caller: Caller,
    fund: str,
    team: str,
    amount: Nanos,
    *,
    key: str,
    tx: Tx | None = None,
) -> Transfer | DrawRequest:
    """Move money from a fund to a team; a request where the fund wants approval and the caller cannot give it.

    Who may write funds opens a team's purse by drawing for it. Who may only run jobs draws for a team of his own that
    has a purse in the fund.

    Raises:
        FundTooLow: says what is left, who has the rest, and what to type.
        NotFound, MoneyInvalid, KeyReused.
    """
    decides = caller.may("fund:write")

    def work(tx: Tx) -> Transfer | DrawRequest:
        find_fund(platform, caller, fund, tx)
        find_team(platform, caller, team, tx)
        if decides:
            platform.ledger.open_purse(fund, team, tx=tx)
        try:
            moved = platform.ledger.draw(fund, team, amount, key=key, actor=caller.actor, approved=decides, tx=tx)
        except FundTooLow as error:
            raise _with_holders(platform, caller, fund, error, tx) from None
        action = "fund.ask" if isinstance(moved, DrawRequest) else "fund.draw"
        platform.people.record(caller.actor, action, fund, team, {"amount": show(amount)}, tx=tx)
        return moved

    return platform.database.within(tx, work)


def give_back(
    platform: Platform, caller: Caller, fund: str, team: str, amount: Nanos, *, key: str, tx: Tx | None = None
) -> Transfer:
    """Move what a team does not need back to the fund.

    Raises:
        FundTooLow, NotFound, MoneyInvalid, KeyReused.
    """

    def work(tx: Tx) -> Transfer:
        find_fund(platform, caller, fund, tx)
        find_team(platform, caller, team, tx)
        moved = platform.ledger.give_back(fund, team, amount, key=key, actor=caller.actor, tx=tx)
        platform.people.record(caller.actor, "fund.give_back", fund, team, {"amount": show(amount)}, tx=tx)
        return moved

    return platform.database.within(tx, work)


def decide(platform: Platform, caller: Caller, request: str, *, approve: bool, tx: Tx | None = None) -> DrawRequest:
    """Approve a request, which draws, or deny it.

    Raises:
        FundTooLow: the request stays open.
        Conflict: it was decided otherwise before.
        NotFound.
    """

    def work(tx: Tx) -> DrawRequest:
        try:
            found = platform.ledger.decide(request, approve=approve, actor=caller.actor, tx=tx)
        except FundTooLow as error:
            asked = next(one for one in platform.ledger.requests(tx=tx) if one.id == request)
            raise _with_holders(platform, caller, asked.fund, error, tx) from None
        action = "fund.approve" if approve else "fund.deny"
        detail = {"request": request, "amount": show(found.amount)}
        platform.people.record(caller.actor, action, found.fund, found.team, detail, tx=tx)
        return found

    return platform.database.within(tx, work)


def set_cap(
    platform: Platform,
    caller: Caller,
    scope: str,
    subject: str,
    period: str,
    amount: Nanos | None,
    *,
    tx: Tx | None = None,
) -> None:
    """Limit what a team, a key or a job may hold and spend in a period; None lifts the limit.

    Raises:
        NotFound: no such team, key or job.
        Invalid: no such scope or period.
    """

    def work(tx: Tx) -> None:
        if amount is not None:
            _check_subject(platform, caller, scope, subject, tx)
        platform.ledger.set_cap(scope, subject, period, amount, actor=caller.actor, tx=tx)
        detail = {"scope": scope, "period": period, "amount": None if amount is None else show(amount)}
        platform.people.record(caller.actor, "fund.cap", subject, subject if scope == "team" else "", detail, tx=tx)

    platform.database.within(tx, work)


# -- looking -----------------------------------------------------------------------------------------


def funds(platform: Platform, caller: Caller) -> list[Account]:
    """The funds that exist for the caller."""
    with platform.database.read() as tx:
        return _seen_funds(platform, caller, tx)


def statement(platform: Platform, caller: Caller, fund: str) -> Statement:
    """What became of a fund's money; of the teams, those that the caller may see.

    Raises:
        NotFound.
    """
    with platform.database.read() as tx:
        find_fund(platform, caller, fund, tx)
        found = platform.ledger.statement(fund, tx=tx)
    if caller.teams is None:
        return found
    mine: list[TeamRow] = [row for row in found.teams if row.team in caller.teams]
    return dataclasses.replace(found, teams=mine)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Granted:
    """Money that came into a fund."""

    sponsor: str
    amount: Nanos
    until: int | None  # ms: what nobody drew goes back then
    lapsed: Nanos  # what went back
    at: int


def grants(platform: Platform, caller: Caller, fund: str) -> list[Granted]:
    """What came into a fund, the newest first.

    Raises:
        NotFound.
    """
    with platform.database.read() as tx:
        find_fund(platform, caller, fund, tx)
        rows = tx.all("SELECT * FROM grants WHERE fund = :fund ORDER BY at DESC, key", fund=fund)
    return [
        Granted(sponsor=r.sponsor, amount=Nanos(r.amount), until=r.until_at, lapsed=Nanos(r.lapsed), at=r.at)
        for r in rows
    ]


def foretell(platform: Platform, caller: Caller, fund: str) -> Forecast:
    """When the money of a fund ends.

    Raises:
        NotFound.
    """
    with platform.database.read() as tx:
        find_fund(platform, caller, fund, tx)
    return forecast(platform.database, platform.clock, fund)


def examine(platform: Platform) -> Audit:
    """Add the books up from nothing."""
    return audit(platform.database)


def requests(platform: Platform, caller: Caller, fund: str | None) -> list[DrawRequest]:
    """Draws that wait for somebody's yes, and those that got their answer.

    Raises:
        NotFound: no such fund.
    """
    with platform.database.read() as tx:
        if fund is not None:
            find_fund(platform, caller, fund, tx)
        found = platform.ledger.requests(fund, tx=tx)
    return [one for one in found if caller.teams is None or one.team in caller.teams]


def caps(platform: Platform, caller: Caller) -> list[Cap]:
    """Caps; for who sees only his own teams, those on them."""
    return [
        cap
        for cap in platform.ledger.caps()
        if caller.teams is None or (cap.scope == "team" and cap.subject in caller.teams)
    ]


# -- who may see what --------------------------------------------------------------------------------


def find_fund(platform: Platform, caller: Caller, name: str, tx: Tx) -> Account:
    """A fund that exists for the caller.

    Raises:
        NotFound: names the nearest of those that do.
    """
    known = {str(fund.fund): fund for fund in _seen_funds(platform, caller, tx)}
    if name not in known:
        raise NotFound(f"There is no fund {name[:100]!r}.", why=nearest(name, known), fix="See: cerulea fund list")
    return known[name]


def find_team(platform: Platform, caller: Caller, name: str, tx: Tx) -> str:
    """The fund of a team that exists for the caller.

    Raises:
        NotFound: names the nearest of those that do.
    """
    rows = tx.all("SELECT name, fund FROM team ORDER BY name")
    known = {row.name: str(row.fund) for row in rows if caller.teams is None or row.name in caller.teams}
    if name not in known:
        raise NotFound(f"There is no team {name[:100]!r}.", why=nearest(name, known), fix="See: cerulea team list")
    return known[name]


def nearest(name: str, known: Any) -> str:
    """The sentence that helps who mistyped a name."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.4)
    return f"The nearest name is {near[0]!r}." if near else f"There are {', '.join(list(known)[:5])}." if known else ""


def _seen_funds(platform: Platform, caller: Caller, tx: Tx) -> list[Account]:
    found = platform.ledger.funds(tx=tx)
    if caller.teams is None:
        return found
    mine = {
        row.fund
        for team in caller.teams
        for row in tx.all("SELECT fund FROM account WHERE kind = 'team' AND team = :team", team=team)
    }
    return [fund for fund in found if fund.fund in mine]


def _with_holders(platform: Platform, caller: Caller, fund: str, error: FundTooLow, tx: Tx) -> FundTooLow:
    """The same refusal, which also names who has the rest, as far as that is the caller's to know."""
    rows = platform.ledger.statement(fund, tx=tx).teams
    seen = [row for row in rows if caller.teams is None or row.team in caller.teams]
    seen = sorted(seen, key=lambda row: -(row.drawn - row.settled))[:SHOWN]
    holders = [f"team {row.team} has {show(row.available)} free and {show(row.held)} held" for row in seen]
    why = " ".join(part for part in (error.why, f"Of that, {'; '.join(holders)}." if holders else "") if part)
    return FundTooLow(error.what, why=why, fix=error.fix)


def _check_subject(platform: Platform, caller: Caller, scope: str, subject: str, tx: Tx) -> None:
    match scope:
        case "team":
            find_team(platform, caller, subject, tx)
        case "job":
            platform.queue.get(subject, teams=caller.teams, tx=tx)
        case "key":
            if tx.one("SELECT prefix FROM api_key WHERE prefix = :prefix", prefix=subject) is None:
                raise NotFound(f"There is no key {subject[:20]!r}.", fix="See them: cerulea key list")
        case _:
            raise Invalid(f"There is no cap on a {scope[:20]!r}.", fix="Use team, key or job.")
