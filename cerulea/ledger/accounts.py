"""Accounts: who can have money, and what their counters say.

sponsor:NAME -> fund:NAME -> team:TEAM/FUND -> platform:compute, inference, storage. `platform:absorbed` pays what the
house eats. `cap:...` are accounts in a second unit that is no money (`caps`).

In:      names of funds and teams.
Out:     Account, a row with its counters; NotFound with the nearest name.
Kept:    `limited` accounts never pay out more than came in; `counted` ones carry counters, the others (sponsors, the
         platform) are added up from transfers when somebody asks, so that nobody queues for their row.
Not here: moving money (`entries`, `holds`).
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from typing import Any

from cerulea.core.errors import Invalid, MoneyInvalid, NotFound
from cerulea.core.money import LIMIT, Nanos, show
from cerulea.store.database import Tx

PAYEES = ("compute", "inference", "storage")  # what a hold can pay for
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_KEY_CHARACTERS = 200
COLUMNS = (
    "id, code, kind, unit, fund, team, limited, counted, approval, closed, dr_pending, dr_posted, cr_posted, created_at"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """An account as it stood when it was read."""

    id: int
    code: str
    kind: str  # sponsor, fund, team, platform or cap
    unit: str  # money or cap
    fund: str | None  # of a fund and of a purse
    team: str | None  # of a purse
    limited: int  # 1: cannot pay out more than came in
    counted: int  # 1: the counters below are kept
    approval: int  # 1: a draw needs somebody's yes
    closed: int  # 1: takes no new holds and draws
    dr_pending: int  # held
    dr_posted: int  # paid out
    cr_posted: int  # came in
    created_at: int

    @property
    def available(self) -> Nanos:
        """What can still be held or paid out; of an unlimited account, what the books can still count."""
        return Nanos((self.cr_posted if self.limited else LIMIT) - self.dr_posted - self.dr_pending)


def fund_code(fund: str) -> str:
    """`fund:lab`."""
    return f"fund:{fund}"


def purse_code(fund: str, team: str) -> str:
    """`team:text/lab`: what team `text` has in fund `lab`."""
    return f"team:{team}/{fund}"


def payee_code(payee: str) -> str:
    """`platform:compute`: who is paid when a hold is settled."""
    if payee not in PAYEES:
        raise Invalid(f"{payee!r} is nothing that a hold pays for.", fix=f"One of {', '.join(PAYEES)}.")
    return f"platform:{payee}"


def find(tx: Tx, code: str) -> Account | None:
    """The account of that code."""
    row = tx.one(f"SELECT {COLUMNS} FROM account WHERE code = :code", code=code)
    return None if row is None else as_account(row)


def as_account(row: Any) -> Account:
    """An account out of a row that begins with `COLUMNS`."""
    return Account(**{name: getattr(row, name) for name in Account.__dataclass_fields__})


def every(tx: Tx, kind: str, fund: str | None = None) -> list[Account]:
    """Accounts of a kind, all or those of one fund, by code."""
    of_fund = "" if fund is None else " AND fund = :fund"
    rows = tx.all(f"SELECT {COLUMNS} FROM account WHERE kind = :kind{of_fund} ORDER BY code", kind=kind, fund=fund)
    return [Account(**row._mapping) for row in rows]


def every_account(tx: Tx) -> list[Account]:
    """All accounts."""
    return [Account(**row._mapping) for row in tx.all(f"SELECT {COLUMNS} FROM account ORDER BY id")]


def fund_of(tx: Tx, fund: str) -> Account:
    """The account of a fund.

    Raises:
        NotFound: there is none; the nearest name is in the message.
    """
    found = find(tx, fund_code(fund))
    if found is None:
        known = [str(account.fund) for account in every(tx, "fund")]
        raise NotFound(f"No fund is called {fund!r}.", why=_nearest(fund, known), fix="See them: cerulea fund list")
    return found


def purse_of(tx: Tx, fund: str, team: str) -> Account:
    """What a team has in a fund.

    Raises:
        NotFound: no such fund, or the team has no purse in it.
    """
    found = find(tx, purse_code(fund, team))
    if found is None:
        fund_of(tx, fund)
        known = [str(account.team) for account in every(tx, "team", fund)]
        raise NotFound(
            f"No team {team!r} draws on fund {fund!r}.",
            why=_nearest(team, known),
            fix=f"See who does: cerulea fund statement {fund}",
        )
    return found


def open_account(
    tx: Tx, code: str, kind: str, *, at: int, limited: bool, counted: bool, unit: str = "money", **columns: Any
) -> bool:
    """Open an account; False where it is open already, whatever it is like."""
    values = {"fund": None, "team": None, "approval": 0, "actor": ""} | columns
    opened = tx.run(
        "INSERT INTO account (code, kind, unit, fund, team, limited, counted, approval, actor, created_at) "
        "VALUES (:code, :kind, :unit, :fund, :team, :limited, :counted, :approval, :actor, :at) "
        "ON CONFLICT (code) DO NOTHING",
        code=code,
        kind=kind,
        unit=unit,
        limited=int(limited),
        counted=int(counted),
        at=at,
        **values,
    )
    return opened == 1


def check_name(what: str, name: str) -> str:
    """A name that may stand in an account's code: letters, digits, . _ - and at most 64 of them."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise Invalid(
            f"{str(name)[:70]!r} cannot name a {what}.",
            why="A name has up to 64 letters, digits, dots, hyphens and underscores; it begins with a letter or digit.",
            fix="Choose another name.",
        )
    return name


def check_amount(amount: int, *, least: int = 1) -> Nanos:
    """An amount that may be booked: a whole number of nano-units, `least` or more, within the books.

    Raises:
        MoneyInvalid: anything else, a float or NaN among them.
    """
    if not isinstance(amount, int) or isinstance(amount, bool):
        raise MoneyInvalid(f"{str(amount)[:40]!r} is no amount.", why="Amounts are whole nano-units, never floats.")
    if not least <= amount <= LIMIT:
        shown = show(amount) if abs(amount) <= LIMIT * LIMIT else f"{str(amount)[:12]}..."
        raise MoneyInvalid(
            f"{shown} cannot be booked.",
            why=f"An amount is {'above zero' if least else 'zero or more'} and at most {show(LIMIT)}.",
            fix="Name another amount.",
        )
    return Nanos(amount)


def check_key(key: str) -> str:
    """An idempotency key: printable, at most 200 characters, not one of the ledger's own."""
    good = isinstance(key, str) and 0 < len(key) <= _KEY_CHARACTERS and key.isprintable()
    if not good or key.startswith("ledger:"):
        raise Invalid(
            f"{str(key)[:40]!r} cannot be a key.",
            why=f"A key has 1 to {_KEY_CHARACTERS} printable characters; ledger: in front marks the books' own.",
            fix="Make another one.",
        )
    return key


def _nearest(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    if near:
        return f"The nearest name is {near[0]!r}."
    return (
        f"There are {', '.join(known[:5])}{' and more' if len(known) > 5 else ''}." if known else "There is none yet."
    )
