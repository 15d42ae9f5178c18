"""How long reads of the API take with 100,000 jobs and 1,000,000 transfers in the database.

A database is filled, a server of its own is started on a loopback port, and one client asks each route REQUESTS times
over a line that is kept open, all routes in turn, so that a slow minute is everybody's. Nothing is timed cold.

    python benchmarks/api.py                      SQLite in a temporary folder
    python benchmarks/api.py --database postgresql://user@host/name      an empty database
    python benchmarks/api.py --json out.json
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from itertools import pairwise
from pathlib import Path
from statistics import quantiles
from time import perf_counter

import httpx

from cerulea.core.clock import DAY_MS
from cerulea.core.settings import Settings
from cerulea.flows.platform import Platform, open_platform
from cerulea.store.database import Tx
from cerulea.train.recipe import recipe_from

JOBS = 100_000
PAIRS = 5  # a hold and its settling, for each job
TEAMS = [f"team-{n}" for n in range(5)]
FUND = "lab"
REQUESTS = 300
OPEN = ("QUEUED", "STARTING", "RUNNING", "STOPPING", "PAUSED")
PIECE = 20_000
JOB = f"""
INSERT INTO job (id, kind, name, recipe, recipe_digest, team, fund, person, status, reason, priority, usage, charged,
  run, token, attempt, submitted_at, queued_at, started_at)
VALUES (:id, 'text', 'brook', :recipe, 'd', :team, '{FUND}', 'owner', :status, :reason, :priority, :usage, 5000000,
  :id, :token, 1, :at, :at, :at)"""
EVENT = """
INSERT INTO job_event (job, attempt, before, after, reason, actor, at)
VALUES (:job, 1, :before, :after, '', 'bench', :at)"""
ATTEMPT = """
INSERT INTO job_attempt (job, attempt, worker, slots, outcome, began_at, ended_at)
VALUES (:job, 1, 'w', '{}', 'done', :at, :at)"""
TRANSFER = """
INSERT INTO transfer (seq, key, kind, pending_seq, debit, credit, amount, asked, job, actor, at)
VALUES (:seq, :key, :kind, :follows, :debit, :credit, :amount, '', :job, 'bench', :at)"""
SERVER = """
import json, sys, uvicorn
from pathlib import Path
from cerulea.api.app import create_app
from cerulea.core.settings import Settings
from cerulea.flows.platform import open_platform
given = json.loads(sys.argv[1])
with open_platform(Settings(home=Path(given["home"]), database_url=given["database"])) as platform:
    print(platform.people.create_key("owner", team="home", name="bench", actor="owner")[0], flush=True)
    uvicorn.run(create_app(platform), port=given["port"], log_level="warning", access_log=False)
"""


def fill(platform: Platform, jobs: int) -> None:
    """Jobs of five teams with their events, tries and transfers; a tenth of them waits, five run."""
    now, draw = platform.clock.now(), random.Random(1)
    platform.ledger.create_fund(FUND, actor="bench")
    platform.ledger.grant(FUND, 10**18, key="grant", actor="bench")
    for team in TEAMS:
        platform.people.create_team(team, fund=FUND, actor="bench")
        platform.ledger.open_purse(FUND, team)
        platform.ledger.draw(FUND, team, 10**17, key=f"draw-{team}", actor="bench")
    recipe = json.dumps(recipe_from({"name": "brook", "train": {"steps": 60}}).as_json())
    with platform.database.read() as tx:
        ids = {row.code: row.id for row in tx.all("SELECT code, id FROM account")}
        first = int(tx.value("SELECT max(seq) FROM transfer")) + 1
    for start in range(0, jobs, PIECE):
        some = range(start, min(start + PIECE, jobs))

        def work(tx: Tx, some: range = some) -> None:
            rows, events, tries, moves = [], [], [], []
            for n in some:
                team = TEAMS[n % len(TEAMS)]
                waits, runs = n >= jobs - jobs // 10, jobs - jobs // 10 - 5 <= n < jobs - jobs // 10
                ended = draw.choice(["SUCCEEDED"] * 8 + ["FAILED", "CANCELLED"])
                status = "QUEUED" if waits else "RUNNING" if runs else ended
                at = now - 60 * DAY_MS + n * 50_000
                rows.append({"id": f"job-{n:012x}", "team": team, "recipe": recipe, "status": status, "at": at,
                             "token": "t" * 32 if runs else None, "usage": json.dumps({"device_ms": 60_000}),
                             "priority": draw.randrange(3), "reason": "turn" if waits else ""})  # fmt: skip
                if waits:
                    continue
                path = ("", "QUEUED", "STARTING", "RUNNING", status)
                for before, after in pairwise(path):
                    events.append({"job": f"job-{n:012x}", "before": before, "after": after, "at": at})
                tries.append({"job": f"job-{n:012x}", "at": at})
            for n in some:
                for pair in range(PAIRS):
                    seq, at = first + (n * PAIRS + pair) * 2, now - 60 * DAY_MS + n * 50_000
                    same = {"debit": ids[f"team:{TEAMS[n % len(TEAMS)]}/{FUND}"], "credit": ids["platform:compute"],
                            "job": f"job-{n:012x}", "at": at, "amount": 1_000_000}  # fmt: skip
                    moves.append({"seq": seq, "key": f"{n}/{pair}/hold", "kind": "pending", "follows": None, **same})
                    moves.append({"seq": seq + 1, "key": f"{n}/{pair}/post", "kind": "post", "follows": seq, **same})
            tx.many(JOB, rows)
            tx.many(EVENT, events)
            tx.many(ATTEMPT, tries)
            tx.many(TRANSFER, moves)

        platform.database.write(work)
    each = jobs // len(TEAMS) * PAIRS * 1_000_000
    platform.database.write(
        lambda tx: tx.run(
            "UPDATE account SET dr_posted = dr_posted + :each WHERE kind = 'team' AND fund = :fund",
            each=each,
            fund=FUND,
        )
    )
    entries = [{"event": "progress", "step": n, "loss": 5 / (1 + n)} for n in range(20_000)]
    for begin in range(0, len(entries), 2_000):
        platform.journal.write(f"job-{0:012x}", 1, entries[begin : begin + 2_000], begin)
        platform.journal.write(f"job-{0:012x}", 1, [{"text": "a line of output"}] * 2_000, begin, stream="log")
    if platform.database.dialect == "postgresql":
        with platform.database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("ANALYZE")
    else:
        platform.database.write(lambda tx: tx.run("ANALYZE"))


def routes(jobs: int) -> dict[str, str]:
    """What is read, by a name for the table."""
    first, waiting = f"job-{0:012x}", f"job-{jobs - 1:012x}"
    return {
        "alive: no key, no database": "/healthz",
        "who am I": "/api/me",
        "jobs, newest 50": "/api/jobs",
        "jobs, a page in the middle": f"/api/jobs?before={jobs // 2}",
        "jobs of a team": f"/api/jobs?team={TEAMS[2]}",
        "jobs that succeeded": "/api/jobs?status=SUCCEEDED",
        "jobs that are open": "/api/jobs?" + "&".join(f"status={status}" for status in OPEN),
        "one job": f"/api/jobs/{first}",
        "one waiting job, its place": f"/api/jobs/{waiting}",
        "its events": f"/api/jobs/{first}/events",
        "its log, last 100": f"/api/jobs/{first}/logs?tail=100",
        "its curve, 500 buckets": f"/api/jobs/{first}/metrics?name=loss&points=500",
        "funds": "/api/funds",
        "statement": f"/api/funds/{FUND}/statement",
        "forecast": f"/api/funds/{FUND}/forecast",
        "draw requests": "/api/draws",
        "prices": "/api/prices",
        "models": "/api/models",
        "workers": "/api/workers",
        "the log of deeds": "/api/audit",
        "no such job": "/api/jobs/job-none",
    }  # fmt: skip


def cpu_s(pid: int) -> float:
    """Seconds of processor time that a process has taken: what a busy machine lengthens least."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def measure(url: str, key: str, pid: int, jobs: int, requests: int) -> dict[str, dict[str, float]]:
    """Milliseconds of each route: p50, p99 and the slowest, and of the server's processor for one request."""
    found: dict[str, list[float]] = {name: [] for name in routes(jobs)}
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=60, trust_env=False) as http:
        for turn in range(requests + 20):
            for name, path in routes(jobs).items():
                begin = perf_counter()
                answer = http.get(path)
                took = 1000 * (perf_counter() - begin)
                assert answer.status_code == (404 if name == "no such job" else 200), answer.text
                if turn >= 20:
                    found[name].append(took)
        spent = {}
        for name, path in routes(jobs).items():
            before = cpu_s(pid)
            for _ in range(requests):
                http.get(path)
            spent[name] = 1000 * (cpu_s(pid) - before) / requests
    return {
        name: {"p50": quantiles(ms, n=100)[49], "p99": quantiles(ms, n=100)[98], "max": max(ms), "cpu": spent[name]}
        for name, ms in found.items()
    }


def main() -> None:
    """Fill, serve, measure, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--database", default="", help="an empty PostgreSQL database; SQLite by default")
    parser.add_argument("--jobs", type=int, default=JOBS)
    parser.add_argument("--requests", type=int, default=REQUESTS)
    parser.add_argument("--port", type=int, default=7790)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        begin = perf_counter()
        with open_platform(Settings(home=Path(home), database_url=given.database)) as platform:
            fill(platform, given.jobs)
        print(
            f"filled in {perf_counter() - begin:.0f} s: {given.jobs:,} jobs, {given.jobs * PAIRS * 2:,} transfers",
            flush=True,
        )
        first = json.dumps({"home": home, "database": given.database, "port": given.port})
        server = subprocess.Popen([sys.executable, "-c", SERVER, first], stdout=subprocess.PIPE, text=True)
        try:
            assert server.stdout is not None
            key, url = server.stdout.readline().strip(), f"http://127.0.0.1:{given.port}"
            wait_for(url)
            found = measure(url, key, server.pid, given.jobs, given.requests)
        finally:
            server.terminate()
            server.wait()
    print("| read | p50 ms | p99 ms | slowest ms | server's CPU ms |\n|---|---|---|---|---|")
    for name, ms in found.items():
        print(f"| {name} | {ms['p50']:.1f} | {ms['p99']:.1f} | {ms['max']:.1f} | {ms['cpu']:.1f} |")
    if given.json:
        given.json.write_text(json.dumps(found, indent=2))


def wait_for(url: str) -> None:
    """Return when the server answers."""
    transport = httpx.HTTPTransport(retries=20)
    with httpx.Client(transport=transport, timeout=60, trust_env=False) as http:
        http.get(f"{url}/healthz").raise_for_status()


if __name__ == "__main__":
    main()
