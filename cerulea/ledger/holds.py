"""Holds: money set aside before work begins, and what becomes of it.

    hold -> (extend)* -> settle | void | expire          exactly one end, by DELETE and by a unique index

In:      a transaction; codes of accounts, amounts, keys.
Out:     Hold; refusals that say what is available, who holds the rest, and what to type.
Kept:    a hold and its caps are one group: all legs are reserved, extended and resolved together or not at all.
         `open_hold` lists what is open, so that nobody reads the whole history to find it; the transfers have the
         last word, and `audit` compares the two.
Not here: which caps apply (`caps`); how a hold ends (`resolve`); the verbs with their transactions (`book`).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from cerulea.core.errors import FundTooLow, HoldClosed, MoneyInvalid, NotFound
from cerulea.core.money import LIMIT, Nanos, show
from cerulea.ledger import accounts, caps, entries
from cerulea.ledger.accounts import Account
from cerulea.ledger.entries import COLUMNS, KEY_IS_NEW, SPENDABLE
from cerulea.store.database import Tx

TRIES = 20  # of a reservation whose refusal was out of date when its reason was looked up
SHOWN = 5  # holders that a refusal names


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """Money that a team has set aside."""

    key: str
    fund: str
    team: str
    payee: str  # compute, inference or storage
    amount: Nanos  # with what it was extended by
    expires_at: int | None
    job: str | None
    request: str | None
    at: int
    open: bool = True
    repeated: bool = field(default=False, compare=False)  # it was placed before, by the same key


@dataclass(frozen=True, slots=True, kw_only=True)
class Want:
    """What a new hold asks for."""

    fund: str
    team: str
    payee: str
    amount: int
    key: str
    expires_ms: int | None
    job: str | None
    request: str | None
    api_key: str | None
    actor: str

    def asked(self) -> str:
        """All that a repeat must have in common; who asks may differ."""
        return entries.terms(
            "hold",
            debit=accounts.purse_code(self.fund, self.team),
            credit=accounts.payee_code(self.payee),
            amount=self.amount,
            expires_ms=self.expires_ms,
            job=self.job,
            request=self.request,
            api_key=self.api_key,
        )

    def hold(self, at: int) -> Hold:
        """The hold that this becomes at a moment."""
        expires_at = None if self.expires_ms is None else at + self.expires_ms
        return Hold(
            key=self.key,
            fund=self.fund,
            team=self.team,
            payee=self.payee,
            amount=Nanos(self.amount),
            expires_at=expires_at,
            job=self.job,
            request=self.request,
            at=at,
        )


_RESERVE = (
    f"UPDATE account SET dr_pending = dr_pending + :amount WHERE code = :debit AND {SPENDABLE} "
    f"AND {KEY_IS_NEW} AND {caps.NONE_APPLIES} RETURNING id"
)
_ROW = (
    ":key, 'pending', NULL, NULL, {debit}, {credit}, CAST(:amount AS BIGINT), CAST(:expires_at AS BIGINT), :asked, '', "
    ":job, :request, :actor, '', CAST(:at AS BIGINT)"
)
_OPEN_COLUMNS = "key, seq, debit, credit, amount, legs, expires_at, job, request, at"
_RESERVE_AT_ONCE = (
    f"WITH d AS ({_RESERVE}), "
    f"t AS (INSERT INTO transfer ({COLUMNS}) "
    f"SELECT {_ROW.format(debit='d.id', credit='c.id')} FROM d, account c WHERE c.code = :credit "
    "RETURNING key, seq, debit, credit, amount, 0, expires_at, job, request, at) "
    f"INSERT INTO open_hold ({_OPEN_COLUMNS}) SELECT * FROM t RETURNING seq"
)
_LOOK = (
    f"SELECT {accounts.COLUMNS}, NOT {KEY_IS_NEW} AS used, NOT {caps.NONE_APPLIES} AS capped "
    "FROM account WHERE code = :debit"
)
_INSERT = (
    f"INSERT INTO transfer ({COLUMNS}) "
    f"VALUES ({_ROW.format(debit=':id', credit='(SELECT id FROM account WHERE code = :credit)')}) RETURNING seq, credit"
)
_OPEN = (
    "SELECT h.key, a.fund, a.team, c.code AS payee, h.amount, h.expires_at, h.job, h.request, h.at "
    "FROM open_hold h JOIN account a ON a.id = h.debit JOIN account c ON c.id = h.credit "
)


def place(tx: Tx, want: Want, at: int, *, tried: bool = False) -> Hold:
    """Set money aside; a repeat returns the hold as it stands.

    Args:
        tried: `statement` was run just now and a guard said no.

    Raises:
        FundTooLow: the team does not have it.
        CapReached: a cap would be passed.
        KeyReused: the key was used for something else.
        NotFound: no such fund, or no purse of the team in it.
    """
    asked = want.asked()
    for _ in range(TRIES):
        if not tried and _reserve(tx, want, asked, at):
            return want.hold(at)
        tried = False
        row = tx.one(
            _LOOK,
            debit=accounts.purse_code(want.fund, want.team),
            key=want.key,
            team=want.team,
            api_key=want.api_key,
            job=want.job,
        )
        if (row is None or row.used) and entries.repeated(tx, want.key, asked) is not None:
            return dataclasses.replace(get(tx, want.key) or _closed(tx, want.key), repeated=True)
        purse = accounts.purse_of(tx, want.fund, want.team) if row is None else accounts.as_account(row)
        if row is not None and row.capped:
            limits = caps.that_apply(tx, team=want.team, api_key=want.api_key, job=want.job)
            return _place_with_caps(tx, want, asked, purse, limits, at)
        if purse.closed or purse.available < want.amount:
            raise too_low(tx, purse, want.amount)
        # Money came in between the refusal and the look at the account: ask again.
    raise FundTooLow(f"Fund {want.fund!r} is busier than a hold could wait for.", fix="Try again.")


def extend(tx: Tx, hold_key: str, amount: int, *, key: str, expires_ms: int | None, at: int, actor: str = "") -> Hold:
    """Add to an open hold, all legs of it; a repeat returns the hold as it stands.

    Raises:
        HoldClosed, NotFound: it is not open, or never was.
        FundTooLow, CapReached, KeyReused: as `place`.
    """
    asked = entries.terms("extend", hold=hold_key, amount=amount, expires_ms=expires_ms)
    with entries.together(tx):
        row = tx.one(
            f"SELECT {_OPEN_COLUMNS} FROM open_hold WHERE key = :hold AND {KEY_IS_NEW}"
            + (" FOR UPDATE" if tx.dialect == "postgresql" else ""),
            hold=hold_key,
            key=key,
        )
        if row is not None:
            for leg in legs_of(tx, row):
                _reserve_leg(tx, leg.code, amount, at)
                entries.insert(
                    tx,
                    key=leg_key(leg, row, key),
                    kind="extend",
                    pending_seq=leg.seq,
                    group_key=hold_key if row.legs else None,
                    debit=leg.debit,
                    credit=leg.credit,
                    amount=amount,
                    asked=asked,
                    job=row.job,
                    request=row.request,
                    actor=actor,
                    at=at,
                )
            tx.run(
                "UPDATE open_hold SET amount = amount + :amount, "
                "expires_at = COALESCE(CAST(:expires_at AS BIGINT), expires_at) WHERE key = :hold",
                amount=amount,
                expires_at=None if expires_ms is None else at + expires_ms,
                hold=hold_key,
            )
        elif entries.repeated(tx, key, asked) is None:
            raise not_open(tx, hold_key)
        return get(tx, hold_key) or _closed(tx, hold_key)


def renew(tx: Tx, hold_key: str, until: int) -> bool:
    """Let an open hold expire at `until` (ms) and not before; False where it is over."""
    return tx.run("UPDATE open_hold SET expires_at = :until WHERE key = :key", key=hold_key, until=until) == 1


def legs_of(tx: Tx, row: Any) -> list[Any]:
    """A hold's group in the order of its accounts' codes: seq of the pending leg, code, debit, credit."""
    columns = "t.seq, a.code, t.debit, t.credit FROM transfer t JOIN account a ON a.id = t.debit "
    if row.legs == 0:
        return list(tx.all(f"SELECT {columns} WHERE t.seq = :seq", seq=row.seq))
    return list(
        tx.all(
            f"SELECT {columns} WHERE t.group_key = :key AND t.kind = 'pending' ORDER BY a.code",
            key=row.key,
        )
    )


def leg_key(leg: Any, row: Any, key: str) -> str:
    """The key of one leg's row: the caller's own for the money, one made of it for a cap."""
    return key if leg.seq == row.seq else f"ledger:cap:{leg.code}:{key}"


def get(tx: Tx, hold_key: str) -> Hold | None:
    """An open hold by its key."""
    row = tx.one(f"{_OPEN}WHERE h.key = :key", key=hold_key)
    return None if row is None else _hold(row)


def open_holds(tx: Tx, fund: str, team: str | None = None) -> list[Hold]:
    """Who holds what in a fund: open holds, the oldest first."""
    of_team = "" if team is None else " AND a.team = :team"
    rows = tx.all(f"{_OPEN}WHERE a.fund = :fund{of_team} ORDER BY h.seq", fund=fund, team=team)
    return [_hold(row) for row in rows]


def expired(tx: Tx, now: int) -> list[str]:
    """Keys of open holds past their time that belong to no job."""
    rows = tx.all(
        "SELECT key FROM open_hold WHERE expires_at IS NOT NULL AND expires_at <= :now AND job IS NULL "
        "ORDER BY expires_at, key",
        now=now,
    )
    return [row.key for row in rows]


def too_low(tx: Tx, purse: Account, asked: int) -> FundTooLow | MoneyInvalid:
    """The refusal of a hold: what is available, who holds the rest, what to type."""
    if purse.closed:
        return FundTooLow(
            f"Team {purse.team!r} has a closed purse in fund {purse.fund!r}.",
            why="A closed purse pays what was held before and takes no new holds and draws.",
            fix="Use another fund.",
        )
    if not purse.limited:
        return MoneyInvalid(
            f"{show(asked)} is more than the books of fund {purse.fund!r} can still count.",
            fix="Name a smaller amount.",
        )
    missing = asked - purse.available
    return FundTooLow(
        f"Team {purse.team!r} has {show(purse.available)} available in fund {purse.fund!r}; "
        f"{show(asked)} was asked for.",
        why=f"{show(purse.cr_posted)} was drawn, {show(purse.dr_posted)} is spent, "
        f"{show(purse.dr_pending)} is held{_held_by(tx, purse)}.",
        fix=f"Draw what is missing: cerulea fund draw {purse.fund} {purse.team} {show(missing)}",
    )


def _held_by(tx: Tx, purse: Account) -> str:
    rows = tx.all(
        "SELECT COALESCE(job, request, key) AS holder, amount FROM open_hold WHERE debit = :id "
        "ORDER BY amount DESC, key LIMIT :limit",
        id=purse.id,
        limit=SHOWN,
    )
    if not rows:
        return ""
    more = purse.dr_pending - sum(row.amount for row in rows)
    named = ", ".join(f"{row.holder} ({show(row.amount)})" for row in rows)
    return f" by {named}" + (f" and others ({show(more)})" if more > 0 else "")


def statement(want: Want, at: int) -> tuple[str, dict[str, Any]]:
    """PostgreSQL's one statement for a hold to which no cap applies; it returns no row where a guard said no."""
    return _RESERVE_AT_ONCE, _values(want, want.asked(), at)


def _values(want: Want, asked: str, at: int) -> dict[str, Any]:
    return {
        "debit": accounts.purse_code(want.fund, want.team),
        "credit": accounts.payee_code(want.payee),
        "amount": want.amount,
        "room": LIMIT - want.amount,
        "anyway": 0,
        "key": want.key,
        "team": want.team,
        "api_key": want.api_key,
        "expires_at": None if want.expires_ms is None else at + want.expires_ms,
        "asked": asked,
        "job": want.job,
        "request": want.request,
        "actor": want.actor,
        "at": at,
    }


def _reserve(tx: Tx, want: Want, asked: str, at: int) -> bool:
    """Set aside what no cap applies to; False where a guard said no."""
    values = _values(want, asked, at)
    if tx.dialect == "postgresql":
        return tx.value(_RESERVE_AT_ONCE, **values) is not None
    debit = tx.value(_RESERVE, **values)
    if debit is None:
        return False
    row = tx.one(_INSERT, id=debit, **values)
    assert row is not None
    _list_open(tx, want.hold(at), seq=row.seq, debit=debit, credit=row.credit, legs=0)
    return True


def _place_with_caps(tx: Tx, want: Want, asked: str, purse: Account, limits: list[caps.Cap], at: int) -> Hold:
    """Reserve every cap and then the money, in the order of their codes; all of them or none."""
    hold = want.hold(at)
    shared: dict[str, Any] = {
        "kind": "pending",
        "group_key": want.key,
        "amount": want.amount,
        "expires_at": hold.expires_at,
        "asked": asked,
        "job": want.job,
        "request": want.request,
        "actor": want.actor,
        "at": at,
    }
    with entries.together(tx):
        windows = sorted(caps.open_window(tx, cap, at) for cap in limits)
        debits = {code: _reserve_leg(tx, code, want.amount, at) for code in [*windows, purse.code]}
        payee, pool = _id_of(tx, accounts.payee_code(want.payee)), _id_of(tx, caps.POOL)
        seq = entries.insert(tx, key=want.key, debit=purse.id, credit=payee, **shared)
        for code in windows:
            entries.insert(tx, key=f"ledger:cap:{code}:{want.key}", debit=debits[code], credit=pool, **shared)
        _list_open(tx, hold, seq=seq, debit=purse.id, credit=payee, legs=len(windows))
    return hold


def _reserve_leg(tx: Tx, code: str, amount: int, at: int) -> int:
    """Set `amount` aside in one account of a group, or refuse; the account's id."""
    is_cap = code.startswith("cap:")
    top = caps.ceiling(tx, code, amount, at) if is_cap else LIMIT
    touched = tx.value(
        f"UPDATE account SET dr_pending = dr_pending + :amount WHERE code = :code AND {SPENDABLE} RETURNING id",
        amount=amount,
        room=top - amount,
        anyway=0,
        code=code,
    )
    if touched is not None:
        return int(touched)
    account = accounts.find(tx, code)
    assert account is not None
    raise caps.reached(account, top, amount) if is_cap else too_low(tx, account, amount)


def _id_of(tx: Tx, code: str) -> int:
    return int(tx.value("SELECT id FROM account WHERE code = :code", code=code))


def _list_open(tx: Tx, hold: Hold, *, seq: int, debit: int, credit: int, legs: int) -> None:
    tx.run(
        f"INSERT INTO open_hold ({_OPEN_COLUMNS}) "
        "VALUES (:key, :seq, :debit, :credit, :amount, :legs, :expires_at, :job, :request, :at)",
        key=hold.key,
        seq=seq,
        debit=debit,
        credit=credit,
        amount=hold.amount,
        legs=legs,
        expires_at=hold.expires_at,
        job=hold.job,
        request=hold.request,
        at=hold.at,
    )


def _hold(row: Any) -> Hold:
    values = dict(row._mapping)
    return Hold(**values | {"payee": values["payee"].removeprefix("platform:")})


def _closed(tx: Tx, key: str) -> Hold:
    """A hold that is over, with the amount that it began with."""
    row = tx.one(
        "SELECT t.key, a.fund, a.team, c.code AS payee, t.amount, t.expires_at, t.job, t.request, t.at "
        "FROM transfer t JOIN account a ON a.id = t.debit JOIN account c ON c.id = t.credit WHERE t.key = :key",
        key=key,
    )
    return dataclasses.replace(_hold(row), open=False)


def not_open(tx: Tx, hold_key: str) -> NotFound | HoldClosed:
    """Why a hold cannot be extended or resolved: it never was, or it is over."""
    row = tx.one(
        "SELECT r.kind, r.key, r.amount, r.at FROM transfer p LEFT JOIN transfer r "
        "ON r.pending_seq = p.seq AND r.kind IN ('post', 'void', 'expire') "
        "WHERE p.key = :key AND p.kind = 'pending'",
        key=hold_key,
    )
    if row is None:
        return NotFound(f"There is no hold with the key {hold_key!r}.", fix="Check the key; the first answer named it.")
    ended = {"post": f"settled at {show(row.amount or 0)}", "void": "voided", "expire": "given back after its time"}
    return HoldClosed(
        f"Hold {hold_key!r} was {ended.get(row.kind, 'closed')} by {row.key!r}.",
        why="A hold ends once.",
        fix="Place a new hold with a key of its own.",
    )
