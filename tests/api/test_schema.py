"""Whatever the document allows is answered as the document says. Judge: schemathesis."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings

from cerulea.api.app import create_app
from tests.serving import key_for, platform_in
from tests.toy_models import ToyHost, toy_gateway

from .test_roles import ROUTES

# A refusal by meaning (400: no such date, 402: no money) is no flaw of what was sent.
REFUSED = {"checks": {"positive_data_acceptance": {"expected-statuses": ["2xx", 400, 401, 402, 403, 404, 409]}}}
# An open line has no end; to end one's own key ends the test.
LEFT_OUT = {"GET /api/jobs/{job}/stream", "DELETE /api/keys/{prefix}"}


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, dict[str, str]]]:
    """The document of a platform, and the keys for its routes."""
    home: Path = tmp_path_factory.mktemp("described")
    with platform_in(home) as platform:
        key = platform.people.create_key("owner", team="home", name="t", actor="owner")[0]
        host = ToyHost()
        host.anything = True
        app = create_app(platform, gateway=toy_gateway(platform, host))
        schema = schemathesis.openapi.from_asgi("/openapi.json", app, config=schemathesis.Config.from_dict(REFUSED))
        yield schema, {"work": key_for(platform, "service"), "": key}
        app.state.matches.close()


@pytest.mark.parametrize("route", sorted(set(ROUTES) - LEFT_OUT))
def test_the_document_is_kept(route: str, described: tuple[Any, dict[str, str]]):
    """No 5xx, no status, type or shape of an answer that the document does not have."""
    schema, keys = described
    method, path = route.split()
    key = keys["work" if path.startswith("/api/work/") else ""]

    @settings(
        max_examples=6,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=schema[path][method].as_strategy())
    def ask(case: Any) -> None:
        case.call_and_validate(headers={"Authorization": f"Bearer {key}"})

    ask()
