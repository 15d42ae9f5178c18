"""The conductor: decides who runs next, takes back what was lost, wakes what waited for money, closes the books.

In:      an open platform. One conductor works at a time, by a lease in the database; others wait for it.
Kept:    after a start, when no server answered, or when the calendar jumped, nobody is declared lost for one lease, and
         no request's hold is given back: who is alive says so within that time.
Not here: the policy (`jobs.schedule`), what placing costs (`flows.work`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import secrets
from collections.abc import Mapping

from cerulea.core.clock import DAY_MS, Clock
from cerulea.core.errors import CapReached, CeruleaError, Conflict, FundTooLow, NotFound
from cerulea.flows.once import forget_answers
from cerulea.flows.platform import Platform
from cerulea.flows.work import Desk
from cerulea.jobs.job import Status
from cerulea.jobs.lineup import Lineup
from cerulea.jobs.schedule import decide
from cerulea.ledger.seals import seal
from cerulea.store.database import Tx

TICK_S = 0.2
LEAD_MS = 6_000  # a conductor that died is replaced after this; one that leaves, at once
JUMP_MS = 5_000  # the calendar and the steady clock differ by more: somebody set it
REFUSED_MS = 3_000  # before a job that could not pay its start is tried again
KEEP_LOGS_MS = 90 * DAY_MS  # of events and log lines; curves stay
OPEN_MS = 3_000  # how long a server's word that it answers holds
BOOKS_S = 30.0  # between expiring, lapsing and sealing


class Conductor:
    """One conductor; call `tick` every TICK_S."""

    def __init__(self, platform: Platform, desk: Desk) -> None:
        self.platform, self.desk = platform, desk
        self.lineup = Lineup(platform.database, platform.clock)
        self.name = f"conductor-{secrets.token_hex(4)}"
        self._leads_until = 0
        self._graceful_until = platform.clock.elapsed() + platform.queue.lease_ms
        self._offset = _offset(platform.clock)
        self._refused: dict[str, int] = {}  # jobs that could not pay a start, and until when they are not tried again
        self._tidied_at = -DAY_MS
        self._books_at = self._swept_at = -BOOKS_S * 1000

    def tick(self) -> bool:
        """One round; False where another conductor leads."""
        if not self._lead():
            return False
        self._notice_jumps()
        self._notice_silence()
        clock = self.platform.clock
        if clock.elapsed() >= self._graceful_until:
            self.reap()
            self.platform.workers.sweep()
            if clock.elapsed() - self._swept_at >= BOOKS_S * 1000:
                self._swept_at = clock.elapsed()
                self.platform.ledger.expire()
        self.wake()
        self.schedule()
        if clock.elapsed() - self._books_at >= BOOKS_S * 1000:
            self._books_at = clock.elapsed()
            self.platform.ledger.lapse()
            seal(self.platform.database, clock)
        if clock.elapsed() - self._tidied_at >= DAY_MS:
            self._tidied_at = clock.elapsed()
            forget_answers(self.platform)
            self.platform.journal.prune(clock.now() - KEEP_LOGS_MS)
        return True

    def leave(self) -> None:
        """Let another conductor lead at once."""
        self._leads_until = 0
        self.platform.database.write(
            lambda tx: tx.run(
                "UPDATE lease SET until_at = 0 WHERE name = 'conductor' AND holder = :me",
                me=self.name,
            )
        )

    def reap(self) -> None:
        """Jobs whose lease ran out wait for another worker."""
        for job in self.platform.queue.overdue():
            silent = f"Worker {job.worker} was not heard of for {self.platform.queue.lease_ms // 1000} s."
            with contextlib.suppress(Conflict):  # it came back, or somebody else was first
                self.desk.lose(job, silent, overdue=True)

    def wake(self) -> None:
        """Jobs that were paused for want of money go on when there is some."""
        for job in self.platform.queue.broke():
            if self.desk.can_pay(job):
                with contextlib.suppress(Conflict):  # a person was first
                    self.platform.queue.requeue(job.id, reason="money", actor="conductor", only_from=Status.PAUSED)

    def schedule(self) -> None:
        """Place what fits, preempt what must give way, and say why the others wait."""
        queue, now = self.platform.queue, self.platform.clock.elapsed()
        waits = self.lineup.waits()
        if not waits:
            return
        self._refused = {job: until for job, until in self._refused.items() if until > now}
        reasons: dict[str, tuple[str, str]] = {}
        broke = self._broke(waits)
        view = self.lineup.view(broke)
        while True:
            # Who cannot pay a start must not stand in front of those who can.
            waiting = [job for job in view.waiting if job.id not in self._refused]
            decision = decide(dataclasses.replace(view, waiting=waiting), self.platform.clock.now())
            refused = self._place(decision.placements)
            reasons.update({job: ("budget", why) for job, why in refused.items()})
            if not refused:
                break
            self._refused.update(dict.fromkeys(refused, now + REFUSED_MS))
            view = self.lineup.view(broke)
        for job, why in decision.reasons.items():
            reasons.setdefault(job, (why.code, why.sentence))
        for preemption in decision.preemptions:
            with contextlib.suppress(CeruleaError):
                queue.ask_stop(preemption.job, "preempt", actor="conductor", detail=preemption.beneficiary)
        queue.explain(reasons)
        for (fund, team), sentence in broke.items():
            queue.explain_all(fund, team, "budget", sentence)

    def _place(self, placements: Mapping[str, dict[str, int]]) -> dict[str, str]:
        """Carry a decision out; who could not pay, and why."""
        refused = {}
        for name, slots in placements.items():
            try:
                self.desk.place(self.platform.queue.get(name), slots)
            except (FundTooLow, CapReached) as error:
                refused[name] = str(error)
            except Conflict:
                continue  # something changed since the view was taken; the next round sees it
        return refused

    def _broke(self, waits: list[tuple[str, str, int]]) -> dict[tuple[str, str], str]:
        """Who cannot pay any start, and why."""
        ledger = self.platform.ledger
        found = {}
        for fund, team, _ in waits:
            try:
                if ledger.available(fund, team) <= 0:
                    more = f"cerulea fund draw {fund} {team} AMOUNT"
                    found[fund, team] = f"Team {team} has nothing left in fund {fund}. Draw more: {more}"
            except NotFound as error:
                found[fund, team] = str(error)
        return found

    def _lead(self) -> bool:
        clock = self.platform.clock
        if clock.elapsed() < self._leads_until - LEAD_MS * 2 // 3:
            return True

        def work(tx: Tx) -> bool:
            now = clock.now()
            tx.run(
                "INSERT INTO lease (name, holder, until_at) VALUES ('conductor', '', 0) ON CONFLICT (name) DO NOTHING"
            )
            return (
                tx.run(
                    "UPDATE lease SET holder = :me, until_at = :until "
                    "WHERE name = 'conductor' AND (holder = :me OR until_at < :now OR until_at > :far)",
                    me=self.name,
                    now=now,
                    until=now + LEAD_MS,
                    far=now + 10 * LEAD_MS,  # written by a clock that was ahead
                )
                == 1
            )

        won = self.platform.database.write(work)
        self._leads_until = clock.elapsed() + LEAD_MS if won else 0
        return won

    def _notice_silence(self) -> None:
        """While no server answers, no worker can report: nobody is lost for that."""
        with self.platform.database.read() as tx:
            until = tx.value("SELECT until_at FROM lease WHERE name = 'server'")
        if until is not None and until < self.platform.clock.now():
            self._graceful_until = self.platform.clock.elapsed() + self.platform.queue.lease_ms

    def _notice_jumps(self) -> None:
        clock = self.platform.clock
        offset = _offset(clock)
        if abs(offset - self._offset) > JUMP_MS:
            self._graceful_until = clock.elapsed() + self.platform.queue.lease_ms
        self._offset = offset


def say_open(platform: Platform) -> None:
    """The API answers: whoever serves it says so every second, and the conductor then expects workers to report."""
    now = platform.clock.now()

    def work(tx: Tx) -> None:
        tx.run(
            "INSERT INTO lease (name, holder, until_at) VALUES ('server', '', :until) "
            "ON CONFLICT (name) DO UPDATE SET until_at = :until",
            until=now + OPEN_MS,
        )

    platform.database.write(work)


def _offset(clock: Clock) -> int:
    return clock.now() - clock.elapsed()
