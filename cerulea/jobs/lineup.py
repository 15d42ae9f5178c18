"""What the scheduler looks at: teams, workers and jobs of one moment, read from the database; and how use is kept.

Kept:    of each team at most AHEAD waiting jobs are read, the first in its line: a decision places no more than that.
         Jobs that cannot run now, after a failure or for their size, stand behind those that can.
Not here: the decision (`schedule`), what a team can pay (`flows.conduct`).
"""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

from cerulea.core.clock import Clock
from cerulea.jobs import schedule
from cerulea.jobs.share import charge
from cerulea.jobs.workers import SILENT_MS
from cerulea.store.database import Database, Tx

AHEAD = 200
KEEP_MS = 10_000  # between writing down what each team has used
_HELD = "('STARTING', 'RUNNING', 'STOPPING')"


class Lineup:
    """Reads views, and remembers what each team has used in between."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self.database, self.clock = database, clock
        self._used: dict[str, float] = {}
        self._at = self._kept_at = 0

    def waits(self) -> list[tuple[str, str, int]]:
        """(fund, team, jobs) of whoever has jobs in line."""
        with self.database.read() as tx:
            rows = tx.all(
                "SELECT fund, team, COUNT(*) FROM job WHERE status = 'QUEUED' AND pinned = 0 GROUP BY fund, team"
            )
        return [(row[0], row[1], int(row[2])) for row in rows]

    def view(self, broke: Collection[tuple[str, str]] = ()) -> schedule.View:
        """Everything at this moment.

        Args:
            broke: (fund, team) pairs that cannot pay a start; their jobs are left out.
        """
        now = self.clock.now()
        with self.database.read() as tx:
            teams = tx.all("SELECT name, weight, slots, borrows FROM team")
            workers = tx.all(
                "SELECT w.*, w.slots - COALESCE((SELECT SUM(p.slots) FROM placement p WHERE p.worker = w.id), 0) "
                "AS free FROM worker w WHERE w.status = 'alive' AND w.kinds <> ''"
            )
            waiting = tx.all(
                "SELECT * FROM (SELECT id, seq, fund, team, kind, device, slots, priority, queued_at, not_before, "
                "reason, ROW_NUMBER() OVER (PARTITION BY team ORDER BY CASE WHEN not_before > :now OR slots > :most "
                "THEN 1 ELSE 0 END, priority DESC, seq) AS place "
                "FROM job WHERE status = 'QUEUED' AND pinned = 0) AS line WHERE place <= :ahead",
                ahead=AHEAD,
                now=now,
                most=max((w.slots for w in workers), default=0),
            )
            yielded = tx.all(
                "SELECT e.job, e.detail FROM job_event e JOIN job j ON j.id = e.job "
                "WHERE j.status = 'QUEUED' AND j.preemptions > 0 AND e.reason = 'preempt' AND e.detail <> ''"
            )
            running = tx.all(
                "SELECT j.id, j.team, j.priority, j.status, j.pinned, a.slots, a.began_at "
                "FROM job j JOIN job_attempt a "
                f"ON a.job = j.id AND a.attempt = j.attempt WHERE j.status IN {_HELD}"
            )
        used = self._charge(now, running)
        gave_way: dict[str, set[str]] = {}
        for event in yielded:
            gave_way.setdefault(event.job, set()).add(event.detail)
        return schedule.View(
            teams=[
                schedule.Team(
                    name=t.name, weight=t.weight, slots=t.slots, borrows=bool(t.borrows), used=used.get(t.name, 0.0)
                )
                for t in teams
            ],
            workers=[
                schedule.Worker(
                    id=w.id,
                    slots=w.slots,
                    free=int(w.free),
                    device=w.device,
                    kinds=frozenset(w.kinds.split()),
                    alive=abs(now - w.seen_at) < SILENT_MS,
                )
                for w in workers
            ],
            waiting=[
                schedule.Waiting(
                    id=j.id,
                    seq=j.seq,
                    team=j.team,
                    kind=j.kind,
                    device=j.device,
                    slots=j.slots,
                    priority=j.priority,
                    queued_at=j.queued_at,
                    not_before=j.not_before,
                    spans=False,  # the processes of a job meet on one machine's loopback
                    promised=j.reason == "preempting",
                    gave_way_to=frozenset(gave_way.get(j.id, ())),
                )
                for j in waiting
                if (j.fund, j.team) not in broke
            ],
            running=[
                schedule.Running(
                    id=j.id,
                    team=j.team,
                    slots=json.loads(j.slots),
                    priority=j.priority,
                    started_at=j.began_at,
                    preemptible=not j.pinned,
                    stopping=j.status == "STOPPING",
                )
                for j in running
            ],
        )

    def _charge(self, now: int, running: Any) -> dict[str, float]:
        """Bring each team's use up to now, with the slots it holds; write it down from time to time."""
        if not self._at:
            with self.database.read() as tx:
                rows = tx.all("SELECT team, used, at FROM share")
            self._used = {row.team: charge(row.used, now - row.at, 0) for row in rows}
            self._at = self._kept_at = now
        held: dict[str, int] = {}
        for job in running:
            held[job.team] = held.get(job.team, 0) + sum(json.loads(job.slots).values())
        for team in {*self._used, *held}:
            self._used[team] = charge(self._used.get(team, 0.0), now - self._at, held.get(team, 0))
        self._at = now
        if now - self._kept_at >= KEEP_MS:
            self._kept_at = now
            self.database.write(self._keep)
        return self._used

    def _keep(self, tx: Tx) -> None:
        for team, used in self._used.items():
            tx.run(
                "INSERT INTO share (team, used, at) VALUES (:team, :used, :at) "
                "ON CONFLICT (team) DO UPDATE SET used = :used, at = :at",
                team=team,
                used=used,
                at=self._at,
            )
