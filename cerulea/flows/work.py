"""The platform's side of a job that runs: what it is paid from, what it is told, what becomes of it.

    place      QUEUED → STARTING     hold the first tranche and a reserve for saving
    heartbeat  renew the lease       charge what was used, hold the next tranche; no money → stop: budget
    finish     settle, give back     register the model; SUCCEEDED, CANCELLED, PAUSED, FAILED, or queued again
    lose       the worker is gone    settle up to its last report, queue again

Kept:    a job's state and its money change in one transaction. Work repeated after a loss is not charged again.
Not here: what is held and charged (`flows.charge`), the worker's side (`flows.perform`), who runs next
         (`flows.conduct`).
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from cerulea.core.errors import CeruleaError, Conflict, Invalid, LeaseStale
from cerulea.core.names import is_name
from cerulea.core.values import Usage
from cerulea.flows.charge import TRANCHE_S, Charges
from cerulea.flows.platform import Platform
from cerulea.flows.tokens import digest_of, secret_of, token_of
from cerulea.jobs.job import ENDED, Job, Status
from cerulea.jobs.protocol import HEARTBEAT_S, Assignment, Ending, Order, Report
from cerulea.store.database import Tx

BACKOFF_MS = 5_000  # before the first retry; doubles
LOSSES = 10  # workers lost in a row, without a new checkpoint, until a job is given up


class Desk(Charges):
    """Where workers report. `client.RemoteDesk` is its twin over HTTP."""

    def __init__(self, platform: Platform, *, heartbeat_s: float = HEARTBEAT_S, tranche_s: float = TRANCHE_S) -> None:
        super().__init__(platform, heartbeat_s=heartbeat_s, tranche_s=tranche_s)
        self._secret = secret_of(platform.settings.home)

    # -- the conductor ------------------------------------------------------------------------------

    def place(self, job: Job, slots: dict[str, int], *, actor: str = "conductor") -> Job:
        """Give a job to workers, with its first tranche held.

        Raises:
            FundTooLow, CapReached: its team cannot pay a start; the job stays where it was.
            EdgeRefused: it is not waiting any more, or the slots are taken.
        """
        return self.platform.database.write(lambda tx: self._place(tx, job, slots, actor))

    def _place(self, tx: Tx, job: Job, slots: dict[str, int], actor: str) -> Job:
        money = self.hold(tx, job, attempt=job.attempt + 1, tranche=job.tranche + 1)
        return self.platform.queue.place(
            job.id, slots, actor=actor, tx=tx, cost_at_start=self.cost_of(job, job.usage), **money
        )

    def lose(self, job: Job, detail: str, *, overdue: bool = False) -> Job:
        """A worker is gone: charge up to its last report, and let the job wait for another one.

        Args:
            overdue: only if its lease is still over; it may have reported since that was seen.

        Raises:
            LeaseStale: the attempt that was lost has ended meanwhile, or reported.
        """

        def work(tx: Tx) -> Job:
            found = self.platform.queue.still_held(tx, job)
            if overdue and not self.platform.queue.is_overdue(found):
                raise LeaseStale(f"Job {job.id} has reported again.")
            losses, said = found.losses + 1, detail
            after, reason = Status.CANCELLED if found.pinned else Status.QUEUED, "lost"
            if found.status == Status.STOPPING:
                ends = {"cancel": Status.CANCELLED, "budget": Status.PAUSED, "timeout": Status.FAILED}
                if found.reason in ends:
                    after, reason = ends[found.reason], found.reason
            if losses >= LOSSES and after == Status.QUEUED:
                after = Status.FAILED
                said = f"{detail} {losses} workers were lost in a row without a new checkpoint."
            return self._close(
                tx, job.id, found.token or "", after, Usage(), reason=reason, detail=said, outcome="lost", losses=losses
            )

        return self.platform.database.write(work)

    def start_here(self, begin: Callable[[Tx], Job], worker: str, slots: int) -> Job:
        """Put or requeue a job and give it to one worker, all at once or not at all: no other worker can come between.

        Raises:
            FundTooLow, CapReached: its team cannot pay a start; nothing of it is left.
        """
        return self.platform.database.write(lambda tx: self._place(tx, begin(tx), {worker: slots}, "here"))

    def cancel(self, job: str, *, actor: str, detail: str = "", tx: Tx | None = None) -> Job:
        """Want a job stopped; one that ends by it, and still owes something, pays that now."""

        def work(tx: Tx) -> Job:
            before = self.platform.queue.get(job, tx=tx)
            after = self.platform.queue.ask_stop(job, "cancel", actor=actor, detail=detail, tx=tx)
            if after.status == Status.CANCELLED and before.status != Status.CANCELLED:
                paid = self.settle_rest(tx, after)
                tx.run("UPDATE job SET charged = charged + :paid WHERE id = :id", paid=paid, id=job)
                after = self.platform.queue.get(job, tx=tx)
            return after

        return self.platform.database.within(tx, work)

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
        """What the worker was given and has not begun; the same as often as it asks."""
        given = []
        for job in self.platform.queue.assigned(worker):
            with contextlib.suppress(LeaseStale):  # begun, or taken away, since it was listed
                given.append(self.assignment(job))
        return given

    def assignment(self, job: Job) -> Assignment:
        """All that a worker needs to run a job that was placed on it; from now on its token owns the job.

        Raises:
            LeaseStale: the job was begun or taken away meanwhile.
        """
        token = token_of(job, self._secret)
        if job.token != digest_of(token):
            self.platform.queue.arm(job, digest_of(token))
        return Assignment(
            job=job.id,
            attempt=job.attempt,
            token=token,
            kind=job.kind,
            name=job.name,
            recipe=job.recipe,
            run=job.run,
            slots=job.slots,
            order=self._order(job),
            checkpoint_step=job.checkpoint_step,
            checkpoint_digest=job.checkpoint_digest,
            checkpoint_tokens=job.checkpoint_tokens,
            bound=job.api_key is not None and not self.platform.people.key_reaches_all(job.api_key),
        )

    def heartbeat(self, job: str, token: str, report: Report) -> Order:
        """Renew the lease, charge what was used when a tranche turns, and say how to go on.

        Raises:
            LeaseStale: another attempt owns the job.
        """
        queue, token = self.platform.queue, digest_of(token)

        def work(tx: Tx) -> Job:
            found = queue.owned(tx, job, token)
            news = _news(found, report)
            now = dataclasses.replace(found, usage=found.usage.at_least(report.usage))
            if report.resumed_step is not None:
                _note_resume(tx, found, report.resumed_step)
            if found.hold_key is not None and found.desired == "run" and self.is_low(now):
                money = self.turn(tx, now)
                news.update(money)
                now = dataclasses.replace(now, **money)
            spent = found.hold_key is not None and found.desired == "run" and self.left(now) <= self.reserve(now)
            spent = spent or (found.hold_key is None and found.desired == "run" and self.pace(now) > 0)
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
        # The attempt is the token's, whatever the worker calls it.
        self.platform.journal.write(job, self.holder(job, token).attempt, entries, first_seq, stream=stream)

    def finish(self, job: str, token: str, ending: Ending) -> Job:
        """Settle, register, and let the job go where its ending leads.

        Raises:
            LeaseStale: another attempt owns the job.
        """
        token = digest_of(token)

        def work(tx: Tx) -> Job:
            found = self.platform.queue.owned(tx, job, token)
            after, news = _after(found, ending, self.platform.clock.now())
            result, detail = dict(ending.result), ending.detail
            if ending.model is not None and after in (Status.SUCCEEDED, Status.CANCELLED):
                try:
                    result.update(model=found.name, version=self._register(tx, found, ending.model))
                except CeruleaError as error:  # refused before anything was written
                    after, detail = Status.FAILED, f"Trained, but not registered: {error}"
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
                detail=detail,
                outcome=ending.outcome if ending.outcome == "done" else ending.reason,
                **{**_news(found, ending.report, usage=False), **news},
            )

        return self.platform.database.write(work)

    def died(self, job: str, token: str, detail: str, *, crash: bool) -> Job:
        """Its process ended without a word: a crash of its own is tried again a few times, a kill is a loss."""
        if crash:
            return self.finish(job, token, Ending(outcome="failed", reason="crash", detail=detail))
        return self.lose(self.holder(job, token), detail)

    def holder(self, job: str, token: str) -> Job:
        """The job, if the token owns it now.

        Raises:
            LeaseStale: it does not (any more).
        """
        found = self.platform.queue.held_by(digest_of(token))
        if found is None or found.id != job:
            raise LeaseStale(f"Job {job} is not this attempt's any more.", fix="Stop: nothing that it writes is taken.")
        return found

    def _close(self, tx: Tx, job: str, token: str, after: Status, usage: Usage, **news: Any) -> Job:
        """Charge what was used, give the rest back, and end the attempt."""
        found = self.platform.queue.owned(tx, job, token)
        found = dataclasses.replace(found, usage=found.usage.at_least(usage))
        charged = found.charged
        if found.hold_key is not None:
            charge = min(self.due(found), found.held)
            self.settle(tx, found, charge)
            charged += charge
        if after in ENDED:
            charged += self.settle_rest(tx, dataclasses.replace(found, charged=charged))
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

    # -- what a worker is told ----------------------------------------------------------------------

    def _order(self, job: Job) -> Order:
        paid = job.charged if self.pace(job) else None
        if job.hold_key is not None:
            paid = int(job.charged + job.held - self.reserve(job))
        return Order(
            desired=job.desired,
            reason=job.reason if job.desired == "stop" else "",
            paid=paid,
            rates=self.rates(job),
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


def _news(job: Job, report: Report, *, usage: bool = True) -> dict[str, Any]:
    """The columns that a report changes.

    Raises:
        Invalid: it names the folder of another run.
    """
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
        if not is_name(report.run.replace("~", "-")) or report.run.split("~")[0] != job.run.split("~")[0]:
            raise Invalid(f"{report.run[:60]!r} is no run of job {job.id}.")
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
    after, news = _leads_to(job, ending, now)
    # Nobody but the process that submitted it runs a pinned job: there is nothing to wait for.
    return (Status.CANCELLED if job.pinned and after == Status.QUEUED else after), news


def _leads_to(job: Job, ending: Ending, now: int) -> tuple[Status, dict[str, Any]]:
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
