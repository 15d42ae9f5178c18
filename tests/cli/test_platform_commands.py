"""Commands that speak to a platform, each on the embedded one and on one behind a server."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from cerulea.api.app import create_app
from cerulea.cli import main
from cerulea.core.settings import Settings
from cerulea.core.values import Usage
from cerulea.flows.bill import Order, open_now
from cerulea.flows.platform import Platform, open_platform
from cerulea.flows.work import Desk
from cerulea.jobs.protocol import Ending, Report
from tests.conftest import ROOT
from tests.serving import served

TINY = str(ROOT / "recipes" / "tiny.toml")


class Said:
    """What a command said."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]


class Commands:
    """`cerulea WORDS` in this process, with the exit code that is expected."""

    def __init__(self, platform: Platform, run: Callable[..., Said]) -> None:
        self.platform, self.run = platform, run

    def __call__(self, *words: object, code: int = 0) -> Said:
        said = self.run(*map(str, words))
        assert said.code == code, f"exit {said.code}\n{said.out}\n{said.err}"
        return said

    def json(self, *words: object, code: int = 0) -> list[dict[str, Any]]:
        return self(*words, "--json", code=code).lines

    def one(self, *words: object) -> dict[str, Any]:
        (line,) = self.json(*words)
        return line


@pytest.fixture(params=["inner", "http"])
def cerulea(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Iterator[Commands]:
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("CERULEA_HOME", str(home))
    monkeypatch.setenv("COLUMNS", "200")
    for name in ("CERULEA_URL", "CERULEA_KEY", "CERULEA_DATABASE_URL"):
        monkeypatch.delenv(name, raising=False)

    def run(*words: str) -> Said:
        monkeypatch.setattr(sys, "argv", ["cerulea", *words])
        code = 0
        try:
            main.run()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        out, err = capsys.readouterr()
        return Said(code, out, err)

    with ExitStack() as held:
        platform = held.enter_context(open_platform(Settings(home=home)))
        if request.param == "http":
            monkeypatch.setenv("CERULEA_HOME", str(tmp_path / "elsewhere"))
            monkeypatch.setenv("CERULEA_URL", held.enter_context(served(create_app(platform))))
            key = platform.people.create_key("owner", team="home", name="t", actor="owner")[0]
            monkeypatch.setenv("CERULEA_KEY", key)
        yield Commands(platform, run)


def begin(platform: Platform, job: str) -> tuple[Desk, str]:
    desk = Desk(platform)
    desk.enlist("w", name="w", slots=1, device="cpu", kinds=("text",))
    token = desk.assignment(desk.place(platform.queue.get(job), {"w": 1})).token
    desk.heartbeat(job, token, Report())
    return desk, token


PROGRESS = {"tokens": 1, "learning_rate": 1.0, "gradient_norm": 1.0, "tokens_per_s": 9.0, "flops_utilization": 0.5}


def record(desk: Desk, job: str, token: str) -> None:
    progress = {"event": "progress", "step": 1, "loss": None, "elapsed_s": 1.0, "fraction": 0.5, **PROGRESS}
    score = {"event": "eval", "step": 1, "loss": 2.0, "bits_per_byte": 1.5, "elapsed_s": 1.0, "evaluate_s": 0.1}
    saved = {"event": "checkpoint", "step": 1, "digest": "d"}
    note = {"event": "note", "text": "mind the gap"}
    desk.record(job, token, 1, [progress, {**score, "best": True}, saved, note], 0, "run")
    desk.record(job, token, 1, [{"text": "hello"}, {"text": "world"}], 0, "log")


def test_a_job_is_submitted_as_train_would_run_it(cerulea: Commands, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """The same options; paths mean the same in another folder, the built-in corpus stays what it is."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my").mkdir()
    job = cerulea.one(
        "submit", TINY, "--data", "stdlib", "--data", "my/*.txt", "--set", "train.steps=7", "--name", "brook"
    )

    assert job["job"] == job["id"] and (job["name"], job["status"]) == ("brook", "QUEUED")
    assert job["estimate"]["per_hour"] == "0.096"
    recipe = cerulea.platform.queue.get(job["id"]).recipe
    assert recipe["data"]["train"] == ["stdlib", str(tmp_path / "my" / "*.txt")] and recipe["train"]["steps"] == 7
    said = cerulea("submit", TINY, "--max-cost", "2.5", "--priority", 3, "--on-budget", "pause", "--processes", 2).out
    assert "next:     cerulea watch job-" in said and "an hour" in said
    newest = cerulea.platform.queue.newest()[0]
    assert (newest.max_cost, newest.priority, newest.on_budget, newest.slots) == (2_500_000_000, 3, "pause", 2)
    assert cerulea.one("submit", TINY, "--key", "k")["id"] == cerulea.one("submit", TINY, "--key", "k")["id"]


def test_ps_says_why_jobs_wait(cerulea: Commands):
    job = cerulea.one("submit", TINY)["job"]
    cerulea.platform.queue.explain({job: ("capacity", "No worker has a free slot.")})

    (line,) = cerulea.json("ps")
    assert (line["job"], line["status"], line["waits"]) == (job, "QUEUED", "No worker has a free slot.")
    assert "No worker has a free slot." in cerulea("ps").out
    cerulea("cancel", job)
    assert cerulea.json("ps") == [] and "cerulea ps --all" in cerulea("ps").out
    assert [one["job"] for one in cerulea.json("ps", "--all")] == [job]
    assert [one["job"] for one in cerulea.json("ps", "--status", "cancelled", "--team", "home")] == [job]
    assert cerulea.json("ps", "--all", "--team", "none") == []
    assert "E-USE-001" in cerulea("ps", "--status", "asleep", code=2).err


def test_watch_shows_a_job_and_ends_as_it_did(cerulea: Commands):
    job = cerulea.one("submit", TINY)["job"]
    desk, token = begin(cerulea.platform, job)
    record(desk, job, token)
    model = {"files": {"m": {"sha256": "0" * 64, "bytes": 1}}, "digest": "0" * 64, "card": {}}
    desk.finish(job, token, Ending(outcome="done", reason="steps", model=model, result={"bits_per_byte": 1.5}))

    said = cerulea("watch", job).out
    for words in (
        "RUNNING",
        "loss nan",
        "scored  step 1: 1.5000",
        "saved   step 1",
        "mind the gap",
        "SUCCEEDED: tiny@1",
    ):
        assert words in said
    lines = cerulea.json("watch", job)
    assert {"job", "metric", "log", "end"} >= {line["event"] for line in lines} - {
        "progress",
        "eval",
        "checkpoint",
        "note",
    }
    assert lines[-1]["event"] == "end" and lines[-1]["status"] == "SUCCEEDED"
    assert [line["bits_per_byte"] for line in lines if line["event"] == "eval"] == [1.5]
    assert cerulea("logs", job).out.split() == ["hello", "world"] == cerulea("logs", job, "-f").out.split()
    assert [line["text"] for line in cerulea.json("logs", job, "--tail", 1)] == ["world"]
    again = cerulea.one("rerun", job)
    assert again["rerun_of"] == job
    cerulea("cancel", again["job"])
    assert "CANCELLED" in cerulea("watch", again["job"], code=1).out
    assert cerulea.one("resume", again["job"])["status"] == "QUEUED"


def test_watch_ends_with_three_when_the_money_did(cerulea: Commands):
    job = cerulea.one("submit", TINY, "--on-budget", "pause")["job"]
    desk, token = begin(cerulea.platform, job)
    cerulea.platform.queue.ask_stop(job, "budget", actor="ledger", detail="no money")
    desk.finish(job, token, Ending(outcome="stopped", reason="budget"))

    assert "PAUSED" in cerulea("watch", job, code=3).out


def test_a_fund_is_made_filled_drawn_and_audited(cerulea: Commands):
    cerulea("fund", "create", "lab", "--approval")
    cerulea("fund", "grant", "lab", "20", "--until", "2031-01-31")
    cerulea("team", "create", "vision", "--fund", "lab", "--weight", 2)
    assert "drew 12.50" in cerulea("fund", "draw", "lab", "vision", "12.5").out
    assert "gave back 2.00" in cerulea("fund", "return", "lab", "vision", "2").out

    line = cerulea.one("fund", "statement", "lab")
    assert {key: line[key] for key in ("fund", "granted", "drawn", "held", "settled", "available")} == {
        "fund": "lab",
        "granted": "20.00",
        "drawn": "10.50",
        "held": "0.00",
        "settled": "0.00",
        "available": "9.50",
    }
    assert "team vision: drawn 10.50" in cerulea("fund", "statement", "lab").out
    rows = list(csv.reader(io.StringIO(cerulea("fund", "statement", "lab", "--csv").out)))
    assert rows[1] == ["lab", "", "20.00", "0.00", "10.50", "0.00", "0.00", "9.50", "0.00"] and rows[2][1] == "vision"
    assert [one["fund"] for one in cerulea.json("fund", "statement")] == ["home", "lab"]
    assert cerulea.one("fund", "forecast", "lab")["ends_at"] is None
    assert "home: uncapped" in cerulea("fund", "forecast").out
    audit = cerulea.one("fund", "audit")
    assert (audit["balanced"], audit["transfers"], audit["problems"]) == (True, 3, [])
    assert {one["name"] for one in cerulea.json("fund", "list")} == {"home", "lab"}
    assert "wanted" in cerulea("fund", "list").out
    assert cerulea.one("fund", "cap", "team", "vision", "3", "--per", "day")["amount"] == "3.00"
    assert "vision" in cerulea("fund", "cap").out
    assert cerulea.one("fund", "cap", "team", "vision", "none", "--per", "day")["amount"] is None
    assert cerulea.json("fund", "prices")


def test_a_draw_that_waits_is_answered(cerulea: Commands):
    cerulea("fund", "create", "lab", "--approval")
    cerulea("fund", "grant", "lab", "20")
    cerulea("team", "create", "vision", "--fund", "lab")
    for number in (1, 2):
        cerulea.platform.ledger.ask("lab", "vision", 10**9, key=f"k{number}", actor="ada")

    first, second = (one["request"] for one in cerulea.json("fund", "requests"))
    assert "drew 1.00" in cerulea("fund", "approve", first).out
    assert "denied" in cerulea("fund", "deny", second).out
    assert "E-CONFLICT-001" in cerulea("fund", "approve", second, code=5).err
    assert cerulea.one("fund", "statement", "lab")["drawn"] == "1.00"


def test_an_audit_that_fails_names_what_does_not_fit_and_ends_with_one(cerulea: Commands):
    cerulea("fund", "create", "lab")
    cerulea("fund", "grant", "lab", "20")
    cerulea.platform.database.write(
        lambda tx: tx.run("UPDATE account SET cr_posted = cr_posted + 1 WHERE code = 'fund:lab'")
    )

    said = cerulea("fund", "audit", "--json", code=1)
    audit, error = said.lines
    assert not audit["balanced"] and "fund:lab" in audit["problems"][0]
    assert error["code"] == "E-AUDIT-001"


def test_people_and_keys(cerulea: Commands):
    cerulea("team", "create", "vision")
    cerulea("person", "create", "ada", "--team", "vision", "--role", "viewer")
    cerulea("team", "add", "home", "ada", "--role", "developer")
    assert cerulea.json("person", "list")[0]["roles"] == {"home": "developer", "vision": "viewer"}
    cerulea("team", "remove", "home", "ada")
    assert [one["name"] for one in cerulea.json("team", "list")] == ["home", "vision"]
    made = cerulea.one("key", "create", "--person", "ada", "--team", "vision", "--name", "laptop", "--days", 3)
    assert made["key"].startswith("ck_") and made["role"] == "viewer"
    service = cerulea.one("key", "create", "--role", "service")
    assert (service["person"], service["role"]) == ("service", "service")
    assert cerulea.one("key", "create", "--role", "service")["person"] == "service"
    assert cerulea.one("key", "create")["person"] == "owner"
    listed = cerulea("key", "list").out
    assert f"ck_{made['prefix']}" in listed and made["key"] not in listed
    assert cerulea.one("key", "revoke", f"ck_{made['prefix']}")["revoked_at"]
    assert "ck_" in cerulea("key", "create").out


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["fund", "draw", "home", "home", "-5"], 2, "E-MONEY-001: '-5' is no amount"),
        (["fund", "grant", "home", "-0.01"], 2, "E-MONEY-001"),
        (["fund", "grant", "home", "0"], 2, "E-MONEY-001: The amount is zero"),
        (["fund", "grant", "home", "NaN"], 2, "E-MONEY-001"),
        (["fund", "grant", "home", "9" * 30], 2, "E-MONEY-001"),
        (["fund", "grant", "home", "5", "--until", "2020-01-01"], 2, "E-MONEY-001"),
        (["fund", "statement", "hom"], 2, "The nearest name is 'home'"),
        (["fund", "draw", "home", "hime", "5"], 2, "The nearest name is 'home'"),
        (["fund", "draw", "home", "home"], 2, "Missing argument 'AMOUNT'"),
        (["fund", "draw", "home", "home", "5", "--bogus"], 2, "E-USE-002"),
        (["fund", "create", "home"], 5, "E-CONFLICT-001"),
        (["fund", "crate", "x"], 2, "No such command"),
        (["submit", TINY, "--team", "hme"], 2, "The nearest name is 'home'"),
        (["submit", TINY, "--fund", "hme"], 2, "The nearest name is 'home'"),
        (["submit", TINY, "--max-cost", "-5"], 2, "E-MONEY-001"),
        (["submit", TINY, "--set", "train.step=5"], 2, "nearest known key is 'train.steps'"),
        (["submit", "none.toml"], 2, "There is no recipe none.toml"),
        (["watch", "job-none"], 2, "E-NAME-001: There is no job 'job-none'"),
        (["logs", "job-none"], 2, "cerulea ps"),
        (["cancel", "../../etc"], 2, "E-"),
        (["key", "revoke", "zzzz"], 2, "E-USE-001"),
        (["key", "create", "--role", "king"], 2, "E-USE-001"),
        (["ps", "--url", "http://127.0.0.1:9"], 6, "E-NET-001"),
        (["ps", "--url", "nonsense"], 2, "E-USE-001"),
    ],
)
def test_what_is_wrong_is_said_with_a_code_and_a_way_out(
    words: list[str], code: int, message: str, cerulea: Commands, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("cerulea.client.wire.BACKOFF_S", 0.001)

    said = cerulea(*words, code=code)

    assert message in said.err
    assert len(said.err.strip().splitlines()) >= 2, "an error says what to type next"


def test_a_draw_beyond_the_fund_says_what_is_left_and_what_to_type(cerulea: Commands):
    cerulea("fund", "create", "lab")
    cerulea("fund", "grant", "lab", "20")
    cerulea("team", "create", "vision", "--fund", "lab")
    cerulea("fund", "draw", "lab", "vision", "15")

    said = cerulea("fund", "draw", "lab", "vision", "12.50", code=3).err

    assert "5.00 left" in said and "team vision has 15.00 free" in said and "cerulea fund grant lab 7.50" in said


def test_a_wrong_key_ends_with_four(cerulea: Commands, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CERULEA_KEY", "ck_wrong")
    with served(create_app(cerulea.platform)) as url:
        assert "E-AUTH-002" in cerulea("ps", "--url", url, code=4).err


def test_home_goes_before_the_url_of_the_environment(
    cerulea: Commands, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setenv("CERULEA_URL", "http://127.0.0.1:9")

    assert cerulea.json("ps", "--home", tmp_path / "mine") == []
    assert cerulea.json("--home", tmp_path / "mine", "ps") == []


def test_requests_to_models_are_reported_and_a_key_is_limited(cerulea: Commands):
    assert "No requests" in cerulea("usage").out
    bill = open_now(
        cerulea.platform,
        cerulea.platform.people.caller(),
        Order(
            request_id="req-1",
            model="brook@3",
            endpoint="completions",
            prompt_tokens=10,
            first_tokens=5,
            most_tokens=5,
        ),
    )
    bill.settle_now(Usage(prompt_tokens=10, completion_tokens=5), finish="stop")

    for by, name in (("model", "brook"), ("team", "home"), ("key", "")):
        line = cerulea.one("usage", "--by", by)
        assert (line["name"], line["requests"], line["charged"]) == (name, 1, "0.000003")
    assert "brook" in cerulea("usage", "--by", "model").out
    assert cerulea.json("usage", "--team", "none") == []
    assert cerulea.one("usage", "req-1")["version"] == 3
    assert "10 prompt tokens (0 cached), 5 written" in cerulea("usage", "req-1").out
    cerulea("usage", "req-2", code=2)
    cerulea("usage", "--since", "yesterday", code=2)
    assert "0.000003 of it for requests to models" in cerulea("fund", "statement", "home").out

    prefix = cerulea.one("key", "create")["prefix"]
    said = cerulea("key", "limit", prefix, "--requests-per-minute", 60, "--tokens-per-minute", 100_000).out
    assert "at most 60 requests, 100,000 tokens a minute" in said
    assert "60 requests, 100,000 tokens" in cerulea("key", "list").out
    assert "no limit any more" in cerulea("key", "limit", f"ck_{prefix}").out
    cerulea("key", "limit", prefix, "--requests-per-minute", 0, code=2)
