"""Teams, persons, keys and models over HTTP."""

from __future__ import annotations

from fastapi.testclient import TestClient

from cerulea.api.app import create_app
from cerulea.flows.platform import Platform
from tests.serving import RECIPE, Asker, asker_for

FILES = {"model.safetensors": {"sha256": "a" * 64, "bytes": 3}}


def register(platform: Platform, name: str = "brook", digest: str = "a", **more: object) -> None:
    values = {
        "manifest": FILES,
        "digest": digest * 64,
        "card": {"bits_per_byte": 1.5},
        "team": "home",
        "actor": "owner",
    }
    platform.registry.register(name, **{**values, **more})  # type: ignore[arg-type]


def test_a_new_team_can_work_at_once(both: Platform, ask_both: Asker):
    ask_both.post("/api/teams", {"name": "vision", "weight": 3, "slots": 2, "borrows": False}, status=201)
    ask_both.post("/api/persons", {"name": "ada@lab.org", "team": "vision", "role": "developer"}, status=201)
    made = ask_both.post("/api/keys", {"person": "ada@lab.org", "team": "vision", "days": 30}, status=201)
    ada = Asker(TestClient(create_app(both)), made["key"])

    me = ada.get("/api/me")
    assert (me["person"], me["team"], me["role"], me["everywhere"]) == ("ada@lab.org", "vision", "developer", False)
    assert ada.post("/api/jobs", {"recipe": RECIPE}, status=201)["team"] == "vision"
    (listed,) = [key for key in ask_both.get("/api/keys")["items"] if key["prefix"] == made["prefix"]]
    assert "key" not in listed and listed["role"] == "developer" and listed["expires_at"]


def test_a_team_is_changed_and_joined_and_left(ask_both: Asker):
    ask_both.post("/api/teams", {"name": "vision"}, status=201)
    assert ask_both("PATCH", "/api/teams/vision", {"weight": 5})["weight"] == 5
    ask_both.post("/api/persons", {"name": "bob", "team": "vision"}, status=201)
    ask_both.post("/api/teams/home/members", {"person": "bob", "role": "viewer"})
    assert [p["roles"] for p in ask_both.get("/api/persons")["items"] if p["name"] == "bob"] == [
        {"home": "viewer", "vision": "developer"}
    ]
    assert ask_both("DELETE", "/api/teams/home/members/bob")["role"] == ""
    assert ask_both("DELETE", "/api/teams/home/members/bob", status=404)
    assert "last admin" in ask_both("DELETE", "/api/teams/home/members/owner", status=409)["detail"]


def test_a_revoked_key_opens_nothing_from_then_on(platform: Platform, ask: Asker):
    ada = asker_for(platform, "developer")
    assert ada.get("/api/jobs")["items"] == []

    ask("DELETE", f"/api/keys/{ada.key[3:11]}")

    assert ada.get("/api/jobs", status=401)["code"] == "E-AUTH-003"


def test_nonsense_in_people_is_refused(ask: Asker):
    ask.post("/api/teams", {"name": "v", "fund": "none"}, status=404)
    ask.post("/api/teams", {"name": "home"}, status=409)
    ask.post("/api/teams", {"name": "v", "weight": 0}, status=422)
    ask.post("/api/teams", {"name": "v", "weight": True}, status=422)
    ask.post("/api/persons", {"name": "ada", "team": "none"}, status=404)
    ask.post("/api/persons", {"name": "ada", "team": "home", "role": "king"}, status=422)
    ask.post("/api/keys", {"person": "nobody", "team": "home"}, status=404)
    ask.post("/api/keys", {"person": "owner", "team": "home", "scopes": ["root"]}, status=400)
    ask("DELETE", "/api/keys/aaaaaaaa", status=404)


def test_a_model_is_shown_with_its_aliases_history_and_lineage(both: Platform, ask_both: Asker):
    register(both)
    register(both, digest="b")
    register(both, name="brook-chat", digest="c", parent="brook@1")

    assert ask_both.post("/api/models/brook@1/aliases", {"alias": "prod"})["after"] == 1
    assert ask_both.post("/api/models/brook/aliases", {"alias": "prod"})["before"] == 1

    found = ask_both.get("/api/models/brook:prod")
    assert (found["label"], found["aliases"], found["versions"]) == ("brook@2", ["prod"], [1, 2])
    assert [(move["before"], move["after"]) for move in found["history"]] == [(None, 1), (1, 2)]
    assert ask_both.get("/api/models/brook@1")["children"] == ["brook-chat@1"]
    assert ask_both.get("/api/models/brook-chat")["parents"] == ["brook@1"]
    assert {m["model"]: m["newest"] for m in ask_both.get("/api/models")["items"]} == {"brook": 2, "brook-chat": 1}


def test_versions_are_listed_with_their_aliases(both: Platform, ask_both: Asker):
    for digest in "abc":
        register(both, digest=digest)
    ask_both.post("/api/models/brook@1/aliases", {"alias": "prod"})
    ask_both.post("/api/models/brook@2/retire", {})

    usable = ask_both.get("/api/versions")["items"]
    assert [(one["label"], one["aliases"]) for one in usable] == [("brook@1", ["prod"]), ("brook@3", [])]
    every = ask_both.get("/api/versions?retired=true")["items"]
    assert [(one["version"], one["retired_at"] is not None) for one in every] == [(1, False), (2, True), (3, False)]
    assert ask_both.get("/api/models/brook")["config"] == {}
    assert ask_both.get("/api/runs/none", status=404)["code"] == "E-NAME-001"


def test_a_retired_version_is_found_no_more_and_can_come_back(platform: Platform, ask: Asker):
    register(platform)
    register(platform, digest="b")
    ask.post("/api/models/brook@2/aliases", {"alias": "prod"})

    assert "prod" in ask.post("/api/models/brook@2/retire", {}, status=409)["detail"]
    ask("DELETE", "/api/models/brook/aliases/prod")
    assert ask.post("/api/models/brook@2/retire", {})["retired_at"]
    assert ask.get("/api/models/brook")["label"] == "brook@1"
    assert ask.get("/api/models/brook@2")["retired_at"]
    assert ask.post("/api/models/brook@2/retire", {"undo": True})["retired_at"] is None
    assert ask.get("/api/models/brook")["label"] == "brook@2"


def test_a_model_that_is_nearly_named_is_named(platform: Platform, ask: Asker):
    register(platform)

    assert "brook" in ask.get("/api/models/brok", status=404)["why"]
