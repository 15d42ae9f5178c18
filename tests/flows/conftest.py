"""A platform with a team that pays for its requests to models, and what is asked of it there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cerulea.core.clock import FakeClock
from cerulea.core.money import nanos
from cerulea.core.settings import Settings
from cerulea.flows.platform import Platform, open_platform
from cerulea.people import Caller
from cerulea.store.database import Database


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def platform(database: Database, clock: FakeClock, tmp_path: Path) -> Iterator[Platform]:
    """Team `text` with a fund `lab` of its own, out of which it has drawn nothing yet."""
    url = database.engine.url.render_as_string(hide_password=False)
    with open_platform(Settings(home=tmp_path / "home", database_url=url), clock) as opened:
        opened.ledger.create_fund("lab")
        opened.people.create_team("text", fund="lab", actor="owner")
        opened.ledger.open_purse("lab", "text")
        opened.people.create_person("ada", team="text", role="developer", actor="owner")
        opened.ledger.grant("lab", nanos("1000"), key="grant", actor="owner")
        yield opened


@pytest.fixture
def ada(platform: Platform) -> Caller:
    text, _ = platform.people.create_key("ada", team="text", name="test", actor="owner")
    return platform.people.authenticate(text)
