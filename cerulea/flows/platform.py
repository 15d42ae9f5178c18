"""An open platform: the handles that every story of the institution needs, and nothing else.

In:      Settings.
Out:     a Platform whose database has this version's tables, and in which a person can work at once: team `home`
         with an uncapped fund of the same name.
Not here: what is done with it (the other files of `flows`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from cerulea.core.clock import Clock, SystemClock
from cerulea.core.settings import Settings
from cerulea.flows.model_folders import adopt_models
from cerulea.jobs.journal import Journal
from cerulea.jobs.queue import Queue
from cerulea.jobs.workers import Workers
from cerulea.ledger.book import Ledger
from cerulea.ledger.prices import PriceList
from cerulea.people import People
from cerulea.registry import Registry
from cerulea.store.blobs import Blobs
from cerulea.store.database import Database
from cerulea.store.schema import upgrade

HOME = "home"  # the team and the fund of a one-person install


@dataclass(frozen=True, slots=True)
class Platform:
    """Open handles."""

    settings: Settings
    clock: Clock
    database: Database
    ledger: Ledger
    prices: PriceList
    queue: Queue
    workers: Workers
    registry: Registry
    people: People
    blobs: Blobs
    journal: Journal


@contextmanager
def open_platform(settings: Settings, clock: Clock | None = None) -> Iterator[Platform]:
    """Open the platform that the settings name, and close it at the end.

    Raises:
        DatabaseNewer: a newer Cerulea wrote it.
        Unreachable: its database server does not answer.
    """
    clock = clock or SystemClock()
    # Nobody else's to read: the books, the secret that attempts' tokens are made from, texts that were trained on.
    settings.home.mkdir(mode=0o700, parents=True, exist_ok=True)
    database = Database(settings.database)
    telemetry = database
    try:
        upgrade(database)
        if settings.telemetry != settings.database:
            telemetry = Database(settings.telemetry, durable=False)
        platform = Platform(
            settings,
            clock,
            database,
            Ledger(database, clock),
            PriceList(database),
            Queue(database, clock),
            Workers(database, clock),
            Registry(database, clock),
            People(database, clock),
            Blobs(settings.blobs),
            Journal(telemetry),
        )
        _furnish(platform)
        adopt_models(platform, team=HOME, actor="owner")
        yield platform
    finally:
        if telemetry is not database:
            telemetry.close()
        database.close()


def _furnish(platform: Platform) -> None:
    """What a fresh platform begins with; nothing where it is there."""
    own = platform.settings.home / "prices.toml"
    platform.prices.load(own if own.exists() else None)
    with platform.database.read() as tx:
        if tx.one("SELECT name FROM team WHERE name = :home", home=HOME) is not None:
            return
    platform.people.ensure_owner()
    platform.ledger.create_fund(HOME, limited=False, actor="owner")
    platform.ledger.open_purse(HOME, HOME)
