"""Who may do what: every role on every route, and what belongs to another team."""

from __future__ import annotations

import re

import pytest
from fastapi.testclient import TestClient

from cerulea.api.app import create_app, needs_of, routes_of
from cerulea.flows.platform import Platform
from cerulea.people import ROLES
from tests.serving import RECIPE, Asker, asker_for, key_for

# Every route with the scopes of which one is needed; `known` is any key. A route that is not here fails the test.
ROUTES = {
    "POST /api/jobs": "jobs:write",
    "GET /api/jobs": "jobs:read",
    "GET /api/jobs/{job}": "jobs:read",
    "POST /api/jobs/{job}/cancel": "jobs:write",
    "POST /api/jobs/{job}/resume": "jobs:write",
    "POST /api/jobs/{job}/rerun": "jobs:write",
    "GET /api/jobs/{job}/events": "jobs:read",
    "GET /api/jobs/{job}/logs": "jobs:read",
    "GET /api/jobs/{job}/metrics": "jobs:read",
    "GET /api/jobs/{job}/metrics/names": "jobs:read",
    "GET /api/jobs/{job}/news": "jobs:read",
    "GET /api/jobs/{job}/stream": "jobs:read",
    "POST /api/estimate": "jobs:read",
    "GET /api/funds": "fund:read",
    "POST /api/funds": "fund:write",
    "GET /api/funds/{fund}/statement": "fund:read",
    "GET /api/funds/{fund}/forecast": "fund:read",
    "GET /api/funds/{fund}/grants": "fund:read",
    "POST /api/funds/{fund}/grants": "fund:write",
    "POST /api/funds/{fund}/draws": "fund:write jobs:write",
    "POST /api/funds/{fund}/returns": "fund:write jobs:write",
    "GET /api/draws": "fund:read",
    "POST /api/draws/{request}/approve": "fund:write",
    "POST /api/draws/{request}/deny": "fund:write",
    "GET /api/caps": "fund:read",
    "PUT /api/caps": "fund:write",
    "GET /api/prices": "fund:read",
    "GET /api/books/audit": "audit:read",
    "GET /api/usage": "fund:read",
    "GET /api/usage/requests/{request_id}": "fund:read",
    "GET /api/me": "known",
    "GET /api/teams": "people:read",
    "POST /api/teams": "people:write",
    "PATCH /api/teams/{team}": "people:write",
    "POST /api/teams/{team}/members": "people:write",
    "DELETE /api/teams/{team}/members/{person}": "people:write",
    "GET /api/persons": "people:read",
    "POST /api/persons": "people:write",
    "GET /api/keys": "people:read",
    "POST /api/keys": "people:write",
    "POST /api/keys/{prefix}/limits": "people:write",
    "DELETE /api/keys/{prefix}": "people:write",
    "GET /api/runs/{run}": "jobs:read",
    "GET /api/models": "models:read",
    "GET /api/versions": "models:read",
    "GET /api/models/{label}": "models:read",
    "POST /api/models/{label}/aliases": "models:write",
    "DELETE /api/models/{model}/aliases/{alias}": "models:write",
    "POST /api/models/{label}/retire": "models:write",
    "GET /api/games": "matches:read",
    "POST /api/matches": "matches:write",
    "GET /api/matches": "matches:read",
    "GET /api/matches/{match}": "matches:read",
    "POST /api/matches/{match}/stop": "matches:write",
    "GET /api/replays": "matches:read",
    "GET /api/replays/{replay}": "matches:read",
    "GET /api/replays/{replay}/frames": "matches:read",
    "POST /v1/completions": "models:read",
    "POST /v1/chat/completions": "models:read",
    "POST /v1/embeddings": "models:read",
    "GET /v1/models": "models:read",
    "GET /v1/models/{model}": "models:read",
    "DELETE /v1/requests/{request_id}": "models:read",
    "GET /v1/usage/{request_id}": "models:read",
    "POST /tokenize": "models:read",
    "POST /detokenize": "models:read",
    "GET /api/workers": "jobs:read",
    "GET /api/audit": "audit:read",
    "POST /api/work/enlist": "work",
    "POST /api/work/bury": "work",
    "POST /api/work/drain": "work",
    "POST /api/work/leave": "work",
    "POST /api/work/claim": "work",
    "POST /api/work/jobs/{job}/heartbeat": "work",
    "POST /api/work/jobs/{job}/record": "work",
    "POST /api/work/jobs/{job}/finish": "work",
    "POST /api/work/jobs/{job}/died": "work",
    "GET /healthz": "open",
    "GET /readyz": "open",
    "GET /metrics": "open",
}
# So that what may be called is refused for what it names and not for how it is written.
NAMES = {"job": "job-none", "fund": "none", "request": "draw-none", "team": "none", "person": "nobody"}
NAMES |= {"prefix": "aaaaaaaa", "label": "none", "model": "none", "alias": "none", "run": "none", "request_id": "r"}
NAMES |= {"match": "match-none", "replay": "none"}


def call(ask: Asker, route: str) -> int:
    """The status of a request whose path is well formed; its body may be refused, after the scope was looked at."""
    method, path = route.split()
    url = re.sub(r"\{(\w+)\}", lambda found: NAMES[found[1]], path) + (
        "?name=loss" if path.endswith("/metrics") else ""
    )
    headers = {"Authorization": f"Bearer {ask.key}"} if ask.key else {}
    return ask.http.request(method, url, json=None if method == "GET" else {}, headers=headers).status_code


def test_every_route_of_the_document_is_in_the_table_and_declares_its_scope(platform: Platform):
    app = create_app(platform)
    document = app.openapi()

    found = {}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            scopes = " ".join(operation.get("x-scopes", ())) or ("known" if "security" in operation else "open")
            found[f"{method.upper()} {path}"] = scopes

    assert found == ROUTES


def test_an_application_with_a_route_that_declares_no_scope_does_not_start(platform: Platform):
    from cerulea.api import operate

    @operate.router.get("/api/forgotten")
    def forgotten() -> None: ...

    try:
        with pytest.raises(AssertionError, match="/api/forgotten"):
            create_app(platform)
    finally:
        operate.router.routes.pop()


@pytest.mark.parametrize("role", ROLES)
def test_a_role_reaches_what_its_scopes_say_and_nothing_else(role: str, platform: Platform):
    """401 and 403 for what is denied, anything else for what is not."""
    ask = asker_for(platform, role)
    surprises = []
    for route, scopes in ROUTES.items():
        allowed = scopes in ("open", "known") or any(scope in ROLES[role] for scope in scopes.split())
        status = call(ask, route)
        if (status not in (401, 403)) != allowed or status >= 500:
            surprises.append((route, status))

    assert surprises == []


def test_without_a_key_nothing_but_health_is_answered(platform: Platform):
    stranger = Asker(TestClient(create_app(platform), raise_server_exceptions=False))

    answers = {route: call(stranger, route) for route in ROUTES}

    assert {route for route, status in answers.items() if status != 401} == {
        route for route, scopes in ROUTES.items() if scopes == "open"
    }


def test_a_key_that_ended_is_told_so(platform: Platform):
    key = key_for(platform, "viewer")
    platform.people.revoke(key[3:11], actor="owner")
    ask = Asker(TestClient(create_app(platform)), key)

    problem = ask.get("/api/me", status=401)

    assert problem["code"] == "E-AUTH-003" and "revoked" in problem["why"] and problem["fix"]


def test_a_key_narrowed_to_a_scope_reaches_no_further(platform: Platform):
    key = key_for(platform, "developer", scopes=["jobs:read"])
    ask = Asker(TestClient(create_app(platform)), key)

    assert ask.get("/api/jobs")["items"] == []
    assert ask.get("/api/funds", status=403)["code"] == "E-AUTH-004"


def test_what_belongs_to_another_team_does_not_exist(platform: Platform):
    """Every way to another team's job, fund and model is 404, and the words name nothing of it."""
    red, blue = asker_for(platform, "developer", "red"), asker_for(platform, "developer", "blue")
    platform.ledger.grant("red", 5 * 10**9, key="g", actor="owner")
    job = red.post("/api/jobs", {"recipe": RECIPE}, status=201)["id"]
    platform.registry.register(
        "secret-model",
        manifest={"model.safetensors": {"sha256": "0" * 64, "bytes": 1}},
        digest="0" * 64,
        card={},
        team="red",
        actor="owner",
    )

    for path in ("", "/events", "/logs", "/metrics?name=loss", "/metrics/names", "/news", "/stream"):
        problem = blue.get(f"/api/jobs/{job}{path}", status=404)
        assert problem["why"] == ""
    for verb in ("cancel", "resume", "rerun"):
        blue.post(f"/api/jobs/{job}/{verb}", status=404)
    for path in ("statement", "forecast", "grants"):
        assert "red" not in blue.get(f"/api/funds/red/{path}", status=404)["why"]
    blue.post("/api/funds/red/draws", {"team": "blue", "amount": "1"}, status=404)
    blue.post("/api/funds/blue/draws", {"team": "red", "amount": "1"}, status=404)
    blue.post("/api/jobs", {"recipe": RECIPE, "team": "red"}, status=404)
    blue.post("/api/jobs", {"recipe": RECIPE, "fund": "red"}, status=404)
    blue.get("/api/models/secret-model", status=404)
    run = platform.settings.runs / platform.queue.get(job).run
    run.mkdir(parents=True)
    (run / "run.json").write_text("{}", encoding="utf-8")
    (run / "metrics.jsonl").touch()
    assert "red" not in str(blue.get(f"/api/runs/{run.name}", status=404))
    assert red.get(f"/api/runs/{run.name}")["job"] == job
    blue.post("/api/models/secret-model@1/retire", {}, status=404)
    blue.post("/api/models/secret-model@1/aliases", {"alias": "prod"}, status=404)

    assert blue.get("/api/jobs")["items"] == blue.get("/api/jobs?team=red")["items"] == []
    assert [one["name"] for one in blue.get("/api/funds")["items"]] == ["blue"]
    assert blue.get("/api/models")["items"] == blue.get("/api/versions")["items"] == []
    assert red.get(f"/api/jobs/{job}")["status"] == "QUEUED"


def test_every_route_was_walked(platform: Platform):
    app = create_app(platform)
    paths = {f"{method} {route.path}" for route in routes_of(app) for method in route.methods or ()}

    assert paths == set(ROUTES)
    assert {route.path for route in routes_of(app) if needs_of(route) is None} == {"/healthz", "/readyz", "/metrics"}
