"""How long a decision takes with 10,000 jobs waiting, and what 10,000 jobs of five teams come to.

    python benchmarks/schedule.py            # decisions, then two simulated clusters: some minutes
    python benchmarks/schedule.py --decisions

The clusters are simulated (`tests/jobs/cluster.py`): a clock that is moved by hand, 64 slots on 8 workers, a backlog of
jobs of 1 to 60 minutes, gangs of up to 16 slots over several workers, a third of the jobs of unknown length. Every
decision is carried out and checked: no slot twice, no part of a gang, nobody preempted back and forth.
"""

from __future__ import annotations

import argparse
import random
import sys
from pathlib import Path
from statistics import median
from time import perf_counter, process_time

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cerulea.jobs.schedule import Running, Team, View, Waiting, Worker, decide
from tests.jobs.cluster import MINUTE, Cluster, random_cluster

NOW = 1_800_000_000_000
ROUNDS = 15


def view_of(waiting: int, busy: str) -> View:
    """32 workers of 8 slots: `idle`, `full` of all teams' jobs, or `held` by two of five teams that borrow them all."""
    draw = random.Random(1)
    teams = [Team(name=f"t{i}", weight=i + 1, slots=16 if busy == "held" else 0, used=1e9 * i) for i in range(5)]
    jobs = [
        Waiting(
            id=f"job-{i}",
            seq=i,
            team=f"t{draw.randrange(5)}",
            slots=draw.choice((1, 1, 1, 2, 4, 8)),
            priority=draw.choice((0, 0, 0, 1)),
            max_ms=draw.choice((None, MINUTE, draw.randint(1, 60) * MINUTE)),
        )
        for i in range(waiting)
    ]
    free = 8 if busy == "idle" else 0
    workers = [Worker(id=f"w{i}", slots=8, free=free) for i in range(32)]
    running = [
        Running(id=f"r{i}", team=f"t{i % (2 if busy == 'held' else 5)}", slots={f"w{i // 8}": 1}, priority=1)
        for i in range(0 if free else 256)
    ]
    return View(teams=teams, workers=workers, waiting=jobs, running=running)


def measure_decisions() -> None:
    """Milliseconds of one decision, of CPU and by the clock on the wall: medians and worst of ROUNDS."""
    print("| cluster | waiting | placed | preempted | median CPU ms | worst CPU ms | median ms |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for busy in ("full", "idle", "held"):
        for waiting in (1_000, 10_000):
            view = view_of(waiting, busy)
            decision, times, cpu = decide(view, NOW), [], []
            for _ in range(ROUNDS):
                began, worked = perf_counter(), process_time()
                decide(view, NOW)
                cpu.append((process_time() - worked) * 1e3)
                times.append((perf_counter() - began) * 1e3)
            placed, preempted = len(decision.placements), len(decision.preemptions)
            spent = f"{median(cpu):.1f} | {max(cpu):.1f} | {median(times):.1f}"
            print(f"| {busy} | {waiting:,} | {placed} | {preempted} | {spent} |")


def simulate(jobs: int, quotas: bool) -> None:
    """Run a backlog to its end and say how it was shared."""
    cluster = random_cluster(jobs, seed=1, quotas=quotas)
    began, start = perf_counter(), cluster.clock.now()
    cluster.run(lambda: len({job.team for job in cluster.waiting.values()}) < len(cluster.teams))
    minutes, left = (cluster.clock.now() - start) / MINUTE, len(cluster.waiting)
    used = sum(cluster.slot_ms.values())
    whole = sum(team.weight for team in cluster.teams.values())
    kind = "own slots by weight" if quotas else "no slots of their own"
    print(f"\n{jobs:,} jobs, five teams, {kind}: all backlogged for {minutes:,.0f} minutes, {left:,} jobs then left")
    print(f"slots in use {used / (64 * minutes * MINUTE):.1%}\n")
    print("| team | weight | due | had | off by |\n|---|---:|---:|---:|---:|")
    for name, team in cluster.teams.items():
        due, had = team.weight / whole, cluster.slot_ms[name] / used
        print(f"| {name} | {team.weight} | {due:.2%} | {had:.2%} | {had / due - 1:+.2%} |")
    cluster.run(cluster.idle)
    report(cluster, perf_counter() - began)


def report(cluster: Cluster, seconds: float) -> None:
    """What became of all jobs."""
    waits = [(work.begun_at or 0) - work.submitted_at for work in cluster.works.values()]
    times = sorted(cluster.decisions)
    print(f"\nfinished {cluster.finished:,} of {len(cluster.works):,}; never started {sum(w < 0 for w in waits)}")
    print(f"longest time as the first in line {cluster.longest_first_ms / MINUTE:.1f} minutes")
    most = max(cluster.preempted.values(), default=0)
    print(f"preemptions {sum(cluster.preempted.values())}, of one job at most {most}; none in return")
    print(f"decisions {len(times):,}: median {median(times) * 1e3:.1f} ms, worst {times[-1] * 1e3:.1f} ms of CPU")
    print(f"simulated in {seconds:.0f} s")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--decisions", action="store_true", help="only the time of a decision")
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--quotas", action="store_true", help="only the cluster whose teams have slots of their own")
    chosen = parser.parse_args()
    if not chosen.quotas:
        measure_decisions()
    if not chosen.decisions:
        for quotas in (True,) if chosen.quotas else (False, True):
            simulate(chosen.jobs, quotas)
