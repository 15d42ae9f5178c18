"""What requests used and paid, over HTTP; limits on keys."""

from __future__ import annotations

from typing import Any

from cerulea.core.clock import DAY_MS, iso
from cerulea.core.money import Nanos
from cerulea.flows.platform import Platform
from cerulea.flows.usage import RequestUsage, note
from tests.serving import Asker, asker_for


def noted(platform: Platform, name: str, **more: Any) -> None:
    values: dict[str, Any] = {
        "request_id": name,
        "begun_at": platform.clock.now(),
        "ended_at": platform.clock.now(),
        "team": "home",
        "fund": "home",
        "person": "owner",
        "api_key": "",
        "model": "brook",
        "version": 1,
        "endpoint": "completions",
        "prompt_tokens": 10,
        "cached_tokens": 0,
        "completion_tokens": 5,
        "charged": Nanos(3000),
        "absorbed": Nanos(0),
        "finish": "stop",
    }
    platform.database.write(lambda tx: note(tx, RequestUsage(**{**values, **more})))


def test_usage_is_summed_by_day_team_key_and_model(both: Platform, ask_both: Asker):
    now = both.clock.now()
    noted(both, "r1")
    noted(both, "r2", team="red", api_key="aaaaaaaa", charged=Nanos(9000))
    noted(both, "r3", model="gpt2", ended_at=now - 3 * DAY_MS)
    noted(both, "r4", ended_at=now - 60 * DAY_MS)

    def sums(question: str) -> list[tuple[str, int, str]]:
        found = ask_both.get(f"/api/usage{question}")
        return [(one["name"], one["requests"], one["charged"]) for one in found["items"]]

    assert sums("?by=team") == [("red", 1, "0.000009"), ("home", 2, "0.000006")]
    assert sums("?by=key") == [("aaaaaaaa", 1, "0.000009"), ("", 2, "0.000006")]
    assert sums("?by=model") == [("brook", 2, "0.000012"), ("gpt2", 1, "0.000003")]
    assert sums("") == [(iso(now)[:10], 2, "0.000012"), (iso(now - 3 * DAY_MS)[:10], 1, "0.000003")]
    assert sums("?by=model&team=red") == sums("?by=model&key=ck_aaaaaaaa") == [("brook", 1, "0.000009")]
    assert sums("?by=team&model=gpt2") == [("home", 1, "0.000003")]
    past = iso(now - 60 * DAY_MS)[:10]
    assert sums(f"?since={past}&until={past}") == [(past, 1, "0.000003")]
    page = ask_both.get("/api/usage?by=team&limit=1")
    assert (len(page["items"]), page["more"]) == (1, True)


def test_one_request_is_shown(platform: Platform, ask: Asker):
    noted(platform, "r1")

    found = ask.get("/api/usage/requests/r1")

    assert (found["charged"], found["completion_tokens"], found["finish"]) == ("0.000003", 5, "stop")
    assert ask.get("/api/usage/requests/r2", status=404)["why"]


def test_who_sees_his_own_team_sees_its_requests_alone(platform: Platform):
    red, blue = asker_for(platform, "viewer", "red"), asker_for(platform, "developer", "blue")
    noted(platform, "r1", team="red")
    noted(platform, "r2", team="blue")

    assert [one["name"] for one in red.get("/api/usage?by=team")["items"]] == ["red"]
    assert blue.get("/api/usage?by=team&team=red")["items"] == []
    blue.get("/api/usage/requests/r1", status=404)
    assert blue.get("/api/usage/requests/r2")["team"] == "blue"
    assert {one["name"] for one in asker_for(platform, "finance").get("/api/usage?by=team")["items"]} == {"red", "blue"}


def test_nonsense_is_refused(ask: Asker):
    for question in ("by=colour", "limit=0"):
        ask.get(f"/api/usage?{question}", status=422)
    for question in ("since=yesterday", "until=2026-13-01", "since=0001-01-01"):
        assert ask.get(f"/api/usage?{question}", status=400)["fix"]


def test_a_key_is_limited_and_the_log_says_by_whom(both: Platform, ask_both: Asker):
    prefix = ask_both.post("/api/keys", {"person": "owner", "team": "home"}, status=201)["prefix"]

    made = ask_both.post(f"/api/keys/{prefix}/limits", {"requests_per_minute": 60})
    assert (made["requests_per_minute"], made["tokens_per_minute"]) == (60, None)
    made = ask_both.post(f"/api/keys/ck_{prefix}/limits", {"tokens_per_minute": 1000})

    assert (made["requests_per_minute"], made["tokens_per_minute"]) == (None, 1000)
    (listed,) = [key for key in ask_both.get("/api/keys")["items"] if key["prefix"] == prefix]
    assert listed["tokens_per_minute"] == 1000
    assert [one["subject"] for one in ask_both.get("/api/audit?action=key.limit")["items"]] == [prefix] * 2
    ask_both.post("/api/keys/aaaaaaaa/limits", {}, status=404)
    ask_both.post(f"/api/keys/{prefix}/limits", {"requests_per_minute": 0}, status=422)
