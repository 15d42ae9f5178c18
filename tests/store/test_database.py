"""read() and write() on both engines: what is durable, what a failure leaves, who waits for whom."""

from __future__ import annotations

import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy.exc import DBAPIError, IntegrityError

from cerulea.core.clock import FakeClock
from cerulea.core.errors import DatabaseNewer, Invalid, Unreachable
from cerulea.ledger.audit import audit
from cerulea.ledger.book import Ledger
from cerulea.people import People
from cerulea.store.database import Database
from cerulea.store.schema import VERSIONS, upgrade, version_of
from tests.databases import ENGINES


@pytest.fixture
def table(database: Database) -> Database:
    database.write(lambda tx: tx.run("CREATE TABLE note (name TEXT PRIMARY KEY, value BIGINT NOT NULL)"))
    return database


def add(database: Database, name: str, value: int = 0) -> None:
    database.write(lambda tx: tx.run("INSERT INTO note VALUES (:name, :value)", name=name, value=value))


def names(database: Database) -> list[str]:
    with database.read() as tx:
        return [row.name for row in tx.all("SELECT name FROM note ORDER BY name")]


def test_a_write_that_raises_leaves_nothing(table: Database):
    def work(tx):
        tx.run("INSERT INTO note VALUES ('a', 1)")
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        table.write(work)

    assert names(table) == []


def test_a_failure_in_a_group_is_nobody_elses(table: Database):
    """Thirty-two writers at once, a third of which fail: the others' rows are there."""
    failed = []

    def one(number: int) -> None:
        def work(tx):
            tx.run("INSERT INTO note VALUES (:name, 0)", name=f"n{number:02d}")
            if number % 3 == 0:
                raise ValueError(number)

        try:
            table.write(work)
        except ValueError:
            failed.append(number)

    threads = [threading.Thread(target=one, args=(i,)) for i in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(failed) == list(range(0, 32, 3))
    assert names(table) == [f"n{i:02d}" for i in range(32) if i % 3]


def test_a_key_that_is_taken_is_an_integrity_error(table: Database):
    add(table, "a")

    with pytest.raises(IntegrityError):
        add(table, "a")


def test_a_reader_sees_one_moment(table: Database):
    add(table, "a")
    with table.read() as tx:
        assert tx.value("SELECT COUNT(*) FROM note") == 1
        add(table, "b")

        assert tx.value("SELECT COUNT(*) FROM note") == 1
    assert names(table) == ["a", "b"]


def test_rows_have_their_columns_as_attributes(table: Database):
    add(table, "a", 7)

    with table.read() as tx:
        row = tx.one("SELECT name, value, 1 AS one FROM note WHERE name = :name", name="a")

    assert (row.name, row.value, row.one, dict(row._mapping)) == ("a", 7, 1, {"name": "a", "value": 7, "one": 1})


def test_many_rows_are_streamed(table: Database):
    table.write(
        lambda tx: tx.many(
            "INSERT INTO note VALUES (:name, :value)", [{"name": str(i), "value": i} for i in range(25_000)]
        )
    )

    with table.read() as tx:
        assert sum(row.value for row in tx.stream("SELECT value FROM note")) == sum(range(25_000))


COUNT_UP = """
import sys
from cerulea.store.database import Database
database = Database(sys.argv[1])
for _ in range(50):
    database.write(lambda tx: tx.run("UPDATE note SET value = value + 1 WHERE name = 'a'"))
"""
UPGRADE = """
import sys
from cerulea.store.database import Database
from cerulea.store.schema import upgrade
upgrade(Database(sys.argv[1]))
"""


def side_by_side(program: str, url: str, count: int) -> list[int]:
    """Exit codes of a program that runs several times at once."""
    processes = [subprocess.Popen([sys.executable, "-c", program, url]) for _ in range(count)]
    return [process.wait(timeout=120) for process in processes]


def test_four_processes_lose_no_write(table: Database):
    add(table, "a")

    assert side_by_side(COUNT_UP, table.url, 4) == [0] * 4

    with table.read() as tx:
        assert tx.value("SELECT value FROM note") == 200


def test_a_database_of_a_newer_version_is_refused_and_untouched(database: Database):
    database.write(lambda tx: tx.run("UPDATE alembic_version SET version_num = '9999'"))

    with pytest.raises(DatabaseNewer, match="9999"):
        upgrade(database)

    assert version_of(database) == "9999"


@pytest.mark.parametrize("start", ["", *VERSIONS])
def test_every_earlier_version_is_brought_to_this_one(databases, start: str, tmp_path: Path):
    """An empty database is the first of the earlier versions."""
    database = Database(f"sqlite:///{tmp_path / 'old.db'}")
    if start:
        upgrade(database, start)

    upgrade(database)
    upgrade(database)

    assert version_of(database) == VERSIONS[-1]
    database.close()


@pytest.mark.parametrize("engine", ENGINES)
def test_what_the_first_version_kept_is_there_after_the_upgrade(databases, engine: str, tmp_path: Path):
    """Money, a hold that is open, a person's key: readable, and the books balance."""
    database = databases.make(engine, version="0001")
    book = Ledger(database, FakeClock())
    book.create_fund("lab")
    book.open_purse("lab", "text")
    book.grant("lab", 100, key="grant", actor="ada")
    book.draw("lab", "text", 60, key="draw", actor="ada")
    book.hold("lab", "text", 50, key="h1", payee="inference")
    book.settle("h1", 20, key="p1")
    book.hold("lab", "text", 30, key="h2")
    database.write(lambda tx: tx.run("INSERT INTO team (name, fund, created_at) VALUES ('text', 'lab', 1)"))
    database.write(lambda tx: tx.run("INSERT INTO person VALUES ('ada', 1)"))
    database.write(
        lambda tx: tx.run(
            "INSERT INTO api_key (prefix, hash, name, person, team, scopes, created_at) "
            "VALUES ('aaaaaaaa', 'x', 'old', 'ada', 'text', '', 1)"
        )
    )

    upgrade(database)

    assert version_of(database) == VERSIONS[-1]
    (part,) = book.statement("lab").teams
    assert (part.settled, part.inference, part.held, part.available) == (20, 20, 30, 10)
    assert book.settle("h2", 30, key="p2").amount == 30
    assert audit(database).problems == []
    (key,) = People(database, FakeClock()).api_keys()
    assert (key.name, key.requests_per_minute) == ("old", None)
    databases.drop(database)


@pytest.mark.parametrize("verb", ["UPDATE request_usage SET charged = 0", "DELETE FROM request_usage"])
def test_what_a_request_used_is_written_once(database: Database, verb: str):
    columns = "request_id, begun_at, ended_at, team, fund, person, model, endpoint, prompt_tokens, cached_tokens"
    database.write(
        lambda tx: tx.run(
            f"INSERT INTO request_usage ({columns}, completion_tokens, charged, absorbed, finish) "
            "VALUES ('r', 1, 2, 't', 'f', 'p', 'm', 'e', 1, 0, 1, 5, 0, 'stop')"
        )
    )

    with pytest.raises(DBAPIError, match="append-only"):
        database.write(lambda tx: tx.run(verb))


def test_two_programs_that_start_at_once_migrate_once(tmp_path: Path):
    assert side_by_side(UPGRADE, f"sqlite:///{tmp_path / 'new.db'}", 3) == [0] * 3


@pytest.mark.parametrize("url", ["mysql://somewhere/x", "nonsense", "redis://x"])
def test_a_url_of_another_kind_is_refused(url: str):
    with pytest.raises(Invalid, match="database"):
        Database(url)


def test_a_postgresql_that_is_not_there_is_unreachable():
    with pytest.raises(Unreachable, match=r"127\.0\.0\.1:9"):
        Database("postgresql://x@127.0.0.1:9/x")


def test_a_password_is_not_repeated():
    with pytest.raises(Unreachable) as caught:
        Database("postgresql://x:secret@127.0.0.1:9/x")

    assert "secret" not in str(caught.value)


FULL = """
import resource, signal, sys
from cerulea.core.errors import FileTrouble
from cerulea.store.database import Database
database = Database(sys.argv[1])
database.write(lambda tx: tx.run("INSERT INTO note VALUES ('before', 1)"))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
try:
    for i in range(10_000):
        database.write(lambda tx: tx.run("INSERT INTO note VALUES (:name, 1)", name=f"{i}" + "x" * 1000))
except FileTrouble as error:
    print(i)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    database.write(lambda tx: tx.run("INSERT INTO note VALUES ('after', 1)"))
    sys.exit(0)
sys.exit("it was never full")
"""


def test_a_full_disk_is_a_coded_error_and_loses_nothing(databases):
    """A limit on the size of files stands for the disk; what was acknowledged is there, and more when there is room."""
    database = databases.make("sqlite")
    database.write(lambda tx: tx.run("CREATE TABLE note (name TEXT PRIMARY KEY, value BIGINT NOT NULL)"))

    done = subprocess.run([sys.executable, "-c", FULL, database.url], capture_output=True, text=True, timeout=120)

    assert done.returncode == 0, done.stderr
    with database.read() as tx:
        assert tx.value("SELECT COUNT(*) FROM note") == int(done.stdout) + 2
        assert tx.value("PRAGMA integrity_check") == "ok"


def test_what_need_not_be_durable_is_seen_by_all_and_synced_by_the_next_durable_write(tmp_path: Path):
    """Who waits for no fsync takes it from nobody: a batch with one durable write in it is synced."""
    with closing(Database(f"sqlite:///{tmp_path / 'd.db'}")) as one, closing(Database(one.url)) as other:
        one.write(lambda tx: tx.run("CREATE TABLE t (n INTEGER)"))

        def synchronous(durable: bool) -> int:
            def work(tx) -> int:
                tx.run("INSERT INTO t VALUES (1)")
                return tx.value("PRAGMA synchronous")

            return one.write(work, durable=durable)

        FULL, NORMAL = 2, 1
        assert [synchronous(durable) for durable in (True, False, False, True)] == [FULL, NORMAL, NORMAL, FULL]
        with other.read() as tx:
            assert tx.value("SELECT count(*) FROM t") == 4
    with closing(Database(one.url, durable=False)) as quick:
        assert quick.write(lambda tx: tx.value("PRAGMA synchronous")) == NORMAL
