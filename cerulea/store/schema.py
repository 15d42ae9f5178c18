"""Bring a database to this version's tables, forward only.

In:      an open Database.
Kept:    a database written by a newer version is refused, never touched.
Not here: the tables themselves (`migrations/versions`, in the order of their numbers).
"""

from __future__ import annotations

from pathlib import Path

import sqlalchemy

from cerulea.core.errors import DatabaseNewer
from cerulea.store.database import Database

MIGRATIONS = Path(__file__).parent / "migrations"
VERSIONS = sorted(path.stem.split("_")[0] for path in (MIGRATIONS / "versions").glob("[0-9]*.py"))


def upgrade(database: Database, to: str = VERSIONS[-1]) -> None:
    """Run what migrations are missing up to version `to`.

    Raises:
        DatabaseNewer: the database has a version that this program does not know.
    """
    found = version_of(database)
    if found == to:
        return
    if found and found not in VERSIONS:
        raise DatabaseNewer(
            f"The database is of version {found}; this Cerulea knows up to {VERSIONS[-1]}.",
            why="An older program could damage what a newer one wrote.",
            fix="Install the newer Cerulea again, or choose another --home or CERULEA_DATABASE_URL.",
        )
    # Alembic is imported where it has work to do: half a second that most commands are spared.
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    with database.engine.connect() as connection:
        _lock(connection, database.dialect)
        if version_of(database) != to or database.dialect == "postgresql":
            config.attributes["connection"] = connection
            command.upgrade(config, to)
        _commit(connection, database.dialect)


def version_of(database: Database) -> str:
    """The version that the database was brought to, or nothing where it is empty."""
    if not sqlalchemy.inspect(database.engine).has_table("alembic_version"):
        return ""
    with database.read() as tx:
        return str(tx.value("SELECT version_num FROM alembic_version") or "")


def _lock(connection: sqlalchemy.Connection, dialect: str) -> None:
    """Two programs that start at once must not both migrate."""
    if dialect == "sqlite":
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    else:
        connection.exec_driver_sql("SELECT pg_advisory_xact_lock(7203)")


def _commit(connection: sqlalchemy.Connection, dialect: str) -> None:
    if dialect == "sqlite":
        connection.exec_driver_sql("COMMIT")
    else:
        connection.commit()
