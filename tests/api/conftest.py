"""A platform on each engine, and callers of every role."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
from fastapi.testclient import TestClient

from cerulea.api.app import create_app
from cerulea.flows.platform import Platform
from cerulea.flows.serving import Gateway
from cerulea.store.database import Database
from tests.databases import Databases
from tests.serving import Asker, key_for, platform_in, served
from tests.toy_models import ToyBills, ToyHost, toy_gateway, wait_for

from .worlds import World


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


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Gateway, str, dict[str, str]]]:
    home: Path = tmp_path_factory.mktemp("served")
    with platform_in(home) as platform:
        gateway = toy_gateway(platform)
        keys = {role: key_for(platform, role) for role in ("viewer", "finance", "admin")}
        keys["stranger"] = key_for(platform, "viewer", "elsewhere")
        with served(create_app(platform, gateway=gateway)) as url:
            yield gateway, url, keys


@pytest.fixture
def world(place: tuple[Gateway, str, dict[str, str]]) -> Iterator[World]:
    gateway, url, keys = place
    host, bills = ToyHost("toy@1", "plain@1"), ToyBills()
    gateway.host, gateway.open_bill, gateway.draining = host, bills.open, False
    with openai.OpenAI(base_url=f"{url}/v1", api_key=keys["viewer"], max_retries=0) as client:
        yield World(client, host, bills, gateway, url, keys)
    wait_for(lambda: host.flows == [] and gateway.running == {} and gateway.keyed == {})  # nothing is left behind
    assert all(len(bill.settled) == 1 for bill in bills.opened), "each bill is settled, once"
