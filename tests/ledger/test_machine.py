"""The machine on both engines, and what becomes of it when a guard is taken away.

CERULEA_MACHINE_STEPS=5000 makes it take that many steps on each engine (docs/ledger.md).
"""

from __future__ import annotations

import importlib.util
import os
import re
import sqlite3
import uuid
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from cerulea.store import database as store
from cerulea.store.database import Database
from cerulea.store.schema import MIGRATIONS
from tests.databases import ENGINES, Databases
from tests.ledger.machine import LedgerMachine

STEPS_OF_A_RUN = 50
STEPS = int(os.environ.get("CERULEA_MACHINE_STEPS", "300"))
QUIET = {"deadline": None, "suppress_health_check": list(HealthCheck), "database": None}


def machine_on(databases: Databases, engine: str) -> type[LedgerMachine]:
    class Machine(LedgerMachine):
        def new_database(self) -> Database:
            return databases.make(engine, durable=False)

        def drop(self, database: Database) -> None:
            databases.drop(database)

    return Machine


@pytest.mark.parametrize("engine", ENGINES)
def test_whatever_is_done_the_books_are_right(databases: Databases, engine: str):
    """Random steps by the hundred; every answer, counter and row is what the model says."""
    machine = machine_on(databases, engine)
    databases.drop(databases.make(engine))  # skips here where the engine is missing

    taken = LedgerMachine.steps
    while (left := STEPS + taken - LedgerMachine.steps) > 0:  # hypothesis ends some runs early
        runs = max(left // STEPS_OF_A_RUN, 1)
        run_state_machine_as_test(
            machine, settings=settings(max_examples=runs, stateful_step_count=STEPS_OF_A_RUN, **QUIET)
        )
    print(f"{LedgerMachine.steps - taken:,} steps on {engine}")


# What a statement must contain, what is taken out of it, and what stands there instead.
COVERED = "(limited = 0 OR cr_posted - dr_posted - dr_pending >= :amount)"
KEY_IS_NEW = "NOT EXISTS (SELECT 1 FROM transfer WHERE key = :key)"
STATEMENTS = {
    "a hold beyond what is there": ("SET dr_pending = dr_pending + :amount WHERE code = :debit", COVERED, "1 = 1"),
    "a leg beyond what is there": ("SET dr_pending = dr_pending + :amount WHERE code = :code", COVERED, "1 = 1"),
    "a payment beyond what is there": ("SET dr_posted = dr_posted + counted * :amount", COVERED, "1 = 1"),
    "a hold on a closed purse": ("dr_pending + :amount WHERE code = :debit", "(closed = 0 OR :anyway = 1)", "1 = 1"),
    "a leg on a closed purse": ("dr_pending + :amount WHERE code = :code", "(closed = 0 OR :anyway = 1)", "1 = 1"),
    "a payment of a closed fund": ("counted * :amount WHERE code = :debit AND (closed = 0 OR :anyway = 1)",
                                   "code = :debit AND (closed = 0 OR :anyway = 1)", "code = :debit"),
    "a payment into a closed purse": ("EXISTS (SELECT 1 FROM account", "AND (closed = 0 OR :anyway = 1) AND cr_posted",
                                      "AND cr_posted"),
    "a hold beyond the books": ("dr_pending + :amount WHERE code = :debit", "dr_posted + dr_pending <= :room", "1 = 1"),
    "a leg beyond its cap": ("dr_pending + :amount WHERE code = :code", "dr_posted + dr_pending <= :room", "1 = 1"),
    "a payment beyond the books": ("EXISTS (SELECT 1 FROM account", "AND cr_posted <= :room", ""),
    "a payment to nobody counted": ("SET cr_posted = cr_posted + counted", "WHERE code = :credit", "WHERE 1 = 1"),
    "a hold's key twice": ("dr_pending + :amount WHERE code = :debit", KEY_IS_NEW, "1 = 1"),
    "a payment's key twice": ("dr_posted + counted * :amount", KEY_IS_NEW, "1 = 1"),
    "an ending's key twice": ("DELETE FROM open_hold", KEY_IS_NEW, "1 = 1"),
    "an extension's key twice": ("FROM open_hold WHERE key = :hold", KEY_IS_NEW, "1 = 1"),
    "a hold beside its caps": ("dr_pending + :amount WHERE code = :debit", "NOT EXISTS (SELECT 1 FROM cap WHERE",
                               "NOT EXISTS (SELECT 1 FROM cap WHERE 1 = 0 AND"),
    "no cap of a team": ("SELECT scope, subject, period, amount FROM cap WHERE", "(scope = 'team' AND", "(1 = 0 AND"),
    "no cap of a key": ("SELECT scope, subject, period, amount FROM cap WHERE", "(scope = 'key' AND", "(1 = 0 AND"),
    "no cap of a job": ("SELECT scope, subject, period, amount FROM cap WHERE", "(scope = 'job' AND", "(1 = 0 AND"),
    "a charge beyond the hold": ("DELETE FROM open_hold", "AND amount >= :amount", ""),
    "an ending that ends all": ("DELETE FROM open_hold", "key = :hold", "1 = 1"),
    "a rest that is not given back": ("dr_pending = dr_pending - :held", "dr_pending - :held", "dr_pending - :amount"),
    "a charge that is not counted": ("dr_pending = dr_pending - :held", ", dr_posted = dr_posted + :amount", ""),
    "an extension that is not listed": ("UPDATE open_hold SET amount", "amount = amount + :amount", "amount = amount"),
    "an extension of every hold": ("UPDATE open_hold SET amount", "WHERE key = :hold", ""),
    "legs that are extensions": ("WHERE t.group_key = :key", "AND t.kind = 'pending'", ""),
    "a sweep before its time": [
        ("ORDER BY expires_at, key", "AND expires_at <= :now", ""),
        ("DELETE FROM open_hold", "OR expires_at <= :at", "OR 1 = 1"),
    ],
    "a sweep of jobs": ("ORDER BY expires_at, key", "AND job IS NULL", ""),
    "a lapse before its time": ("FROM grants WHERE lapsed_at IS NULL", "AND until_at <= :at", ""),
    "a lapse that takes another grant": ("SELECT amount FROM grants", "AND key <> :key", "AND 1 = 0"),
    "a lapse of one's own kept": ("SELECT amount FROM grants", "AND key <> :key", ""),
    "a lapse for all time": ("UPDATE grants SET lapsed", "lapsed_at = :at", "lapsed_at = NULL"),
    "a lapse of everybody": ("UPDATE grants SET lapsed", "WHERE key = :key AND", "WHERE"),
    "a request that stays open": ("UPDATE draw_request SET", "decided_by = :actor", "decided_by = decided_by"),
}  # fmt: skip
TABLES = {
    "counters below zero": ("dr_pending >= 0 AND dr_posted >= 0 AND cr_posted >= 0", "1 = 1"),
    "held below zero": ("dr_pending >= 0 AND", ""),
    "counters beyond the books": (
        "cr_posted <= 4611686018427387904 AND dr_posted + dr_pending <= 4611686018427387904",
        "1 = 1",
    ),
    "an overspent account": ("limited = 0 OR dr_posted + dr_pending <= cr_posted", "1 = 1"),
    "held money spent": ("limited = 0 OR dr_posted + dr_pending <= cr_posted", "limited = 0 OR dr_posted <= cr_posted"),
    "two accounts of one code": ("code TEXT NOT NULL UNIQUE", "code TEXT NOT NULL"),
    "two transfers of one key": ("  key TEXT NOT NULL UNIQUE,\n  kind", "  key TEXT NOT NULL,\n  kind"),
    "a transfer of a new kind": ("kind IN ('single', 'pending', 'extend', 'post', 'void', 'expire')),", "1 = 1),"),
    "an end of nothing": ("(pending_seq IS NULL) = (kind IN ('single', 'pending'))", "1 = 1"),
    "a transfer of nothing": ("amount > 0 OR (amount = 0 AND kind IN ('post', 'void', 'expire'))", "1 = 1"),
    "a transfer to oneself": ("debit <> credit", "1 = 1"),
    "an account that is not there": ("credit BIGINT NOT NULL REFERENCES account (id),\n  amount BIGINT NOT NULL,\n",
                                     "credit BIGINT NOT NULL,\n  amount BIGINT NOT NULL,\n"),
    "a hold that ends twice": ("CREATE UNIQUE INDEX transfer_resolves_once", "CREATE INDEX transfer_resolves_once"),
    "a transfer that is changed": ("BEFORE UPDATE ON transfer", "BEFORE UPDATE OF at ON transfer"),
    "a transfer that is deleted": ("BEFORE DELETE ON transfer", "BEFORE DELETE ON seal"),
}  # fmt: skip


def fails(machine: type[LedgerMachine]) -> bool:
    """Whether the machine finds something; without making what it found smaller."""
    chosen = settings(
        max_examples=150, stateful_step_count=STEPS_OF_A_RUN, phases=[Phase.generate], derandomize=True, **QUIET
    )
    try:
        run_state_machine_as_test(machine, settings=chosen)
    except Exception:
        return True
    return False


@pytest.mark.deep
@pytest.mark.parametrize("name", STATEMENTS)
def test_a_statement_without_its_guard_is_found(databases: Databases, monkeypatch: pytest.MonkeyPatch, name: str):
    """Every WHERE that keeps money safe is needed: without it the machine fails."""
    guards = STATEMENTS[name] if isinstance(STATEMENTS[name], list) else [STATEMENTS[name]]
    met = set()

    def spelled(sql: str, dialect: str) -> str:
        for contains, old, new in guards:
            if contains in sql and old in sql:
                met.add(old)
                sql = sql.replace(old, new)
        return sql

    monkeypatch.setattr(store, "_spelled", spelled)

    assert fails(machine_on(databases, "sqlite"))
    assert len(met) == len(guards), "no statement has this guard: the list is out of date"


@pytest.mark.slow
@pytest.mark.parametrize("name", TABLES)
def test_a_table_without_its_guard_is_found(tmp_path: Path, name: str):
    """Every UNIQUE, CHECK, REFERENCES and trigger of the books is needed."""
    old, new = TABLES[name]
    script = tables()
    assert old in script, "no table has this guard: the list is out of date"

    class Machine(LedgerMachine):
        def new_database(self) -> Database:
            path = tmp_path / f"{uuid.uuid4().hex}.db"
            connection = sqlite3.connect(path)
            connection.executescript(script.replace(old, new, 1))
            connection.close()
            return Database(f"sqlite:///{path}", durable=False)

        def drop(self, database: Database) -> None:
            database.close()

    assert fails(Machine)


def tables() -> str:
    """The statements of the first migration for SQLite, as one text."""
    (path,) = (MIGRATIONS / "versions").glob("0001_*.py")
    spec = importlib.util.spec_from_file_location("first_migration", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    said = []

    class Bind:
        dialect = type("Dialect", (), {"name": "sqlite"})

        def exec_driver_sql(self, statement: str) -> None:
            said.append(re.sub(r"\s+$", "", statement))

    module.op = type("Op", (), {"get_bind": staticmethod(Bind)})
    module.upgrade()
    return ";\n".join(said) + ";\n"
