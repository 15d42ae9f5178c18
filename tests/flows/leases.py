"""Many requests on one key, from several processes, of which one is killed: is any token written that is not paid?

    python benchmarks/leases.py --rounds 200 [--postgres]

Each round has a team of its own with a key, and money (or, every other round, a cap on the key) for exactly N tokens.
Sixty-four requests come at once to four processes, which call `open_bill`, `extend` and `settle` around a toy engine
that writes leased tokens only; some clients hang up. What the engine wrote lies in memory that outlives SIGKILL, so
that it can be compared with the books. At a random point of the work one process is killed. The money is 5 to 60 % of
what all want; every third round it is twice as much as they want, and nobody may be refused or cut.
"""

from __future__ import annotations

import asyncio
import json
import mmap
import multiprocessing
import os
import random
import sys
import tempfile
import traceback
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

from cerulea.core.clock import FakeClock, SystemClock
from cerulea.core.crew import Crew
from cerulea.core.errors import Refused
from cerulea.core.settings import Settings
from cerulea.core.values import Usage
from cerulea.flows.bill import LEASE_MS, Order, open_bill
from cerulea.flows.platform import Platform, open_platform
from cerulea.ledger.audit import audit
from cerulea.ledger.book import Ledger

REQUESTS, PROCESSES, PER_STEP = 64, 4, 3
PROMPT, WRITTEN = 100, 400  # nano-units for a token, as the house's prices say
FIRST, MORE = 16, 16  # tokens leased at first, and at a time
HANG_UP = 0.1  # share of clients that do not wait for the end
WAITS, RUNS, DONE, CUT, REFUSED, BROKEN = range(6)


@dataclass
class Report:
    """What all rounds came to; the first seven must be nothing."""

    overspent: int = 0  # nano-units written, or charged, beyond what there was money for
    unleased: int = 0  # tokens that were written without a lease
    differs: int = 0  # requests, teams and caps where usage, ledger and engine do not say the same
    open_after_sweep: int = 0
    refused_with_twice: int = 0  # or cut
    errors: int = 0
    problems: list[str] = field(default_factory=list)  # of the audit of all of it
    rounds: int = 0
    requests: int = 0
    finished: int = 0
    cut: int = 0
    refused: int = 0
    killed: int = 0  # requests that were running in a process when it was killed
    swept: int = 0  # holds
    tokens: int = 0
    lost: int = 0  # nano-units that were written and nobody pays
    charged: int = 0
    seconds: float = 0.0

    @property
    def wrong(self) -> list[object]:
        """What must be nothing, and is not."""
        return [value for value in list(asdict(self).values())[:7] if value]


class Slate:
    """What each request's engine wrote, and how it stands: memory that processes share and that outlives them."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            path.write_bytes(bytes(16 * REQUESTS))
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), 0)
        self.cells = memoryview(self._memory).cast("q")

    def write(self, number: int, tokens: int) -> None:
        self.cells[2 * number] += tokens

    def mark(self, number: int, state: int) -> None:
        self.cells[2 * number + 1] = state

    @property
    def written(self) -> list[int]:
        return [self.cells[2 * number] for number in range(REQUESTS)]

    @property
    def states(self) -> list[int]:
        return [self.cells[2 * number + 1] for number in range(REQUESTS)]

    def close(self) -> None:
        self.cells.release()
        self._memory.close()


def sizes(seed: int) -> list[tuple[int, int]]:
    """Tokens of each request's prompt, and those that it wants written."""
    draw = random.Random(seed)
    return [(draw.randint(1, 50), draw.randint(1, 200)) for _ in range(REQUESTS)]


def cost(prompt: int, written: int) -> int:
    return PROMPT * prompt + WRITTEN * written


def gateway(home: str, url: str, key: str, turn: int, number: int, slate: str, gate: Any) -> None:
    """One process: every PROCESSES-th request of the round."""
    with open_platform(Settings(home=Path(home), database_url=url)) as platform:
        board = Slate(Path(slate))
        asyncio.run(_all_of(platform, key, turn, range(number, REQUESTS, PROCESSES), board, Crew(16, "bill"), gate))
        board.close()


async def _all_of(platform: Platform, key: str, turn: int, mine: range, slate: Slate, crew: Crew, gate: Any) -> None:
    caller = platform.people.authenticate(key)
    wanted = sizes(turn)

    async def one(number: int) -> None:
        draw = random.Random(f"{turn}-{number}")
        prompt, tokens = wanted[number]
        hangs_up = draw.random() < HANG_UP
        try:
            order = Order(
                request_id=f"{turn}-{number}",
                model="toy",
                endpoint="completions",
                prompt_tokens=prompt,
                first_tokens=FIRST,
                most_tokens=tokens,
            )
            bill = await open_bill(platform, caller, order, crew=crew)
        except Refused:
            slate.mark(number, REFUSED)
            return
        slate.mark(number, RUNS)
        written, finish = 0, "stop"
        while written < tokens:
            if written == bill.leased and await bill.extend(MORE) == 0:
                finish = "length"
                break
            step = min(bill.leased - written, PER_STEP)
            slate.write(number, step)
            written += step
            if hangs_up and draw.random() < 0.2:
                finish = "abort"
                break
            await asyncio.sleep(0)
        usage = Usage(prompt_tokens=prompt, completion_tokens=written)
        for _ in range(draw.randint(1, 3)):  # whoever lost the answer asks again
            await bill.settle(usage, finish=finish)
        slate.mark(number, CUT if finish == "length" else DONE)

    gate.wait()
    for number, outcome in zip(mine, await asyncio.gather(*map(one, mine), return_exceptions=True), strict=True):
        if outcome is not None:
            slate.mark(number, BROKEN)
            traceback.print_exception(outcome, file=sys.stderr)


def play(home: Path, url: str, rounds: int, *, seed: int = 1) -> Report:
    """`rounds` rounds on a database with this version's tables."""
    began, draw, report = perf_counter(), random.Random(seed), Report()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.flows.leases"])
    with open_platform(Settings(home=home, database_url=url)) as platform:
        for turn in range(rounds):
            _play_one(context, platform, home, url, turn, draw, report)
        report.problems = audit(platform.database).problems
    report.rounds, report.seconds = rounds, perf_counter() - began
    return report


def _play_one(
    context: Any, platform: Platform, home: Path, url: str, turn: int, draw: random.Random, report: Report
) -> None:
    wanted, twice, capped = sizes(turn), turn % 3 == 2, turn % 2 == 1
    needed = sum(cost(*size) for size in wanted)
    money = 2 * needed if twice else cost(0, int(needed / WRITTEN * draw.uniform(0.05, 0.6)))
    key = _furnish(platform, f"team-{turn}", money, capped)
    slate = Slate(home / f"slate-{turn}")
    gate = context.Barrier(PROCESSES + 1)
    running = [
        context.Process(target=gateway, args=(str(home), url, key, turn, n, str(home / f"slate-{turn}"), gate))
        for n in range(PROCESSES)
    ]
    for process in running:
        process.start()
    gate.wait()
    victim, after = draw.choice(running), draw.uniform(0, 0.8) * money / WRITTEN / (2 if twice else 1)
    while sum(slate.written) < after and victim.is_alive():
        victim.join(0.001)
    victim.kill()
    for process in running:
        process.join()
        report.errors += process is not victim and process.exitcode != 0
        process.close()
    _wait_for_orphans(platform)
    later = Ledger(platform.database, FakeClock(SystemClock().now() + LEASE_MS))
    report.swept += len(later.expire())
    _examine(platform, f"team-{turn}", turn, money, twice, capped, key, slate, report)
    slate.close()
    (home / f"slate-{turn}").unlink()


def _furnish(platform: Platform, team: str, money: int, capped: bool) -> str:
    """A team with so much money, or with ten times as much and a key that may spend so much; the key."""
    held = 10 * money if capped else money
    platform.ledger.create_fund(team)
    platform.people.create_team(team, fund=team, actor="owner")
    platform.ledger.open_purse(team, team)
    platform.ledger.grant(team, held, key=f"{team}-grant", actor="owner")
    platform.ledger.draw(team, team, held, key=f"{team}-draw", actor="owner")
    platform.people.create_person(f"{team}-dev", team=team, role="developer", actor="owner")
    text, made = platform.people.create_key(f"{team}-dev", team=team, name="test", actor="owner")
    if capped:
        platform.ledger.set_cap("key", made.prefix, "total", money, actor="owner")
    return text


def _examine(
    platform: Platform, team: str, turn: int, money: int, twice: bool, capped: bool, key: str, slate: Slate, report: Any
) -> None:
    wanted, written, states = sizes(turn), slate.written, slate.states
    with platform.database.read() as tx:
        usage = {row.request_id: row for row in tx.all("SELECT * FROM request_usage WHERE team = :team", team=team)}
        leased: dict[str, int] = {}
        for row in tx.all(
            "SELECT t.request, t.amount FROM transfer t JOIN account a ON a.id = t.debit "
            "WHERE a.team = :team AND t.kind IN ('pending', 'extend')",
            team=team,
        ):
            leased[row.request] = leased.get(row.request, 0) + row.amount
        window = tx.one(
            "SELECT dr_posted, dr_pending FROM account WHERE code = :code", code=f"cap:key:{key[3:11]}:total:all"
        )
    (part,) = platform.ledger.statement(team).teams
    charged = sum(row.charged for row in usage.values())
    begun = [n for n in range(REQUESTS) if f"{turn}-{n}" in leased]
    report.overspent += max(0, sum(cost(wanted[n][0], written[n]) for n in begun) - money) + max(0, charged - money)
    report.differs += (charged != part.settled) + (charged != part.inference)
    if capped and window is not None:
        report.differs += (window.dr_posted, window.dr_pending) != (charged, 0)
    report.open_after_sweep += part.held + len(platform.ledger.holds(team))
    for number, state in enumerate(states):
        name, row = f"{turn}-{number}", usage.get(f"{turn}-{number}")
        prompt, _ = wanted[number]
        paid_for = (leased.get(name, 0) - cost(prompt, 0)) // WRITTEN
        report.unleased += max(0, written[number] - max(paid_for, 0))
        if row is not None:
            report.differs += row.completion_tokens != written[number]
            report.differs += (row.charged, row.absorbed) != (cost(prompt, written[number]), 0)
        else:
            report.differs += state in (DONE, CUT)
            report.killed += name in leased
            report.lost += cost(prompt, written[number]) if name in leased else 0
        report.refused_with_twice += twice and state in (CUT, REFUSED)
        report.errors += state == BROKEN
        report.finished, report.cut = report.finished + (state == DONE), report.cut + (state == CUT)
        report.refused += state == REFUSED
    report.requests += REQUESTS
    report.tokens += sum(written)
    report.charged += charged


def _wait_for_orphans(platform: Platform) -> None:
    """On PostgreSQL what a killed process had sent may still be at work for a moment."""
    active = "SELECT COUNT(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    while platform.database.dialect == "postgresql":
        with platform.database.read() as tx:
            if tx.value(f"{active} AND state <> 'idle'") == 0:
                return


def run(rounds: int, *, postgres: bool, seed: int = 1) -> Report:
    """The same on a new database."""
    from tests.databases import Databases

    with tempfile.TemporaryDirectory(dir=os.environ.get("BENCH_FOLDER")) as folder:
        databases = Databases(Path(folder))
        try:
            return play(Path(folder), databases.make("postgresql" if postgres else "sqlite").url, rounds, seed=seed)
        finally:
            databases.drop_all()


def as_text(report: Report) -> str:
    """One line for each figure."""
    return "\n".join(f"{name:20} {json.dumps(value)}" for name, value in asdict(report).items())
