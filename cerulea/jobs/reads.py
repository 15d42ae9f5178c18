"""What can be read of jobs: one, the newest, those of a worker, what happened to them.

Not here: every change of them (`queue`).
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Sequence
from typing import Any

from cerulea.core.clock import Clock
from cerulea.core.errors import NotFound
from cerulea.jobs.job import Job, job_of
from cerulea.store.database import Database, Tx

BRIEF = ", ".join("'{}' AS recipe" if f.name == "recipe" else f.name for f in dataclasses.fields(Job))
HELD_STATES = "('STARTING', 'RUNNING', 'STOPPING')"


@dataclasses.dataclass(frozen=True, slots=True)
class Event:
    """One change of a job's state, as it was written."""

    seq: int
    job: str
    attempt: int
    before: str
    after: str
    reason: str
    detail: str
    actor: str
    at: int


class JobReads:
    """Jobs in the database, read."""

    def __init__(self, database: Database, clock: Clock, *, lease_ms: int) -> None:
        self.database, self.clock, self.lease_ms = database, clock, lease_ms

    def get(self, job: str, *, teams: Sequence[str] | None = None, tx: Tx | None = None) -> Job:
        """One job.

        Args:
            teams: those that the caller may see; a job of another one is not found.

        Raises:
            NotFound: no such job; names the nearest.
        """
        if tx is None:
            with self.database.read() as tx:
                return self.get(job, teams=teams, tx=tx)
        row = tx.one("SELECT * FROM job WHERE id = :id", id=job)
        if row is None or (teams is not None and row.team not in teams):
            recent = [r.id for r in tx.all("SELECT id, team FROM job ORDER BY seq DESC LIMIT 200") if _seen(r, teams)]
            near = difflib.get_close_matches(job, recent, n=1, cutoff=0.5)
            raise NotFound(
                f"There is no job {job!r}.",
                why=f"The nearest is {near[0]}." if near else "",
                fix="See what there is, also what has ended: cerulea ps --all",
            )
        return job_of(row)

    def newest(
        self,
        *,
        teams: Sequence[str] | None = None,
        statuses: Sequence[str] = (),
        limit: int = 50,
        before_seq: int | None = None,
        recipes: bool = True,
    ) -> list[Job]:
        """Jobs, newest first.

        Args:
            before_seq: only those below it, for the next page.
            recipes: read them too; a list of many jobs is ten times quicker without.
        """
        if teams is not None and not teams:
            return []
        wheres, values = ["1 = 1"], {"limit": limit}
        for name, wanted in (("team", teams or ()), ("status", statuses)):
            if wanted:
                marks = [f"{name}_{chr(97 + i)}" for i in range(len(wanted))]
                wheres.append(f"{name} IN ({', '.join(':' + mark for mark in marks)})")
                values.update(zip(marks, wanted, strict=True))  # type: ignore[arg-type]
        if before_seq is not None:
            wheres.append("seq < :before_seq")
            values["before_seq"] = before_seq
        with self.database.read() as tx:
            columns = "*" if recipes else BRIEF
            rows = tx.all(
                f"SELECT {columns} FROM job WHERE {' AND '.join(wheres)} ORDER BY seq DESC LIMIT :limit", **values
            )
        return [job_of(row) for row in rows]

    def of_run(self, run: str) -> Job | None:
        """The newest job that trained a run."""
        with self.database.read() as tx:
            row = tx.one("SELECT * FROM job WHERE run = :run ORDER BY seq DESC LIMIT 1", run=run)
        return None if row is None else job_of(row)

    def events(self, job: str, *, after: int = 0) -> list[Event]:
        """What happened to a job, oldest first."""
        with self.database.read() as tx:
            rows = tx.all(
                "SELECT * FROM job_event WHERE job = :job AND seq > :after ORDER BY seq", job=job, after=after
            )
        return [Event(**row._mapping) for row in rows]

    def attempts(self, job: str) -> list[dict[str, Any]]:
        """Each try: where, when, how it ended, what it cost."""
        with self.database.read() as tx:
            rows = tx.all("SELECT * FROM job_attempt WHERE job = :job ORDER BY attempt", job=job)
        return [dict(row._mapping) for row in rows]

    def overdue(self) -> list[Job]:
        """Jobs whose lease ran out, or was written by a clock that has been set back since."""
        now = self.clock.now()
        with self.database.read() as tx:
            rows = tx.all(
                f"SELECT * FROM job WHERE status IN {HELD_STATES} "
                "AND (lease_expires_at < :now OR lease_expires_at > :far)",
                now=now,
                far=now + 2 * self.lease_ms,
            )
        return [job_of(row) for row in rows]

    def is_overdue(self, job: Job) -> bool:
        """Whether a job's lease ran out."""
        now = self.clock.now()
        return job.lease_expires_at is not None and not now <= job.lease_expires_at <= now + 2 * self.lease_ms

    def broke(self, limit: int = 500) -> list[Job]:
        """Jobs that were paused for want of money and go on by themselves, the oldest first."""
        with self.database.read() as tx:
            rows = tx.all(
                "SELECT * FROM job WHERE status = 'PAUSED' AND reason = 'budget' AND on_budget = 'resume' "
                "AND pinned = 0 ORDER BY seq LIMIT :limit",
                limit=limit,
            )
        return [job_of(row) for row in rows]

    def assigned(self, worker: str) -> list[Job]:
        """What a worker was given and has not begun yet."""
        with self.database.read() as tx:
            rows = tx.all(
                "SELECT * FROM job WHERE worker = :worker AND status = 'STARTING' ORDER BY seq", worker=worker
            )
        return [job_of(row) for row in rows]

    def of_worker(self, worker: str) -> list[Job]:
        """All that a worker holds."""
        with self.database.read() as tx:
            rows = tx.all(
                f"SELECT * FROM job WHERE worker = :worker AND status IN {HELD_STATES} ORDER BY seq", worker=worker
            )
        return [job_of(row) for row in rows]

    def held_by(self, token: str) -> Job | None:
        """The job that a token (its sha256) owns now, or None."""
        with self.database.read() as tx:
            row = tx.one(f"SELECT * FROM job WHERE token = :token AND status IN {HELD_STATES}", token=token)
        return None if row is None else job_of(row)


def _seen(row: Any, teams: Sequence[str] | None) -> bool:
    return teams is None or row.team in teams
