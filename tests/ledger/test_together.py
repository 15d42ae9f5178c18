"""Many at once: threads and processes that want the same money."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
from collections.abc import Callable

import pytest

from cerulea.core.clock import FakeClock, SystemClock
from cerulea.core.errors import CapReached, FundTooLow, HoldClosed
from cerulea.ledger.audit import audit
from cerulea.ledger.book import Ledger
from cerulea.ledger.seals import seal
from cerulea.store.database import Database
from tests.ledger.conftest import furnished

THREADS = 16


def at_once(work: Callable[[int], object], threads: int = THREADS) -> list[object]:
    """What each thread's work gave, an exception among it as itself."""
    results: list[object] = [None] * threads
    gate = threading.Barrier(threads)

    def run(number: int) -> None:
        gate.wait()
        try:
            results[number] = work(number)
        except Exception as error:
            results[number] = error

    running = [threading.Thread(target=run, args=(number,)) for number in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    return results


@pytest.fixture
def short(database: Database, clock: FakeClock) -> Ledger:
    """A fund of 100 nano-units, of which the team has drawn 100."""
    book = Ledger(database, clock)
    book.create_fund("lab")
    book.open_purse("lab", "text")
    book.open_purse("lab", "games")
    book.grant("lab", 200, key="grant", actor="ada")
    book.draw("lab", "text", 100, key="draw", actor="ada")
    return book


@pytest.mark.parametrize("verb", ["draw", "hold"])
def test_exactly_what_is_there_is_given_out(short: Ledger, verb: str):
    """20 times as many want it; 100 get it, the others hear that there is none."""

    def work(number: int) -> tuple[int, int]:
        granted = refused = 0
        for i in range(200 // THREADS):
            try:
                if verb == "draw":
                    short.draw("lab", "games", 1, key=f"{number}-{i}", actor="ada")
                else:
                    short.hold("lab", "text", 1, key=f"{number}-{i}")
                granted += 1
            except FundTooLow:
                refused += 1
        return granted, refused

    results = at_once(work)

    assert not [result for result in results if isinstance(result, Exception)]
    assert sum(granted for granted, _ in results) == 100
    assert audit(short.database).problems == []


def test_exactly_what_a_cap_leaves_is_given_out(short: Ledger):
    """The cap fits 30 of 96; its window is opened by all of them at once."""
    short.set_cap("key", "ck_1", "month", 30, actor="ada")

    def work(number: int) -> int:
        granted = 0
        for i in range(6):
            try:
                short.hold("lab", "text", 1, key=f"{number}-{i}", api_key="ck_1")
                granted += 1
            except CapReached:
                pass
        return granted

    assert sum(at_once(work)) == 30
    assert audit(short.database).problems == []


def test_one_key_from_all_sides_moves_money_once(short: Ledger):
    results = at_once(lambda number: short.hold("lab", "text", 7, key="h"))
    assert {(hold.key, hold.amount) for hold in results} == {("h", 7)}

    results = at_once(lambda number: short.settle("h", 3, key="p"))
    assert len({transfer.seq for transfer in results}) == 1
    assert short.available("lab", "text") == 97


def test_a_hold_ends_once_whoever_ends_it(short: Ledger, clock: FakeClock):
    """Settling, voiding, the sweep and extensions race for six holds, again and again."""
    for turn in range(8):
        keys = [f"h{turn}-{i}" for i in range(6)]
        for key in keys:
            short.hold("lab", "text", 2, key=key, expires_ms=1)
        clock.advance(1)

        def work(number: int, keys: list[str] = keys) -> list[str]:
            won = []
            for key in random.Random(number).sample(keys, len(keys)):
                try:
                    if number % 4 == 0:
                        won.append(short.settle(key, 1, key=f"p{key}-{number}") and key)
                    elif number % 4 == 1:
                        won.append(short.void(key, key=f"v{key}-{number}") and key)
                    elif number % 4 == 2:
                        won += short.expire()
                    else:
                        short.extend(key, 1, key=f"e{key}-{number}")
                        short.extend(key, 1, key=f"f{key}-{number}")
                except (HoldClosed, FundTooLow):
                    continue
            return won

        results = at_once(work, 10)

        assert not [result for result in results if isinstance(result, Exception)]
        assert sorted(key for won in results for key in won) == sorted(keys)
        assert short.holds("lab") == []
    assert audit(short.database).problems == []


def test_money_that_goes_both_ways_locks_nobody_in(short: Ledger):
    """Draws and returns between the same two accounts, with seals in between."""

    def work(number: int) -> None:
        for i in range(10):
            try:
                if number == 0:
                    seal(short.database, SystemClock())
                elif number % 2:
                    short.draw("lab", "text", 5, key=f"d{number}-{i}", actor="ada")
                else:
                    short.give_back("lab", "text", 5, key=f"b{number}-{i}", actor="ada")
            except FundTooLow:
                continue

    assert at_once(work) == [None] * THREADS
    assert short.available("lab") + short.available("lab", "text") == 200
    seal(short.database, SystemClock())
    found = audit(short.database)
    assert found.problems == [] and found.sealed == found.transfers


PROCESS = """
import json, sys
from cerulea.core.clock import SystemClock
from cerulea.core.errors import FundTooLow
from cerulea.ledger.book import Ledger
from cerulea.store.database import Database
book, granted = Ledger(Database(sys.argv[1]), SystemClock()), 0
print("ready", flush=True)
sys.stdin.readline()
for i in range(60):
    try:
        book.hold("lab", "text", 1_000_000_000, key=f"{sys.argv[2]}-{i}")
        granted += 1
    except FundTooLow:
        pass
print(granted)
"""


def test_processes_share_one_account(database: Database, clock: FakeClock):
    """Four of them want 240.00 of 40.00: 40 holds of 1.00, no error."""
    book = furnished(database, clock)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    words = [sys.executable, "-W", "ignore", "-c", PROCESS, database.url]
    running = [subprocess.Popen([*words, str(number)], **pipes) for number in range(4)]
    for process in running:
        assert process.stdout.readline() == "ready\n"
    for process in running:
        process.stdin.write("go\n")
        process.stdin.flush()
    results = [process.communicate(timeout=300) for process in running]

    assert [error for _, error in results] == [""] * 4
    assert sum(int(granted) for granted, _ in results) == 40
    assert book.available("lab", "text") == 0
    assert audit(database).problems == []
