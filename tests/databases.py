"""Databases for tests: empty ones with this version's tables, on SQLite and on PostgreSQL.

In:      CERULEA_TEST_POSTGRES, the URL of a server where databases may be made (`eval "$(.ci/postgres start)"`).
Out:     the fixture `database`, which runs a test once on each engine; `databases`, which makes as many as are asked
         for; `sqlite_database`, where one engine is enough. Where the variable is not set, a test that needs
         PostgreSQL is skipped and says so.
Kept:    each test has databases of its own, closed and removed behind it. The tables are made once for each engine and
         process, then copied.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy

from cerulea.store.database import Database
from cerulea.store.schema import VERSIONS, upgrade

ENGINES = ("sqlite", "postgresql")
POSTGRES = os.environ.get("CERULEA_TEST_POSTGRES", "")
NO_POSTGRES = 'CERULEA_TEST_POSTGRES is not set: eval "$(.ci/postgres start)" starts a server for tests'

needs_postgres = pytest.mark.skipif(not POSTGRES, reason=NO_POSTGRES)


class Databases:
    """Makes databases that hold this version's tables and nothing else, and removes them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._templates: dict[str, str] = {}
        self._made: list[tuple[Database, str]] = []

    def make(self, engine: str = "sqlite", *, durable: bool = True, version: str = VERSIONS[-1]) -> Database:
        """A new database, of an earlier version where one is named; skips the test where the engine is not there."""
        if engine == "postgresql" and not POSTGRES:
            pytest.skip(NO_POSTGRES)
        kind = f"{engine} {version}"
        if kind not in self._templates:
            self._templates[kind] = self._template(engine, version)
        name = f"test_{secrets.token_hex(6)}"
        if engine == "sqlite":
            shutil.copyfile(self._templates[kind], self._folder / f"{name}.db")
            url = f"sqlite:///{self._folder / name}.db"
        else:
            _administer(f"CREATE DATABASE {name} TEMPLATE {self._templates[kind]}")
            url = _url_of(name)
        database = Database(url, durable=durable)
        self._made.append((database, name))
        return database

    def drop(self, database: Database) -> None:
        """Close and remove one."""
        ((database, name),) = [made for made in self._made if made[0] is database]
        self._made.remove((database, name))
        database.close()
        if database.dialect == "sqlite":
            for path in self._folder.glob(f"{name}.db*"):
                path.unlink()
        else:
            _administer(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    def drop_all(self) -> None:
        """Close and remove all of them, and what they were copied from."""
        for database, _ in list(self._made):
            self.drop(database)
        for kind, name in self._templates.items():
            if kind.startswith("postgresql"):
                _administer(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    def _template(self, engine: str, version: str) -> str:
        name = f"test_template_{secrets.token_hex(6)}"
        if engine == "postgresql":
            _administer(f"CREATE DATABASE {name}")
        path = self._folder / f"{name}.db"
        database = Database(_url_of(name) if engine == "postgresql" else f"sqlite:///{path}")
        upgrade(database, version)
        database.close()  # the last connection to leave writes SQLite's journal into the file
        return name if engine == "postgresql" else str(path)


def _url_of(name: str) -> str:
    return sqlalchemy.make_url(POSTGRES).set(database=name).render_as_string(hide_password=False)


def _administer(statement: str) -> None:
    address = sqlalchemy.make_url(POSTGRES).set(drivername="postgresql+psycopg")
    engine = sqlalchemy.create_engine(address, isolation_level="AUTOCOMMIT", poolclass=sqlalchemy.NullPool)
    with engine.connect() as connection:
        connection.exec_driver_sql(statement)
    engine.dispose()


@pytest.fixture(scope="session")
def databases(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Databases]:
    made = Databases(tmp_path_factory.mktemp("databases"))
    yield made
    made.drop_all()


@pytest.fixture(params=ENGINES)
def database(request: pytest.FixtureRequest, databases: Databases) -> Iterator[Database]:
    made = databases.make(request.param)
    yield made
    databases.drop(made)


@pytest.fixture
def sqlite_database(databases: Databases) -> Iterator[Database]:
    made = databases.make("sqlite")
    yield made
    databases.drop(made)
