"""The SDK: both ways to a platform answer alike, errors are what they were, and a lost answer is asked for again."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest

from cerulea.api.app import create_app
from cerulea.api.problems import problem_of
from cerulea.client import Client
from cerulea.client.answers import Job, plain, read
from cerulea.client.problems import error_of
from cerulea.client.wire import TRIES, HttpWire, Requests
from cerulea.client.writing import WriteCalls
from cerulea.core.errors import (
    CeruleaError,
    EdgeRefused,
    Failed,
    FundTooLow,
    Invalid,
    JobKindUnknown,
    KeyReused,
    KeyUnknown,
    ModelLoading,
    MoneyInvalid,
    NotFound,
    NotReady,
    Unreachable,
)
from cerulea.core.settings import Settings
from cerulea.flows.platform import Platform, open_platform
from cerulea.flows.work import Desk
from cerulea.jobs.protocol import Ending, Report
from tests.serving import RECIPE, served


class Place:
    """A platform, and a client of it."""

    def __init__(self, platform: Platform, client: Client) -> None:
        self.platform, self.client = platform, client


@pytest.fixture(params=["inner", "http"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    settings = Settings(home=tmp_path / "home")
    settings.home.mkdir()
    with ExitStack() as held:
        platform = held.enter_context(open_platform(settings))
        if request.param == "http":
            url = held.enter_context(served(create_app(platform)))
            key = platform.people.create_key("owner", team="home", name="t", actor="owner")[0]
            client = held.enter_context(Client(url, key))
        else:
            client = held.enter_context(Client(settings=settings))
        yield Place(platform, client)


def ended(place: Place) -> str:
    """A job that ran: two steps, a line, and its end."""
    job = place.client.jobs.submit(RECIPE).id
    desk = Desk(place.platform)
    desk.enlist("w", name="w", slots=1, device="cpu", kinds=("text",))
    token = desk.assignment(desk.place(place.platform.queue.get(job), {"w": 1})).token
    desk.heartbeat(job, token, Report())
    desk.record(job, token, 1, [{"event": "progress", "step": n, "loss": 2.0 - n} for n in (0, 1)], 0, "run")
    desk.record(job, token, 1, [{"text": "hello"}], 0, "log")
    desk.finish(job, token, Ending(outcome="done", reason="steps", result={"step": 2}))
    return job


def test_a_job_is_submitted_watched_and_waited_for(place: Place):
    client = place.client
    job = ended(place)

    assert client.jobs.wait(job).status == "SUCCEEDED"
    told = list(client.jobs.follow(job))
    assert sorted(item.type for item in told) == sorted(["job"] * 4 + ["metric"] * 2 + ["log", "end"])
    assert told[-1].type == "end" and read(Job, told[-1].data).ended
    assert [line.text for line in client.jobs.logs(job)] == ["hello"]
    assert client.jobs.metric_names(job) == ["loss"]
    assert [bucket.last for bucket in client.jobs.metrics(job, "loss")] == [2.0, 1.0]
    assert [event.after for event in client.jobs.events(job)][-1] == "SUCCEEDED"
    found = client.jobs.get(job)
    assert found.result == {"step": 2} and found.attempts[0].outcome == "done"
    page = client.jobs.list(status=["SUCCEEDED"])
    assert [one.id for one in page.items] == [job] and page.next is None
    again = client.jobs.rerun(job)
    assert client.jobs.cancel(again.id).ended
    assert client.jobs.resume(again.id).status == "QUEUED"
    assert client.jobs.estimate(RECIPE).per_hour == "0.096"


def test_following_sees_what_happens_while_it_looks(place: Place):
    client = place.client
    job = client.jobs.submit(RECIPE).id
    seen = []
    for item in client.jobs.follow(job):
        seen.append((item.type, item.data.get("after")))
        if seen == [("job", "QUEUED")]:
            threading.Thread(target=client.jobs.cancel, args=(job,)).start()

    assert seen == [("job", "QUEUED"), ("job", "CANCELLED"), ("end", None)]


def test_money_people_and_models(place: Place):
    client = place.client
    client.funds.create("lab", approval=True)
    client.funds.grant("lab", "20", until="2031-01-31")
    client.teams.create("vision", fund="lab")
    assert client.funds.draw("lab", "vision", "12.5").status == "drawn"
    assert client.funds.give_back("lab", "vision", "2").amount == "2.00"
    assert client.funds.set_cap("team", "vision", "month", "3").amount == "3.00"
    statement = client.funds.statement("lab")
    assert (statement.drawn, statement.available, statement.teams[0].team) == ("10.50", "9.50", "vision")
    assert client.funds.audit().balanced and client.funds.forecast("lab").left == "20.00"
    assert client.funds.grants("lab")[0].amount == "20.00" and client.funds.prices() and client.funds.caps()
    assert client.funds.requests() == []
    client.persons.create("ada", team="vision")
    client.teams.add("home", "ada", "viewer")
    client.teams.remove("home", "ada")
    client.teams.change("vision", weight=2)
    made = client.keys.create("ada", team="vision", name="laptop", days=3)
    assert made.key is not None and client.keys.revoke(made.prefix).revoked_at
    assert [team.weight for team in client.teams.list()] == [1, 2]
    assert {person.name for person in client.persons.list()} == {"ada", "owner"}
    assert client.workers.list() == client.models.list() == []
    assert client.audit.list(action="key", subject=made.prefix)[0].action == "key.revoke"
    assert client.me().role == "admin"


def test_errors_are_what_they_were(place: Place):
    client = place.client
    job = client.jobs.submit(RECIPE, key="once").id
    client.funds.create("lab")
    client.teams.create("vision", fund="lab")

    with pytest.raises(NotFound) as missing:
        client.jobs.get(job[:-1])
    assert job in missing.value.why and missing.value.fix
    for error, call in (
        (EdgeRefused, lambda: client.jobs.resume(job)),
        (JobKindUnknown, lambda: client.jobs.submit({"kind": "game"})),
        (MoneyInvalid, lambda: client.funds.grant("lab", "-5")),
        (FundTooLow, lambda: client.funds.draw("lab", "vision", "5")),
        (KeyReused, lambda: client.jobs.submit({**RECIPE, "name": "other"}, key="once")),
        (Invalid, lambda: client.jobs.get("")),
        (NotFound, lambda: client.jobs.get("../../etc/passwd")),
        (Invalid, lambda: client.jobs.get("a\0b")),
        (NotFound, lambda: client.models.get("nobody:prod")),
    ):
        with pytest.raises(error):
            call()
    assert client.jobs.submit(RECIPE, key="once").id == job


def test_both_ways_give_the_same_answers(tmp_path: Path):
    """One platform, read over HTTP and from within: equal values, equal refusals."""
    settings = Settings(home=tmp_path / "home")
    settings.home.mkdir()
    with open_platform(settings) as platform, served(create_app(platform)) as url, Client(settings=settings) as inner:
        key = platform.people.create_key("owner", team="home", name="t", actor="owner")[0]
        job = ended(Place(platform, inner))
        with Client(url, key) as far:
            looks = (
                lambda c: plain(c.jobs.get(job)),
                lambda c: plain(c.jobs.list()),
                lambda c: [plain(item) for item in c.jobs.follow(job)],
                lambda c: [plain(line) for line in c.jobs.logs(job)],
                lambda c: [plain(one) for one in c.jobs.metrics(job, "loss")],
                lambda c: plain(c.funds.statement("home")),
                lambda c: plain(c.funds.audit()),
                lambda c: [plain(one) for one in c.audit.list()],
                lambda c: plain(c.jobs.estimate(RECIPE)),
            )
            for look in looks:
                assert look(inner) == look(far)
            refusals = []
            for client in (inner, far):
                with pytest.raises(NotFound) as refused:
                    client.funds.statement("hme")
                refusals.append(refused.value.as_json())
            assert refusals[0] == refusals[1]


def test_a_stream_that_breaks_is_taken_up_where_it_broke(place: Place, monkeypatch: pytest.MonkeyPatch):
    """Every line of the stream is cut after two events; nothing is missing and nothing comes twice."""
    job = ended(place)
    whole = [plain(item) for item in place.client.jobs.follow(job)]
    if not isinstance(place.client.jobs._line.wire, HttpWire):
        return
    lines_of = httpx.Response.iter_lines
    monkeypatch.setattr("cerulea.client.jobs.BACKOFF_S", 0.001)

    def cut(answer: httpx.Response) -> Iterator[str]:
        blank = 0
        for line in lines_of(answer):
            yield line
            blank += not line
            if blank == 3:
                raise httpx.ReadError("cut")

    monkeypatch.setattr(httpx.Response, "iter_lines", cut)

    assert [plain(item) for item in place.client.jobs.follow(job)] == whole


class Flaky:
    """A wire that loses the first answers."""

    streams = False

    def __init__(self, losses: int) -> None:
        self.losses, self.keys = losses, []  # type: ignore[var-annotated]

    def send(self, method: str, path: str, *, json, params, headers, timeout_s: float) -> httpx.Response:
        self.keys.append(headers.get("Idempotency-Key"))
        if len(self.keys) <= self.losses:
            raise Unreachable("lost")
        return httpx.Response(200, json={"done": True})

    def close(self) -> None: ...


def test_a_lost_answer_is_asked_for_again_under_the_same_key():
    wire, waits = Flaky(TRIES - 1), list[float]()
    line = Requests(lambda: wire, sleep=waits.append)

    assert line.write("POST", "/api/jobs", {}) == {"done": True}
    assert len(wire.keys) == TRIES and len(set(wire.keys)) == 1 and wire.keys[0]
    assert waits == sorted(waits) and len(waits) == TRIES - 1
    with pytest.raises(Unreachable):
        Requests(lambda: Flaky(TRIES), sleep=waits.append).get("/api/jobs")


def test_a_platform_that_is_not_there_is_unreachable():
    with Client("http://127.0.0.1:9", "ck_x") as client:
        client._line._sleep = lambda seconds: None
        with pytest.raises(Unreachable, match="does not answer") as refused:
            client.me()
    assert "cerulea up" in refused.value.fix and refused.value.exit_code == 6


@pytest.mark.parametrize("url", ["", "ftp://x", "no url", "http://", "\0"])
def test_what_is_no_address_is_refused(url: str):
    with pytest.raises(Invalid), Client(url, "ck_x") as client:
        client.me()


def test_without_a_key_a_platform_elsewhere_answers_nothing(place: Place):
    wire = place.client.jobs._line.wire
    if isinstance(wire, HttpWire):
        with Client(wire.url) as stranger, pytest.raises(KeyUnknown):
            stranger.me()


@pytest.mark.parametrize("content", [b"", b"<html>", b"[]", b'"x"', b"{}", b'{"code": 5}'])
def test_an_answer_that_is_no_problem_is_a_failure(content: bytes):
    """A proxy in between, say."""
    assert type(error_of(502, content)) is Failed


def test_a_code_that_this_version_does_not_know_is_still_an_error():
    error = error_of(418, b'{"code": "E-NEW-001", "detail": "What?", "why": "So.", "fix": "Do."}')

    assert type(error) is CeruleaError and error.code == "E-NEW-001" and str(error) == "What? So. Do."


def test_an_answer_of_another_version_says_so():
    with pytest.raises(Failed, match="no Job"):
        read(Job, {"id": "job-1"})
    assert read(Job, {**dict.fromkeys(Job.__dataclass_fields__, 1), "new": 5}).id == 1


def test_importing_the_sdk_loads_nothing_heavy():
    heavy = ("httpx", "fastapi", "pydantic", "sqlalchemy", "torch", "numpy", "asyncio")
    program = f"import sys, cerulea.client; print([m for m in {heavy} if m in sys.modules])"

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"


class Loads:
    """A platform whose model is loaded after so many refusals."""

    streams = True

    def __init__(self, refusals: int, error: CeruleaError) -> None:
        self.refusals, self.error, self.asked = refusals, error, 0

    @contextmanager
    def events(self, path: str, body: object) -> Iterator[Iterator[str]]:
        self.asked += 1
        if self.asked <= self.refusals:
            raise error_of(503, problem_of(self.error).model_dump_json().encode())
        yield iter(['data: {"choices": [{"index": 0, "text": "calm", "finish_reason": "stop"}]}', "data: [DONE]"])


def test_a_model_that_is_being_loaded_is_waited_for_and_that_is_said():
    slept, told = [], []
    wire = Loads(3, ModelLoading("brook@1 is being loaded."))
    write = WriteCalls(Requests(lambda: wire, sleep=slept.append))
    write.on_loading = told.append

    (text,) = write.texts("brook", "The sea was")

    assert (text.text, wire.asked, len(slept)) == ("calm", 4, 3)
    assert [error.what for error in told] == ["brook@1 is being loaded."]


@pytest.mark.parametrize(
    ("error", "patience_s"), [(ModelLoading("It is being loaded."), 0.0), (NotReady("It is about to stop."), 900.0)]
)
def test_waiting_for_a_model_ends_and_no_other_refusal_is_asked_again(error: CeruleaError, patience_s: float):
    wire = Loads(99, error)
    write = WriteCalls(Requests(lambda: wire, sleep=lambda seconds: None))
    write.patience_s = patience_s

    with pytest.raises(type(error)):
        write.texts("brook", "The sea was")
    assert wire.asked == 1
