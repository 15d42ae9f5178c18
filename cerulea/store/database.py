"""One database behind two verbs: read() and write(). SQLite or PostgreSQL, the same SQL.

In:      a URL; SQL with :name parameters.
Out:     rows; the value of a function that ran in a transaction which is on disk.
Kept:    a `write` that returned is durable; one that raised left nothing. `work` may run more than once and
         therefore touches nothing but its transaction.
SQLite:  whoever leads writes for all who wait: up to BATCH functions in one transaction, each in a savepoint of
         its own, one fsync for all of them (group commit). `durable=False` waits for no fsync: all programs see what
         was written, no death of a program loses it, and a power cut loses it with all after it, or not at all.
PostgreSQL: one transaction each, READ COMMITTED, tried again when another one was in the way.
Not here: tables (`migrations`), what the rows mean (`ledger`, `jobs`, `registry`, `people`).
"""

from __future__ import annotations

import re
import threading
import time
from collections import deque, namedtuple
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, Generic, TypeVar

import sqlalchemy
from sqlalchemy import event
from sqlalchemy.exc import DBAPIError, DisconnectionError, IntegrityError, OperationalError

from cerulea.core.errors import FileTrouble, Invalid, Unreachable

T = TypeVar("T")
BATCH = 64  # functions of one group commit
WRITER_CACHE_KB = 512  # of a file that the system caches too; 64 MB would be a process that grows for hours
BUSY_MS = 60_000  # how long another process's transaction is waited for
IDLE_S = 1.0  # after which a connection to PostgreSQL is asked whether it still stands
TRIES = 8  # of a PostgreSQL transaction that met another one
RETRIED = {"40001", "40P01", "23505"}  # serialization failure, deadlock, unique key taken meanwhile


class Tx:
    """A transaction: statements with :name parameters.

    They go to the driver itself: SQLAlchemy's layer above it costs more than SQLite needs for the statement.
    """

    def __init__(self, connection: sqlalchemy.Connection, dialect: str) -> None:
        self._driver: Any = connection.connection.driver_connection
        self._dialect = connection.dialect
        self.dialect = dialect

    @property
    def is_open(self) -> bool:
        """Whether SQLite is within a transaction; it ends one itself where the disk is full."""
        return bool(self._driver.in_transaction)

    @property
    def for_update(self) -> str:
        """Ends a SELECT that locks the rows it reads; SQLite has one writer and needs none."""
        return " FOR UPDATE" if self.dialect == "postgresql" else ""

    def run(self, sql: str, **values: Any) -> int:
        """Execute; the number of rows it touched."""
        return int(self._execute(sql, values).rowcount)

    def one(self, sql: str, **values: Any) -> Any | None:
        """The first row, with its columns as attributes, or None."""
        cursor = self._execute(sql, values)
        found = cursor.fetchone()
        row = None if found is None else _row_of(cursor)(*found)
        cursor.close()
        return row

    def all(self, sql: str, **values: Any) -> Sequence[Any]:
        """All rows."""
        cursor = self._execute(sql, values)
        row = _row_of(cursor)
        return [row(*found) for found in cursor.fetchall()]

    def value(self, sql: str, **values: Any) -> Any:
        """The first column of the first row, or None."""
        cursor = self._execute(sql, values)
        found = cursor.fetchone()
        cursor.close()
        return None if found is None else found[0]

    def stream(self, sql: str, **values: Any) -> Iterator[Any]:
        """Rows one after the other, without holding all of them in memory."""
        with self._named():
            if self.dialect == "postgresql":
                cursor = self._driver.cursor("stream")
                cursor.itersize = 10_000
                cursor.execute(_spelled(sql, self.dialect), values)
            else:
                cursor = self._driver.execute(sql, values)
            row = _row_of(cursor)
            try:
                for found in cursor:
                    yield row(*found)
            finally:
                cursor.close()

    def many(self, sql: str, rows: Sequence[dict[str, Any]]) -> None:
        """Execute once for each row of values."""
        if rows:
            with self._named():
                self._driver.cursor().executemany(_spelled(sql, self.dialect), list(rows))

    def _execute(self, sql: str, values: dict[str, Any]) -> Any:
        try:
            return self._driver.execute(_spelled(sql, self.dialect), values)
        except self._dialect.loaded_dbapi.Error as error:
            raise self._as_ours(error, sql, values) from error

    @contextmanager
    def _named(self) -> Iterator[None]:
        """The driver's errors as SQLAlchemy's, which are named alike for both engines."""
        try:
            yield
        except self._dialect.loaded_dbapi.Error as error:
            raise self._as_ours(error, "", {}) from error

    def _as_ours(self, error: Exception, sql: str, values: dict[str, Any]) -> BaseException:
        base = self._dialect.loaded_dbapi.Error
        return DBAPIError.instance(sql, values, error, base, hide_parameters=True, dialect=self._dialect)


def _row_of(cursor: Any) -> type[Any]:
    """A tuple with the statement's columns as attributes, and as a dict in `_mapping`."""
    return _row_class(tuple(column[0] for column in cursor.description))


@lru_cache(maxsize=1024)
def _row_class(names: tuple[str, ...]) -> type[Any]:
    base = namedtuple("Row", names, rename=True)  # type: ignore[misc]
    return type("Row", (base,), {"__slots__": (), "_mapping": property(lambda row: dict(zip(names, row, strict=True)))})


@lru_cache(maxsize=1024)
def _spelled(sql: str, dialect: str) -> str:
    """The statement in the driver's own style of parameters."""
    if dialect == "sqlite":
        return sql
    return re.sub(r"'[^']*'|(?<!:):([a-z_]+)", _placeholder, sql.replace("%", "%%"))


def _placeholder(found: re.Match[str]) -> str:
    """`:name` as psycopg writes it; what stands in quotes stays as it is."""
    return f"%({found[1]})s" if found[1] else found[0]


class _Pending(Generic[T]):
    """A function that waits to be written, and what became of it."""

    __slots__ = ("called", "done", "durable", "error", "leads", "result", "work")

    def __init__(self, work: Callable[[Tx], T], durable: bool) -> None:
        self.work, self.durable = work, durable
        self.called = threading.Lock()  # held until its thread is called: it is done, or it is to write
        self.called.acquire()
        self.leads = False
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
        self._queue = threading.Lock()  # guards who waits and who leads; held for a moment only
        self._led = False
        self._durable = self._syncs = durable  # what is promised, and what the next commit of the writer does
        self._pen = threading.Lock()  # held while a batch is written
        self._writer: sqlalchemy.Connection | None = None
        if self.dialect == "sqlite":
            if address.database and address.database != ":memory:":
                Path(address.database).parent.mkdir(parents=True, exist_ok=True)
            self.engine = sqlalchemy.create_engine(
                address, pool_size=48, max_overflow=16, pool_use_lifo=True, connect_args={"check_same_thread": False}
            )
            event.listen(self.engine, "connect", _tune_sqlite(durable))
        elif self.dialect == "postgresql":
            self.engine = sqlalchemy.create_engine(
                address.set(drivername="postgresql+psycopg"), pool_size=16, max_overflow=32, pool_use_lifo=True
            )
            _ping_after_idling(self.engine)
            self._each_alone = self.engine.execution_options(isolation_level="AUTOCOMMIT")
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
                tx = Tx(connection, self.dialect)
                tx.run("BEGIN")
                try:
                    yield tx
                finally:
                    tx.run("ROLLBACK")
            return
        options = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
        with self.engine.connect().execution_options(**options) as connection:
            yield Tx(connection, self.dialect)

    def write(self, work: Callable[[Tx], T], *, durable: bool = True) -> T:
        """Run `work` in a transaction and commit it; its result is durable when this returns.

        Args:
            durable: False for what nobody misses after a power cut of this machine; on PostgreSQL it changes nothing.
        """
        if self.dialect == "postgresql":
            return self._write_alone(work)
        pending = _Pending(work, durable)
        with self._queue:
            self._waiting.append(pending)
            if not self._led:
                self._led = pending.leads = True
        try:
            if not pending.leads:
                pending.called.acquire()
        except BaseException:  # interrupted while it waited: it must not be called to lead later
            with self._queue:
                if pending in self._waiting:
                    self._waiting.remove(pending)
            if pending.leads:
                self._hand_over()
            raise
        if pending.leads:
            self._lead()
        if not pending.done:
            raise Unreachable("The write was interrupted before it began; nothing of it is there.", fix="Try again.")
        if pending.error is not None:
            raise _plainly(pending.error, self.engine.url)
        return pending.result  # type: ignore[return-value]

    def write_at_once(self, sql: str, **values: Any) -> Any | None:
        """Run one statement that is a transaction of its own, durable when this returns; its first row or None.

        On PostgreSQL the rows it locks are locked while the server works, not while messages travel.
        """
        if self.dialect == "sqlite":
            return self.write(lambda tx: tx.one(sql, **values))
        for attempt in range(TRIES):
            try:
                with self._each_alone.connect() as connection:
                    return Tx(connection, self.dialect).one(sql, **values)
            except DBAPIError as error:
                if getattr(error.orig, "sqlstate", None) not in RETRIED or attempt == TRIES - 1:
                    raise
        raise AssertionError("unreachable")

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

    def _lead(self) -> None:
        """Write one batch, its own thread's work first, and let the next one lead before the others are called."""
        with self._queue:
            batch = [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))]
        try:
            with self._pen:
                self._write_batch(batch)
        finally:
            self._hand_over()
            for pending in batch[1:]:
                pending.called.release()

    def _hand_over(self) -> None:
        """Who waits longest leads next; those who come back meanwhile fill the batch after that."""
        with self._queue:
            self._led = bool(self._waiting)
            if self._led:
                self._waiting[0].leads = True
                self._waiting[0].called.release()

    def _write_batch(self, batch: list[_Pending[Any]]) -> None:
        """Run all of a batch and commit once. The pen is held."""
        try:
            if self._writer is None:
                self._writer, self._syncs = self._open_writer(), self._durable
            tx = Tx(self._writer, self.dialect)
            self._sync(tx, any(pending.durable for pending in batch))
            tx.run("BEGIN IMMEDIATE")
            try:
                for pending in batch:
                    _run_in_savepoint(tx, pending)
                tx.run("COMMIT")
            except BaseException:
                if tx.is_open:
                    tx.run("ROLLBACK")
                raise
        except BaseException as error:
            # Nothing of the batch is on disk: everyone in it is told, unless already refused by a rule.
            others = (
                error
                if isinstance(error, Exception)
                else Unreachable("The write was interrupted; nothing of it is there.")
            )
            for pending in batch:
                pending.error = pending.error or others
            if not isinstance(error, Exception):
                raise
        finally:
            for pending in batch:
                pending.done = True

    def _open_writer(self) -> sqlalchemy.Connection:
        """The connection that writes. What it read stays in its own cache for as long as nobody else writes."""
        writer = self.engine.connect()
        if self.dialect == "sqlite":
            writer.exec_driver_sql(f"PRAGMA cache_size = -{WRITER_CACHE_KB}")
        return writer

    def _sync(self, tx: Tx, durable: bool) -> None:
        """Whether the next commit waits for the disk."""
        if self._durable and durable != self._syncs:
            tx.run(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            self._syncs = durable


def _run_in_savepoint(tx: Tx, pending: _Pending[Any]) -> None:
    tx.run("SAVEPOINT one")
    try:
        pending.result = pending.work(tx)
    except Exception as error:
        pending.error = error
        # A full disk ends the whole transaction, and the savepoint with it: then nobody's work stands.
        if not tx.is_open:
            raise
        tx.run("ROLLBACK TO one")
    tx.run("RELEASE one")


def _ping_after_idling(engine: sqlalchemy.Engine) -> None:
    """Ask a connection that nobody used for a while whether its server is still there, and connect anew if not.

    A question each time would cost as much as a short statement.
    """

    def used(connection: Any, record: Any) -> None:
        record.info["used"] = time.monotonic()

    def ask(connection: Any, record: Any, proxy: Any) -> None:
        now = time.monotonic()
        if now - record.info.get("used", now) < IDLE_S:
            return
        try:
            engine.dialect.do_ping(connection)
        except engine.dialect.loaded_dbapi.Error as error:
            raise DisconnectionError from error

    event.listen(engine, "checkin", used)
    event.listen(engine, "checkout", ask)


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


def _plainly(error: BaseException, address: sqlalchemy.URL) -> BaseException:
    """What SQLite says of the disk as an error of ours; any other error as it is."""
    if not isinstance(error, OperationalError) or address.get_backend_name() != "sqlite":
        return error
    if "locked" in str(error.orig):
        return Unreachable(f"The database {address.database} is held by another program.", fix="Try again in a moment.")
    trouble = FileTrouble(
        f"The database {address.database} cannot be written: {error.orig}.",
        why="Nothing of this write is there; what was written before it is whole.",
        fix="Check the free space and the permissions, then do it again.",
    )
    trouble.__cause__ = error
    return trouble


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
