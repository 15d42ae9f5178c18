"""The fund's book: draw, hold, settle, and what is available. Every verb that moves money is here.

    grant -> draw -> hold -> (extend) -> settle min(used, held) | void | expire -> statement, forecast, audit

In:      a Database, a Clock; names, amounts in nano-units, a key for each write.
Out:     frozen values: Transfer, Hold, DrawRequest, Statement.
Kept:    debits equal credits; nobody pays out more than came in; a hold ends once; the same key never moves money
         twice. Each verb is one transaction that is durable when it returns. With `tx` it becomes part of the caller's
         own, so that a job's state and its money commit together; a refusal leaves nothing behind in it.
Not here: how rows and counters change (`entries`, `holds`, `resolve`, `funds`, `caps`); prices (`prices`); the
         examination of all of it (`audit`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, TypeVar, overload

from cerulea.core.clock import Clock
from cerulea.core.errors import HoldClosed
from cerulea.core.money import Nanos
from cerulea.ledger import accounts, caps, entries, funds, holds, resolve
from cerulea.ledger.accounts import Account, check_amount, check_key, check_name
from cerulea.ledger.caps import Cap
from cerulea.ledger.entries import Transfer
from cerulea.ledger.funds import DrawRequest
from cerulea.ledger.holds import Hold, Want
from cerulea.ledger.resolve import Ending
from cerulea.ledger.statement import Statement, state
from cerulea.store.database import Database, IntegrityError, Tx

T = TypeVar("T")
SWEPT = 200  # expired holds that one transaction gives back
CHECK_VIOLATION = "23514"


class Ledger:
    """The books of one platform; any number of threads and processes may use the same database."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self.database, self.clock = database, clock

    # -- funds, purses, caps ------------------------------------------------------------------------

    def create_fund(
        self, name: str, *, limited: bool = True, approval: bool = False, actor: str = "", tx: Tx | None = None
    ) -> Account:
        """Create a fund; one that is there already stays as it is and is returned.

        Args:
            limited: teams can spend what was granted and drawn, not more. An unlimited fund is metered alone.
            approval: a draw by somebody who may not approve becomes a request.
        """
        check_name("fund", name)

        def work(tx: Tx) -> Account:
            accounts.open_account(
                tx,
                accounts.fund_code(name),
                "fund",
                at=self.clock.now(),
                limited=limited,
                counted=True,
                fund=name,
                approval=int(approval),
                actor=actor,
            )
            return accounts.fund_of(tx, name)

        return self.database.within(tx, work)

    def funds(self, *, tx: Tx | None = None) -> list[Account]:
        """All funds, by name."""
        return self._read(tx, lambda tx: accounts.every(tx, "fund"))

    def open_purse(self, fund: str, team: str, *, tx: Tx | None = None) -> Account:
        """Let a team draw on a fund; one that may already is returned. The purse is limited where the fund is.

        Raises:
            NotFound: no such fund.
        """
        check_name("team", team)

        def work(tx: Tx) -> Account:
            accounts.open_account(
                tx,
                accounts.purse_code(fund, team),
                "team",
                at=self.clock.now(),
                limited=bool(accounts.fund_of(tx, fund).limited),
                counted=True,
                fund=fund,
                team=team,
            )
            return accounts.purse_of(tx, fund, team)

        return self.database.within(tx, work)

    def close(self, fund: str, team: str | None = None, *, closed: bool = True, tx: Tx | None = None) -> None:
        """Take no new draws and holds from a fund, or from a team's purse in it; what is held can still be settled.

        Raises:
            NotFound: no such fund or purse.
        """

        def work(tx: Tx) -> None:
            found = accounts.fund_of(tx, fund) if team is None else accounts.purse_of(tx, fund, team)
            tx.run("UPDATE account SET closed = :closed WHERE id = :id", closed=int(closed), id=found.id)

        self.database.within(tx, work)

    def set_cap(
        self, scope: str, subject: str, period: str, amount: int | None, *, actor: str, tx: Tx | None = None
    ) -> None:
        """Limit what a team, an API key or a job may hold and spend in a month, a day or in all; None removes it.

        Raises:
            Invalid: no such scope (team, key, job) or period (month, day, total).
        """
        now = self.clock.now()
        self.database.within(tx, lambda tx: caps.put(tx, scope, subject, period, amount, actor=actor, at=now))

    def caps(self, *, tx: Tx | None = None) -> list[Cap]:
        """All caps."""
        return self._read(tx, caps.every)

    # -- money in, and to the teams -----------------------------------------------------------------

    def grant(
        self,
        fund: str,
        amount: int,
        *,
        key: str,
        actor: str,
        sponsor: str = "sponsor",
        until: int | None = None,
        tx: Tx | None = None,
    ) -> Transfer:
        """Bring money into a fund; `until` (ms) is when what nobody drew of it goes back (`lapse`).

        Raises:
            MoneyInvalid: no amount, or a date that has passed.
            NotFound, KeyReused.
        """
        check_amount(amount), check_key(key)
        values = {"sponsor": sponsor, "until": until, "key": key, "actor": actor, "at": self.clock.now()}
        return self.database.within(tx, lambda tx: funds.grant(tx, fund, amount, **values))  # type: ignore[arg-type]

    @overload
    def draw(
        self,
        fund: str,
        team: str,
        amount: int,
        *,
        key: str,
        actor: str,
        approved: Literal[True] = True,
        tx: Tx | None = None,
    ) -> Transfer: ...
    @overload
    def draw(
        self, fund: str, team: str, amount: int, *, key: str, actor: str, approved: bool, tx: Tx | None = None
    ) -> Transfer | DrawRequest: ...
    def draw(
        self, fund: str, team: str, amount: int, *, key: str, actor: str, approved: bool = True, tx: Tx | None = None
    ) -> Transfer | DrawRequest:
        """Move money from a fund to a team.

        Args:
            approved: False where the caller may not approve draws: of a fund that wants approval it asks (`ask`).

        Raises:
            FundTooLow: the fund has less.
            NotFound, KeyReused, MoneyInvalid.
        """
        check_amount(amount), check_key(key)
        now = self.clock.now()

        tried = tx is None and approved and self.database.dialect == "postgresql"

        def work(tx: Tx) -> Transfer | DrawRequest:
            if not approved and accounts.fund_of(tx, fund).approval:
                return funds.ask(tx, fund, team, amount, key=key, actor=actor, at=now)
            return funds.draw(tx, fund, team, amount, key=key, actor=actor, at=now, tried=tried)

        if tried:
            payment = funds.drawing(fund, team, amount, key=key, actor=actor, at=now)
            if row := self._at_once(*entries.statement(payment)):
                return payment.transfer(row.seq)
        return self.database.within(tx, work)

    def give_back(self, fund: str, team: str, amount: int, *, key: str, actor: str, tx: Tx | None = None) -> Transfer:
        """Move money of a team back to the fund.

        Raises:
            FundTooLow: the team has less that is not held.
            NotFound, KeyReused, MoneyInvalid.
        """
        check_amount(amount), check_key(key)
        now = self.clock.now()
        return self.database.within(
            tx, lambda tx: funds.give_back(tx, fund, team, amount, key=key, actor=actor, at=now)
        )

    def ask(self, fund: str, team: str, amount: int, *, key: str, actor: str, tx: Tx | None = None) -> DrawRequest:
        """Ask for a draw that somebody else decides on."""
        check_amount(amount), check_key(key)
        now = self.clock.now()
        return self.database.within(tx, lambda tx: funds.ask(tx, fund, team, amount, key=key, actor=actor, at=now))

    def decide(self, request_id: str, *, approve: bool, actor: str, tx: Tx | None = None) -> DrawRequest:
        """Approve a request, which draws, or deny it.

        Raises:
            FundTooLow: the fund has less; the request stays open.
            Conflict: it was decided otherwise before.
            NotFound: no such request.
        """
        now = self.clock.now()
        return self.database.within(tx, lambda tx: funds.decide(tx, request_id, approve=approve, actor=actor, at=now))

    def requests(self, fund: str | None = None, *, tx: Tx | None = None) -> list[DrawRequest]:
        """Draw requests, those that wait first."""
        return self._read(tx, lambda tx: funds.requests(tx, fund))

    def lapse(self, *, tx: Tx | None = None) -> list[Transfer]:
        """Give what nobody drew of ended grants back to their sponsors; what went back."""
        now = self.clock.now()
        return self.database.within(tx, lambda tx: funds.lapse(tx, now))

    def absorb(
        self, amount: int, *, key: str, job: str | None = None, reason: str = "", tx: Tx | None = None
    ) -> Transfer:
        """Book a cost that no team is charged for."""
        check_amount(amount), check_key(key)
        now = self.clock.now()
        return self.database.within(tx, lambda tx: funds.absorb(tx, amount, key=key, job=job, reason=reason, at=now))

    # -- holds --------------------------------------------------------------------------------------

    def hold(
        self,
        fund: str,
        team: str,
        amount: int,
        *,
        key: str,
        expires_ms: int | None = None,
        job: str | None = None,
        request: str | None = None,
        api_key: str | None = None,
        payee: str = "compute",
        actor: str = "",
        tx: Tx | None = None,
    ) -> Hold:
        """Set money aside before work begins, under every cap that applies.

        Args:
            expires_ms: an interval; `expire` gives the hold back after it, unless it is a job's.
            api_key: prefix of the key that the work was asked for with; its caps apply.
            payee: compute, inference or storage.

        Raises:
            FundTooLow: the team has less available.
            CapReached: a cap of the team, the key or the job would be passed.
            NotFound, KeyReused, MoneyInvalid.
        """
        want = Want(
            fund=fund,
            team=team,
            payee=payee,
            amount=check_amount(amount),
            key=check_key(key),
            expires_ms=expires_ms,
            job=job,
            request=request,
            api_key=api_key,
            actor=actor,
        )
        now = self.clock.now()
        tried = tx is None and self.database.dialect == "postgresql"
        if tried and self._at_once(*holds.statement(want, now)):
            return want.hold(now)
        return self.database.within(tx, lambda tx: holds.place(tx, want, now, tried=tried))

    def extend(
        self,
        hold_key: str,
        amount: int,
        *,
        key: str,
        expires_ms: int | None = None,
        actor: str = "",
        tx: Tx | None = None,
    ) -> Hold:
        """Add to an open hold, and count its time anew where `expires_ms` is given.

        Raises:
            HoldClosed, NotFound, FundTooLow, CapReached, KeyReused, MoneyInvalid.
        """
        check_amount(amount), check_key(key)
        now = self.clock.now()
        return self.database.within(
            tx, lambda tx: holds.extend(tx, hold_key, amount, key=key, expires_ms=expires_ms, at=now, actor=actor)
        )

    def settle(
        self,
        hold_key: str,
        amount: int,
        *,
        key: str,
        detail: dict[str, Any] | None = None,
        actor: str = "",
        tx: Tx | None = None,
    ) -> Transfer:
        """Charge `amount` against a hold and give the rest back.

        A repeat with the same key returns the first transfer and moves nothing, so that a caller who lost the answer
        asks again.

        Args:
            amount: 0 up to what is held.
            detail: what the charge was made of (usage, rates), kept with it.

        Raises:
            HoldClosed: it was settled, voided or given back before.
            NotFound, KeyReused, MoneyInvalid.
        """
        check_amount(amount, least=0), check_key(key)
        ending = Ending(
            hold=hold_key, amount=amount, kind="post", key=key, actor=actor, detail=detail, at=self.clock.now()
        )
        alone = tx is None and self.database.dialect == "postgresql"
        if alone and (row := self._at_once(*resolve.statement(ending))):
            return ending.transfer(row)
        return self.database.within(tx, lambda tx: resolve.end(tx, ending))

    def void(self, hold_key: str, *, key: str, actor: str = "", tx: Tx | None = None) -> Transfer:
        """Give all of a hold back.

        Raises:
            HoldClosed, NotFound, KeyReused.
        """
        check_key(key)
        ending = Ending(hold=hold_key, amount=0, kind="void", key=key, actor=actor, at=self.clock.now())
        return self.database.within(tx, lambda tx: resolve.end(tx, ending))

    def expire(self, *, tx: Tx | None = None) -> list[str]:
        """Give back holds past their time; those of jobs are left to the queue, which knows what was used.

        Returns:
            The keys of the holds that were given back.
        """
        now = self.clock.now()
        # PostgreSQL: each in a transaction of its own, for who has one account and wants another can be in the way
        # of somebody who has that one.
        at_once = SWEPT if self.database.dialect == "sqlite" else 1
        due = self._read(tx, lambda tx: holds.expired(tx, now))
        given_back: list[str] = []
        for first in range(0, len(due), at_once):
            some = due[first : first + at_once]
            given_back += self.database.within(tx, partial(self._expire, hold_keys=some, now=now))
        return given_back

    def _expire(self, tx: Tx, hold_keys: list[str], now: int) -> list[str]:
        gone = []
        for hold_key in hold_keys:
            try:
                ending = Ending(hold=hold_key, amount=0, kind="expire", key=f"ledger:expire:{hold_key}", at=now)
                resolve.end(tx, ending)
            except HoldClosed:
                continue  # somebody settled or renewed it at this very moment, which is as good
            gone.append(hold_key)
        return gone

    # -- what there is ------------------------------------------------------------------------------

    def available(self, fund: str, team: str | None = None, *, tx: Tx | None = None) -> Nanos:
        """What a fund can still give to teams, or a team still hold; of an unlimited one, what the books can count.

        Raises:
            NotFound: no such fund or purse.
        """
        return self._read(
            tx,
            lambda tx: (accounts.fund_of(tx, fund) if team is None else accounts.purse_of(tx, fund, team)).available,
        )

    def room(
        self, fund: str, team: str, *, job: str | None = None, api_key: str | None = None, tx: Tx | None = None
    ) -> int:
        """What a hold can take at most: what the team has available, and every cap that applies leaves; may be below 0.

        Raises:
            NotFound: no such fund or purse.
        """

        def look(tx: Tx) -> int:
            least = int(accounts.purse_of(tx, fund, team).available)
            for cap in caps.that_apply(tx, team=team, api_key=api_key, job=job):
                account = accounts.find(tx, caps.window_code(cap, self.clock.now()))
                used = 0 if account is None else account.dr_posted + account.dr_pending
                least = min(least, cap.amount - used)
            return least

        return self._read(tx, look)

    def holds(self, fund: str, team: str | None = None, *, tx: Tx | None = None) -> list[Hold]:
        """Open holds: who holds what, the oldest first."""
        return self._read(tx, lambda tx: holds.open_holds(tx, fund, team))

    def statement(self, fund: str, *, tx: Tx | None = None) -> Statement:
        """What became of a fund's money, in all and team by team.

        Raises:
            NotFound: no such fund.
        """
        return self._read(tx, lambda tx: state(tx, fund))

    def find_hold(self, hold_key: str, *, tx: Tx | None = None) -> Hold | None:
        """An open hold by its key, or None."""
        return self._read(tx, lambda tx: holds.get(tx, hold_key))

    def _at_once(self, sql: str, values: dict[str, Any]) -> Any | None:
        """PostgreSQL's one statement that does all where no guard says no; else None, and nothing happened.

        One that waited for a hold to be extended first computes with the account as it was before it waited, and
        PostgreSQL holds that against a CHECK before it looks at the account anew: then several statements do it.
        """
        try:
            return self.database.write_at_once(sql, **values)
        except IntegrityError as error:
            if getattr(error.orig, "sqlstate", None) != CHECK_VIOLATION:
                raise
            return None

    def _read(self, tx: Tx | None, look: Callable[[Tx], T]) -> T:
        if tx is not None:
            return look(tx)
        with self.database.read() as reading:
            return look(reading)


__all__ = ["Account", "Cap", "DrawRequest", "Hold", "Ledger", "Statement", "Transfer"]
