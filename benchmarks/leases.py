"""Leases of requests to models: is anything wrong when processes die, and what does metering add to a request?

    python benchmarks/leases.py --rounds 200              # SQLite, full sync
    CERULEA_TEST_POSTGRES=postgresql://... python benchmarks/leases.py --rounds 40 --postgres
    python benchmarks/leases.py --rounds 0                # times alone

The rounds are those of tests/flows/leases.py. The times are of one platform in this process: open and settle one after
the other by one client (quiet), and by 16 and 64 at once through a crew of as many threads (what a busy gateway sees).
"""

from __future__ import annotations

import argparse
import asyncio
import os
import secrets
import sys
import tempfile
from pathlib import Path
from statistics import median
from time import perf_counter

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # where `tests` is, also for the processes
os.environ["PYTHONPATH"] = os.pathsep.join([sys.path[0], os.environ.get("PYTHONPATH", "")])

from cerulea.core.crew import Crew
from cerulea.core.settings import Settings
from cerulea.core.values import Usage
from cerulea.flows.bill import Order, open_bill
from cerulea.flows.platform import Platform, open_platform
from tests.databases import Databases
from tests.flows.leases import as_text, run

SPENT = Usage(prompt_tokens=20, completion_tokens=60)


async def requests(platform: Platform, clients: int, each: int) -> tuple[list[float], list[float], float]:
    """Seconds of every open and every settle, and of all together, of so many clients at once."""
    opens, settles, caller = [], [], platform.people.caller()
    crew = Crew(clients, "bill")

    async def client() -> None:
        for _ in range(each):
            began = perf_counter()
            order = Order(
                request_id=secrets.token_hex(8),
                model="brook",
                endpoint="completions",
                prompt_tokens=20,
                first_tokens=64,
                most_tokens=64,
            )
            bill = await open_bill(platform, caller, order, crew=crew)
            opens.append(perf_counter() - began)
            began = perf_counter()
            await bill.settle(SPENT, finish="stop")
            settles.append(perf_counter() - began)

    began = perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    spent = perf_counter() - began
    await crew.close()
    return opens, settles, spent


def synced_ms(folder: Path) -> float:
    """What the disk takes to have 4 KiB for good, at this time: a request cannot be faster than two of these."""
    times = []
    with (folder / "sync").open("wb", buffering=0) as file:
        for _ in range(100):
            began = perf_counter()
            file.seek(0)
            file.write(bytes(4096))
            os.fsync(file.fileno())
            times.append(1000 * (perf_counter() - began))
    return median(times)


def measure(platform: Platform, folder: Path) -> None:
    """The table."""
    print("| clients | open ms, median | p95 | settle ms, median | p95 | open + settle ms | requests per s |")
    print("|---:|---:|---:|---:|---:|---:|---:|")
    asyncio.run(requests(platform, 1, 50))
    before = synced_ms(folder)
    for clients, each in ((1, 400), (16, 100), (64, 50)):
        opens, settles, seconds = asyncio.run(requests(platform, clients, each))
        both = [1000 * (o + s) for o, s in zip(opens, settles, strict=True)]
        cells = []
        for times in (opens, settles):
            ordered = sorted(1000 * t for t in times)
            cells += [f"{median(ordered):.2f}", f"{ordered[int(0.95 * len(ordered))]:.2f}"]
        print(f"| {clients} | {' | '.join(cells)} | {median(both):.2f} | {len(opens) / seconds:,.0f} |")
    print(f"4 KiB written and synced: {before:.2f} ms before, {synced_ms(folder):.2f} ms after")


def main() -> None:
    """The times, then the rounds; exit code 1 where anything is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--postgres", action="store_true")
    words = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=os.environ.get("BENCH_FOLDER")) as folder:
        databases = Databases(Path(folder))
        try:
            url = databases.make("postgresql" if words.postgres else "sqlite").url
            with open_platform(Settings(home=Path(folder) / "home", database_url=url)) as platform:
                measure(platform, Path(folder))
        finally:
            databases.drop_all()
    if words.rounds:
        report = run(words.rounds, postgres=words.postgres, seed=words.seed)
        print(as_text(report))
        sys.exit(bool(report.wrong))


if __name__ == "__main__":
    main()
