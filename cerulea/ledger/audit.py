"""Add everything up from nothing, and name what does not fit.

In:      a Database; every row of its books, read once, in order.
Out:     Audit: whether they balance, how many transfers there are, what is wrong, in words that name rows and accounts.
Checked: every row against its seal and against what was asked for; both sides of each row in one unit; holds that end
         once, within what they held, money and caps alike; no account overspent at any row; counters, open holds,
         grants and answered requests against what the rows add up to; nothing lost or made: all debits are credits.
Kept:    nothing is written; memory grows with accounts and open holds, not with transfers.
"""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from cerulea.core.money import show
from cerulea.ledger.accounts import Account, every_account
from cerulea.ledger.seals import GAP, LEAF, ROW, Sealing, row_digest
from cerulea.store.database import Database, Tx

NAMED = 50  # problems that are listed one by one


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """What an audit found."""

    balanced: bool
    transfers: int
    sealed: int  # transfers that a seal binds
    problems: list[str]


@dataclass(slots=True)
class _Sums:
    """What the rows so far say of one account."""

    dr_pending: int = 0
    dr_posted: int = 0
    cr_posted: int = 0
    overspent: bool = False


@dataclass(slots=True)
class _Open:
    """A leg of a hold that has not ended."""

    key: str
    debit: int
    credit: int
    amount: int
    group: str | None
    expires_at: int | None


@dataclass(slots=True)
class _Group:
    """A hold with caps: what its money leg has, and its cap legs."""

    money: int | None = None  # held, while open
    posted: int | None = None  # charged, once it ended
    legs: dict[int, int] = field(default_factory=dict)  # open cap legs and what they hold


def audit(database: Database) -> Audit:
    """Examine the books of a platform as they are at this moment."""
    with database.read() as tx:
        examination = _Examination(tx)
        examination.read_transfers()
        examination.compare()
    return examination.result()


class _Examination:
    """One pass over the books."""

    def __init__(self, tx: Tx) -> None:
        self.tx = tx
        self.problems: list[str] = []
        self.found = 0
        self.transfers = self.sealed = 0
        self.accounts: dict[int, Account] = {account.id: account for account in every_account(tx)}
        self.sums: dict[int, _Sums] = defaultdict(_Sums)
        self.open: dict[int, _Open] = {}
        self.groups: dict[str, _Group] = {}
        self.granted: dict[str, int] = {}
        self.seals = iter(tx.all("SELECT from_seq, to_seq, rows, root, previous, seq FROM seal ORDER BY seq"))
        self.seal: Any | None = None
        self.root, self.last_sealed = "", 0
        self._next_seal()

    def result(self) -> Audit:
        more = self.found - len(self.problems)
        problems = self.problems + ([f"and {more} more"] if more else [])
        return Audit(balanced=not problems, transfers=self.transfers, sealed=self.sealed, problems=problems)

    def problem(self, text: str) -> None:
        self.found += 1
        if len(self.problems) < NAMED:
            self.problems.append(text)

    # -- rows ---------------------------------------------------------------------------------------

    def read_transfers(self) -> None:
        """Every row once, in order."""
        for row in self.tx.stream(f"SELECT {ROW} FROM transfer ORDER BY seq"):
            self.transfers += 1
            self._check_seal(row)
            self._check_asked(row)
            self._book(row)
        while self.seal is not None:
            self._end_seal()

    def _check_seal(self, row: Any) -> None:
        while self.seal is not None and row.seq > self.seal.to_seq:
            self._end_seal()
        if self.seal is not None:
            self.sealing.add(row.seq, row_digest(row))
            self.sealed += 1
        elif row.seq <= self.last_sealed:
            self.problem(f"transfer {row.seq} ({row.key}) stands among sealed rows and is in no seal")

    def _next_seal(self) -> None:
        self.seal = next(self.seals, None)
        if self.seal is not None:
            if self.seal.from_seq != self.last_sealed + 1 or self.seal.previous != self.root:
                self.problem(f"seal {self.seal.seq} does not follow the one before it")
            self.sealing = Sealing(self.seal.from_seq, self.seal.previous)
            self.root, self.last_sealed = self.seal.root, self.seal.to_seq

    def _end_seal(self) -> None:
        """Compare a seal with its rows; where they differ, name the rows by its leaves."""
        seal = self.seal
        assert seal is not None
        if self.sealing.root() != seal.root or self.sealing.rows != seal.rows:
            now = self.sealing.leaves()
            then = str(self.tx.value("SELECT leaves FROM seal WHERE seq = :seq", seq=seal.seq))
            named = self.found
            for place in range(0, max(len(now), len(then)), LEAF):
                before, after, seq = (
                    then[place : place + LEAF],
                    now[place : place + LEAF],
                    seal.from_seq + place // LEAF,
                )
                if (before or GAP) == (after or GAP):
                    continue
                what = "deleted" if after in ("", GAP) else "put in" if before in ("", GAP) else "edited"
                self.problem(f"transfer {seq} was {what} after seal {seal.seq} was made")
            if named == self.found:
                self.problem(f"seal {seal.seq} itself was edited: transfers {seal.from_seq} to {seal.to_seq}")
        self._next_seal()

    def _check_asked(self, row: Any) -> None:
        """A row must be what was asked for: the amount, and of new money both accounts."""
        try:
            asked = json.loads(row.asked)
        except ValueError:
            asked = None
        if not isinstance(asked, dict):
            self.problem(f"transfer {row.seq} ({row.key}) does not say what was asked for")
            return
        if asked.get("amount") != row.amount:
            self.problem(
                f"transfer {row.seq} ({row.key}) moves {row.amount} nano-units; asked for was {asked.get('amount')}"
            )
        if row.key.startswith("ledger:cap:"):
            return
        for side in ("debit", "credit"):
            account = self.accounts.get(getattr(row, side))
            if side in asked and (account is None or account.code != asked[side]):
                code = account.code if account else getattr(row, side)
                self.problem(f"transfer {row.seq} ({row.key}) has {side} {code}; asked for was {asked[side]}")

    def _book(self, row: Any) -> None:
        debit, credit = self.accounts.get(row.debit), self.accounts.get(row.credit)
        if debit is None or credit is None:
            self.problem(f"transfer {row.seq} ({row.key}) names an account that is not there")
            return
        if debit.unit != credit.unit:
            self.problem(f"transfer {row.seq} ({row.key}) moves {debit.unit} into {credit.unit}")
        payer, payee = self.sums[row.debit], self.sums[row.credit]
        if row.kind == "single":
            payer.dr_posted += row.amount
            payee.cr_posted += row.amount
            if debit.kind == "sponsor":
                self.granted[row.key] = row.amount
        elif row.kind == "pending":
            payer.dr_pending += row.amount
            self.open[row.seq] = _Open(row.key, row.debit, row.credit, row.amount, row.group_key, row.expires_at)
            self._in_group(row.seq, row.amount)
        else:
            self._follow(row, payer, payee)
        if debit.limited and not payer.overspent and payer.dr_pending + payer.dr_posted > payer.cr_posted:
            payer.overspent = True
            over = payer.dr_pending + payer.dr_posted - payer.cr_posted
            self.problem(f"{debit.code} was overspent by {show(over)} at transfer {row.seq} ({row.key})")

    def _follow(self, row: Any, payer: _Sums, payee: _Sums) -> None:
        """A row about a hold: more of it, or its end."""
        hold = self.open.get(row.pending_seq)
        if hold is None:
            self.problem(f"transfer {row.seq} ({row.key}) ends hold {row.pending_seq}, which had ended or never was")
            return
        if (hold.debit, hold.credit) != (row.debit, row.credit):
            self.problem(f"transfer {row.seq} ({row.key}) has other accounts than its hold {hold.key}")
        if row.kind == "extend":
            hold.amount += row.amount
            payer.dr_pending += row.amount
            self._in_group(row.pending_seq, row.amount)
            return
        if row.amount > hold.amount or (row.kind != "post" and row.amount):
            self.problem(f"transfer {row.seq} ({row.key}) charges {show(row.amount)} of a hold of {show(hold.amount)}")
        payer.dr_pending -= hold.amount
        payer.dr_posted += row.amount
        payee.cr_posted += row.amount
        del self.open[row.pending_seq]
        self._out_of_group(row, hold)

    def _in_group(self, seq: int, amount: int) -> None:
        hold = self.open[seq]
        if hold.group is None:
            return
        group = self.groups.setdefault(hold.group, _Group())
        if self.accounts[hold.debit].unit == "cap":
            group.legs[seq] = group.legs.get(seq, 0) + amount
        else:
            group.money = (group.money or 0) + amount

    def _out_of_group(self, row: Any, hold: _Open) -> None:
        if hold.group is None or (group := self.groups.get(hold.group)) is None:
            return
        if self.accounts[hold.debit].unit == "cap":
            group.legs.pop(row.pending_seq, None)
        else:
            group.money = None
        if group.posted is not None and group.posted != row.amount:
            self.problem(f"the legs of hold {hold.group} ended with different amounts at transfer {row.seq}")
        group.posted = row.amount
        if group.money is None and not group.legs:
            del self.groups[hold.group]

    # -- sums ---------------------------------------------------------------------------------------

    def compare(self) -> None:
        """What the rows add up to, against every counter and list beside them."""
        for key, group in self.groups.items():
            if group.posted is not None:
                self.problem(f"hold {key} ended in some of its legs alone")
            elif any(amount != group.money for amount in group.legs.values()):
                self.problem(f"the caps of hold {key} hold something else than its money")
        for account in self.accounts.values():
            self._compare_counters(account)
        debits = sum(sums.dr_posted for sums in self.sums.values())
        credits = sum(sums.cr_posted for sums in self.sums.values())
        if debits != credits:
            self.problem(f"debits of {show(debits)} meet credits of {show(credits)}")
        self._compare_open_holds()
        self._compare_grants()

    def _compare_counters(self, account: Account) -> None:
        sums = self.sums[account.id]
        expected = (sums.dr_pending, sums.dr_posted, sums.cr_posted) if account.counted else (0, 0, 0)
        for name, should in zip(("dr_pending", "dr_posted", "cr_posted"), expected, strict=True):
            counter = getattr(account, name)
            if counter != should:
                self.problem(f"{account.code}: {name} is {show(counter)}, its transfers add up to {show(should)}")

    def _compare_open_holds(self) -> None:
        listed = {row.seq: row for row in self.tx.all("SELECT seq, key, debit, credit, amount FROM open_hold")}
        for seq, hold in self.open.items():
            if self.accounts[hold.debit].unit == "cap":
                continue
            row = listed.pop(seq, None)
            if row is None:
                self.problem(f"hold {hold.key} ({show(hold.amount)}) is open and not on the list of open holds")
            elif (row.key, row.debit, row.credit, row.amount) != (hold.key, hold.debit, hold.credit, hold.amount):
                self.problem(f"hold {hold.key} has {show(hold.amount)}; the list of open holds says {show(row.amount)}")
        for row in listed.values():
            self.problem(f"hold {row.key} is on the list of open holds and had ended or never was")

    def _compare_grants(self) -> None:
        for row in self.tx.all("SELECT key, amount FROM grants"):
            moved = self.granted.pop(row.key, None)
            if moved != row.amount:
                came = "nothing" if moved is None else show(moved)
                self.problem(f"grant {row.key} is of {show(row.amount)}; {came} came in by it")
        for key, amount in self.granted.items():
            self.problem(f"{show(amount)} came in by transfer {key}, which is no grant")
        missing = self.tx.all(
            "SELECT r.id, r.key FROM draw_request r LEFT JOIN transfer t ON t.key = r.key "
            "WHERE r.status = 'drawn' AND (t.seq IS NULL OR t.amount <> r.amount)"
        )
        for row in missing:
            self.problem(f"draw request {row.id} was approved; no draw of its amount has the key {row.key}")
