"""A platform on each engine, and callers of every role."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from cerulea.api.app import create_app
from cerulea.flows.platform import Platform
from cerulea.store.database import Database
from tests.databases import Databases
from tests.serving import Asker, platform_in


@pytest.fixture
def both(database: Database, tmp_path: Path) -> Iterator[Platform]:
    """A platform, once on SQLite and once on PostgreSQL."""
    with platform_in(tmp_path / "home", database.engine.url.render_as_string(hide_password=False)) as opened:
        yield opened


@pytest.fixture
def platform(databases: Databases, tmp_path: Path) -> Iterator[Platform]:
    """A platform on SQLite, where one engine is enough."""
    database = databases.make("sqlite")
    with platform_in(tmp_path / "home", database.url) as opened:
        yield opened
    databases.drop(database)


@pytest.fixture
def ask(platform: Platform) -> Asker:
    """Whoever sits at the machine: the owner, without a key."""
    return owner_of(platform)


@pytest.fixture
def ask_both(both: Platform) -> Asker:
    return owner_of(both)


def owner_of(platform: Platform) -> Asker:
    app = create_app(platform, trusted=platform.people.caller())
    return Asker(TestClient(app, raise_server_exceptions=False))
