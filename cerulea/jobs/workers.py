"""Workers: programs that run jobs, how many slots they have, and when they were last heard of.

Not here: what a worker runs (`queue`), how it runs it (`compute`, `flows.agent`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cerulea.core.clock import Clock
from cerulea.store.database import Database, Tx

SILENT_MS = 15_000  # a worker that says nothing for this long gets nothing new; shorter than a lease


class Workers:
    """Workers in the database."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self.database, self.clock = database, clock

    def enlist(
        self, worker: str, *, name: str, slots: int, device: str, kinds: Sequence[str], tx: Tx | None = None
    ) -> None:
        """A worker says that it is there, now and every few seconds."""

        def work(tx: Tx) -> None:
            now = self.clock.now()
            seen = tx.run(
                "UPDATE worker SET seen_at = :now, "
                "status = CASE WHEN status = 'gone' THEN 'alive' ELSE status END WHERE id = :id",
                now=now,
                id=worker,
            )
            if not seen:
                tx.run(
                    "INSERT INTO worker (id, name, slots, device, kinds, status, seen_at, began_at) "
                    "VALUES (:id, :name, :slots, :device, :kinds, 'alive', :now, :now)",
                    id=worker,
                    name=name,
                    slots=slots,
                    device=device,
                    kinds=" ".join(kinds),
                    now=now,
                )

        self.database.within(tx, work)

    def mark(self, worker: str, status: str, *, tx: Tx | None = None) -> None:
        """Mark a worker draining (nothing new for it) or gone."""
        self.database.within(tx, lambda tx: tx.run("UPDATE worker SET status = :s WHERE id = :id", s=status, id=worker))

    def present(self) -> list[dict[str, Any]]:
        """Workers that are not gone, with what they have free."""
        with self.database.read() as tx:
            rows = tx.all(
                "SELECT w.*, "
                "w.slots - COALESCE((SELECT SUM(p.slots) FROM placement p WHERE p.worker = w.id), 0) AS free "
                "FROM worker w WHERE w.status <> 'gone' ORDER BY w.id"
            )
        return [dict(row._mapping) for row in rows]

    def beside(self, worker: str) -> list[tuple[str, str]]:
        """(id, name) of the workers that are not gone, but this one."""
        with self.database.read() as tx:
            rows = tx.all("SELECT id, name FROM worker WHERE status <> 'gone' AND id <> :id", id=worker)
        return [(row.id, row.name) for row in rows]

    def sweep(self) -> list[str]:
        """Mark those gone that fell silent; returns them. Their jobs come back when their leases run out."""

        def work(tx: Tx) -> list[str]:
            silent = tx.all(
                "SELECT id FROM worker WHERE status <> 'gone' AND (seen_at < :then OR seen_at > :far)",
                then=self.clock.now() - SILENT_MS,
                far=self.clock.now() + SILENT_MS,  # seen by a clock that has been set back since
            )
            for row in silent:
                tx.run("UPDATE worker SET status = 'gone' WHERE id = :id", id=row.id)
            return [row.id for row in silent]

        return self.database.write(work)
