"""How a hold ends: settled for what was used, voided, or given back after its time.

In:      a transaction; the key of a hold, an amount, a key for the ending.
Out:     Transfer, the ending's row: what was charged, 0 where nothing was.
Kept:    a hold ends once: its row is taken off the list of open holds by one statement, and a unique index refuses a
         second ending. What is charged lies in 0..hold, the rest is the team's again in the same statement.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from cerulea.core.errors import Conflict, HoldClosed, MoneyInvalid
from cerulea.core.money import Nanos, show
from cerulea.ledger import entries, holds
from cerulea.ledger.entries import COLUMNS, KEY_IS_NEW, Transfer
from cerulea.store.database import Tx

TRIES = 20  # of an ending that was refused for a reason that had gone when it was looked up

_TAKE = (
    "DELETE FROM open_hold WHERE key = :hold AND amount >= :amount AND (:kind <> 'expire' OR expires_at <= :at) "
    f"AND {KEY_IS_NEW}"
)
_RELEASE = (
    "UPDATE account SET dr_pending = dr_pending - {held}, dr_posted = dr_posted + :amount WHERE account.id = {account}"
)
_ROW = (
    ":key, :kind, {seq}, NULL, {debit}, {credit}, CAST(:amount AS BIGINT), NULL, :asked, '', {job}, {request}, "
    ":actor, :detail, CAST(:at AS BIGINT)"
)
_BACK = (
    "RETURNING seq, pending_seq, job, request, (SELECT code FROM account WHERE id = debit) AS debit, "
    "(SELECT code FROM account WHERE id = credit) AS credit"
)
_TAKE_AT_ONCE = (
    f"WITH h AS ({_TAKE} AND legs = 0 RETURNING *), "
    f"a AS ({_RELEASE.format(held='h.amount', account='h.debit').replace(' WHERE ', ' FROM h WHERE ')} "
    "RETURNING account.id) "
    f"INSERT INTO transfer ({COLUMNS}) "
    f"SELECT {_ROW.format(seq='h.seq', debit='h.debit', credit='h.credit', job='h.job', request='h.request')} "
    f"FROM h, a {_BACK}"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How a hold is to end: charge `amount` of it, give the rest back."""

    hold: str  # its key
    amount: int
    kind: str  # post, void or expire; the last two charge nothing
    key: str
    at: int
    actor: str = ""
    detail: dict[str, Any] | None = None

    def values(self) -> dict[str, Any]:
        """Parameters of its statements."""
        return {
            "hold": self.hold,
            "amount": self.amount,
            "kind": self.kind,
            "key": self.key,
            "asked": self.asked(),
            "actor": self.actor,
            "detail": self._detail(),
            "at": self.at,
        }

    def asked(self) -> str:
        """All that a repeat must have in common."""
        return entries.terms(self.kind, hold=self.hold, amount=self.amount)

    def transfer(self, row: Any) -> Transfer:
        """The row that it became."""
        return Transfer(
            seq=row.seq,
            key=self.key,
            kind=self.kind,
            debit=row.debit,
            credit=row.credit,
            amount=Nanos(self.amount),
            at=self.at,
            pending_seq=row.pending_seq,
            job=row.job,
            request=row.request,
            actor=self.actor,
            detail=self._detail(),
        )

    def _detail(self) -> str:
        return "" if self.detail is None else json.dumps(self.detail, sort_keys=True)


def statement(ending: Ending) -> tuple[str, dict[str, Any]]:
    """PostgreSQL's one statement that ends a hold without caps; it returns no row where a guard said no.

    Only as a transaction of its own: it can fail where several statements would not (`book`).
    """
    return _TAKE_AT_ONCE, ending.values()


def end(tx: Tx, ending: Ending) -> Transfer:
    """End a hold; a repeat returns the first ending.

    Raises:
        MoneyInvalid: more than is held.
        HoldClosed: it ended before, by another key.
        NotFound: it never was.
        KeyReused: the key was used for something else.
    """
    values = ending.values()
    for _ in range(TRIES):
        row = _take(tx, values)
        if row is not None:
            return ending.transfer(row)
        first = entries.repeated(tx, ending.key, values["asked"])
        if first is not None and ending.kind != "expire":  # two sweeps have one key and are no repeats of each other
            return first
        hold = holds.get(tx, ending.hold)
        if hold is None:
            raise holds.not_open(tx, ending.hold)
        if hold.amount < ending.amount:
            raise MoneyInvalid(
                f"{show(ending.amount)} is more than hold {ending.hold!r} has: {show(hold.amount)}.",
                why="What is charged was held before, so that no team pays more than it has.",
                fix="Extend the hold first, or settle for at most what it has.",
            )
        if ending.kind == "expire":
            raise HoldClosed(f"Hold {ending.hold!r} was renewed.", why="Its time is not over.")
        # It was extended between the refusal and the look at it: ask again.
    raise Conflict(f"Hold {ending.hold!r} is busier than its ending could wait for.", fix="Try again.")


def _take(tx: Tx, values: dict[str, Any]) -> Any | None:
    """Take a hold off the list, release its legs, write their rows; the money's row, or None where a guard said no."""
    taken = tx.one(f"{_TAKE} RETURNING key, seq, debit, credit, amount, legs, job, request", **values)
    if taken is None:
        return None
    if taken.legs == 0:
        _release(tx, taken.debit, taken.amount, values["amount"])
        return tx.one(
            f"INSERT INTO transfer ({COLUMNS}) "
            f"VALUES ({_ROW.format(seq=':seq', debit=':debit', credit=':credit', job=':job', request=':request')}) "
            f"{_BACK}",
            **values,
            seq=taken.seq,
            debit=taken.debit,
            credit=taken.credit,
            job=taken.job,
            request=taken.request,
        )
    money = None
    for leg in holds.legs_of(tx, taken):
        _release(tx, leg.debit, taken.amount, values["amount"])
        seq = entries.insert(
            tx,
            key=holds.leg_key(leg, taken, values["key"]),
            kind=values["kind"],
            pending_seq=leg.seq,
            group_key=taken.key,
            debit=leg.debit,
            credit=leg.credit,
            amount=values["amount"],
            asked=values["asked"],
            job=taken.job,
            request=taken.request,
            actor=values["actor"],
            detail=values["detail"] if leg.seq == taken.seq else "",
            at=values["at"],
        )
        if leg.seq == taken.seq:
            money = seq
    return tx.one(
        "SELECT t.seq, t.pending_seq, t.job, t.request, d.code AS debit, c.code AS credit FROM transfer t "
        "JOIN account d ON d.id = t.debit JOIN account c ON c.id = t.credit WHERE t.seq = :seq",
        seq=money,
    )


def _release(tx: Tx, account: int, held: int, amount: int) -> None:
    tx.run(_RELEASE.format(held=":held", account=":account"), held=held, amount=amount, account=account)
