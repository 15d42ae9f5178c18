"""Caps: how much a team, an API key or a job may hold and spend in a day, in a month or in all.

A cap is a budget line beside the money. Its window (`cap:team:text:month:2026-11`) is an account in a unit of its own,
filled to the cap when it is first used; every hold reserves there what it reserves of the money.

In:      a transaction; scope, subject, period.
Out:     Cap; windows with room, or CapReached.
Kept:    a hold counts in the window in which it began, also when it is settled later. Raising a cap fills its open
         window up; lowering it holds at once, and takes nothing back that was held or spent before.
Not here: reserving the legs together with the money (`holds`).
"""

from __future__ import annotations

from dataclasses import dataclass

from cerulea.core.clock import iso, month_of
from cerulea.core.errors import CapReached, Invalid
from cerulea.core.money import LIMIT, Nanos, show
from cerulea.ledger import accounts, entries
from cerulea.ledger.accounts import Account
from cerulea.store.database import Tx

POOL = "cap"  # the account on the other side of every window
SCOPES = ("team", "key", "job")
PERIODS = ("month", "day", "total")

_APPLIES = (
    "(scope = 'team' AND subject = :team) OR (scope = 'key' AND subject = :api_key) "
    "OR (scope = 'job' AND subject = :job)"
)
# Where there is no cap at all nothing is looked up.
NONE_APPLIES = f"(NOT EXISTS (SELECT 1 FROM cap) OR NOT EXISTS (SELECT 1 FROM cap WHERE {_APPLIES}))"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cap:
    """A limit that somebody set."""

    scope: str  # team, key or job
    subject: str  # name of the team, prefix of the API key, id of the job
    period: str  # month, day or total
    amount: Nanos


def put(tx: Tx, scope: str, subject: str, period: str, amount: int | None, *, actor: str, at: int) -> None:
    """Set a cap, or remove it where `amount` is None."""
    if scope not in SCOPES or period not in PERIODS:
        raise Invalid(
            f"There is no cap on a {scope!r} per {period!r}.",
            fix=f"Scope: {', '.join(SCOPES)}; period: {', '.join(PERIODS)}.",
        )
    if not subject or not subject.isprintable() or len(subject) > 100:
        raise Invalid(f"{subject[:40]!r} cannot be what a cap is on.", fix=f"Name a {scope}.")
    if amount is None:
        tx.run(
            "DELETE FROM cap WHERE scope = :scope AND subject = :subject AND period = :period",
            scope=scope,
            subject=subject,
            period=period,
        )
        return
    tx.run(
        "INSERT INTO cap (scope, subject, period, amount, actor, created_at) "
        "VALUES (:scope, :subject, :period, :amount, :actor, :at) "
        "ON CONFLICT (scope, subject, period) DO UPDATE SET amount = excluded.amount, actor = excluded.actor",
        scope=scope,
        subject=subject,
        period=period,
        amount=accounts.check_amount(amount, least=0),
        actor=actor,
        at=at,
    )


def every(tx: Tx) -> list[Cap]:
    """All caps."""
    rows = tx.all("SELECT scope, subject, period, amount FROM cap ORDER BY scope, subject, period")
    return [Cap(**row._mapping) for row in rows]


def that_apply(tx: Tx, *, team: str, api_key: str | None, job: str | None) -> list[Cap]:
    """Caps under which a hold of this team, key and job falls."""
    rows = tx.all(
        f"SELECT scope, subject, period, amount FROM cap WHERE {_APPLIES}", team=team, api_key=api_key, job=job
    )
    return [Cap(**row._mapping) for row in rows]


def window_code(cap: Cap, at: int) -> str:
    """`cap:team:text:month:2026-11`: the account of a cap at a moment (UTC)."""
    name = {"month": month_of(at), "day": iso(at)[:10], "total": "all"}[cap.period]
    return f"cap:{cap.scope}:{cap.subject}:{cap.period}:{name}"


def open_window(tx: Tx, cap: Cap, at: int) -> str:
    """The code of the cap's account at this moment, which exists from here on."""
    code = window_code(cap, at)
    if accounts.find(tx, code) is None:
        accounts.open_account(tx, code, "cap", at=at, limited=True, counted=True, unit="cap")
    return code


def ceiling(tx: Tx, code: str, amount: int, at: int) -> int:
    """Fill a window up to what its cap says today, and return that.

    A hold may outlive its cap: where the cap is gone, `amount` more than what is in use is allowed.
    """
    account = accounts.find(tx, code)
    assert account is not None
    _, scope, *subject, period, _ = code.split(":")
    cap = tx.value(
        "SELECT amount FROM cap WHERE scope = :scope AND subject = :subject AND period = :period",
        scope=scope,
        subject=":".join(subject),
        period=period,
    )
    top = min(account.dr_posted + account.dr_pending + amount, LIMIT) if cap is None else int(cap)
    if account.cr_posted < top:
        # The key says from where to where: of two that fill at once only one does.
        more = top - account.cr_posted
        payment = entries.Payment(
            debit=POOL,
            credit=code,
            amount=more,
            key=f"ledger:fill:{code}:{account.cr_posted}:{top}",
            asked=entries.terms("fill", debit=POOL, credit=code, amount=more),
            at=at,
        )
        entries.pay(tx, payment)
    return top


def reached(account: Account, top: int, amount: int) -> CapReached:
    """The refusal: which cap, what is used of it, and when it opens again."""
    _, scope, *subject, period, window = account.code.split(":")
    used = account.dr_posted + account.dr_pending
    again = {"total": "", "month": " It opens again with the next month (UTC)."}
    return CapReached(
        f"The cap of {show(top)} on {scope} {':'.join(subject)!r} ({period} {window}) would be passed: "
        f"{show(account.dr_posted)} is spent and {show(account.dr_pending)} held; {show(amount)} was asked for.",
        why=f"{show(max(top - used, 0))} is left of it.{again.get(period, ' It opens again tomorrow (UTC).')}",
        fix="Ask for less, or have somebody with the role finance raise the cap.",
    )
