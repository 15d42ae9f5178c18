"""The platform's side of a job that runs: what it is paid from, what it is told, what becomes of it.

    place      QUEUED → STARTING     hold the first tranche and a reserve for saving
    heartbeat  renew the lease       charge what was used, hold the next tranche; no money → stop: budget
    finish     settle, give back     register the model; SUCCEEDED, CANCELLED, PAUSED, FAILED, or queued again
    lose       the worker is gone    settle up to its last report, queue again

Kept:    a job's state and its money change in one transaction. A job is charged the price of its whole usage, once:
         work repeated after a loss is not charged again, and chopping it into tranches costs the same. Nothing is
         charged beyond what was held; what a worker used beyond it is absorbed, never overdrawn.
Not here: the worker's side (`flows.perform`), which job runs next (`flows.conduct`).
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from typing import Any

from cerulea.core.errors import CapReached, Conflict, FundTooLow, LeaseStale
from cerulea.core.money import Nanos, Rate, cost, show
from cerulea.core.values import Usage
from cerulea.flows.platform import Platform
from cerulea.jobs.job import Job, Status
from cerulea.jobs.protocol import HEARTBEAT_S, Assignment, Ending, Order, Report
from cerulea.store.database import Tx

TRANCHE_S = 300.0  # what is held at a time, in seconds of the job's pace
RESERVE_S = 3.0  # kept for saving when the money ends
LEAST_S = 2.0  # less than this, beside the reserve, is not worth a start
BACKOFF_MS = 5_000  # before the first retry; doubles
LOSSES = 10  # workers lost in a row, without a new checkpoint, until a job is given up


class Desk:
    """Where workers report. `client.RemoteDesk` is its twin over HTTP."""

    def __init__(self, platform: Platform, *, heartbeat_s: float = HEARTBEAT_S, tranche_s: float = TRANCHE_S) -> None:
        self.platform, self.heartbeat_s, self.tranche_s = platform, heartbeat_s, tranche_s
        self._known: dict[tuple[str, int], tuple[Rate, ...]] = {}

    # -- the conductor ------------------------------------------------------------------------------

    def place(self, job: Job, slots: dict[str, int], *, actor: str = "conductor") -> Job:
        """Give a job to workers, with its first tranche held.

        Raises:
            FundTooLow, CapReached: its team cannot pay a start; the job stays where it was.
            EdgeRefused: it is not waiting any more, or the slots are taken.
        """

        def work(tx: Tx) -> Job:
            money = self._hold(tx, job, attempt=job.attempt + 1, tranche=job.tranche + 1)
            return self.platform.queue.place(
                job.id, slots, actor=actor, tx=tx, cost_at_start=self._cost(job, job.usage), **money
            )

        return self.platform.database.write(work)

    def lose(self, job: Job, detail: str) -> Job:
        """A worker is gone: charge up to its last report, and let the job wait for another one."""
        losses = job.losses + 1
        given_up = losses >= LOSSES
        reason = "lost"
        after = Status.CANCELLED if job.pinned else Status.QUEUED
        if job.status == Status.STOPPING:
            after = {"cancel": Status.CANCELLED, "budget": Status.PAUSED, "timeout": Status.FAILED}.get(
                job.reason, after
            )
            reason = "lost" if after == Status.QUEUED else job.reason
        if given_up and after == Status.QUEUED:
            after, detail = Status.FAILED, f"{detail} {losses} workers were lost in a row without a new checkpoint."

        def work(tx: Tx) -> Job:
            assert job.token is not None
            return self._close(
                tx, job.id, job.token, after, Usage(), reason=reason, detail=detail, outcome="lost", losses=losses
            )

        return self.platform.database.write(work)

    def can_pay(self, job: Job) -> bool:
        """Whether its team has what a start costs."""
        pace, due = self._pace(job), self._due(job)
        if pace == 0 and due == 0:
            return True
        return self.platform.ledger.available(job.fund, job.team) >= self._least(pace, due)

    # -- the worker ---------------------------------------------------------------------------------

    def drain(self, worker: str) -> None:
        """A worker is about to go: nothing new for it."""
        self.platform.workers.mark(worker, "draining")

    def leave(self, worker: str) -> None:
        """A worker goes; what it was given and did not end waits for another one."""
        self.bury(worker)

    def enlist(self, worker: str, *, name: str, slots: int, device: str, kinds: Sequence[str]) -> list[tuple[str, str]]:
        """A worker is there; (id, name) of the others."""
        self.platform.workers.enlist(worker, name=name, slots=slots, device=device, kinds=kinds)
        return self.platform.workers.beside(worker)

    def bury(self, worker: str) -> None:
        """A worker is surely dead, and its jobs' processes with it: they need not wait for their leases to run out."""
        self.platform.workers.mark(worker, "gone")
        for job in self.platform.queue.of_worker(worker):
            with contextlib.suppress(Conflict):  # somebody else was first
                self.lose(job, f"Worker {worker} is dead.")

    def claim(self, worker: str) -> list[Assignment]:
        """What the worker was given and has not begun."""
        return [self.assignment(job) for job in self.platform.queue.assigned(worker)]

    def assignment(self, job: Job) -> Assignment:
        """All that a worker needs to run a job."""
        assert job.token is not None
        return Assignment(
            job=job.id,
            attempt=job.attempt,
            token=job.token,
            kind=job.kind,
            name=job.name,
            recipe=job.recipe,
            run=job.run,
            slots=job.slots,
            order=self._order(job),
            checkpoint_step=job.checkpoint_step,
            checkpoint_digest=job.checkpoint_digest,
            checkpoint_tokens=job.checkpoint_tokens,
        )

    def heartbeat(self, job: str, token: str, report: Report) -> Order:
        """Renew the lease, charge what was used when a tranche turns, and say how to go on.

        Raises:
            LeaseStale: another attempt owns the job.
        """
        queue = self.platform.queue

        def work(tx: Tx) -> Job:
            found = queue.owned(tx, job, token)
            news = _news(report)
            now = dataclasses.replace(found, usage=found.usage.at_least(report.usage))
            if report.resumed_step is not None:
                _note_resume(tx, found, report.resumed_step)
            if found.hold_key is not None and found.desired == "run" and self._is_low(now):
                money = self._turn(tx, now)
                news.update(money)
                now = dataclasses.replace(now, **money)
            spent = found.hold_key is not None and found.desired == "run" and self._left(now) <= self._reserve(now)
            found = queue.heartbeat(job, token, tx=tx, **news)
            if spent:
                found = queue.ask_stop(
                    job, "budget", actor="ledger", detail=f"Team {found.team} cannot pay the next minutes.", tx=tx
                )
            return found

        return self._order(self.platform.database.write(work))

    def record(
        self, job: str, token: str, attempt: int, entries: list[dict[str, Any]], first_seq: int, stream: str
    ) -> None:
        """Keep metrics or log lines; a repeat of the same numbers is kept once.

        Raises:
            LeaseStale: another attempt owns the job.
        """
        owner = self.platform.queue.held_by(token)
        if owner is None or owner.id != job:
            raise LeaseStale(f"Job {job} is not this attempt's any more.", fix="Stop: nothing that it writes is taken.")
        self.platform.journal.write(job, attempt, entries, first_seq, stream=stream)

    def finish(self, job: str, token: str, ending: Ending) -> Job:
        """Settle, register, and let the job go where its ending leads.

        Raises:
            LeaseStale: another attempt owns the job.
        """

        def work(tx: Tx) -> Job:
            found = self.platform.queue.owned(tx, job, token)
            after, news = _after(found, ending, self.platform.clock.now())
            result = dict(ending.result)
            if ending.model is not None and after in (Status.SUCCEEDED, Status.CANCELLED):
                version = self._register(tx, found, ending.model)
                result.update(model=found.name, version=version)
            if result:
                news["result"] = {**found.result, **result}
            reason = found.reason if found.status == Status.STOPPING and ending.outcome != "done" else ending.reason
            return self._close(
                tx,
                job,
                token,
                after,
                ending.report.usage,
                reason=reason,
                detail=ending.detail,
                outcome=ending.outcome if ending.outcome == "done" else ending.reason,
                **{**_news(ending.report, usage=False), **news},
            )

        return self.platform.database.write(work)

    def died(self, job: str, token: str, detail: str, *, crash: bool) -> Job:
        """Its process ended without a word: a crash of its own is tried again a few times, a kill is a loss."""
        if crash:
            return self.finish(job, token, Ending(outcome="failed", reason="crash", detail=detail))
        found = self.platform.queue.held_by(token)
        if found is None or found.id != job:
            raise LeaseStale(f"Job {job} is not this attempt's any more.")
        return self.lose(found, detail)

    # -- money --------------------------------------------------------------------------------------

    def _rates(self, job: Job) -> tuple[Rate, ...]:
        key = job.device, job.submitted_at
        if key not in self._known:
            if len(self._known) > 10_000:
                self._known.clear()
            self._known[key] = self.platform.prices.rates(*key)
        return self._known[key]

    def _cost(self, job: Job, usage: Usage) -> int:
        """Price of everything a job used, at the prices of the day it was submitted."""
        return cost(usage.as_json(), self._rates(job))

    def _due(self, job: Job) -> int:
        return max(0, self._cost(job, job.usage) - job.charged)

    def _pace(self, job: Job) -> float:
        """Nano-units a second: what its device costs, or what it was seen to cost where that is more."""
        rates = self._rates(job)
        device = cost({"device_ms": 1000 * job.slots}, rates)
        seen = self._cost(job, job.usage) * 1000 * job.slots / job.usage.device_ms if job.usage.device_ms else 0.0
        if not seen:
            # Before the first report: as if it took ten steps a second.
            tokens = job.recipe.get("train", {}).get("batch_tokens", 0)
            seen = float(cost({"trained_tokens": 10 * tokens}, rates)) if isinstance(tokens, int) else 0.0
        return max(float(device), seen)

    def _left(self, job: Job) -> float:
        """What is held and not used."""
        return job.held - self._due(job)

    def _reserve(self, job: Job) -> float:
        """What saving is going to cost."""
        return self._pace(job) * min(RESERVE_S, self.tranche_s / 4)

    def _is_low(self, job: Job) -> bool:
        """Whether the next tranche is due: a fifth is left, or less than two reports' worth."""
        return self._left(job) < max(self._reserve(job) + 2 * self.heartbeat_s * self._pace(job), 0.2 * job.held)

    def _turn(self, tx: Tx, job: Job) -> dict[str, Any]:
        """Charge the tranche and hold the next one, or what is left; nothing where there is no more to hold."""
        ledger = self.platform.ledger
        if ledger.available(job.fund, job.team, tx=tx) <= 0:
            return {}
        charge = min(self._due(job), job.held)
        self._settle(tx, job, charge)
        after = dataclasses.replace(job, charged=job.charged + charge)
        try:
            money = self._hold(tx, after, attempt=job.attempt, tranche=job.tranche + 1, least=1)
        except (FundTooLow, CapReached):  # a cap, for the account had what the old hold gave back
            key = f"{job.id}/{job.attempt}/{job.tranche + 1}/hold"
            back = job.held - charge
            if not back:
                return {"hold_key": None, "held": 0, "tranche": job.tranche + 1, "charged": after.charged}
            ledger.hold(job.fund, job.team, back, key=key, job=job.id, api_key=job.api_key, actor=job.person, tx=tx)
            money = {"hold_key": key, "held": back, "tranche": job.tranche + 1}
        return {**money, "charged": after.charged}

    def _hold(self, tx: Tx, job: Job, *, attempt: int, tranche: int, least: int | None = None) -> dict[str, Any]:
        """Hold a tranche, or what is there if that is at least `least` nano-units; the columns that say so.

        Raises:
            FundTooLow, CapReached: nothing is held.
        """
        pace, due = self._pace(job), self._due(job)
        if pace == 0 and due == 0:
            return {"hold_key": None, "held": 0, "tranche": tranche}
        want = int(pace * (self.tranche_s + RESERVE_S)) + due + 1
        if least is None:
            least = self._least(pace, due)
        available = self.platform.ledger.available(job.fund, job.team, tx=tx)
        amount = Nanos(available if least <= available < want else want)
        key = f"{job.id}/{attempt}/{tranche}/hold"
        self.platform.ledger.hold(
            job.fund, job.team, amount, key=key, job=job.id, api_key=job.api_key, actor=job.person, tx=tx
        )
        return {"hold_key": key, "held": amount, "tranche": tranche}

    def _least(self, pace: float, due: int) -> int:
        """What a start must have: some seconds of work, and the reserve."""
        return int(pace * min(LEAST_S + RESERVE_S, self.tranche_s)) + due + 1

    def _settle(self, tx: Tx, job: Job, charge: int) -> None:
        assert job.hold_key is not None
        detail = {"usage": job.usage.as_json(), "rates": [list(rate) for rate in self._rates(job)]}
        self.platform.ledger.settle(
            job.hold_key, charge, key=job.hold_key.replace("/hold", "/post"), detail=detail, tx=tx
        )

    def _close(self, tx: Tx, job: str, token: str, after: Status, usage: Usage, **news: Any) -> Job:
        """Charge what was used, give the rest back, and end the attempt."""
        found = self.platform.queue.owned(tx, job, token)
        found = dataclasses.replace(found, usage=found.usage.at_least(usage))
        charged = found.charged
        if found.hold_key is not None:
            charge = min(self._due(found), found.held)
            self._settle(tx, found, charge)
            charged += charge
            over = self._due(dataclasses.replace(found, charged=charged))
            if over and after in (Status.SUCCEEDED, Status.FAILED, Status.CANCELLED):
                charged += self._charge_rest(tx, found, over)
        began = self.platform.queue.get(job, tx=tx)
        tx.run(
            "UPDATE job_attempt SET charged = charged + :amount WHERE job = :job AND attempt = :attempt",
            amount=charged - began.charged,
            job=job,
            attempt=found.attempt,
        )
        return self.platform.queue.finish(
            job,
            token,
            after,
            tx=tx,
            usage=found.usage,
            charged=charged,
            hold_key=None,
            held=0,
            **news,
        )

    def _charge_rest(self, tx: Tx, job: Job, over: int) -> int:
        """What was used beyond the hold: the team pays it if it can, else the platform does."""
        key = f"{job.id}/{job.attempt}/rest"
        try:
            self.platform.ledger.hold(job.fund, job.team, over, key=f"{key}/hold", job=job.id, actor=job.person, tx=tx)
        except (FundTooLow, CapReached):
            reason = f"job {job.id} used {show(over)} beyond what was held"
            self.platform.ledger.absorb(over, key=f"{key}/absorbed", job=job.id, reason=reason, tx=tx)
            return 0
        self.platform.ledger.settle(f"{key}/hold", over, key=f"{key}/post", tx=tx)
        return over

    # -- what a worker is told ----------------------------------------------------------------------

    def _order(self, job: Job) -> Order:
        paid = None
        if job.hold_key is not None:
            paid = int(job.charged + job.held - self._reserve(job))
        return Order(
            desired=job.desired,
            reason=job.reason if job.desired == "stop" else "",
            paid=paid,
            rates=self._rates(job),
            heartbeat_s=self.heartbeat_s,
        )

    def _register(self, tx: Tx, job: Job, model: dict[str, Any]) -> int:
        return self.platform.registry.register(
            job.name,
            manifest=model["files"],
            digest=model["digest"],
            card=model["card"],
            team=job.team,
            actor=job.person,
            job=job.id,
            run=job.run,
            corpus=model.get("corpus", ""),
            tx=tx,
        ).version


def _news(report: Report, *, usage: bool = True) -> dict[str, Any]:
    """The columns that a report changes."""
    news: dict[str, Any] = {"usage": report.usage} if usage else {}
    if report.step:
        news.update(step=report.step, fraction=report.fraction)
    if report.checkpoint_step is not None:
        news.update(
            checkpoint_step=report.checkpoint_step,
            checkpoint_digest=report.checkpoint_digest,
            checkpoint_tokens=report.checkpoint_tokens,
        )
    if report.run is not None:
        news["run"] = report.run
    return news


def _note_resume(tx: Tx, job: Job, step: int) -> None:
    tx.run(
        "UPDATE job_attempt SET resumed_step = :step WHERE job = :job AND attempt = :attempt AND resumed_step IS NULL",
        step=step,
        job=job.id,
        attempt=job.attempt,
    )


def _after(job: Job, ending: Ending, now: int) -> tuple[Status, dict[str, Any]]:
    """Where an ending leads, and the columns that say when and how often it is tried again."""
    if ending.outcome == "done":
        return Status.SUCCEEDED, {}
    if ending.outcome == "stopped":
        reason = job.reason if job.status == Status.STOPPING else ending.reason
        match reason:
            case "budget":
                return Status.PAUSED, {}
            case "preempt":
                return Status.QUEUED, {"preemptions": job.preemptions + 1}
            case "drain" | "lost":
                return Status.QUEUED, {}
            case "timeout":
                return Status.FAILED, {}
            case _:
                return Status.CANCELLED, {}
    if job.status == Status.STOPPING and job.reason == "cancel":
        return Status.CANCELLED, {}
    if ending.reason == "platform":
        losses = job.losses + 1
        news: dict[str, Any] = {"losses": losses, "not_before": now + BACKOFF_MS}
        return (Status.QUEUED if losses < LOSSES else Status.FAILED), news
    if ending.reason == "crash" and job.retries < job.max_retries:
        return Status.QUEUED, {"retries": job.retries + 1, "not_before": now + (BACKOFF_MS << job.retries)}
    return Status.FAILED, {}
