"""Funds: where money comes in, who may draw on it, and what goes back when a grant ends.

In:      a transaction; names, amounts, keys.
Out:     Transfer, DrawRequest, Grant; refusals that say what can be drawn and what to type.
Kept:    a draw takes from the fund what it gives to the team, at once; a request is decided once; a grant that has
         ended gives back what of it nobody drew, never what another grant brought.
"""

from __future__ import annotations

from dataclasses import dataclass

from cerulea.core.clock import iso, new_id
from cerulea.core.errors import Conflict, FundTooLow, KeyReused, MoneyInvalid, NotFound
from cerulea.core.money import LIMIT, Nanos, show
from cerulea.ledger import accounts, entries, holds
from cerulea.ledger.accounts import Account
from cerulea.ledger.entries import Payment, Transfer
from cerulea.store.database import Tx

TRIES = 20  # of a movement whose refusal was out of date when its reason was looked up


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawRequest:
    """A draw that waits for somebody's yes, or got its answer."""

    id: str
    key: str
    fund: str
    team: str
    amount: Nanos
    status: str  # asked, drawn or denied
    asked_by: str
    decided_by: str | None
    at: int
    decided_at: int | None


def grant(
    tx: Tx, fund: str, amount: int, *, sponsor: str, until: int | None, key: str, actor: str, at: int
) -> Transfer:
    """Bring money into a fund, until a date or for good."""
    asked = entries.terms("grant", debit=f"sponsor:{sponsor}", credit=f"fund:{fund}", amount=amount, until=until)
    if (first := entries.repeated(tx, key, asked)) is not None:
        return first
    account = accounts.fund_of(tx, fund)
    if until is not None and until <= at:
        raise MoneyInvalid(
            f"A grant cannot end at {iso(until) if 0 <= until < 10**14 else until}: that is past.",
            fix="Name a later date, or none.",
        )
    source = f"sponsor:{accounts.check_name('sponsor', sponsor)}"
    accounts.open_account(tx, source, "sponsor", at=at, limited=False, counted=False)
    payment = Payment(debit=source, credit=account.code, amount=amount, key=key, asked=asked, at=at, actor=actor)
    moved = _pay(tx, payment)
    tx.run(
        "INSERT INTO grants (key, fund, sponsor, amount, until_at, at) "
        "VALUES (:key, :fund, :sponsor, :amount, :until, :at) ON CONFLICT (key) DO NOTHING",
        key=key,
        fund=fund,
        sponsor=sponsor,
        amount=amount,
        until=until,
        at=at,
    )
    return moved


def drawing(fund: str, team: str, amount: int, *, key: str, actor: str, at: int) -> Payment:
    """The payment that a draw is."""
    source, target = accounts.fund_code(fund), accounts.purse_code(fund, team)
    asked = entries.terms("draw", debit=source, credit=target, amount=amount)
    return Payment(debit=source, credit=target, amount=amount, key=key, asked=asked, at=at, actor=actor)


def draw(tx: Tx, fund: str, team: str, amount: int, *, key: str, actor: str, at: int, tried: bool = False) -> Transfer:
    """Move money from a fund to a team's purse in it."""
    return _pay(tx, drawing(fund, team, amount, key=key, actor=actor, at=at), tried=tried)


def give_back(tx: Tx, fund: str, team: str, amount: int, *, key: str, actor: str, at: int) -> Transfer:
    """Move money that a team does not need back to the fund."""
    source, target = accounts.purse_code(fund, team), accounts.fund_code(fund)
    asked = entries.terms("give back", debit=source, credit=target, amount=amount)
    payment = Payment(debit=source, credit=target, amount=amount, key=key, asked=asked, at=at, actor=actor, anyway=True)
    return _pay(tx, payment)


def absorb(tx: Tx, amount: int, *, key: str, job: str | None, reason: str, at: int) -> Transfer:
    """Book what the house pays itself: compute that no team can be charged for."""
    source, target = "platform:absorbed", "platform:compute"
    asked = entries.terms("absorb", debit=source, credit=target, amount=amount, job=job)
    return _pay(
        tx, Payment(debit=source, credit=target, amount=amount, key=key, asked=asked, at=at, reason=reason, job=job)
    )


def ask(tx: Tx, fund: str, team: str, amount: int, *, key: str, actor: str, at: int) -> DrawRequest:
    """Ask for a draw; a repeat returns the first request."""
    row = tx.one("SELECT * FROM draw_request WHERE key = :key", key=key)
    if row is None:
        accounts.purse_of(tx, fund, team)
        if tx.one("SELECT 1 FROM transfer WHERE key = :key", key=key) is not None:
            raise KeyReused(f"Key {key!r} was used before for something else.", fix="Use a new key.")
        tx.run(
            "INSERT INTO draw_request (id, key, fund, team, amount, status, asked_by, at) "
            "VALUES (:id, :key, :fund, :team, :amount, 'asked', :actor, :at)",
            id=new_id("draw"),
            key=key,
            fund=fund,
            team=team,
            amount=amount,
            actor=actor,
            at=at,
        )
        row = tx.one("SELECT * FROM draw_request WHERE key = :key", key=key)
        assert row is not None
    elif (row.fund, row.team, row.amount) != (fund, team, amount):
        raise KeyReused(
            f"Key {key!r} asked before for {show(row.amount)} from {row.fund!r} for team {row.team!r}.",
            why="A key stands for one request for ever.",
            fix="Use a new key.",
        )
    return DrawRequest(**row._mapping)


def decide(tx: Tx, request_id: str, *, approve: bool, actor: str, at: int) -> DrawRequest:
    """Say yes or no to a request; saying the same again changes nothing."""
    lock = " FOR UPDATE" if tx.dialect == "postgresql" else ""
    row = tx.one(f"SELECT * FROM draw_request WHERE id = :id{lock}", id=request_id)
    if row is None:
        raise NotFound(f"There is no draw request {request_id!r}.", fix="See them: cerulea fund requests")
    status = "drawn" if approve else "denied"
    if row.status != "asked":
        if row.status != status:
            raise Conflict(
                f"Draw request {request_id} was {row.status} by {row.decided_by}.",
                why="A request is decided once.",
                fix="Ask again with a new key, or give the money back.",
            )
        return DrawRequest(**row._mapping)
    if approve:
        draw(tx, row.fund, row.team, row.amount, key=row.key, actor=actor, at=at)
    tx.run(
        "UPDATE draw_request SET status = :status, decided_by = :actor, decided_at = :at WHERE id = :id",
        status=status,
        actor=actor,
        at=at,
        id=request_id,
    )
    return DrawRequest(**dict(row._mapping) | {"status": status, "decided_by": actor, "decided_at": at})


def requests(tx: Tx, fund: str | None) -> list[DrawRequest]:
    """Requests of one fund or of all, those that wait first, then the newest."""
    of_fund = "" if fund is None else "WHERE fund = :fund "
    rows = tx.all(
        f"SELECT * FROM draw_request {of_fund}ORDER BY CASE status WHEN 'asked' THEN 0 ELSE 1 END, at DESC, id",
        fund=fund,
    )
    return [DrawRequest(**row._mapping) for row in rows]


def lapse(tx: Tx, at: int) -> list[Transfer]:
    """Give what nobody drew of ended grants back to their sponsors."""
    moved = []
    ended = tx.all(
        "SELECT key, fund, sponsor, amount FROM grants WHERE lapsed_at IS NULL AND until_at IS NOT NULL "
        "AND until_at <= :at ORDER BY until_at, key",
        at=at,
    )
    for row in ended:
        rest = _rest_of(tx, row.key, row.fund, row.amount)
        touched = tx.run(
            "UPDATE grants SET lapsed = :rest, lapsed_at = :at WHERE key = :key AND lapsed_at IS NULL",
            rest=rest,
            at=at,
            key=row.key,
        )
        if touched and rest:
            source, target = accounts.fund_code(row.fund), f"sponsor:{row.sponsor}"
            payment = Payment(
                debit=source,
                credit=target,
                amount=rest,
                key=f"ledger:lapse:{row.key}",
                asked=entries.terms("lapse", debit=source, credit=target, amount=rest, grant=row.key),
                at=at,
                reason="the grant ended",
                anyway=True,
            )
            moved.append(_pay(tx, payment))
    return moved


def _rest_of(tx: Tx, key: str, fund: str, amount: int) -> int:
    """What of a grant nobody drew: what the fund has beyond its other grants that still run."""
    code = accounts.fund_code(fund)
    if tx.dialect == "postgresql":
        tx.one("SELECT id FROM account WHERE code = :code FOR NO KEY UPDATE", code=code)
    account = accounts.fund_of(tx, fund)
    others = tx.all(
        "SELECT amount FROM grants WHERE fund = :fund AND lapsed_at IS NULL AND key <> :key", fund=fund, key=key
    )
    left = account.cr_posted - account.dr_posted - sum(row.amount for row in others)
    return int(max(0, min(left, amount)))


def _pay(tx: Tx, payment: Payment, *, tried: bool = False) -> Transfer:
    """Move money, or say why not; `tried` where its statement was run just now and a guard said no."""
    for _ in range(TRIES):
        moved = None if tried else entries.pay(tx, payment)
        tried = False
        moved = moved or entries.repeated(tx, payment.key, payment.asked)
        if moved is not None:
            return moved
        amount, payer, payee = payment.amount, _account(tx, payment.debit), _account(tx, payment.credit)
        for account in (payer, payee):
            if account.closed and not payment.anyway:
                raise _closed(account)
        if payer.available < amount:
            raise holds.too_low(tx, payer, amount) if payer.kind == "team" else _cannot_draw(payer, amount)
        if payee.cr_posted > LIMIT - amount:
            raise MoneyInvalid(
                f"{show(amount)} more is beyond what the books of {payee.code} can count.",
                why=f"The most that may ever come in is {show(LIMIT)}.",
                fix="Name a smaller amount.",
            )
        # Money came in between the refusal and the look at the account: ask again.
    raise FundTooLow(f"{payment.debit} is busier than a transfer could wait for.", fix="Try again.")


def _account(tx: Tx, code: str) -> Account:
    """The account of a code, or the refusal that names the nearest."""
    kind, _, name = code.partition(":")
    if kind == "fund":
        return accounts.fund_of(tx, name)
    if kind == "team":
        team, _, fund = name.partition("/")
        return accounts.purse_of(tx, fund, team)
    found = accounts.find(tx, code)
    assert found is not None
    return found


def _closed(account: Account) -> FundTooLow:
    what = f"fund {account.fund!r}" if account.kind == "fund" else f"purse of team {account.team!r} in {account.fund!r}"
    return FundTooLow(
        f"The {what} is closed.", why="What is closed takes no new holds and draws.", fix="Use another fund."
    )


def _cannot_draw(fund: Account, amount: int) -> FundTooLow | MoneyInvalid:
    if not fund.limited:
        return MoneyInvalid(f"{show(amount)} is more than the books can still count.", fix="Name a smaller amount.")
    return FundTooLow(
        f"Fund {fund.fund!r} has {show(fund.available)} left to draw; {show(amount)} was asked for.",
        why=f"{show(fund.cr_posted)} came in, {show(fund.dr_posted)} was drawn or went back.",
        fix=f"Grant what is missing: cerulea fund grant {fund.fund} {show(amount - fund.available)}",
    )
