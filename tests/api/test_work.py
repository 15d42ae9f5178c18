"""Where workers report: the desk over a real server, and what a token opens."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import pytest

from cerulea.api.app import create_app
from cerulea.client.desk import RemoteDesk
from cerulea.core.errors import KeyUnknown, LeaseStale, RoleLacks
from cerulea.core.values import Usage
from cerulea.flows.platform import Platform
from cerulea.flows.work import Desk
from cerulea.jobs.protocol import Assignment, Ending, Report
from tests.serving import RECIPE, Asker, key_for, served

from .conftest import owner_of

Desks = Callable[[str], RemoteDesk]
MODEL = {
    "files": {"model.safetensors": {"sha256": "0" * 64, "bytes": 1}},
    "digest": "0" * 64,
    "card": {"bits_per_byte": 1.25},
}


@pytest.fixture
def url(both: Platform) -> Iterator[str]:
    with served(create_app(both)) as address:
        yield address


@pytest.fixture
def desk_at(url: str) -> Iterator[Desks]:
    """Desks over HTTP, closed at the end."""
    with contextlib.ExitStack() as open_ones:

        def desk(key: str) -> RemoteDesk:
            return open_ones.enter_context(contextlib.closing(RemoteDesk(url, key)))

        yield desk


def given(platform: Platform, desk_at: Desks) -> tuple[RemoteDesk, Assignment]:
    """A worker that enlisted and claimed a job over HTTP."""
    job = owner_of(platform).post("/api/jobs", {"recipe": RECIPE}, status=201)["id"]
    agent = desk_at(key_for(platform, "service"))
    agent.enlist("w1", name="host:1", slots=2, device="cpu", kinds=("text",))
    Desk(platform).place(platform.queue.get(job), {"w1": 1})
    (assignment,) = agent.claim("w1")
    assert assignment.job == job
    return agent, assignment


def test_a_job_goes_from_claim_to_model_over_http(both: Platform, desk_at: Desks):
    _, a = given(both, desk_at)
    desk = desk_at(a.token)

    order = desk.heartbeat(a.job, a.token, Report(usage=Usage(device_ms=1000), step=1, resumed_step=0))
    for _ in range(2):  # the answer was lost once
        desk.record(a.job, a.token, a.attempt, [{"event": "progress", "step": 1, "loss": 2.5}], 0, "run")
        desk.record(a.job, a.token, a.attempt, [{"text": "nul \0 and half \ud800"}], 0, "log")
    report = Report(usage=Usage(device_ms=3_600_000), step=60, fraction=1.0)
    desk.finish(a.job, a.token, Ending(outcome="done", reason="steps", report=report, model=MODEL, result={"step": 60}))

    assert order.desired == "run" and order.paid is not None
    ask = owner_of(both)
    job = ask.get(f"/api/jobs/{a.job}")
    assert (job["status"], job["cost"], job["result"]["version"]) == ("SUCCEEDED", "0.096", 1)
    assert [line["text"] for line in ask.get(f"/api/jobs/{a.job}/logs")["items"]] == ["nul \ufffd and half ?"]
    assert ask.get(f"/api/jobs/{a.job}/metrics?name=loss")["buckets"][0]["points"] == 1
    assert ask.get("/api/models/brook")["card"] == {"bits_per_byte": 1.25}


def test_the_token_of_an_attempt_opens_its_own_reports_and_nothing_else(both: Platform, desk_at: Desks):
    agent, mine = given(both, desk_at)
    job = owner_of(both).post("/api/jobs", {"recipe": RECIPE}, status=201)["id"]
    Desk(both).place(both.queue.get(job), {"w1": 1})
    (other,) = [one for one in agent.claim("w1") if one.job == job]
    desk = desk_at(mine.token)

    with pytest.raises(LeaseStale):
        desk.heartbeat(other.job, mine.token, Report())
    with pytest.raises(KeyUnknown):
        desk.heartbeat(other.job, other.token, Report())
    for call in (lambda: desk.claim("w1"), lambda: desk.leave("w1"), lambda: desk.bury("w1")):
        with pytest.raises(KeyUnknown):
            call()
    with pytest.raises(KeyUnknown):
        desk.died(mine.job, mine.token, "gone", crash=False)
    stranger = Asker(owner_of(both).http, "")
    stranger.http.app.state.trusted = None  # type: ignore[attr-defined]
    for path in ("/api/jobs", f"/api/jobs/{mine.job}", "/api/me"):
        stranger.get(path, status=401, Authorization=f"Bearer lt_{mine.token}")


def test_a_token_that_owns_nothing_learns_nothing(both: Platform, desk_at: Desks):
    """Whether there is such a job is not for whoever made a token up."""
    _, a = given(both, desk_at)
    words = set()
    for job in (a.job, "job-none"):
        with pytest.raises(LeaseStale) as refused:
            desk_at("0" * 32).heartbeat(job, "0" * 32, Report())
        words.add(str(refused.value).replace(job, "JOB"))

    assert len(words) == 1


def test_a_zombie_is_refused_at_every_door(both: Platform, desk_at: Desks):
    """Its job was lost and given to another attempt."""
    _, a = given(both, desk_at)
    desk, here = desk_at(a.token), Desk(both)
    here.lose(both.queue.get(a.job), "gone")
    here.place(both.queue.get(a.job), {"w1": 1})

    for call in (
        lambda: desk.heartbeat(a.job, a.token, Report(step=9)),
        lambda: desk.record(a.job, a.token, a.attempt, [{"text": "late"}], 0, "log"),
        lambda: desk.finish(a.job, a.token, Ending(outcome="done", reason="steps", model=MODEL)),
    ):
        with pytest.raises(LeaseStale):
            call()

    assert both.registry.models() == []
    assert both.journal.logs(a.job) == []


def test_only_a_worker_works(both: Platform, desk_at: Desks):
    with pytest.raises(RoleLacks):
        desk_at(key_for(both, "admin")).claim("w1")


def test_a_report_that_cannot_be_is_refused(both: Platform, desk_at: Desks):
    _, a = given(both, desk_at)
    ask = Asker(owner_of(both).http, key_for(both, "service"))
    path = f"/api/work/jobs/{a.job}"
    usage = {"trained_tokens": 0, "prompt_tokens": 0, "completion_tokens": 0, "agent_steps": 0, "device_ms": 0}

    wrong = [{}, {"usage": 5}, {"usage": usage, "step": "x"}, {"usage": usage, "fraction": "x"}]
    wrong += [{"usage": {**usage, "device_ms": ms}} for ms in (-1, 2**80, 1.5, "1")] + [{"usage": usage, "unknown": 1}]
    for report in wrong:
        ask.post(f"{path}/heartbeat", {"token": a.token, "report": report}, status=400)
    ask.post(f"{path}/finish", {"token": a.token, "ending": {"outcome": 5, "report": {"usage": usage}}}, status=400)

    assert both.queue.get(a.job).status == "STARTING"


def test_the_database_has_no_token_and_a_lost_answer_is_given_again(both: Platform, desk_at: Desks):
    """Who reads the books can report for nobody; who lost the answer asks again; what is older stays stale."""
    agent, mine = given(both, desk_at)
    (again,) = agent.claim("w1")
    (elsewhere,) = Desk(both).claim("w1")

    assert again == mine == elsewhere
    stored = both.queue.get(mine.job).token
    with both.database.read() as tx:
        rows = [str(row) for table in ("job", "job_attempt", "job_event") for row in tx.all(f"SELECT * FROM {table}")]
    assert stored is not None and mine.token not in "".join(rows)
    with pytest.raises(LeaseStale):
        desk_at(stored).heartbeat(mine.job, stored, Report())
    assert (both.settings.home / "lease.secret").stat().st_mode & 0o777 == 0o600

    desk_at(mine.token).heartbeat(mine.job, mine.token, Report())
    assert agent.claim("w1") == [], "it has begun"
    agent.bury("w1")
    agent.enlist("w2", name="host:2", slots=2, device="cpu", kinds=("text",))
    Desk(both).place(both.queue.get(mine.job), {"w2": 1})
    (next_one,) = agent.claim("w2")
    assert next_one.token != mine.token
    with pytest.raises(LeaseStale):
        desk_at(mine.token).heartbeat(mine.job, mine.token, Report())


def test_a_platform_whose_homes_differ_hands_out_the_token_of_whoever_was_asked(both: Platform, desk_at: Desks):
    """Two servers on one database, each with a home of its own: the worker's own server decides."""
    _, mine = given(both, desk_at)
    (both.settings.home / "lease.secret").unlink()
    other = Desk(both)

    (taken,) = other.claim("w1")

    assert taken.token != mine.token
    assert other.heartbeat(taken.job, taken.token, Report()).desired == "run"
    with pytest.raises(LeaseStale):
        desk_at(mine.token).heartbeat(mine.job, mine.token, Report())
