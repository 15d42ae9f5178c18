"""Kill the process that keeps the books, again and again, while clients retry what they got no answer to.

    python -c "from tests.ledger.crash import main; main()" --rounds 200 [--postgres]

A child process opens the database and answers requests over a socket. Eight clients place holds and settle them, each
with keys of their own; a request without an answer is sent again until there is one. A round ends with SIGKILL at a
random moment. One hold in five is never settled by its client: the sweep has to give it back.

At the end: every acknowledged transfer is in the books (missing 0), moved what was asked for and only once (doubled 0),
one sweep leaves no hold open, and the audit balances.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import signal
import socket
import socketserver
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from cerulea.core.clock import FakeClock, SystemClock
from cerulea.ledger.audit import audit
from cerulea.ledger.book import Ledger
from cerulea.ledger.seals import seal
from cerulea.store.database import Database

CLIENTS = 8
DRAWN = 10**15
FORGOTTEN = 0.2  # share of holds that their client never settles


@dataclass
class Report:
    """What was found after the last round."""

    rounds: int
    acknowledged: int
    missing: int
    doubled: int
    open_after_sweep: int
    swept: int
    problems: list[str]
    errors: list[str]
    seconds: float


def serve(url: str, place: str) -> None:
    """The process that is killed."""
    database = Database(url)
    book = Ledger(database, SystemClock())

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            for line in self.rfile:
                asked = json.loads(line)
                verb = asked.pop("verb")
                answer = getattr(book, verb)(*asked.pop("args"), **asked)
                self.wfile.write(json.dumps({"key": answer.key, "amount": answer.amount}).encode() + b"\n")

    class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
        daemon_threads = True

    Server(place, Handler).serve_forever()


class Client(threading.Thread):
    """Places holds and settles them; sends again what was not answered."""

    def __init__(self, number: int, place: Path, over: threading.Event) -> None:
        super().__init__(daemon=True)
        self.number, self.place, self.over = number, place, over
        self.line: socket.socket | None = None
        self.acknowledged: dict[str, int] = {}
        self.errors: list[str] = []

    def run(self) -> None:
        draw = random.Random(self.number)
        n = 0
        while not self.over.is_set():
            n += 1
            key, amount = f"c{self.number}-{n}", draw.randint(1, 1000)
            if not self.ask(verb="hold", args=["lab", "text", amount], key=key, expires_ms=1, request=key):
                return
            if draw.random() < FORGOTTEN:
                continue
            if not self.ask(verb="settle", args=[key, amount // 2], key=f"{key}/post"):
                return

    def ask(self, **request: object) -> bool:
        """Send until there is an answer; False when all is over."""
        while not self.over.is_set():
            try:
                if self.line is None:
                    self.line = socket.socket(socket.AF_UNIX)
                    self.line.settimeout(20)
                    self.line.connect(str(self.place))
                self.line.sendall(json.dumps(request).encode() + b"\n")
                answer = b""
                while not answer.endswith(b"\n"):
                    piece = self.line.recv(4096)
                    if not piece:
                        raise ConnectionError
                    answer += piece
            except OSError:
                if self.line is not None:
                    self.line.close()
                self.line = None
                self.over.wait(0.002)
                continue
            found = json.loads(answer)
            if found["key"] != request["key"]:
                self.errors.append(f"asked {request}, got {found}")
            self.acknowledged[found["key"]] = found["amount"]
            return True
        return False


def crash(url: str, rounds: int, seed: int = 1) -> Report:
    """`rounds` rounds on an empty database with this version's tables."""
    began, draw = perf_counter(), random.Random(seed)
    database = Database(url)
    book = Ledger(database, SystemClock())
    book.create_fund("lab")
    book.open_purse("lab", "text")
    book.grant("lab", DRAWN, key="grant", actor="test")
    book.draw("lab", "text", DRAWN, key="draw", actor="test")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.ledger.crash"])
    over = threading.Event()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "books"
        clients = [Client(number, place, over) for number in range(CLIENTS)]
        for client in clients:
            client.start()
        for _ in range(rounds):
            keeper = context.Process(target=serve, args=(url, str(place)))
            keeper.start()
            while not place.exists():
                over.wait(0.001)
            over.wait(draw.uniform(0.0, 0.25))
            assert keeper.pid is not None
            os.kill(keeper.pid, signal.SIGKILL)
            keeper.join()
            keeper.close()
            place.unlink()
            if draw.random() < 0.1:
                seal(database, SystemClock())
        over.set()
        for client in clients:
            client.join()
            if client.line is not None:
                client.line.close()
    _wait_for_orphans(database)
    later = FakeClock(SystemClock().now() + 60_000)
    swept = len(Ledger(database, later).expire())
    with database.read() as tx:
        rows = tx.all("SELECT key, kind, amount FROM transfer")
        ended = tx.all("SELECT pending_seq FROM transfer WHERE kind IN ('post', 'void', 'expire')")
    found = {row.key: row.amount for row in rows}
    acknowledged = {key: amount for client in clients for key, amount in client.acknowledged.items()}
    settled = sum(row.amount for row in rows if row.kind == "post")
    doubled = len(rows) - len(found) + len(ended) - len({row.pending_seq for row in ended})
    if book.available("lab", "text") != DRAWN - settled:
        doubled += 1
    report = Report(
        rounds=rounds,
        acknowledged=len(acknowledged),
        missing=sum(found.get(key) != amount for key, amount in acknowledged.items()),
        doubled=doubled,
        open_after_sweep=len(book.holds("lab")),
        swept=swept,
        problems=audit(database).problems,
        errors=[error for client in clients for error in client.errors],
        seconds=perf_counter() - began,
    )
    database.close()
    return report


def _wait_for_orphans(database: Database) -> None:
    """On PostgreSQL what a killed process had sent may still be at work for a moment."""
    active = "SELECT COUNT(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    while database.dialect == "postgresql":
        with database.read() as tx:
            if tx.value(f"{active} AND state <> 'idle'") == 0:
                return


def main() -> None:
    from tests.databases import Databases

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--postgres", action="store_true")
    words = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        databases = Databases(Path(folder))
        try:
            print(crash(databases.make("postgresql" if words.postgres else "sqlite").url, words.rounds))
        finally:
            databases.drop_all()


if __name__ == "__main__":
    main()
