"""Transfers: rows that are written once and never changed, and the counters that move with them.

In:      a transaction; account codes, an amount, an idempotency key, and what was asked for.
Out:     Transfer; None where a guard said no and nothing was moved, so that the caller finds out why.
Kept:    every row takes from one account what it gives to another. A key stands for one row for ever: `repeated`
         answers a repeat with the first row, or says what differs. Counters change by conditional statements alone:
         what waited for a row checks it again, so that nothing is overspent and nothing refused that was there.
SQLite:  one statement after the other, in a transaction that has no rival.
PostgreSQL: one statement for all (a data-modifying CTE), so that a hot row is locked for one round trip only.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from cerulea.core.errors import CeruleaError, KeyReused
from cerulea.core.money import LIMIT, Nanos
from cerulea.store.database import Tx


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """One row of the books."""

    seq: int
    key: str
    kind: str  # single; pending, extend, post, void, expire for holds
    debit: str  # code of the account that pays
    credit: str  # code of the account that receives
    amount: Nanos
    at: int
    pending_seq: int | None = None  # the hold that an extend, post, void or expire is about
    job: str | None = None
    request: str | None = None
    actor: str = ""
    reason: str = ""
    detail: str = ""  # JSON


# The guards of whoever pays: open, covered, and within what the books can count. `:room` is LIMIT - amount.
SPENDABLE = (
    "(closed = 0 OR :anyway = 1) "
    "AND (limited = 0 OR cr_posted - dr_posted - dr_pending >= :amount) "
    "AND dr_posted + dr_pending <= :room"
)
KEY_IS_NEW = "NOT EXISTS (SELECT 1 FROM transfer WHERE key = :key)"
RECEIVABLE = (
    "EXISTS (SELECT 1 FROM account WHERE code = :credit AND (closed = 0 OR :anyway = 1) AND cr_posted <= :room)"
)
COLUMNS = (
    "key, kind, pending_seq, group_key, debit, credit, amount, expires_at, asked, "
    "reason, job, request, actor, detail, at"
)
_SELECT = (
    "SELECT t.seq, t.key, t.kind, t.pending_seq, t.group_key, d.code AS debit, c.code AS credit, t.amount, "
    "t.expires_at, t.asked, t.reason, t.job, t.request, t.actor, t.detail, t.at "
    "FROM transfer t JOIN account d ON d.id = t.debit JOIN account c ON c.id = t.credit "
)
_PAY = f"UPDATE account SET dr_posted = dr_posted + counted * :amount WHERE code = :debit AND {SPENDABLE} "
_PAY += f"AND {KEY_IS_NEW} AND {RECEIVABLE} RETURNING id"
_ROW = (
    ":key, 'single', NULL, NULL, {debit}, {credit}, CAST(:amount AS BIGINT), NULL, :asked, :reason, :job, :request, "
    ":actor, :detail, CAST(:at AS BIGINT)"
)
_RECEIVE = "UPDATE account SET cr_posted = cr_posted + counted * :amount WHERE code = :credit RETURNING id"
_PAID = f"INSERT INTO transfer ({COLUMNS}) VALUES ({_ROW.format(debit=':payer', credit=':payee')}) RETURNING seq"
_PAY_AT_ONCE = (
    f"WITH d AS ({_PAY}), "
    "c AS (UPDATE account SET cr_posted = cr_posted + account.counted * :amount FROM d WHERE account.code = :credit "
    "RETURNING account.id) "
    f"INSERT INTO transfer ({COLUMNS}) SELECT {_ROW.format(debit='d.id', credit='c.id')} FROM d, c RETURNING seq"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Payment:
    """Money that is to move at once."""

    debit: str  # code of the account that pays
    credit: str
    amount: int
    key: str
    asked: str  # what the caller asked for (`terms`), with which a repeat of the key is compared
    at: int
    actor: str = ""
    reason: str = ""
    job: str | None = None
    anyway: bool = False  # also out of and into a closed account

    def values(self) -> dict[str, Any]:
        """Parameters of its statements."""
        return {
            "debit": self.debit,
            "credit": self.credit,
            "amount": self.amount,
            "room": LIMIT - self.amount,
            "anyway": int(self.anyway),
            "key": self.key,
            "asked": self.asked,
            "reason": self.reason,
            "job": self.job,
            "request": None,
            "actor": self.actor,
            "detail": "",
            "at": self.at,
        }

    def transfer(self, seq: int) -> Transfer:
        """The row that it became."""
        return Transfer(
            seq=seq,
            key=self.key,
            kind="single",
            debit=self.debit,
            credit=self.credit,
            amount=Nanos(self.amount),
            at=self.at,
            job=self.job,
            actor=self.actor,
            reason=self.reason,
        )


def statement(payment: Payment) -> tuple[str, dict[str, Any]]:
    """PostgreSQL's one statement that makes a payment; it returns no row where a guard said no."""
    return _PAY_AT_ONCE, payment.values()


def pay(tx: Tx, payment: Payment) -> Transfer | None:
    """Move money at once.

    Returns:
        The transfer, or None where nothing was moved: the key is taken, `debit` does not cover it, or one of the two
        accounts is closed or missing.
    """
    values = payment.values()
    if tx.dialect == "postgresql":
        if payment.debit > payment.credit:  # Rows are locked in the order of their codes: nobody waits in a circle.
            tx.all(
                "SELECT id FROM account WHERE code IN (:debit, :credit) ORDER BY code FOR NO KEY UPDATE",
                debit=payment.debit,
                credit=payment.credit,
            )
        seq = tx.value(_PAY_AT_ONCE, **values)
    else:
        payer = tx.value(_PAY, **values)
        if payer is None:
            return None
        payee = tx.value(_RECEIVE, amount=payment.amount, credit=payment.credit)
        seq = tx.value(_PAID, payer=payer, payee=payee, **values)
    return None if seq is None else payment.transfer(seq)


_INSERT = f"INSERT INTO transfer ({COLUMNS}) VALUES ({', '.join(':' + name for name in COLUMNS.split(', '))})"


def insert(tx: Tx, **columns: Any) -> int:
    """Write one row as it is, without touching counters; its number."""
    values = {"pending_seq": None, "group_key": None, "expires_at": None, "asked": "", "reason": "", "job": None}
    values |= {"request": None, "actor": "", "detail": ""} | columns
    return int(tx.value(f"{_INSERT} RETURNING seq", **values))


@contextmanager
def together(tx: Tx) -> Iterator[None]:
    """All that is written inside stands together, or nothing of it where a rule refuses; `tx` goes on either way."""
    tx.run("SAVEPOINT together")
    try:
        yield
    except CeruleaError:
        tx.run("ROLLBACK TO SAVEPOINT together")
        tx.run("RELEASE SAVEPOINT together")
        raise
    tx.run("RELEASE SAVEPOINT together")


def terms(verb: str, **fields: Any) -> str:
    """What was asked for, as text that is equal exactly when the same was asked for."""
    return json.dumps({"do": verb} | {name: value for name, value in fields.items() if value is not None})


def repeated(tx: Tx, key: str, asked: str) -> Transfer | None:
    """The transfer of a key that was used before for the same.

    Raises:
        KeyReused: the key was used before for something else.
    """
    row = tx.one(f"{_SELECT}WHERE t.key = :key", key=key)
    if row is None:
        return None
    if row.asked != asked:
        raise KeyReused(
            f"Key {key!r} was used before for something else: {_difference(row.asked, asked)}.",
            why="A key stands for one transfer for ever, so that a repeat can never move money twice.",
            fix="Use a new key, or repeat with the same contents.",
        )
    return as_transfer(row)


def as_transfer(row: Any) -> Transfer:
    """A row of the books as a value."""
    values = row._mapping
    return Transfer(**{name: values[name] for name in _fields()})


def of_job(tx: Tx, job: str) -> list[Transfer]:
    """The rows about one job, the oldest first."""
    return [as_transfer(row) for row in tx.all(f"{_SELECT}WHERE t.job = :job ORDER BY t.seq", job=job)]


@lru_cache(maxsize=1)
def _fields() -> tuple[str, ...]:
    return tuple(Transfer.__dataclass_fields__)


def _difference(before: str, now: str) -> str:
    """`amount was 5.00, is 6.00`-like words for the first field that differs."""
    first, second = json.loads(before or "{}"), json.loads(now)
    for name in [*second, *first]:
        if first.get(name) != second.get(name):
            return f"{name} was {first.get(name)!r}, now {second.get(name)!r}"
    return "other fields"
