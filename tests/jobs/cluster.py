"""A cluster that exists only in memory: what happens when every decision of the scheduler is carried out.

Time is a FakeClock's; a job that is preempted saves for SAVE_MS, goes back to the queue and has the rest of its work
left. Every decision is checked as it comes: no slot given twice, no part of a job, no worker that cannot run it.
"""

from __future__ import annotations

import dataclasses
import heapq
import random
from collections import Counter
from collections.abc import Callable, Sequence
from time import process_time

from cerulea.core.clock import FakeClock
from cerulea.jobs.schedule import Decision, Policy, Running, Team, View, Waiting, Worker, decide
from cerulea.jobs.share import charge

SAVE_MS = 10_000
MINUTE = 60_000


@dataclasses.dataclass
class Work:
    """A job with what only fate knows: how long it takes."""

    job: Waiting
    ms: int  # of work left
    submitted_at: int = 0
    begun_at: int | None = None  # first start
    first_in_line_at: int | None = None
    preemptible: bool = True


class Cluster:
    """Teams, workers and jobs that run, wait and end."""

    def __init__(self, teams: Sequence[Team], workers: Sequence[Worker], policy: Policy | None = None) -> None:
        self.clock = FakeClock()
        self.policy = policy or Policy()
        self.teams = {team.name: team for team in teams}
        self.workers = {worker.id: worker for worker in workers}
        self.works: dict[str, Work] = {}
        self.waiting: dict[str, Waiting] = {}
        self.running: dict[str, Running] = {}
        self.ends: list[tuple[int, str, int]] = []  # when, job, start that it belongs to
        self.slot_ms: Counter[str] = Counter()  # by team
        self.exchanged: set[tuple[str, str]] = set()  # (preempted, for whom)
        self.preempted: Counter[str] = Counter()
        self.longest_first_ms = 0  # how long a job was the first in line
        self.finished = 0
        self.decisions: list[float] = []  # seconds each
        self.placed_behind = 0  # backfilled past a reservation
        self._seq = 0
        self._settled_at = self.clock.now()

    def submit(self, team: str, ms: int, **values: object) -> str:
        """Put a job in the queue."""
        self._seq += 1
        now = self.clock.now()
        preemptible = bool(values.pop("preemptible", True))
        job = Waiting(id=f"job-{self._seq}", seq=self._seq, team=team, queued_at=now, **values)  # type: ignore[arg-type]
        self.works[job.id] = Work(job, ms, submitted_at=now, preemptible=preemptible)
        self.waiting[job.id] = job
        return job.id

    def view(self) -> View:
        """What the scheduler is told."""
        return View(
            teams=list(self.teams.values()),
            workers=list(self.workers.values()),
            waiting=list(self.waiting.values()),
            running=list(self.running.values()),
        )

    def step(self, ms: int) -> Decision:
        """Decide, carry it out, and let time pass."""
        decision = self.carry_out()
        until = self.clock.now() + ms
        while self.ends and self.ends[0][0] <= until:
            at, job, started = heapq.heappop(self.ends)
            self._pass(max(0, at - self.clock.now()))
            self._end(job, started)
        self._pass(until - self.clock.now())
        return decision

    def carry_out(self) -> Decision:
        """Decide and do it; no time passes."""
        began = process_time()
        decision = decide(self.view(), self.clock.now(), self.policy)
        self.decisions.append(process_time() - began)
        assert set(decision.placements) | set(decision.reasons) == set(self.waiting), "each job runs or is told why not"
        assert not set(decision.placements) & set(decision.reasons)
        for job, slots in decision.placements.items():
            self._start(job, slots)
        for victim, beneficiary in decision.preemptions:
            self._stop(victim, beneficiary)
        for job, reason in decision.reasons.items():
            waiting = self.waiting[job]
            if waiting.promised != (reason.code == "preempting"):
                self.waiting[job] = dataclasses.replace(waiting, promised=not waiting.promised)
            if decision.positions.get(job) == 1 and self.works[job].first_in_line_at is None:
                self.works[job].first_in_line_at = self.clock.now()
        return decision

    def run(self, until: Callable[[], bool], tick_ms: int = 30_000, most: int = 1_000_000) -> None:
        """Step until something is so."""
        for _ in range(most):
            if until():
                return
            self.step(tick_ms)
        raise AssertionError(f"not so after {most} steps")

    def idle(self) -> bool:
        """Whether everything is done."""
        return not self.waiting and not self.running

    def held(self, team: str) -> int:
        """Slots that a team has now."""
        return sum(sum(job.slots.values()) for job in self.running.values() if job.team == team)

    def _pass(self, ms: int) -> None:
        now = self.clock.now()
        if ms == 0:
            return
        held = {name: self.held(name) for name in self.teams}
        for name, team in self.teams.items():
            self.slot_ms[name] += held[name] * ms
            self.teams[name] = dataclasses.replace(team, used=charge(team.used, ms, held[name]))
        self.clock.advance(ms)
        assert self.clock.now() == now + ms

    def _start(self, job: str, slots: dict[str, int]) -> None:
        work, now = self.works[job], self.clock.now()
        asked = self.waiting.pop(job)
        assert sum(slots.values()) == asked.slots and min(slots.values()) > 0, "all its slots or none"
        assert len(slots) == 1 or asked.spans
        for name, n in slots.items():
            worker = self.workers[name]
            assert worker.alive and worker.device == asked.device and asked.kind in worker.kinds
            assert n <= worker.free, "no slot twice"
            self.workers[name] = dataclasses.replace(worker, free=worker.free - n)
        team = self.teams[asked.team]
        assert team.borrows or self.held(team.name) + asked.slots <= team.slots
        if work.first_in_line_at is not None:
            self.longest_first_ms = max(self.longest_first_ms, now - work.first_in_line_at)
        work.first_in_line_at = None
        work.begun_at = now if work.begun_at is None else work.begun_at
        self.running[job] = Running(
            id=job,
            team=asked.team,
            slots=slots,
            priority=asked.priority,
            started_at=now,
            ends_at=None if asked.max_ms is None else now + asked.max_ms,
            preemptible=work.preemptible,
        )
        heapq.heappush(self.ends, (now + work.ms, job, now))

    def _stop(self, victim: str, beneficiary: str) -> None:
        running = self.running[victim]
        assert running.preemptible and not running.stopping
        now = self.clock.now()
        assert (beneficiary, victim) not in self.exchanged, "preempted back and forth"
        self.exchanged.add((victim, beneficiary))
        job = self.works[victim].job
        self.works[victim].job = dataclasses.replace(job, gave_way_to=job.gave_way_to | {beneficiary})
        self.preempted[victim] += 1
        self.running[victim] = dataclasses.replace(running, stopping=True)
        heapq.heappush(self.ends, (now + SAVE_MS, victim, running.started_at))

    def _end(self, job: str, started_at: int) -> None:
        running = self.running.get(job)
        if running is None or running.started_at != started_at:
            return  # it ended or was preempted before
        work, now = self.works[job], self.clock.now()
        del self.running[job]
        for name, n in running.slots.items():
            self.workers[name] = dataclasses.replace(self.workers[name], free=self.workers[name].free + n)
        work.ms -= now - started_at
        if work.ms <= 0:
            self.finished += 1
            return
        left = None if work.job.max_ms is None else max(work.ms, work.job.max_ms)
        self.waiting[job] = dataclasses.replace(work.job, queued_at=now, max_ms=left, promised=False)


def random_cluster(
    jobs: int,
    *,
    seed: int,
    weights: Sequence[int] = (1, 2, 3, 4, 6),
    workers: int = 8,
    slots: int = 8,
    quotas: bool = False,
) -> Cluster:
    """A backlog of `jobs` jobs: as much for each team as its weight, mostly small, some of a quarter of the cluster."""
    draw = random.Random(seed)
    total, share = workers * slots, sum(weights)
    teams = [
        Team(name=f"team-{i}", weight=weight, slots=total * weight // share if quotas else 0)
        for i, weight in enumerate(weights)
    ]
    cluster = Cluster(teams, [Worker(id=f"w{i}", slots=slots, free=slots) for i in range(workers)])
    for _ in range(jobs):
        team = draw.choices(teams, weights)[0]
        ms = max(MINUTE, min(60 * MINUTE, int(draw.expovariate(1 / (12 * MINUTE)))))
        cluster.submit(
            team.name,
            ms,
            slots=draw.choices((1, 2, 4, 8, 16), (60, 20, 12, 6, 2))[0],
            priority=draw.choices((0, 1, 5), (90, 8, 2))[0],
            max_ms=draw.choice((None, ms, min(60 * MINUTE, 2 * ms))),
            preemptible=draw.random() < 0.9,
        )
    return cluster
