"""Seals: from time to time the rows written since the last one are bound by a hash, so that no later edit goes unseen.

In:      a Database, a Clock.
Out:     Seal rows; the hash of a row, for `audit`.
Kept:    every row up to a seal's last one was complete when it was sealed, none comes in between later. A seal's root
         covers its rows and the root before it. Its leaves, eight hex digits for each number of a row, say which row
         an edit was in. Rows are not chained one by one: that would make all writers wait for one another.
Not here: comparing (`audit`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

from sqlalchemy.exc import OperationalError

from cerulea.core.clock import Clock
from cerulea.ledger.entries import COLUMNS
from cerulea.store.database import Database, Tx

ROWS = 20_000  # that one seal binds at most
PATIENCE_MS = 200  # how long running writers are waited for; well below PostgreSQL's search for deadlocks
LOCK_NOT_AVAILABLE = "55P03"
LEAF = 8  # hex digits of a row's hash that a seal keeps
GAP = "-" * LEAF  # a number that no row has: its writer took it and failed
ROW = f"seq, {COLUMNS}"
_as_json = json.JSONEncoder(ensure_ascii=True, separators=(",", ":")).encode


def row_digest(row: Any) -> str:
    """Hex sha256 of a transfer as `ROW` selects it: the same on both engines."""
    return hashlib.sha256(_as_json(tuple(row)).encode()).hexdigest()


class Sealing:
    """The root and the leaves of one seal, row by row."""

    def __init__(self, from_seq: int, previous: str) -> None:
        self.rows, self._next, self._leaves = 0, from_seq, list[str]()
        self._hash = hashlib.sha256(previous.encode())

    def add(self, seq: int, digest: str) -> None:
        """Take in the next row."""
        self._leaves.extend([GAP] * (seq - self._next))
        self._leaves.append(digest[:LEAF])
        self._hash.update(digest.encode())
        self._next, self.rows = seq + 1, self.rows + 1

    def root(self) -> str:
        """Hex sha256 over the previous root and every row's digest."""
        return self._hash.hexdigest()

    def leaves(self) -> str:
        """Eight hex digits for each number from the first on."""
        return "".join(self._leaves)


def seal(database: Database, clock: Clock) -> int:
    """Bind every row that is complete by now; how many seals it took.

    On PostgreSQL writers are waited for and held up for a moment only, while the last number is read: after it, every
    smaller number is written or will never be. Where they do not come to an end within PATIENCE_MS nothing is sealed
    this time; they may be waiting for somebody who waits for us.
    """
    try:
        last = database.write(_last_complete)
    except OperationalError as error:
        if getattr(error.orig, "sqlstate", None) != LOCK_NOT_AVAILABLE:
            raise
        return 0
    made = 0
    while database.write(_next_seal(last, clock.now())):
        made += 1
    return made


def _last_complete(tx: Tx) -> int:
    if tx.dialect == "postgresql":
        tx.run(f"SET LOCAL lock_timeout = {PATIENCE_MS}")
        tx.run("LOCK TABLE transfer IN SHARE MODE")
    return int(tx.value("SELECT COALESCE(MAX(seq), 0) FROM transfer"))


def _next_seal(last: int, at: int) -> Callable[[Tx], bool]:
    """Write the next seal; False where nothing is left to bind."""

    def work(tx: Tx) -> bool:
        before = tx.one("SELECT to_seq, root FROM seal ORDER BY seq DESC LIMIT 1")
        from_seq, previous = (1, "") if before is None else (before.to_seq + 1, before.root)
        sealing, to_seq = Sealing(from_seq, previous), 0
        rows = tx.all(
            f"SELECT {ROW} FROM transfer WHERE seq >= :from_seq AND seq <= :last ORDER BY seq LIMIT :rows",
            from_seq=from_seq,
            last=last,
            rows=ROWS,
        )
        for row in rows:
            sealing.add(row.seq, row_digest(row))
            to_seq = row.seq
        if not rows:
            return False
        tx.run(
            "INSERT INTO seal (from_seq, to_seq, rows, leaves, root, previous, at) "
            "VALUES (:from_seq, :to_seq, :rows, :leaves, :root, :previous, :at)",
            from_seq=from_seq,
            to_seq=to_seq,
            rows=sealing.rows,
            leaves=sealing.leaves(),
            root=sealing.root(),
            previous=previous,
            at=at,
        )
        return True

    return work
