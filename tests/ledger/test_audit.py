"""What the audit finds when somebody writes into the tables past the ledger."""

from __future__ import annotations

import pytest

from cerulea.core.clock import FakeClock
from cerulea.core.money import nanos
from cerulea.ledger.audit import audit
from cerulea.ledger.book import Ledger
from cerulea.ledger.seals import seal
from cerulea.store.database import Database


@pytest.fixture
def busy(book: Ledger, clock: FakeClock) -> Ledger:
    """Books with one of everything, sealed in the middle."""
    book.hold("lab", "text", nanos("10"), key="h1", job="job-1")
    book.extend("h1", nanos("2"), key="e1")
    book.settle("h1", nanos("5"), key="p1")
    book.set_cap("team", "text", "month", nanos("20"), actor="ada")
    book.hold("lab", "text", nanos("6"), key="h2", request="req-1")
    assert seal(book.database, clock) == 1
    book.settle("h2", nanos("1"), key="p2")
    book.hold("lab", "text", nanos("3"), key="h3", request="req-2")
    book.absorb(nanos("0.5"), key="a1")
    return book


def break_in(database: Database, *statements: str) -> None:
    """Write past the triggers, as somebody with the database's password can."""

    def work(tx):
        if tx.dialect == "postgresql":
            tx.run("ALTER TABLE transfer DISABLE TRIGGER USER")
            tx.run("ALTER TABLE seal DISABLE TRIGGER USER")
        else:
            for row in tx.all("SELECT name FROM sqlite_master WHERE type = 'trigger'"):
                tx.run(f"DROP TRIGGER {row.name}")
        for statement in statements:
            assert tx.run(statement) >= 1

    database.write(work)


def test_honest_books_balance(busy: Ledger, clock: FakeClock):
    found = audit(busy.database)
    assert (found.balanced, found.problems) == (True, [])
    assert found.transfers > found.sealed > 0

    assert seal(busy.database, clock) == 1
    assert seal(busy.database, clock) == 0
    assert audit(busy.database).sealed == found.transfers


EDITS = {
    "an amount": ("UPDATE transfer SET amount = amount + 1 WHERE key = 'p1'", "(p1) moves 5000000001 nano-units"),
    "an amount and what was asked": (
        "UPDATE transfer SET amount = 6000000000, asked = REPLACE(asked, '5000000000', '6000000000') WHERE key = 'p1'",
        "team:text/lab: dr_posted is 6.00, its transfers add up to 7.00",
    ),
    "who did it, in a sealed row": ("UPDATE transfer SET actor = 'eve' WHERE key = 'draw'", "transfer 2 was edited"),
    "the time of a sealed row": ("UPDATE transfer SET at = at - 1 WHERE key = 'h1'", "transfer 3 was edited"),
    "who pays": (
        "UPDATE transfer SET debit = (SELECT id FROM account WHERE code = 'team:games/lab') WHERE key = 'h3'",
        "(h3) has debit team:games/lab; asked for was team:text/lab",
    ),
    "a sealed row, deleted": ("DELETE FROM transfer WHERE key = 'e1'", "transfer 4 was deleted after seal 1"),
    "a row that no seal binds yet, deleted": (
        "DELETE FROM transfer WHERE key = 'p2'",
        "hold h2 (6.00) is open and not on the list",
    ),
    "the row of an open hold, made into another": (
        "UPDATE transfer SET key = 'h9' WHERE key = 'h3'",
        "hold h9 has 3.00; the list of open holds says 3.00",
    ),
    "a counter": (
        "UPDATE account SET dr_posted = dr_posted - 1 WHERE code = 'team:text/lab'",
        "team:text/lab: dr_posted is 5.999999999, its transfers add up to 6.00",
    ),
    "an uncounted account": (
        "UPDATE account SET cr_posted = 5 WHERE code = 'platform:compute'",
        "platform:compute: cr_posted is 0.000000005, its transfers add up to 0.00",
    ),
    "an open hold": (
        "UPDATE open_hold SET amount = 1 WHERE key = 'h3'",
        "hold h3 has 3.00; the list of open holds says",
    ),
    "an open hold, hidden": ("DELETE FROM open_hold WHERE key = 'h3'", "hold h3 (3.00) is open and not on the list"),
    "a cap's leg": (
        "UPDATE transfer SET amount = 2 WHERE key LIKE 'ledger:cap:%:p2'",
        "the legs of hold h2 ended with different amounts",
    ),
    "a grant": ("UPDATE grants SET amount = 1", "grant grant is of 0.000000001; 100.00 came in by it"),
    "a grant, hidden": ("DELETE FROM grants", "100.00 came in by transfer grant, which is no grant"),
    "a seal": ("UPDATE seal SET root = 'x'", "seal 1 itself was edited"),
    "a seal's leaves": ("UPDATE seal SET leaves = 'x', root = 'y'", "was put in after seal 1"),
}


@pytest.mark.parametrize("edit", EDITS)
def test_an_edit_is_named(busy: Ledger, edit: str):
    """Somebody with the database's password changes one thing."""
    statement, named = EDITS[edit]
    break_in(busy.database, statement)

    found = audit(busy.database)

    assert not found.balanced
    assert any(named in problem for problem in found.problems), found.problems


def test_money_from_nowhere_is_named(busy: Ledger):
    """A transfer and its counters put in together: the seal's gap, the sponsor or the grants give it away."""
    break_in(
        busy.database,
        "INSERT INTO transfer (key, kind, debit, credit, amount, asked, at) SELECT 'gift', 'single', d.id, c.id, 7, "
        '\'{"do": "grant", "amount": 7}\', 0 FROM account d, account c '
        "WHERE d.code = 'sponsor:sponsor' AND c.code = 'team:games/lab'",
        "UPDATE account SET cr_posted = cr_posted + 7 WHERE code = 'team:games/lab'",
    )

    assert any("came in by transfer gift, which is no grant" in p for p in audit(busy.database).problems)


def test_a_hold_that_ended_twice_is_named(busy: Ledger):
    """With the unique index gone, a second ending is written by hand."""

    def work(tx):
        tx.run("DROP INDEX transfer_resolves_once")
        tx.run(
            "INSERT INTO transfer (key, kind, pending_seq, debit, credit, amount, asked, at) SELECT 'again', 'post', "
            "pending_seq, debit, credit, amount, asked, at FROM transfer WHERE key = 'p1'"
        )

    busy.database.write(work)

    assert any("ends hold 3, which had ended or never was" in p for p in audit(busy.database).problems)


def test_problems_beyond_fifty_are_counted(busy: Ledger):
    """A table of wrecks: fifty are named, the rest has a number."""
    for i in range(60):
        busy.database.write(lambda tx, i=i: busy.absorb(1, key=f"x{i}", tx=tx))
    break_in(busy.database, "UPDATE transfer SET amount = 2 WHERE key LIKE 'x%'")

    problems = audit(busy.database).problems

    assert len(problems) == 51
    assert problems[-1].startswith("and ")


def test_a_seal_binds_many_rows_in_parts(busy: Ledger, clock: FakeClock, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("cerulea.ledger.seals.ROWS", 2)

    assert seal(busy.database, clock) >= 2
    found = audit(busy.database)
    assert found.balanced and found.sealed == found.transfers
    break_in(busy.database, "UPDATE seal SET previous = 'x' WHERE seq = 2")
    assert any("does not follow" in problem for problem in audit(busy.database).problems)
