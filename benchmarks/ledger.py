"""How many draws and holds one account takes per second, and how long an audit is.

Everybody asks one account at once, and it can cover half of what is asked for: this is the worst case, for every
request waits for the same row. Counted are wrong answers (overspent, refused although there was money, unexpected
errors), which must be none, and time. Each figure is the median of --rounds.

    python benchmarks/ledger.py                      # SQLite, full sync
    CERULEA_TEST_POSTGRES=postgresql://... python benchmarks/ledger.py --postgres
    python benchmarks/ledger.py --audit 1000000      # an audit of so many transfers, after sealing them
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import secrets
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter

import sqlalchemy

from cerulea.core.clock import SystemClock
from cerulea.core.errors import FundTooLow
from cerulea.ledger.audit import audit
from cerulea.ledger.book import Ledger
from cerulea.ledger.entries import COLUMNS, terms
from cerulea.ledger.seals import seal
from cerulea.store.database import Database, Tx
from cerulea.store.schema import upgrade

UNIT = 1_000_000  # of each request


@dataclass
class Outcome:
    """What a rush came to."""

    granted: int
    refused: int
    errors: list[str]
    seconds: float
    waits: list[float]  # of each request, seconds


@contextmanager
def fresh(postgres: bool) -> Iterator[str]:
    """The URL of a database with this version's tables and nothing in them."""
    if not postgres:
        with tempfile.TemporaryDirectory(dir=os.environ.get("BENCH_FOLDER")) as folder:
            url = f"sqlite:///{Path(folder) / 'bench.db'}"
            database = Database(url)
            upgrade(database)
            database.close()
            yield url
        return
    server = sqlalchemy.make_url(os.environ["CERULEA_TEST_POSTGRES"])
    name = f"bench_{secrets.token_hex(6)}"
    engine = sqlalchemy.create_engine(
        server.set(drivername="postgresql+psycopg"), isolation_level="AUTOCOMMIT", poolclass=sqlalchemy.NullPool
    )
    with engine.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    try:
        url = server.set(database=name).render_as_string(hide_password=False)
        database = Database(url)
        upgrade(database)
        database.close()
        yield url
    finally:
        with engine.connect() as connection:
            connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")


def furnish(url: str, verb: str, covered: int) -> None:
    """One fund and one team; the account that `verb` takes from covers `covered` requests."""
    database = Database(url)
    book = Ledger(database, SystemClock())
    book.create_fund("lab")
    book.open_purse("lab", "text")
    book.grant("lab", covered * UNIT, key="grant", actor="bench")
    if verb == "hold":
        book.draw("lab", "text", covered * UNIT, key="draw", actor="bench")
    database.close()


def rush(url: str, verb: str, requests: int, threads: int, start: threading.Event | None = None) -> Outcome:
    """`requests` requests from `threads` threads of this process, all for one account."""
    database = Database(url)
    book = Ledger(database, SystemClock())
    book.available("lab", "text")
    outcome = Outcome(0, 0, [], 0.0, [])
    lock, gate = threading.Lock(), threading.Barrier(threads + 1)
    mark = secrets.token_hex(4)

    def ask(thread: int) -> None:
        granted = refused = 0
        errors, waits = [], []
        gate.wait()
        for i in range(thread, requests, threads):
            key, began = f"{mark}-{i}", perf_counter()
            try:
                if verb == "hold":
                    book.hold("lab", "text", UNIT, key=key, request=key)
                else:
                    book.draw("lab", "text", UNIT, key=key, actor="bench")
                granted += 1
            except FundTooLow:
                refused += 1
            except Exception as error:  # every other answer is one too many, and is shown
                errors.append(f"{type(error).__name__}: {str(error)[:200]}")
            waits.append(perf_counter() - began)
        with lock:
            outcome.granted += granted
            outcome.refused += refused
            outcome.errors += errors
            outcome.waits += waits

    workers = [threading.Thread(target=ask, args=(thread,)) for thread in range(threads)]
    for worker in workers:
        worker.start()
    if start is not None:
        start.wait()
    gate.wait()
    began = perf_counter()
    for worker in workers:
        worker.join()
    outcome.seconds = perf_counter() - began
    database.close()
    return outcome


def _rush_of_one(url: str, verb: str, requests: int, threads: int, gate: object, answers: object) -> None:
    answers.put(rush(url, verb, requests, threads, gate))


def rush_of_many(url: str, verb: str, requests: int, threads: int, processes: int) -> Outcome:
    """The same from several processes at once."""
    if processes == 1:
        return rush(url, verb, requests, threads)
    context = multiprocessing.get_context("spawn")
    gate, answers = context.Event(), context.Queue()
    running = [
        context.Process(
            target=_rush_of_one, args=(url, verb, requests // processes, threads // processes, gate, answers)
        )
        for _ in range(processes)
    ]
    for process in running:
        process.start()
    threading.Event().wait(4.0)  # all of them have imported and opened what they need
    began = perf_counter()
    gate.set()
    outcomes = [answers.get() for _ in running]
    seconds = perf_counter() - began
    for process in running:
        process.join()
    return Outcome(
        sum(outcome.granted for outcome in outcomes),
        sum(outcome.refused for outcome in outcomes),
        [error for outcome in outcomes for error in outcome.errors],
        seconds,
        [wait for outcome in outcomes for wait in outcome.waits],
    )


def measure(postgres: bool, verb: str, requests: int, threads: int, processes: int, rounds: int) -> str:
    """One line of the table."""
    rates, tails, wrong, errors = [], [], [0, 0], []
    for _ in range(rounds):
        with fresh(postgres) as url:
            furnish(url, verb, requests // 2)
            outcome = rush_of_many(url, verb, requests, threads, processes)
            rates.append(requests / outcome.seconds)
            waits = sorted(outcome.waits)
            tails.append(waits[int(len(waits) * 0.99)] * 1000)
            wrong[0] += max(outcome.granted - requests // 2, 0)
            wrong[1] += max(requests // 2 - outcome.granted, 0)
            errors += outcome.errors
    engine = "PostgreSQL" if postgres else "SQLite, full sync"
    for error in errors[:3]:
        print("  ", error)
    return (
        f"| {engine} | {verb} | {processes} × {threads // processes} | {median(rates):,.0f} | "
        f"{min(rates):,.0f}–{max(rates):,.0f} | {median(tails):.0f} | {wrong[0]} | {wrong[1]} | {len(errors)} |"
    )


def write_books(url: str, transfers: int) -> None:
    """Holds and their settlements, two rows each, written in bulk as the ledger would have written them."""
    furnish(url, "hold", transfers)
    database = Database(url)
    holds = (transfers - 2) // 2
    row = "INSERT INTO transfer ({}) VALUES ({})".format(COLUMNS, ", ".join(f":{name}" for name in COLUMNS.split(", ")))

    def rows(first: int, last: int, team: int, platform: int, start: int) -> Iterator[dict[str, object]]:
        for i in range(first, last):
            key, seq = f"job-{i // 10}/1/{i}/hold", start + 2 * (i - first)
            held = terms("hold", debit="team:text/lab", credit="platform:compute", amount=UNIT, job=f"job-{i // 10}")
            shared = {"debit": team, "credit": platform, "group_key": None, "expires_at": None, "reason": ""}
            shared |= {
                "job": f"job-{i // 10}",
                "request": None,
                "actor": "bench",
                "detail": "",
                "at": 1_800_000_000_000 + i,
            }
            yield shared | {"key": key, "kind": "pending", "pending_seq": None, "amount": UNIT, "asked": held}
            post = terms("post", hold=key, amount=UNIT // 2)
            yield shared | {
                "key": f"{key}/post",
                "kind": "post",
                "pending_seq": seq,
                "amount": UNIT // 2,
                "asked": post,
            }

    def work(first: int, last: int) -> None:
        def write(tx: Tx) -> None:
            team = tx.value("SELECT id FROM account WHERE code = 'team:text/lab'")
            platform = tx.value("SELECT id FROM account WHERE code = 'platform:compute'")
            start = tx.value("SELECT MAX(seq) FROM transfer") + 1
            tx.many(row, list(rows(first, last, team, platform, start)))
            tx.run("UPDATE account SET dr_posted = :spent WHERE id = :team", spent=last * (UNIT // 2), team=team)

        database.write(write)

    for first in range(0, holds, 20_000):
        work(first, min(first + 20_000, holds))
    database.close()


def measure_audit(postgres: bool, transfers: int, rounds: int) -> str:
    """One line of the second table: sealing everything, then auditing it."""
    with fresh(postgres) as url:
        write_books(url, transfers)
        database = Database(url)
        began = perf_counter()
        seals = seal(database, SystemClock())
        sealing = perf_counter() - began
        times = []
        for _ in range(rounds):
            began = perf_counter()
            found = audit(database)
            times.append(perf_counter() - began)
            assert found.balanced, found.problems
        database.close()
    engine = "PostgreSQL" if postgres else "SQLite"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return f"| {engine} | {found.transfers:,} | {seals} | {sealing:.1f} | {median(times):.1f} | {peak:,.0f} |"


def main() -> None:
    """Print the table that was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--postgres", action="store_true", help="on the server at CERULEA_TEST_POSTGRES")
    parser.add_argument("--requests", type=int, default=4096)
    parser.add_argument("--threads", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--audit", type=int, metavar="TRANSFERS", help="audit so many transfers instead")
    words = parser.parse_args()
    if words.audit:
        print("| engine | transfers | seals | sealing, s | audit, s | peak memory of the process, MiB |")
        print("|---|---:|---:|---:|---:|---:|")
        print(measure_audit(words.postgres, words.audit, words.rounds))
        return
    print("| engine | verb | processes × threads | per s | range | p99 ms | overspent | refused falsely | errors |")
    print("|---|---|---|---:|---:|---:|---:|---:|---:|")
    for processes in (1, 4):
        for verb in ("draw", "hold"):
            print(measure(words.postgres, verb, words.requests, words.threads, processes, words.rounds), flush=True)


if __name__ == "__main__":
    main()
