"""The rules by which money moves, one by one, on both engines."""

from __future__ import annotations

import math

import pytest

from cerulea.core.clock import DAY_MS, FakeClock
from cerulea.core.errors import (
    CapReached,
    Conflict,
    FundTooLow,
    HoldClosed,
    Invalid,
    KeyReused,
    MoneyInvalid,
    NotFound,
)
from cerulea.core.money import LIMIT, nanos
from cerulea.ledger.book import Ledger
from cerulea.ledger.funds import DrawRequest
from cerulea.store.database import Database


def test_a_draw_moves_money_from_the_fund_to_the_team(book: Ledger):
    """100.00 was granted and 40.00 drawn: 60.00 can still be drawn, 40.00 can be held."""
    assert book.available("lab") == nanos("60")
    assert book.available("lab", "text") == nanos("40")
    assert book.available("lab", "games") == 0


def test_a_draw_beyond_the_fund_says_what_is_left_and_what_to_type(book: Ledger):
    with pytest.raises(FundTooLow) as refused:
        book.draw("lab", "games", nanos("75.50"), key="d", actor="ada")

    assert refused.value.what == "Fund 'lab' has 60.00 left to draw; 75.50 was asked for."
    assert refused.value.fix.endswith("cerulea fund grant lab 15.50")
    assert book.available("lab") == nanos("60")


def test_settling_less_than_the_hold_gives_the_rest_back(book: Ledger):
    """A job estimated at 10.00 that used 7.25 leaves 32.75 of 40.00."""
    book.hold("lab", "text", nanos("10"), key="h", job="job-1")
    assert book.available("lab", "text") == nanos("30")

    charged = book.settle("h", nanos("7.25"), key="h/post", detail={"device_ms": 1000})

    assert (charged.amount, charged.job, charged.credit) == (nanos("7.25"), "job-1", "platform:compute")
    assert charged.detail == '{"device_ms": 1000}'
    assert book.available("lab", "text") == nanos("32.75")
    assert book.holds("lab") == []


def test_a_hold_beyond_the_purse_says_who_holds_the_rest(book: Ledger):
    """The refusal names jobs and requests, the largest first, and the draw that would help."""
    book.hold("lab", "text", nanos("30"), key="h1", job="job-1")
    book.hold("lab", "text", nanos("5"), key="h2", request="req-1")

    with pytest.raises(FundTooLow) as refused:
        book.hold("lab", "text", nanos("6"), key="h3")

    assert refused.value.what == "Team 'text' has 5.00 available in fund 'lab'; 6.00 was asked for."
    assert refused.value.why == "40.00 was drawn, 0.00 is spent, 35.00 is held by job-1 (30.00), req-1 (5.00)."
    assert refused.value.fix.endswith("cerulea fund draw lab text 1.00")


def test_a_refusal_in_the_callers_transaction_leaves_nothing(book: Ledger, database: Database):
    """The caller takes the refusal and commits something else."""

    def work(tx):
        with pytest.raises(FundTooLow):
            book.hold("lab", "text", nanos("41"), key="h", tx=tx)
        with pytest.raises(CapReached):
            book.set_cap("team", "text", "total", nanos("1"), actor="ada", tx=tx)
            book.hold("lab", "text", nanos("2"), key="h", tx=tx)
        book.set_cap("team", "text", "total", None, actor="ada", tx=tx)
        return book.hold("lab", "text", nanos("3"), key="h", tx=tx)

    database.write(work)

    assert [hold.amount for hold in book.holds("lab")] == [nanos("3")]
    assert book.available("lab", "text") == nanos("37")


def test_a_hold_commits_with_its_caller_or_not_at_all(book: Ledger, database: Database):
    def work(tx):
        book.hold("lab", "text", nanos("3"), key="h", tx=tx)
        raise RuntimeError("the job's state could not be written")

    with pytest.raises(RuntimeError):
        database.write(work)

    assert book.holds("lab") == []
    assert book.available("lab", "text") == nanos("40")


def test_a_repeat_moves_nothing(book: Ledger):
    """Each verb again with the same key and the same fields."""
    first = book.hold("lab", "text", nanos("10"), key="h", expires_ms=1000)
    assert book.hold("lab", "text", nanos("10"), key="h", expires_ms=1000) == first
    longer = book.extend("h", nanos("5"), key="e")
    assert book.extend("h", nanos("5"), key="e") == longer
    assert longer.amount == nanos("15")
    charged = book.settle("h", nanos("12"), key="p")
    assert book.settle("h", nanos("12"), key="p") == charged
    assert book.draw("lab", "text", nanos("40"), key="draw", actor="eve").actor == "ada"
    assert not book.hold("lab", "text", nanos("10"), key="h", expires_ms=1000).open
    assert not book.extend("h", nanos("5"), key="e").open

    assert book.available("lab", "text") == nanos("28")


def test_a_key_with_other_contents_is_refused_and_says_what_differs(book: Ledger):
    book.hold("lab", "text", nanos("10"), key="h", job="job-1")

    with pytest.raises(KeyReused, match="job was 'job-1', now 'job-2'"):
        book.hold("lab", "text", nanos("10"), key="h", job="job-2")
    with pytest.raises(KeyReused):
        book.settle("h", 1, key="draw")
    with pytest.raises(KeyReused):
        book.ask("lab", "text", 1, key="draw", actor="ada")


def test_a_hold_ends_once(book: Ledger):
    book.hold("lab", "text", nanos("10"), key="h")
    book.settle("h", 0, key="p")

    with pytest.raises(HoldClosed, match=r"settled at 0\.00 by 'p'"):
        book.void("h", key="v")
    with pytest.raises(HoldClosed):
        book.extend("h", 1, key="e")
    with pytest.raises(NotFound):
        book.void("never", key="v")


def test_more_than_the_hold_is_not_charged(book: Ledger):
    book.hold("lab", "text", nanos("10"), key="h")

    with pytest.raises(MoneyInvalid, match=r"10\.000000001 is more than hold 'h' has: 10\.00"):
        book.settle("h", nanos("10.000000001"), key="p")

    book.extend("h", 1, key="e")
    assert book.settle("h", nanos("10.000000001"), key="p").amount == nanos("10.000000001")


def test_holds_of_requests_end_with_their_time_and_those_of_jobs_do_not(book: Ledger, clock: FakeClock):
    book.hold("lab", "text", 1, key="request", expires_ms=1000)
    book.hold("lab", "text", 1, key="job", expires_ms=1000, job="job-1")
    book.hold("lab", "text", 1, key="endless")
    book.hold("lab", "text", 1, key="renewed", expires_ms=1000)
    clock.advance(999)
    assert book.expire() == []
    book.extend("renewed", 1, key="renew", expires_ms=1000)
    clock.advance(1)

    assert book.expire() == ["request"]
    assert book.expire() == []
    assert [hold.key for hold in book.holds("lab")] == ["job", "endless", "renewed"]
    with pytest.raises(HoldClosed, match="given back after its time"):
        book.settle("request", 0, key="late")


def test_a_sweep_takes_as_many_as_there_are(book: Ledger, clock: FakeClock):
    for i in range(450):
        book.database.write(lambda tx, i=i: book.hold("lab", "text", 1, key=f"h{i}", expires_ms=1, tx=tx))
    clock.advance(1)

    assert len(book.expire()) == 450
    assert book.available("lab", "text") == nanos("40")


def test_an_ended_grant_gives_back_what_nobody_drew(database: Database, clock: FakeClock):
    """30.00 until tomorrow and 50.00 for good; 60.00 drawn: the 20.00 left are the lasting grant's."""
    book = Ledger(database, clock)
    book.create_fund("lab")
    book.open_purse("lab", "text")
    book.grant("lab", nanos("30"), key="g1", actor="ada", sponsor="state", until=clock.now() + DAY_MS)
    book.grant("lab", nanos("50"), key="g2", actor="ada")
    book.draw("lab", "text", nanos("10"), key="d1", actor="ada")
    assert book.lapse() == []
    clock.advance(DAY_MS)

    (returned,) = book.lapse()

    assert (returned.amount, returned.credit) == (nanos("20"), "sponsor:state")
    assert book.available("lab") == nanos("50")
    assert book.lapse() == []
    assert book.statement("lab").lapsed == nanos("20")


def test_a_grant_that_ends_in_the_past_is_refused(book: Ledger, clock: FakeClock):
    with pytest.raises(MoneyInvalid, match="past"):
        book.grant("lab", 1, key="g", actor="ada", until=clock.now())


def test_a_fund_that_wants_approval_turns_a_draw_into_a_request(database: Database, clock: FakeClock):
    book = Ledger(database, clock)
    book.create_fund("lab", approval=True)
    book.open_purse("lab", "text")
    book.grant("lab", nanos("10"), key="g", actor="ada")

    asked = book.draw("lab", "text", nanos("4"), key="d", actor="bob", approved=False)
    assert isinstance(asked, DrawRequest)
    assert book.draw("lab", "text", nanos("4"), key="d", actor="bob", approved=False) == asked
    assert book.available("lab", "text") == 0
    with pytest.raises(KeyReused):
        book.draw("lab", "text", nanos("5"), key="d", actor="bob", approved=False)

    decided = book.decide(asked.id, approve=True, actor="ada")
    assert (decided.status, decided.decided_by) == ("drawn", "ada")
    assert book.decide(asked.id, approve=True, actor="ada") == decided
    with pytest.raises(Conflict, match="was drawn by ada"):
        book.decide(asked.id, approve=False, actor="eve")
    assert book.available("lab", "text") == nanos("4")

    high = book.ask("lab", "text", nanos("7"), key="d2", actor="bob")
    with pytest.raises(FundTooLow):
        book.decide(high.id, approve=True, actor="ada")
    assert [(request.id, request.status) for request in book.requests("lab")] == [
        (high.id, "asked"),
        (asked.id, "drawn"),
    ]
    assert book.decide(high.id, approve=False, actor="ada").status == "denied"


def test_an_unlimited_fund_is_metered_and_refuses_nobody(database: Database, clock: FakeClock):
    book = Ledger(database, clock)
    book.create_fund("home", limited=False)
    book.open_purse("home", "home")

    book.hold("home", "home", nanos("1000"), key="h")
    book.settle("h", nanos("999"), key="p")

    assert book.available("home", "home") == LIMIT - nanos("999")
    statement = book.statement("home")
    assert (statement.uncapped, statement.settled) == (True, nanos("999"))
    with pytest.raises(MoneyInvalid, match="can still count"):
        book.hold("home", "home", LIMIT, key="h2")


@pytest.mark.parametrize("scope", ["team", "key", "job"])
@pytest.mark.parametrize("period", ["month", "day", "total"])
def test_a_cap_holds_until_its_window_is_over(book: Ledger, clock: FakeClock, scope: str, period: str):
    """10.00 allowed: 8.00 held, 5.00 of it spent; 5.00 more fit, not a nano-unit beyond."""
    subject = {"team": "text", "key": "ck_1", "job": "job-1"}[scope]
    book.set_cap(scope, subject, period, nanos("10"), actor="ada")
    values = {"api_key": "ck_1", "job": "job-1"}
    book.hold("lab", "text", nanos("8"), key="h1", **values)
    with pytest.raises(CapReached, match=f"The cap of 10[.]00 on {scope} '{subject}'"):
        book.hold("lab", "text", nanos("3"), key="h2", **values)
    book.settle("h1", nanos("5"), key="p1")
    book.hold("lab", "text", nanos("4"), key="h3", **values)
    with pytest.raises(CapReached):
        book.extend("h3", nanos("1.000000001"), key="e")
    book.extend("h3", nanos("1"), key="e")

    clock.advance(32 * DAY_MS)

    if period == "total":
        with pytest.raises(CapReached):
            book.hold("lab", "text", 1, key="h4", **values)
    else:
        book.hold("lab", "text", nanos("10"), key="h4", **values)
    if scope != "team":
        assert book.hold("lab", "text", nanos("1"), key="h5", api_key="ck_2").open


def test_caps_and_money_are_taken_together_or_not_at_all(book: Ledger):
    """The team's cap would allow it, the key's does not: nothing of either is taken."""
    book.set_cap("team", "text", "month", nanos("20"), actor="ada")
    book.set_cap("key", "ck_1", "day", nanos("5"), actor="ada")

    with pytest.raises(CapReached):
        book.hold("lab", "text", nanos("6"), key="h", api_key="ck_1")
    book.hold("lab", "text", nanos("20"), key="h")

    with pytest.raises(CapReached):
        book.hold("lab", "text", 1, key="h2")
    assert book.available("lab", "text") == nanos("20")


def test_a_cap_can_be_raised_lowered_and_taken_away(book: Ledger):
    book.set_cap("team", "text", "month", nanos("5"), actor="ada")
    book.hold("lab", "text", nanos("5"), key="h1")
    book.set_cap("team", "text", "month", nanos("7"), actor="ada")
    book.hold("lab", "text", nanos("2"), key="h2")
    book.set_cap("team", "text", "month", nanos("3"), actor="ada")
    book.void("h1", key="v")
    book.hold("lab", "text", nanos("1"), key="h3")
    with pytest.raises(CapReached):
        book.hold("lab", "text", 1, key="h4")
    book.set_cap("team", "text", "month", None, actor="ada")

    book.hold("lab", "text", nanos("30"), key="h5")

    assert book.caps() == []
    assert book.available("lab", "text") == nanos("7")


def test_a_closed_purse_pays_what_was_held_and_takes_nothing_new(book: Ledger):
    book.hold("lab", "text", nanos("5"), key="h")
    book.close("lab", "text")

    for verb in (book.hold, lambda *a, **k: book.draw(*a, actor="ada", **k)):
        with pytest.raises(FundTooLow, match="closed"):
            verb("lab", "text", 1, key="x")
    book.settle("h", nanos("2"), key="p")
    book.give_back("lab", "text", nanos("38"), key="b", actor="ada")
    book.close("lab", "text", closed=False)
    with pytest.raises(FundTooLow, match=r"0\.00 available"):
        book.hold("lab", "text", 1, key="x")


def test_what_the_house_pays_is_booked(book: Ledger):
    paid = book.absorb(nanos("0.30"), key="a", job="job-1", reason="the worker was cut off")

    assert (paid.debit, paid.credit, paid.job) == ("platform:absorbed", "platform:compute", "job-1")
    assert book.absorb(nanos("0.30"), key="a", job="job-1", reason="another word") == paid


@pytest.mark.parametrize(
    "amount", [0, -1, math.nan, math.inf, 1.5, 10**30, -(10**30), LIMIT + 1, True, "5", None], ids=repr
)
def test_what_is_no_amount_moves_nothing(book: Ledger, amount):
    """Negative, zero, NaN, 30 digits, a float, a text: refused before anything is asked of the database."""
    book.hold("lab", "text", nanos("5"), key="h")
    calls = [
        lambda: book.grant("lab", amount, key="k", actor="ada"),
        lambda: book.draw("lab", "text", amount, key="k", actor="ada"),
        lambda: book.give_back("lab", "text", amount, key="k", actor="ada"),
        lambda: book.ask("lab", "text", amount, key="k", actor="ada"),
        lambda: book.hold("lab", "text", amount, key="k"),
        lambda: book.extend("h", amount, key="k"),
        lambda: book.absorb(amount, key="k"),
    ]
    if amount != 0 or amount is True:
        calls.append(lambda: book.settle("h", amount, key="k"))

    for call in calls:
        with pytest.raises(MoneyInvalid):
            call()
    assert book.available("lab", "text") == nanos("35")


def test_names_that_are_not_there_are_answered_with_the_nearest(book: Ledger):
    with pytest.raises(NotFound, match="nearest name is 'lab'"):
        book.draw("lap", "text", 1, key="k", actor="ada")
    with pytest.raises(NotFound, match="nearest name is 'games'"):
        book.hold("lab", "game", 1, key="k")
    with pytest.raises(NotFound):
        book.open_purse("nowhere", "text")
    with pytest.raises(NotFound):
        book.decide("draw-1", approve=True, actor="ada")


@pytest.mark.parametrize("name", ["", "a/b", "a b", "../x", "x" * 65, "-x", "fund:x", "é"])
def test_a_name_cannot_break_out_of_its_place(book: Ledger, name: str):
    with pytest.raises(Invalid):
        book.create_fund(name)
    with pytest.raises(Invalid):
        book.open_purse("lab", name)


@pytest.mark.parametrize("key", ["", "a\nb", "x" * 201, "ledger:expire:h", None])
def test_a_key_is_printable_and_the_callers_own(book: Ledger, key):
    with pytest.raises(Invalid):
        book.hold("lab", "text", 1, key=key)


def test_making_a_fund_again_changes_nothing(book: Ledger):
    assert book.create_fund("lab", limited=False, approval=True).limited == 1
    assert book.open_purse("lab", "text").cr_posted == nanos("40")
    assert [fund.fund for fund in book.funds()] == ["lab"]


def test_a_statement_adds_up(book: Ledger):
    """granted = lapsed + drawn + available; drawn = held + settled + free, team by team."""
    book.hold("lab", "text", nanos("10"), key="h1")
    book.settle("h1", nanos("4"), key="p1")
    book.hold("lab", "text", nanos("3"), key="h2")
    book.give_back("lab", "text", nanos("5"), key="b", actor="ada")
    book.draw("lab", "games", nanos("1"), key="d", actor="ada")
    book.hold("lab", "text", nanos("2"), key="h3", payee="inference")
    book.settle("h3", nanos("1"), key="p3")

    found = book.statement("lab")

    assert (found.granted, found.drawn, found.held, found.settled) == tuple(map(nanos, ("100", "36", "3", "5")))
    assert found.available == nanos("64")
    text = found.teams[1]
    assert (text.team, text.drawn, text.available) == ("text", nanos("35"), nanos("27"))
    assert found.lines() == [
        ("fund", "team", "granted", "lapsed", "drawn", "held", "settled", "available", "inference"),
        ("lab", "", "100.00", "0.00", "36.00", "3.00", "5.00", "64.00", "1.00"),
        ("lab", "games", "", "", "1.00", "0.00", "0.00", "1.00", "0.00"),
        ("lab", "text", "", "", "35.00", "3.00", "5.00", "27.00", "1.00"),
    ]
