"""A machine that does everything to a ledger in any order, beside a model of plain dicts that knows what must come out.

Every rule first asks the model what should happen, then asks the ledger, and compares the answer; after every step all
counters, all open holds and the number of rows are compared, and the books are audited from nothing.
"""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from sqlalchemy.exc import DBAPIError

from cerulea.core.clock import FakeClock, iso, month_of
from cerulea.core.errors import CapReached, CeruleaError, FundTooLow, HoldClosed, KeyReused, MoneyInvalid
from cerulea.core.money import LIMIT
from cerulea.ledger.audit import audit
from cerulea.ledger.book import Ledger
from cerulea.ledger.seals import seal
from cerulea.store.database import Database

FUNDS = ("lab", "home")  # limited, unlimited
TEAMS = ("text", "games")
amounts = st.integers(1, 40)
hours = st.sampled_from([1, 2, 30])
HOUR = 3_600_000


def account(limited: bool) -> dict[str, int]:
    return {"limited": int(limited), "closed": 0, "pending": 0, "dr": 0, "cr": 0}


class Aborted(Exception):
    """The caller's own transaction fails after the ledger's part of it."""


class LedgerMachine(RuleBasedStateMachine):
    """Subclasses say where databases come from."""

    steps = 0  # of all machines of this process

    def new_database(self) -> Database:
        raise NotImplementedError

    def drop(self, database: Database) -> None:
        raise NotImplementedError

    def __init__(self) -> None:
        super().__init__()
        self.database = self.new_database()
        self.clock = FakeClock()
        self.book = Ledger(self.database, self.clock)
        self.accounts: dict[str, dict[str, int]] = {}
        self.holds: dict[str, dict[str, Any]] = {}
        self.caps: dict[tuple[str, str, str], int] = {}
        self.grants: list[dict[str, Any]] = []
        self.done: list[tuple[str, tuple, dict, Any]] = []  # what succeeded, to be repeated
        self.requests: dict[str, tuple[str, str | None]] = {}
        self.rows = 0
        self.number = 0

    def teardown(self) -> None:
        self.drop(self.database)

    # -- the model ----------------------------------------------------------------------------------

    def key(self) -> str:
        self.number += 1
        return f"key-{self.number}"

    def available(self, code: str) -> int:
        a = self.accounts[code]
        return (a["cr"] if a["limited"] else LIMIT) - a["dr"] - a["pending"]

    def payment(self, debit: str, credit: str, amount: int, anyway: bool = False) -> type[CeruleaError] | None:
        """What a payment must be refused with, or None after it was booked in the model."""
        for code in (debit, credit):
            if code in self.accounts and self.accounts[code]["closed"] and not anyway:
                return FundTooLow
        if debit in self.accounts and self.available(debit) < amount:
            return FundTooLow if self.accounts[debit]["limited"] else MoneyInvalid
        if credit in self.accounts and self.accounts[credit]["cr"] > LIMIT - amount:
            return MoneyInvalid
        if debit in self.accounts:
            self.accounts[debit]["dr"] += amount
        if credit in self.accounts:
            self.accounts[credit]["cr"] += amount
        self.rows += 1
        return None

    def reservation(self, purse: str, windows: list[str], amount: int) -> type[CeruleaError] | None:
        """The same for a hold or an extension with its caps: all legs or none."""
        fills = {}
        for code in sorted(windows):
            a = self.accounts.get(code, account(limited=True))
            _, scope, subject, period, _ = code.split(":")
            top = self.caps.get((scope, subject, period), a["dr"] + a["pending"] + amount)
            if a["dr"] + a["pending"] + amount > top:
                return CapReached
            fills[code] = max(top - a["cr"], 0)
        if self.accounts[purse]["closed"]:
            return FundTooLow
        if self.available(purse) < amount:
            return FundTooLow if self.accounts[purse]["limited"] else MoneyInvalid
        for code, fill in fills.items():
            a = self.accounts.setdefault(code, account(limited=True))
            a["cr"] += fill
            self.rows += 1 if fill else 0
        for code in [purse, *windows]:
            self.accounts[code]["pending"] += amount
            self.rows += 1
        return None

    def end(self, key: str, amount: int) -> None:
        hold = self.holds[key]
        for code in [hold["purse"], *hold["windows"]]:
            self.accounts[code]["pending"] -= hold["amount"]
            self.accounts[code]["dr"] += amount
            self.rows += 1
        hold["open"] = False

    def windows(self, team: str, api_key: str | None, job: str | None) -> list[str]:
        now = self.clock.now()
        name = {"month": month_of(now), "day": iso(now)[:10], "total": "all"}
        subjects = {"team": team, "key": api_key, "job": job}
        return [
            f"cap:{scope}:{subject}:{period}:{name[period]}"
            for scope, subject, period in self.caps
            if subjects[scope] == subject
        ]

    def expect(self, refusal: type[CeruleaError] | None, verb: str, *args: Any, **values: Any) -> Any:
        """Ask the ledger, and compare its answer with the model's."""
        if refusal is None:
            result = getattr(self.book, verb)(*args, **values)
            if "key" in values:
                self.done.append((verb, args, values, result))
            return result
        try:
            result = getattr(self.book, verb)(*args, **values)
        except refusal:
            return None
        raise AssertionError(f"{verb}{args}{values} gave {result}, expected {refusal.__name__}")

    # -- rules --------------------------------------------------------------------------------------

    @initialize()
    def furnish(self):
        for fund in FUNDS:
            self.book.create_fund(fund, limited=fund == "lab")
            self.accounts[f"fund:{fund}"] = account(limited=fund == "lab")
            for team in TEAMS:
                self.book.open_purse(fund, team)
                self.accounts[f"team:{team}/{fund}"] = account(limited=fund == "lab")
        self.grant("lab", 150, None, 1)
        for team in TEAMS:
            self.draw("lab", team, 50)
        self.set_cap(("key", "ck_1", "day"), 40)

    @rule(fund=st.sampled_from(FUNDS), amount=amounts, ends=st.none() | hours, huge=st.integers(0, 9))
    def grant(self, fund, amount, ends, huge):
        if fund == "home" and huge == 0:
            amount = LIMIT
        key, until = self.key(), None if ends is None else self.clock.now() + ends * HOUR
        refusal = self.payment("sponsor:state", f"fund:{fund}", amount)
        if refusal is None:
            self.grants.append({"key": key, "fund": fund, "amount": amount, "until": until, "open": True})
        self.expect(refusal, "grant", fund, amount, sponsor="state", until=until, key=key, actor="x")

    @rule(fund=st.sampled_from(FUNDS), team=st.sampled_from(TEAMS), amount=amounts)
    def draw(self, fund, team, amount):
        refusal = self.payment(f"fund:{fund}", f"team:{team}/{fund}", amount)
        self.expect(refusal, "draw", fund, team, amount, key=self.key(), actor="x")

    @rule(fund=st.sampled_from(FUNDS), team=st.sampled_from(TEAMS), amount=amounts)
    def give_back(self, fund, team, amount):
        refusal = self.payment(f"team:{team}/{fund}", f"fund:{fund}", amount, anyway=True)
        self.expect(refusal, "give_back", fund, team, amount, key=self.key(), actor="x")

    @rule(fund=st.sampled_from(FUNDS), team=st.sampled_from(TEAMS), amount=amounts, approve=st.booleans())
    def ask_and_decide(self, fund, team, amount, approve):
        request = self.book.ask(fund, team, amount, key=self.key(), actor="x")
        refusal = self.payment(f"fund:{fund}", f"team:{team}/{fund}", amount) if approve else None
        answer = self.expect(refusal, "decide", request.id, approve=approve, actor="y")
        self.requests[request.id] = ("asked", None) if answer is None else ("drawn" if approve else "denied", "y")

    @rule(
        fund=st.sampled_from(FUNDS),
        team=st.sampled_from(TEAMS),
        amount=amounts,
        expires=st.none() | hours,
        job=st.sampled_from([None, None, "job-1"]),
        api_key=st.sampled_from([None, "ck_1"]),
        huge=st.integers(0, 9),
        at_once=st.booleans(),
    )
    def hold(self, fund, team, amount, expires, job, api_key, huge, at_once):
        if fund == "home" and huge == 0:
            amount = LIMIT
        key, purse, windows = self.key(), f"team:{team}/{fund}", self.windows(team, api_key, job)
        refusal = self.reservation(purse, windows, amount)
        if refusal is None:
            due = None if expires is None else self.clock.now() + expires * HOUR
            self.holds[key] = {"purse": purse, "windows": windows, "amount": amount, "due": due, "job": job}
            self.holds[key]["open"] = True
        values: dict[str, Any] = {"key": key, "job": job, "api_key": api_key}
        values["expires_ms"] = None if expires is None else expires * HOUR
        if at_once:
            self.expect(refusal, "hold", fund, team, amount, **values)
        else:  # within a transaction of the caller's, who takes a refusal and goes on
            self.database.write(lambda tx: self.expect(refusal, "hold", fund, team, amount, **values, tx=tx))
            if refusal is None:
                self.done[-1][2].pop("tx")

    def pick(self, data: st.DataObject) -> str | None:
        """A hold, three times out of four an open one."""
        open_ones = sorted(key for key, hold in self.holds.items() if hold["open"])
        among = open_ones if open_ones and data.draw(st.integers(0, 3)) else sorted(self.holds)
        return data.draw(st.sampled_from(among)) if among else None

    @rule(
        team=st.sampled_from(TEAMS),
        amount=st.integers(1, 10),
        expires=st.none() | hours,
        job=st.sampled_from([None, None, "job-1"]),
        api_key=st.sampled_from([None, "ck_1"]),
    )
    def hold_a_little(self, team, amount, expires, job, api_key):
        self.hold("lab", team, amount, expires, job, api_key, 1, True)

    @rule(data=st.data(), amount=amounts, expires=st.none() | hours)
    def extend(self, data, amount, expires):
        if (key := self.pick(data)) is None:
            return
        hold = self.holds[key]
        refusal = self.reservation(hold["purse"], hold["windows"], amount) if hold["open"] else HoldClosed
        if refusal is None:
            hold["amount"] += amount
            hold["due"] = hold["due"] if expires is None else self.clock.now() + expires * HOUR
        ms = None if expires is None else expires * HOUR
        self.expect(refusal, "extend", key, amount, key=self.key(), expires_ms=ms)

    @rule(data=st.data(), share=st.sampled_from([0, 0.5, 1, 1.1]))
    def settle(self, data, share):
        if (key := self.pick(data)) is None:
            return
        hold = self.holds[key]
        amount = int(hold["amount"] * share) + (1 if share > 1 else 0)
        if amount > LIMIT:
            return
        refusal = HoldClosed if not hold["open"] else MoneyInvalid if amount > hold["amount"] else None
        if refusal is None:
            self.end(key, amount)
        self.expect(refusal, "settle", key, amount, key=self.key(), detail={"share": str(share)})

    @rule(data=st.data())
    def void(self, data):
        if (key := self.pick(data)) is None:
            return
        refusal = None if self.holds[key]["open"] else HoldClosed
        if refusal is None:
            self.end(key, 0)
        self.expect(refusal, "void", key, key=self.key())

    @rule(passed=hours)
    def time_passes(self, passed):
        self.clock.advance(passed * HOUR)

    @rule()
    def expire(self):
        now = self.clock.now()
        due = [k for k, h in self.holds.items() if h["open"] and h["job"] is None and h["due"] and h["due"] <= now]
        for key in due:
            self.end(key, 0)
        assert sorted(self.book.expire()) == sorted(due)

    @rule()
    def lapse(self):
        now = self.clock.now()
        ended = sorted((g["until"], g["key"]) for g in self.grants if g["open"] and g["until"] and g["until"] <= now)
        returned = []
        for _, key in ended:
            (grant,) = [g for g in self.grants if g["key"] == key]
            grant["open"] = False
            fund = self.accounts[f"fund:{grant['fund']}"]
            others = sum(g["amount"] for g in self.grants if g["open"] and g["fund"] == grant["fund"])
            rest = max(0, min(fund["cr"] - fund["dr"] - others, grant["amount"]))
            if rest:
                assert self.payment(f"fund:{grant['fund']}", "sponsor:state", rest, anyway=True) is None
                returned.append(rest)
        assert [transfer.amount for transfer in self.book.lapse()] == returned

    @rule(amount=amounts)
    def a_grant_comes_and_ends(self, amount):
        """Nothing goes back before its day; on its day what is left goes back once, and never again."""
        ours = [g for g in self.grants if g["open"] and g["fund"] == "home"]
        fund = self.accounts["fund:home"]
        owed = sum(g["amount"] for g in ours) - (fund["cr"] - fund["dr"])
        if 0 < owed <= LIMIT - fund["cr"] and owed < LIMIT // 2:  # drawn, and given back now: each grant has its rest
            self.give_back("home", "text", owed)
        self.grant("home", amount, 2, 1)
        self.lapse()
        self.time_passes(2)
        self.lapse()
        self.lapse()

    @rule(team=st.sampled_from(TEAMS), fund=st.sampled_from(FUNDS))
    def a_job_outlives_its_hold(self, team, fund):
        """The hold of a job is its worker's to end: no sweep takes it, however late it is."""
        self.hold(fund, team, 1, 1, "job-1", None, 1, True)
        self.time_passes(2)
        self.expire()

    @rule(
        cap=st.sampled_from(
            [("team", "text", "month"), ("team", "text", "total"), ("key", "ck_1", "day"), ("job", "job-1", "total")]
        ),
        amount=st.none() | st.integers(0, 60),
    )
    def set_cap(self, cap, amount):
        self.book.set_cap(*cap, amount, actor="x")
        self.caps.pop(cap, None)
        if amount is not None:
            self.caps[cap] = amount

    @rule(fund=st.sampled_from(FUNDS), team=st.none() | st.sampled_from(TEAMS), closed=st.sampled_from([0, 1]))
    def close(self, fund, team, closed):
        self.book.close(fund, team, closed=bool(closed))
        self.accounts[f"fund:{fund}" if team is None else f"team:{team}/{fund}"]["closed"] = closed

    @rule(what=st.sampled_from(["absorb", "abort", "restart", "seal", "the_database_refuses"]), amount=amounts)
    def rarely(self, what, amount):
        getattr(self, what)(amount)

    def absorb(self, amount):
        refusal = self.payment("platform:absorbed", "platform:compute", amount)
        self.expect(refusal, "absorb", amount, key=self.key(), reason="test")

    @rule(data=st.data())
    def repeat(self, data):
        """The same key with the same fields answers as before; nothing moves."""
        if self.done:
            verb, args, values, first = data.draw(st.sampled_from(self.done))
            again = getattr(self.book, verb)(*args, **values)
            assert getattr(again, "seq", None) == getattr(first, "seq", None)
            assert again.key == first.key

    @rule(data=st.data())
    def reuse_a_key(self, data):
        """The same key with another amount is refused, by every verb that takes one."""
        candidates = [
            entry for entry in self.done if entry[0] in ("grant", "draw", "give_back", "hold", "extend", "absorb")
        ]
        if candidates:
            verb, args, values, _ = data.draw(st.sampled_from(candidates))
            other = tuple(a + 1 if type(a) is int and a < LIMIT else a for a in args)
            if other != args:
                self.expect(KeyReused, verb, *other, **values)

    @rule(data=st.data(), fund=st.sampled_from(FUNDS))
    def take_a_key_of_another(self, data, fund):
        """A key that stands for one transfer cannot stand for another verb's."""
        if self.done:
            _, _, values, _ = data.draw(st.sampled_from(self.done))
            self.expect(KeyReused, "absorb", 41, key=values["key"], reason="theft")
            if (key := next((k for k, h in self.holds.items() if h["open"]), None)) is not None:
                self.expect(KeyReused, "void", key, key=values["key"])

    def abort(self, amount):
        """The caller's transaction fails: nothing of the ledger's part stands."""

        def work(tx):
            self.book.absorb(amount, key="aborted", tx=tx)
            self.book.grant("lab", amount, key="aborted too", actor="x", tx=tx) if not self.accounts["fund:lab"][
                "closed"
            ] else None
            raise Aborted

        try:
            self.database.write(work)
        except Aborted:
            return
        raise AssertionError("the transaction stands")

    def restart(self, amount):
        """Another process goes on with the same database."""
        self.book = Ledger(self.database, self.clock)
        self.database.engine.dispose()

    def seal(self, amount):
        seal(self.database, self.clock)

    def the_database_refuses(self, amount):
        """The last line of defence: what no code here writes is refused by the tables themselves."""
        row = (
            "INSERT INTO transfer (key, kind, pending_seq, debit, credit, amount, asked, at) "
            "VALUES ({key}, '{kind}', {pending}, 1, {credit}, {amount}, '', 0)"
        )
        wrong = [
            "UPDATE account SET dr_posted = cr_posted + 1 WHERE code = 'fund:lab'",
            "UPDATE account SET dr_pending = cr_posted - dr_posted + 1 WHERE code = 'team:text/lab'",
            "UPDATE account SET dr_pending = -1 WHERE code = 'team:text/home'",
            "UPDATE account SET dr_posted = -1 WHERE code = 'fund:home'",
            "UPDATE account SET cr_posted = -1 WHERE code = 'fund:home'",
            f"UPDATE account SET cr_posted = {LIMIT} + 1 WHERE code = 'fund:home'",
            f"UPDATE account SET dr_posted = {LIMIT} + 1 WHERE code = 'fund:home'",
            "INSERT INTO account (code, kind, limited, counted, created_at) VALUES ('fund:lab', 'fund', 1, 1, 0)",
            row.format(key="'x1'", kind="single", pending="NULL", credit=2, amount=0),
            row.format(key="'x2'", kind="single", pending="NULL", credit=2, amount=-1),
            row.format(key="'x3'", kind="single", pending="NULL", credit=1, amount=1),
            row.format(key="'x4'", kind="post", pending="NULL", credit=2, amount=1),
            row.format(key="'x6'", kind="single", pending="NULL", credit=999999, amount=1),
        ]
        if self.rows:
            wrong += [
                row.format(key="(SELECT key FROM transfer ORDER BY seq LIMIT 1)", kind="single", pending="NULL",
                           credit=2, amount=1),
                row.format(key="'x5'", kind="gift", pending="(SELECT MIN(seq) FROM transfer)", credit=2, amount=1),
                row.format(key="'x7'", kind="single", pending="(SELECT MIN(seq) FROM transfer)", credit=2, amount=1),
                "UPDATE transfer SET amount = amount + 1",
                "DELETE FROM transfer",
            ]  # fmt: skip
        if any(not hold["open"] for hold in self.holds.values()):
            ended = "(SELECT MIN(pending_seq) FROM transfer WHERE kind IN ('post', 'void', 'expire'))"
            wrong.append(row.format(key="'x8'", kind="void", pending=ended, credit=2, amount=0))
        for statement in wrong:
            try:
                self.database.write(lambda tx, statement=statement: tx.run(statement))
            except DBAPIError:
                continue
            raise AssertionError(f"the database took: {statement}")

    # -- what is true after every step --------------------------------------------------------------

    @invariant()
    def steps_are_counted(self):
        LedgerMachine.steps += 1

    @invariant()
    def counters_are_the_models(self):
        with self.database.read() as tx:
            found = {
                row.code: {
                    "limited": row.limited,
                    "closed": row.closed,
                    "pending": row.dr_pending,
                    "dr": row.dr_posted,
                    "cr": row.cr_posted,
                }
                for row in tx.all("SELECT * FROM account WHERE counted = 1")
            }
            rows = tx.value("SELECT COUNT(*) FROM transfer")
            zero = tx.all("SELECT code FROM account WHERE counted = 0 AND dr_pending + dr_posted + cr_posted <> 0")
        assert found == self.accounts
        assert rows == self.rows
        assert zero == []

    @invariant()
    def nobody_is_overspent(self):
        for code, a in self.accounts.items():
            assert min(a["pending"], a["dr"], a["cr"]) >= 0, code
            assert not a["limited"] or a["dr"] + a["pending"] <= a["cr"], code

    @invariant()
    def open_holds_are_the_models(self):
        if not self.accounts:
            return
        found = {hold.key: (hold.amount, hold.expires_at) for fund in FUNDS for hold in self.book.holds(fund)}
        assert found == {key: (h["amount"], h["due"]) for key, h in self.holds.items() if h["open"]}

    @invariant()
    def requests_are_the_models(self):
        found = {request.id: (request.status, request.decided_by) for request in self.book.requests()}
        assert found == self.requests

    @invariant()
    def the_books_balance(self):
        assert audit(self.database).problems == []

    @invariant()
    def statements_add_up(self):
        if not self.accounts:
            return
        for fund in FUNDS:
            s = self.book.statement(fund)
            assert s.granted == s.lapsed + s.drawn + s.available
            assert s.drawn == s.held + s.settled + sum(row.available for row in s.teams)
            assert s.held == sum(self.accounts[f"team:{team}/{fund}"]["pending"] for team in TEAMS)
