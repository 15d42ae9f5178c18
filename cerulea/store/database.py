"""One database behind two verbs: read() and write(). SQLite or PostgreSQL, the same SQL.

In:      a URL; SQL with :name parameters.
Out:     rows; the value of a function that ran in a transaction which is on disk.
Kept:    a `write` that returned is durable; one that raised left nothing. `work` may run more than once and
         therefore touches nothing but its transaction.
SQLite:  whoever holds the pen writes for all who wait: up to BATCH functions in one transaction, each in a
         savepoint of its own, one fsync for all of them (group commit).
PostgreSQL: one transaction each, READ COMMITTED, tried again when another one was in the way.
Not here: tables (`migrations`), what the rows mean (`ledger`, `jobs`, `registry`, `people`).
"""

from __future__ import annotations

import re
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, Generic, TypeVar

import sqlalchemy
from sqlalchemy import event
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError

from cerulea.core.errors import FileTrouble, Invalid, Unreachable

T = TypeVar("T")
BATCH = 64  # functions of one group commit
BUSY_MS = 60_000  # how long another process's transaction is waited for
TRIES = 8  # of a PostgreSQL transaction that met another one
RETRIED = {"40001", "40P01", "23505"}  # serialization failure, deadlock, unique key taken meanwhile


class Tx:
    """A transaction: statements with :name parameters."""

    def __init__(self, connection: sqlalchemy.Connection, dialect: str) -> None:
        self._connection, self.dialect = connection, dialect

    @property
    def for_update(self) -> str:
        """Ends a SELECT that locks the rows it reads; SQLite has one writer and needs none."""
        return " FOR UPDATE" if self.dialect == "postgresql" else ""

    def run(self, sql: str, **values: Any) -> int:
        """Execute; the number of rows it touched."""
        return int(self._execute(sql, values).rowcount)

    def one(self, sql: str, **values: Any) -> Any | None:
        """The first row, with its columns as attributes, or None."""
        return self._execute(sql, values).first()

    def all(self, sql: str, **values: Any) -> Sequence[Any]:
        """All rows."""
        return self._execute(sql, values).all()

    def value(self, sql: str, **values: Any) -> Any:
        """The first column of the first row, or None."""
        row = self.one(sql, **values)
        return None if row is None else row[0]

    def stream(self, sql: str, **values: Any) -> Iterator[Any]:
        """Rows one after the other, without holding all of them in memory."""
        if self.dialect == "postgresql":
            self._connection = self._connection.execution_options(stream_results=True, yield_per=10_000)
        yield from self._execute(sql, values)

    def many(self, sql: str, rows: Sequence[dict[str, Any]]) -> None:
        """Execute once for each row of values."""
        if rows:
            self._connection.exec_driver_sql(_spelled(sql, self.dialect), list(rows))

    def _execute(self, sql: str, values: dict[str, Any]) -> sqlalchemy.CursorResult[Any]:
        return self._connection.exec_driver_sql(_spelled(sql, self.dialect), values)


@lru_cache(maxsize=1024)
def _spelled(sql: str, dialect: str) -> str:
    """The statement in the driver's own style of parameters."""
    if dialect == "sqlite":
        return sql
    return re.sub(r"(?<!:):([a-z_]+)", r"%(\1)s", sql.replace("%", "%%"))


class _Pending(Generic[T]):
    """A function that waits to be written, and what became of it."""

    __slots__ = ("done", "error", "result", "work")

    def __init__(self, work: Callable[[Tx], T]) -> None:
        self.work = work
        self.done = False
        self.result: T | None = None
        self.error: BaseException | None = None


class Database:
    """An open database."""

    def __init__(self, url: str, *, durable: bool = True) -> None:
        """Connect to `url`, a sqlite: or postgresql: URL; a SQLite file and its folder are made where missing.

        Args:
            durable: a commit is on disk when it returns. Without it SQLite may lose the last seconds in a power
                cut, never in a crash of the program; for metrics and logs.

        Raises:
            Invalid: neither of the two.
            Unreachable: no such server, or it refuses.
        """
        self.url = url
        try:
            address = sqlalchemy.make_url(url)
        except sqlalchemy.exc.ArgumentError as error:
            raise _unknown_url(url) from error
        self.dialect = address.get_backend_name()
        self._waiting: deque[_Pending[Any]] = deque()
        self._pen = threading.Lock()
        self._writer: sqlalchemy.Connection | None = None
        if self.dialect == "sqlite":
            if address.database and address.database != ":memory:":
                Path(address.database).parent.mkdir(parents=True, exist_ok=True)
            self.engine = sqlalchemy.create_engine(
                address, pool_size=48, max_overflow=16, connect_args={"check_same_thread": False}
            )
            event.listen(self.engine, "connect", _tune_sqlite(durable))
        elif self.dialect == "postgresql":
            self.engine = sqlalchemy.create_engine(
                address.set(drivername="postgresql+psycopg"), pool_size=16, max_overflow=32, pool_pre_ping=True
            )
        else:
            raise _unknown_url(url)
        try:
            self.engine.connect().close()
        except OperationalError as error:
            raise _unopened(self.dialect, address, error) from error

    @contextmanager
    def read(self) -> Iterator[Tx]:
        """A transaction that reads one moment of the database and writes nothing."""
        if self.dialect == "sqlite":
            with self.engine.connect() as connection:
                connection.exec_driver_sql("BEGIN")
                try:
                    yield Tx(connection, self.dialect)
                finally:
                    connection.exec_driver_sql("ROLLBACK")
            return
        options = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
        with self.engine.connect().execution_options(**options) as connection:
            yield Tx(connection, self.dialect)

    def write(self, work: Callable[[Tx], T]) -> T:
        """Run `work` in a transaction and commit it; its result is durable when this returns."""
        if self.dialect == "postgresql":
            return self._write_alone(work)
        pending = _Pending(work)
        self._waiting.append(pending)
        with self._pen:
            while not pending.done:
                self._write_batch()
        if pending.error is not None:
            raise pending.error
        return pending.result  # type: ignore[return-value]

    def within(self, tx: Tx | None, work: Callable[[Tx], T]) -> T:
        """Run `work` in `tx` where there is one, so that two parts of the house commit together; else `write` it."""
        return self.write(work) if tx is None else work(tx)

    def close(self) -> None:
        """Close every connection."""
        with self._pen:
            if self._writer is not None:
                self._writer.close()
                self._writer = None
        self.engine.dispose()

    def _write_alone(self, work: Callable[[Tx], T]) -> T:
        for attempt in range(TRIES):
            try:
                with self.engine.begin() as connection:
                    return work(Tx(connection, self.dialect))
            except DBAPIError as error:
                if getattr(error.orig, "sqlstate", None) not in RETRIED or attempt == TRIES - 1:
                    raise
        raise AssertionError("unreachable")

    def _write_batch(self) -> None:
        """Take up to BATCH of those who wait, run them, commit once. The pen is held."""
        batch = [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))]
        try:
            if self._writer is None:
                self._writer = self.engine.connect()
            writer = self._writer
            writer.exec_driver_sql("BEGIN IMMEDIATE")
            try:
                for pending in batch:
                    _run_in_savepoint(writer, pending, Tx(writer, self.dialect))
                writer.exec_driver_sql("COMMIT")
            except BaseException:
                if writer.connection.driver_connection.in_transaction:  # type: ignore[union-attr]
                    writer.exec_driver_sql("ROLLBACK")
                raise
        except BaseException as error:
            # Nothing of the batch is on disk: everyone in it is told, unless already refused by a rule.
            for pending in batch:
                pending.error = pending.error or error
            if not isinstance(error, Exception):
                raise
        finally:
            for pending in batch:
                pending.done = True


def _run_in_savepoint(writer: sqlalchemy.Connection, pending: _Pending[Any], tx: Tx) -> None:
    writer.exec_driver_sql("SAVEPOINT one")
    try:
        pending.result = pending.work(tx)
    except Exception as error:
        pending.error = error
        # A full disk ends the whole transaction, and the savepoint with it: then nobody's work stands.
        if not writer.connection.driver_connection.in_transaction:  # type: ignore[union-attr]
            raise
        writer.exec_driver_sql("ROLLBACK TO one")
    writer.exec_driver_sql("RELEASE one")


def _tune_sqlite(durable: bool) -> Callable[[Any, Any], None]:
    def tune(connection: Any, record: Any) -> None:
        connection.isolation_level = None  # transactions begin where this module says so
        for pragma in (
            f"busy_timeout = {BUSY_MS}",
            "journal_mode = WAL",
            f"synchronous = {'FULL' if durable else 'NORMAL'}",
            "foreign_keys = ON",
            "cache_size = -65536",
            "temp_store = MEMORY",
        ):
            connection.execute(f"PRAGMA {pragma}")

    return tune


def _unknown_url(url: str) -> Invalid:
    return Invalid(
        f"{url.split('@')[-1][:80]!r} is no database of a kind that Cerulea uses.",
        why="It is a sqlite: or a postgresql: URL.",
        fix="Unset CERULEA_DATABASE_URL for a file, or set postgresql://user:password@host:5432/name.",
    )


def _unopened(dialect: str, address: sqlalchemy.URL, error: Exception) -> Exception:
    what = str(getattr(error, "orig", error)).strip().splitlines()[0]
    if dialect == "sqlite":
        return FileTrouble(
            f"The database {address.database} cannot be opened: {what}.",
            fix="Check the path, its permissions and the free space.",
        )
    return Unreachable(
        f"PostgreSQL at {address.host}:{address.port or 5432} does not answer: {what}.",
        fix="Check CERULEA_DATABASE_URL, and that the server runs.",
    )


__all__ = ["Database", "IntegrityError", "Tx"]
