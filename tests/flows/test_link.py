"""The line to the desk: nothing is lost while the desk is away, and the worker stops where the money does."""

from __future__ import annotations

import threading

import pytest

from cerulea.core.errors import LeaseStale, Unreachable
from cerulea.core.money import Rate
from cerulea.core.values import Progress
from cerulea.flows import link as module
from cerulea.flows.link import Link
from cerulea.jobs.protocol import Assignment, Ending, Order, Report

RATES = (Rate("trained_tokens", 1, 1),)


class PlayedDesk:
    """A desk that is away when the test says so."""

    def __init__(self, order: Order = Order()) -> None:
        self.order, self.away, self.broken, self.stale = order, 0, 0, False
        self.entries: list[dict] = []
        self.beats = 0
        self.finished: list[Ending] = []
        self.answers_lost = 0
        self.heard = threading.Event()

    def _answer(self) -> None:
        if self.stale:
            raise LeaseStale("another has it")
        if self.broken:
            self.broken -= 1
            self.heard.set()
            raise ValueError("unexpected")
        if self.away:
            self.away -= 1
            raise Unreachable("away")

    def heartbeat(self, job: str, token: str, report: Report) -> Order:
        self._answer()
        self.beats += 1
        self.heard.set()
        return self.order

    def record(self, job: str, token: str, attempt: int, entries: list, first_seq: int, stream: str) -> None:
        self._answer()
        assert first_seq == len(self.entries)
        self.entries += entries

    def finish(self, job: str, token: str, ending: Ending) -> None:
        if self.finished:
            raise LeaseStale("it is finished")
        self._answer()
        self.finished.append(ending)
        if self.answers_lost:
            self.answers_lost -= 1
            raise Unreachable("the answer was lost")


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_S", 0.01)
    monkeypatch.setattr(module, "FLUSH_S", 0.01)


def linked(desk: PlayedDesk) -> Link:
    assignment = Assignment(
        job="job-1", attempt=1, token="t", kind="text", name="x", recipe={}, run="r", slots=1, order=desk.order
    )
    return Link(desk, assignment)


def step(number: int) -> Progress:
    return Progress(
        step=number,
        tokens=10 * number,
        loss=1.0,
        learning_rate=1.0,
        gradient_norm=1.0,
        tokens_per_s=1.0,
        flops_utilization=0.1,
        elapsed_s=0.001 * number,
        fraction=0.0,
    )


def test_every_note_arrives_once_and_in_order_though_the_desk_goes_away():
    desk = PlayedDesk()
    desk.away = 7
    link = linked(desk)
    link.start()
    for number in range(200):
        link.see(step(number))
        if number == 100:
            desk.away = 5
    link.stop()
    link.finish(Ending(outcome="done", reason="steps"))

    assert [entry["step"] for entry in desk.entries] == list(range(200))
    assert link.told


def test_a_lost_answer_to_the_ending_counts_as_an_answer():
    desk = PlayedDesk()
    desk.answers_lost = 1
    link = linked(desk)

    link.finish(Ending(outcome="done", reason="steps"))

    assert link.told
    assert len(desk.finished) == 1


def test_an_ending_that_comes_too_late_is_refused():
    desk = PlayedDesk()
    desk.stale = True

    with pytest.raises(LeaseStale):
        linked(desk).finish(Ending(outcome="done", reason="steps"))


def test_a_worker_that_lost_its_lease_is_told_to_stop():
    desk = PlayedDesk()
    desk.stale = True
    link = linked(desk)
    link.start()
    link.stop()

    assert link.reason_to_stop() == "lost"


def test_a_worker_stops_by_itself_where_the_paid_part_ends():
    """Paid for 1,000 tokens at one nano-unit each; the desk is away and cannot say a word."""
    desk = PlayedDesk(Order(paid=1000, rates=RATES))
    desk.away = 10**9
    link = linked(desk)
    link.start()
    reasons = {}
    for number in range(1, 120):
        link.see(step(number))
        reasons[number] = link.reason_to_stop()
    desk.away = 0
    link.stop()

    assert [n for n, reason in reasons.items() if reason == "budget"] == list(range(100, 120))


def test_more_money_is_asked_for_before_it_ends():
    """An order to report in an hour; the worker reports when little is left, not when the hour is over."""
    desk = PlayedDesk(Order(paid=10**6, rates=RATES, heartbeat_s=3600.0))
    link = linked(desk)
    link.start()
    assert desk.heard.wait(timeout=30)
    desk.heard.clear()
    desk.order = Order(paid=10**9, rates=RATES, heartbeat_s=3600.0)

    link.see(step(50_000))
    assert desk.heard.wait(timeout=30)
    link.stop()

    assert link.order.paid == 10**9
    assert link.reason_to_stop() == ""


def test_a_wish_to_stop_reaches_the_worker():
    desk = PlayedDesk(Order(heartbeat_s=0.01))
    link = linked(desk)
    link.start()
    desk.order = Order(desired="stop", reason="preempt", heartbeat_s=0.01)
    while link.order.desired == "run":
        desk.heard.clear()
        assert desk.heard.wait(timeout=30)
    link.stop()

    assert link.reason_to_stop() == "preempt"


def test_a_report_that_is_refused_ends_nothing():
    """An answer that nobody expected: the worker goes on reporting, and says in its log what it was."""
    desk = PlayedDesk(Order(heartbeat_s=0.01))
    link = linked(desk)
    desk.broken = 3
    link.start()
    link.see(step(1))
    while desk.broken:
        desk.heard.clear()
        assert desk.heard.wait(timeout=30)
    link.see(step(2))
    link.stop()

    assert [entry["step"] for entry in desk.entries] == [1, 2]
    assert "unexpected" in link.trouble
