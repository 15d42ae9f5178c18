"""Server-sent events: as things happen, from where one was cut off, until the end."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator

import httpx
import pytest

from cerulea.api import live
from cerulea.api.app import create_app
from cerulea.client import Client
from cerulea.core.errors import KeyEnded
from cerulea.flows.platform import Platform
from cerulea.flows.work import Desk
from cerulea.jobs.protocol import Ending, Report
from tests.serving import RECIPE, Asker, key_for, served

from .conftest import owner_of


@pytest.fixture
def url(platform: Platform) -> Iterator[str]:
    with served(create_app(platform, trusted=platform.people.caller())) as address:
        yield address


def begin(platform: Platform) -> tuple[Desk, str, str]:
    job = owner_of(platform).post("/api/jobs", {"recipe": RECIPE}, status=201)["id"]
    desk = Desk(platform)
    desk.enlist("w", name="w", slots=1, device="cpu", kinds=("text",))
    token = desk.assignment(desk.place(platform.queue.get(job), {"w": 1})).token
    desk.heartbeat(job, token, Report())
    return desk, job, token


def messages(lines: Iterator[str]) -> Iterator[dict]:
    """Each event with its id, kind and data; a comment as a kind of its own."""
    found: dict = {}
    for line in lines:
        if line.startswith(":"):
            yield {"kind": "comment"}
        elif line:
            name, _, value = line.partition(": ")
            found[name] = value
        elif "data" in found:
            yield {"id": found.get("id", ""), "kind": found["event"], "data": json.loads(found["data"])}
            found = {}
        else:
            found = {}


def step(platform: Platform, job: str, number: int) -> None:
    platform.journal.write(job, 1, [{"event": "progress", "step": number, "loss": 1.0}], number)


def test_what_a_job_tells_arrives_as_it_tells_it_and_ends_with_it(platform: Platform, url: str):
    desk, job, token = begin(platform)
    seen = []
    with httpx.stream("GET", f"{url}/api/jobs/{job}/stream", timeout=30) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        for message in messages(answer.iter_lines()):
            seen.append(message)
            if message["kind"] == "job" and message["data"]["after"] == "RUNNING":
                step(platform, job, 0)
            if message["kind"] == "metric":
                platform.journal.write(job, 1, [{"text": "hello"}], 0, stream="log")
            if message["kind"] == "log":
                desk.finish(job, token, Ending(outcome="done", reason="steps"))

    assert [m["kind"] for m in seen] == ["job", "job", "job", "metric", "log", "job", "end"]
    assert seen[3]["data"]["loss"] == 1.0 and seen[4]["data"]["text"] == "hello"
    assert seen[-1]["data"]["status"] == "SUCCEEDED"


@pytest.mark.parametrize("cut", range(1, 8))
def test_who_was_cut_off_goes_on_after_the_last_id(cut: int, platform: Platform, url: str):
    """Wherever the line breaks, the second one brings exactly the rest."""
    desk, job, token = begin(platform)
    platform.journal.write(job, 1, [{"event": "progress", "step": n, "loss": 1.0} for n in range(3)])
    platform.journal.write(job, 1, [{"text": f"line {n}"} for n in range(2)], stream="log")
    desk.finish(job, token, Ending(outcome="done", reason="steps"))
    address = f"{url}/api/jobs/{job}/stream"

    with httpx.stream("GET", address, timeout=30) as answer:
        whole = list(messages(answer.iter_lines()))
    with httpx.stream("GET", address, timeout=30) as answer:
        source = messages(answer.iter_lines())
        first = [next(source) for _ in range(cut)]
    with httpx.stream("GET", address, headers={"Last-Event-ID": first[-1]["id"]}, timeout=30) as answer:
        rest = list(messages(answer.iter_lines()))

    assert first + rest == whole
    assert len(whole) == 3 + 2 + 4 + 1


def test_a_silent_line_is_kept_open_by_comments(platform: Platform, url: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(live, "BEAT_S", 0.05)
    monkeypatch.setattr(live, "POLL_S", 0.01)
    _, job, _ = begin(platform)

    with httpx.stream("GET", f"{url}/api/jobs/{job}/stream", timeout=30) as answer:
        kinds = []
        for message in messages(answer.iter_lines()):
            kinds.append(message["kind"])
            if kinds.count("comment") == 3:
                break

    assert kinds == ["job", "job", "job", "comment", "comment", "comment"]


def test_many_lines_at_once_take_no_threads_from_others(platform: Platform, url: str):
    """Sixty open lines, more than there are threads for requests, and the API still answers."""
    _, job, _ = begin(platform)
    with httpx.Client(limits=httpx.Limits(max_connections=80), timeout=30) as http:
        opened, done = threading.Barrier(61), threading.Event()

        def listen() -> None:
            with http.stream("GET", f"{url}/api/jobs/{job}/stream") as answer:
                next(answer.iter_lines())
                opened.wait(timeout=30)
                done.wait(timeout=30)

        threads = [threading.Thread(target=listen) for _ in range(60)]
        for thread in threads:
            thread.start()
        opened.wait(timeout=30)
        assert http.get(f"{url}/api/jobs/{job}").status_code == 200
        done.set()
        for thread in threads:
            thread.join()


def test_a_stream_is_refused_before_it_begins(platform: Platform, url: str):
    ask = Asker(owner_of(platform).http)
    _, job, _ = begin(platform)

    ask.get("/api/jobs/job-none/stream", status=404)
    ask.get(f"/api/jobs/{job}/stream", status=422, Last_Event_ID="not-a-cursor")
    ask.get(f"/api/jobs/{job}/news?after=1.2", status=422)
    assert httpx.get(f"{url}/api/jobs/{job}/stream", headers={"Authorization": "Bearer no"}).status_code == 401


def revoke(platform: Platform, prefix: str) -> None:
    platform.people.revoke(prefix, actor="owner")


def expire(platform: Platform, prefix: str) -> None:
    platform.database.write(lambda tx: tx.run("UPDATE api_key SET expires_at = 1 WHERE prefix = :p", p=prefix))


def lose_the_role(platform: Platform, prefix: str) -> None:
    platform.people.leave("viewer-home", team="home", actor="owner")


def become_a_treasurer(platform: Platform, prefix: str) -> None:
    platform.people.join("viewer-home", team="home", role="finance", actor="owner")


@pytest.mark.parametrize(
    ("end", "code"),
    [(revoke, "E-AUTH-003"), (expire, "E-AUTH-003"), (lose_the_role, "E-AUTH-003"), (become_a_treasurer, "E-AUTH-004")],
)
def test_an_open_line_ends_with_its_key(
    end: Callable[[Platform, str], None],
    code: str,
    platform: Platform,
    url: str,
    monkeypatch: pytest.MonkeyPatch,
):
    """The job goes on; whoever was let in by a key that has ended hears an error, and no more of it."""
    monkeypatch.setattr(live, "RECHECK_S", 0.05)
    monkeypatch.setattr(live, "POLL_S", 0.01)
    _, job, _ = begin(platform)
    key = key_for(platform, "viewer")
    seen = []

    headers = {"Authorization": f"Bearer {key}"}
    with httpx.stream("GET", f"{url}/api/jobs/{job}/stream", headers=headers, timeout=30) as answer:
        for message in messages(answer.iter_lines()):
            seen.append(message)
            if len(seen) == 3:
                end(platform, key.split("_")[1])

    assert [m["kind"] for m in seen] == ["job", "job", "job", "error"]
    assert (seen[-1]["data"]["code"], seen[-1]["id"]) == (code, "")
    assert platform.queue.get(job).status == "RUNNING"


def test_a_program_that_follows_is_told_that_its_key_has_ended(
    platform: Platform, url: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(live, "RECHECK_S", 0.05)
    _, job, _ = begin(platform)
    key = key_for(platform, "viewer")

    with Client(url, key) as client, pytest.raises(KeyEnded) as refused:
        for number, _ in enumerate(client.jobs.follow(job), start=1):
            if number == 3:
                revoke(platform, key.split("_")[1])

    assert "revoked" in refused.value.why and refused.value.exit_code == 4


def test_news_bring_the_same_page_by_page(platform: Platform):
    desk, job, token = begin(platform)
    step(platform, job, 0)
    ask = owner_of(platform)

    first = ask.get(f"/api/jobs/{job}/news")
    assert not first["ended"] and [i["type"] for i in first["items"]] == ["metric", "job", "job", "job"]
    assert ask.get(f"/api/jobs/{job}/news?after={first['cursor']}")["items"] == []
    desk.finish(job, token, Ending(outcome="done", reason="steps"))
    last = ask.get(f"/api/jobs/{job}/news?after={first['cursor']}")
    assert last["ended"] and [item["type"] for item in last["items"]] == ["job", "end"]
    key = key_for(platform, "viewer", "other")
    assert Asker(ask.http, key).get(f"/api/jobs/{job}/news", status=404)["code"] == "E-NAME-001"
