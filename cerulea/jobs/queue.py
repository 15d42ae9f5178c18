"""The queue: jobs that outlive every process, and leases that say who works on one.

In:      what people ask for (NewJob), what the scheduler decided, what workers report.
Out:     Jobs; every change of state with its event, in one transaction.
Kept:    one owner per lease. Each placing takes the token of the attempt before; whoever comes with that one is
         refused (LeaseStale) and nothing of it is taken. A state changes only along `job.EDGES`.
         `token` is everywhere here the sha256 of the token: the text is the worker's alone (`flows.tokens`).
Not here: what is only read (`reads`), the workers (`workers`), who runs next (`schedule`), metrics (`journal`),
         money (`flows.work` moves it in the same transaction).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import secrets
from typing import Any

from cerulea.core.clock import Clock, new_id
from cerulea.core.errors import EdgeRefused, KeyReused, LeaseStale
from cerulea.core.values import Usage
from cerulea.jobs.job import ENDED, HELD, Job, NewJob, Status, check_edge, job_of
from cerulea.jobs.reads import JobReads
from cerulea.store.database import Database, Tx

LEASE_MS = 20_000  # a worker that says nothing for this long is suspected


class Queue(JobReads):
    """Jobs in the database."""

    def __init__(self, database: Database, clock: Clock, *, lease_ms: int = LEASE_MS) -> None:
        super().__init__(database, clock, lease_ms=lease_ms)

    # -- asking ------------------------------------------------------------------------------------

    def put(self, new: NewJob, *, key: str | None = None, tx: Tx | None = None) -> Job:
        """Add a job at the end of its team's queue; a repeat with the same key answers the first one.

        Raises:
            KeyReused: the key came before with another job.
        """
        job = new_id("job") if key is None else f"job-{_digest(new.team, new.person, key)[:12]}"

        def work(tx: Tx) -> Job:
            now = self.clock.now()
            known = tx.one("SELECT * FROM job WHERE id = :id", id=job)
            if known is not None:
                first = job_of(known)
                if (first.recipe_digest, first.kind, first.fund) != (new.recipe_digest, new.kind, new.fund):
                    raise KeyReused(
                        f"The key {key!r} was used before for another job, {first.id}.",
                        why="A repeated key answers the first request and never does another one.",
                        fix="Use a new key for a new job.",
                    )
                return first
            values = {**_fields(new), "id": job, "recipe": json.dumps(new.recipe), "at": now, "run": new.run or job}
            columns = [name for name in values if name != "at"]
            tx.run(
                f"INSERT INTO job ({', '.join(columns)}, status, submitted_at, queued_at) "
                f"VALUES ({', '.join(':' + name for name in columns)}, 'QUEUED', :at, :at)",
                **values,
            )
            self._event(tx, job, 0, "", Status.QUEUED, "submit", "", new.person)
            return self.get(job, tx=tx)

        return self.database.within(tx, work)

    # -- the conductor -----------------------------------------------------------------------------

    def place(
        self, job: str, slots: dict[str, int], *, actor: str = "conductor", tx: Tx | None = None, **news: Any
    ) -> Job:
        """Give a queued job to workers: a new attempt with a lease; all of its slots or none.

        Nobody has its token before the worker asks for it (`arm`).

        Raises:
            EdgeRefused: it is not waiting any more, or the workers are not there with as many free slots.
        """

        def work(tx: Tx) -> Job:
            found = self._locked(tx, job)
            check_edge(job, found.status, Status.STARTING)
            if sum(slots.values()) != found.slots:
                raise EdgeRefused(f"Job {job} needs {found.slots} slots; {sum(slots.values())} were placed.")
            for worker, wanted in sorted(slots.items()):
                row = tx.one(f"SELECT * FROM worker WHERE id = :id{tx.for_update}", id=worker)
                used = tx.value("SELECT COALESCE(SUM(slots), 0) FROM placement WHERE worker = :id", id=worker)
                if row is None or row.status != "alive" or row.slots - int(used) < wanted:
                    raise EdgeRefused(f"Worker {worker} has no {wanted} free slots for job {job}.")
                tx.run("INSERT INTO placement VALUES (:job, :worker, :slots)", job=job, worker=worker, slots=wanted)
            now = self.clock.now()
            self._move(
                tx,
                found,
                Status.STARTING,
                reason="placed",
                actor=actor,
                attempt=found.attempt + 1,
                token=secrets.token_hex(32),
                worker=min(slots),
                lease_expires_at=now + self.lease_ms,
                desired="run",
                reason_detail="",
                started_at=found.started_at or now,
                **news,
            )
            tx.run(
                "INSERT INTO job_attempt (job, attempt, worker, slots, began_at) "
                "VALUES (:job, :attempt, :worker, :slots, :at)",
                job=job,
                attempt=found.attempt + 1,
                worker=min(slots),
                slots=json.dumps(slots),
                at=now,
            )
            return self.get(job, tx=tx)

        return self.database.within(tx, work)

    def explain(self, reasons: dict[str, tuple[str, str]]) -> None:
        """Write why jobs wait, where that changed."""

        def work(tx: Tx) -> None:
            for job, (reason, detail) in reasons.items():
                tx.run(
                    "UPDATE job SET reason = :reason, reason_detail = :detail WHERE id = :job AND status = 'QUEUED' "
                    "AND (reason <> :reason OR reason_detail <> :detail)",
                    job=job,
                    reason=reason,
                    detail=detail,
                )

        if reasons:
            self.database.write(work)

    def explain_all(self, fund: str, team: str, reason: str, detail: str) -> None:
        """Write why all jobs of a team in a fund wait, where that changed."""
        sql = (
            "{} job {} WHERE status = 'QUEUED' AND pinned = 0 AND fund = :fund AND team = :team "
            "AND reason_detail <> :detail"
        )
        values = {"fund": fund, "team": team, "detail": detail}
        with self.database.read() as tx:
            if tx.one(sql.format("SELECT id FROM", "") + " LIMIT 1", **values) is None:
                return
        change = sql.format("UPDATE", "SET reason = :reason, reason_detail = :detail")
        self.database.write(lambda tx: tx.run(change, reason=reason, **values))

    def ask_stop(self, job: str, reason: str, *, actor: str, detail: str = "", tx: Tx | None = None) -> Job:
        """Want a job stopped: one that runs saves first, one that waits for a person's `cancel` ends at once."""

        def work(tx: Tx) -> Job:
            found = self._locked(tx, job)
            if found.status in (Status.QUEUED, Status.PAUSED) and reason == "cancel":
                self._move(
                    tx, found, Status.CANCELLED, reason=reason, detail=detail, actor=actor, finished_at=self.clock.now()
                )
            elif found.status == Status.STOPPING:
                if reason == "cancel" and found.reason != "cancel":
                    tx.run("UPDATE job SET reason = 'cancel', version = version + 1 WHERE id = :id", id=job)
            else:
                self._move(tx, found, Status.STOPPING, reason=reason, detail=detail, actor=actor, desired="stop")
            return self.get(job, tx=tx)

        return self.database.within(tx, work)

    def requeue(
        self,
        job: str,
        *,
        reason: str,
        actor: str,
        recipe: dict[str, Any] | None = None,
        recipe_digest: str = "",
        only_from: Status | None = None,
        pinned: int | None = None,
        slots: int | None = None,
        tx: Tx | None = None,
    ) -> Job:
        """Let a job that rests wait for its turn again; it goes on from its last checkpoint.

        Args:
            recipe: the same one with another end, where a person gave it one.
            only_from: refuse a job that is in another state by now.
            pinned: 1 where it goes on in the process that asks.
            slots: how many processes it goes on with, where that changes.
        """

        def work(tx: Tx) -> Job:
            found = self._locked(tx, job)
            if found.status in HELD:
                raise EdgeRefused(
                    f"Job {job} is {found.status}: there is nothing to resume.", fix=f"See it: cerulea logs {job}"
                )
            fresh: dict[str, Any] = {"retries": 0, "losses": 0} if found.status in ENDED else {}
            if found.reason == "resume_mismatch":
                fresh.update(checkpoint_step=None, checkpoint_digest=None, checkpoint_tokens=None)
            if only_from is not None and found.status != only_from:
                raise EdgeRefused(f"Job {job} is {found.status}, no longer {only_from}.")
            if pinned is not None:
                fresh["pinned"] = pinned
            if slots is not None:
                fresh["slots"] = slots
            if recipe is not None:
                fresh.update(recipe=recipe, recipe_digest=recipe_digest)
            elif found.status == Status.SUCCEEDED:
                raise EdgeRefused(f"Job {job} is done.", fix=f"Run it once more: cerulea rerun {job}")
            now = self.clock.now()
            self._move(
                tx,
                found,
                Status.QUEUED,
                reason=reason,
                actor=actor,
                queued_at=now,
                not_before=0,
                finished_at=None,
                desired="run",
                **fresh,
            )
            return self.get(job, tx=tx)

        return self.database.within(tx, work)

    def revise(self, job: str, *, actor: str, tx: Tx | None = None, **news: Any) -> Job:
        """Change how a job that waits will run (its recipe's end, its slots, where it is pinned).

        Raises:
            EdgeRefused: it does not wait any more.
        """

        def work(tx: Tx) -> Job:
            found = self._locked(tx, job)
            if found.status != Status.QUEUED:
                raise EdgeRefused(f"Job {job} is {found.status}, no longer QUEUED.", fix=f"See it: cerulea logs {job}")
            self._set(tx, found, news)
            self._event(tx, found.id, found.attempt, found.status, found.status, "revised", "", actor)
            return self.get(job, tx=tx)

        return self.database.within(tx, work)

    # -- the worker --------------------------------------------------------------------------------

    def arm(self, job: Job, token: str) -> None:
        """Let `token` own an attempt that was placed and has not reported yet.

        Raises:
            LeaseStale: it has reported, or the job was given to another worker.
        """

        def work(tx: Tx) -> None:
            found = self._locked(tx, job.id)
            if (found.attempt, found.status) != (job.attempt, Status.STARTING):
                raise LeaseStale(f"Job {job.id} is {found.status}, and at attempt {found.attempt}.")
            if found.token != token:
                self._set(tx, found, {"token": token})

        self.database.write(work)

    def owned(self, tx: Tx, job: str, token: str) -> Job:
        """The job, locked for this transaction, if the token owns it.

        Raises:
            LeaseStale: it does not (any more).
        """
        found = self._locked(tx, job)
        if found.token is None or not secrets.compare_digest(found.token, token) or found.status not in HELD:
            raise _lost(found)
        return found

    def still_held(self, tx: Tx, job: Job) -> Job:
        """The same for who has no token: the job as it is now, if the attempt that was seen holds it still.

        Raises:
            LeaseStale: it has ended.
        """
        found = self._locked(tx, job.id)
        if found.attempt != job.attempt or found.status not in HELD:
            raise _lost(found)
        return found

    def heartbeat(self, job: str, token: str, *, tx: Tx | None = None, **news: Any) -> Job:
        """Renew the lease and write what the worker reports; the first one makes a STARTING job RUNNING.

        Args:
            news: columns: usage (Usage), step, fraction, checkpoint_step, checkpoint_digest, charged, held, …

        Raises:
            LeaseStale: the token owns the job no more.
        """

        def work(tx: Tx) -> Job:
            found = self.owned(tx, job, token)
            values = {**news, "lease_expires_at": self.clock.now() + self.lease_ms}
            if "usage" in values:
                values["usage"] = found.usage.at_least(values["usage"])
            if values.get("checkpoint_step") is not None:
                values["losses"] = 0
            if found.status == Status.STARTING:
                self._move(tx, found, Status.RUNNING, reason="", actor=found.worker or "", **values)
            else:
                self._set(tx, found, values)
            return self.get(job, tx=tx)

        return self.database.within(tx, work)

    def finish(
        self,
        job: str,
        token: str,
        after: Status,
        *,
        reason: str,
        detail: str = "",
        outcome: str = "",
        tx: Tx | None = None,
        **news: Any,
    ) -> Job:
        """End an attempt: free its slots, take its token, and go where the chart allows.

        Args:
            outcome: of the attempt, for its row; the reason where none is given.
            news: further columns, such as result, retries, not_before.
        """

        def work(tx: Tx) -> Job:
            found = self.owned(tx, job, token)
            if found.status == Status.STARTING and after in (Status.SUCCEEDED, Status.CANCELLED, Status.PAUSED):
                self._move(tx, found, Status.RUNNING, reason="", actor=found.worker or "")
                found = self._locked(tx, job)
            if found.status == Status.RUNNING and after in (Status.CANCELLED, Status.PAUSED):
                self._move(tx, found, Status.STOPPING, reason=reason, detail=detail, actor=found.worker or "")
                found = self._locked(tx, job)
            now = self.clock.now()
            values = {**news, "token": None, "worker": None, "lease_expires_at": None, "desired": "run"}
            if after == Status.QUEUED:
                values["queued_at"] = now
            if after in ENDED:
                values["finished_at"] = now
            self._move(tx, found, after, reason=reason, detail=detail, actor=found.worker or "", **values)
            tx.run("DELETE FROM placement WHERE job = :job", job=job)
            tx.run(
                "UPDATE job_attempt SET outcome = :outcome, detail = :detail, ended_at = :now "
                "WHERE job = :job AND attempt = :attempt",
                outcome=outcome or reason,
                detail=detail,
                now=now,
                job=job,
                attempt=found.attempt,
            )
            return self.get(job, tx=tx)

        return self.database.within(tx, work)

    # -- one guarded statement, one event ----------------------------------------------------------

    def _locked(self, tx: Tx, job: str) -> Job:
        row = tx.one(f"SELECT * FROM job WHERE id = :id{tx.for_update}", id=job)
        return self.get(job, tx=tx) if row is None else job_of(row)

    def _move(
        self, tx: Tx, found: Job, after: Status, *, reason: str, actor: str, detail: str = "", **values: Any
    ) -> None:
        check_edge(found.id, found.status, after)
        self._set(tx, found, {"reason_detail": detail, **values, "status": after, "reason": reason})
        attempt = values.get("attempt", found.attempt)
        self._event(tx, found.id, attempt, found.status, after, reason, detail, actor)

    def _set(self, tx: Tx, found: Job, values: dict[str, Any]) -> None:
        values = {name: _column(value) for name, value in values.items()}
        sets = ", ".join(f"{name} = :{name}" for name in values)
        done = tx.run(
            f"UPDATE job SET {sets}, version = version + 1 WHERE id = :job_id AND status = :was AND version = :seen",
            job_id=found.id,
            was=found.status,
            seen=found.version,
            **values,
        )
        assert done == 1, "the row was locked before it was changed"

    def _event(
        self, tx: Tx, job: str, attempt: int, before: str, after: str, reason: str, detail: str, actor: str
    ) -> None:
        tx.run(
            "INSERT INTO job_event (job, attempt, before, after, reason, detail, actor, at) "
            "VALUES (:job, :attempt, :before, :after, :reason, :detail, :actor, :at)",
            job=job,
            attempt=attempt,
            before=str(before),
            after=str(after),
            reason=reason,
            detail=detail,
            actor=actor,
            at=self.clock.now(),
        )


def _lost(found: Job) -> LeaseStale:
    return LeaseStale(
        f"Job {found.id} belongs to attempt {found.attempt} and is {found.status}; this attempt has lost it.",
        why="A lease that ran out was given to another worker.",
        fix="Stop: nothing that this attempt writes is taken.",
    )


def _fields(new: NewJob) -> dict[str, Any]:
    return {field.name: getattr(new, field.name) for field in dataclasses.fields(NewJob)}


def _column(value: Any) -> Any:
    if isinstance(value, Usage):
        return json.dumps(value.as_json())
    return json.dumps(value) if isinstance(value, dict) else str(value) if isinstance(value, Status) else value


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
