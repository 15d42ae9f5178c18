"""Jobs over HTTP: submit, look, cancel, resume, rerun, estimate."""

from __future__ import annotations

import dataclasses

import pytest

from cerulea.core.money import nanos
from cerulea.core.values import Usage
from cerulea.flows.platform import Platform
from cerulea.flows.work import Desk
from cerulea.jobs.protocol import Ending, Report
from tests.serving import RECIPE, Asker, asker_for


def submit(ask: Asker, **more: object) -> dict:
    return ask.post("/api/jobs", {"recipe": RECIPE, **more}, status=201)


def work_on(platform: Platform, job: str, *, seconds: int = 0) -> tuple[Desk, str]:
    """Place a job on a worker of its own and report once; the desk and the attempt's token."""
    desk = Desk(platform)
    desk.enlist(f"w-{job}", name="here", slots=1, device="cpu", kinds=("text",))
    token = desk.assignment(desk.place(platform.queue.get(job), {f"w-{job}": 1})).token
    desk.heartbeat(job, token, Report(usage=Usage(device_ms=1000 * seconds), step=5, fraction=0.25, resumed_step=0))
    return desk, token


def test_a_job_is_queued_as_it_was_asked_for(ask_both: Asker):
    job = submit(ask_both, name="stream", priority=3, max_cost="2.50", on_budget="pause")

    assert (job["status"], job["name"], job["team"], job["fund"]) == ("QUEUED", "stream", "home", "home")
    assert (job["priority"], job["max_cost"], job["on_budget"]) == (3, "2.50", "pause")
    assert job["waits"] and job["cost"] == "0.00"
    detail = ask_both.get(f"/api/jobs/{job['id']}")
    assert detail["position"] == 1 and detail["attempts"] == []
    assert detail["recipe"]["name"] == "stream" and detail["recipe"]["train"]["steps"] == 60
    assert {"scope": "job", "subject": job["id"], "period": "total", "amount": "2.50"} in ask_both.get("/api/caps")[
        "items"
    ]
    logged = ask_both.get(f"/api/audit?subject={job['id']}")["items"]
    assert [one["action"] for one in logged] == ["job.submit"] and logged[0]["actor"] == "owner"


def test_pages_are_whole_and_filters_filter(ask: Asker):
    jobs = [submit(ask)["id"] for _ in range(7)]
    for job in jobs[:3]:
        ask.post(f"/api/jobs/{job}/cancel")

    seen, before = [], ""
    while True:
        page = ask.get(f"/api/jobs?limit=3{before}")
        seen += [job["id"] for job in page["items"]]
        if page["next"] is None:
            break
        before = f"&before={page['next']}"

    assert seen == jobs[::-1]
    assert [j["id"] for j in ask.get("/api/jobs?status=CANCELLED")["items"]] == jobs[2::-1]
    assert len(ask.get("/api/jobs?status=CANCELLED&status=QUEUED")["items"]) == 7
    assert ask.get("/api/jobs?status=RUNNING")["items"] == []
    assert len(ask.get("/api/jobs?team=home&limit=500")["items"]) == 7
    ask.get("/api/jobs?status=ASLEEP", status=422)


def test_the_place_in_line_goes_by_priority_then_by_time(ask: Asker):
    first, second, urgent = submit(ask)["id"], submit(ask)["id"], submit(ask, priority=1)["id"]

    places = [ask.get(f"/api/jobs/{job}")["position"] for job in (first, second, urgent)]

    assert places == [2, 3, 1]


def test_a_running_job_shows_what_it_cost_so_far_and_its_tries(both: Platform, ask_both: Asker):
    """Nothing is charged yet, and the hour that was used costs what the price list says."""
    job = submit(ask_both)["id"]
    desk, token = work_on(both, job, seconds=3600)

    running = ask_both.get(f"/api/jobs/{job}")
    assert (running["status"], running["step"], running["fraction"]) == ("RUNNING", 5, 0.25)
    assert running["cost"] == "0.096" and running["position"] is None
    listed = ask_both.get("/api/jobs?status=RUNNING")["items"][0]
    assert listed["cost"] == "0.096" and listed["waits"] == ""

    usage = Usage(device_ms=7_200_000)
    desk.finish(job, token, Ending(outcome="done", reason="steps", report=Report(usage=usage, step=60, fraction=1.0)))
    done = ask_both.get(f"/api/jobs/{job}")
    assert (done["status"], done["cost"], done["charged"]) == ("SUCCEEDED", "0.192", "0.192")
    assert [(one["attempt"], one["outcome"]) for one in done["attempts"]] == [(1, "done")]
    assert [e["after"] for e in ask_both.get(f"/api/jobs/{job}/events")["items"]] == [
        "QUEUED",
        "STARTING",
        "RUNNING",
        "SUCCEEDED",
    ]


def test_a_job_without_money_says_why_it_waits_and_what_to_type(platform: Platform, ask: Asker):
    from cerulea.flows.conduct import Conductor

    ask.post("/api/funds", {"name": "lab"}, status=201)
    ask.post("/api/teams", {"name": "vision", "fund": "lab"}, status=201)
    job = submit(ask, team="vision")["id"]
    desk = Desk(platform)
    desk.enlist("w", name="w", slots=1, device="cpu", kinds=("text",))

    Conductor(platform, desk).tick()

    found = ask.get(f"/api/jobs/{job}")
    assert found["reason"] == "budget"
    assert "cerulea fund draw lab vision" in found["waits"]


def test_cancel_resume_and_rerun(ask_both: Asker):
    job = submit(ask_both)["id"]

    assert ask_both.post(f"/api/jobs/{job}/cancel")["status"] == "CANCELLED"
    assert ask_both.post(f"/api/jobs/{job}/cancel", status=409)["code"] == "E-JOB-001"
    assert ask_both.post(f"/api/jobs/{job}/resume")["status"] == "QUEUED"
    assert ask_both.post(f"/api/jobs/{job}/resume", status=409)["code"] == "E-JOB-001"
    again = ask_both.post(f"/api/jobs/{job}/rerun", status=201)
    assert again["rerun_of"] == job and again["id"] != job
    digests = {ask_both.get(f"/api/jobs/{one}")["recipe_digest"] for one in (job, again["id"])}
    assert len(digests) == 1
    actions = [one["action"] for one in ask_both.get("/api/audit?action=job")["items"]]
    assert actions == ["job.rerun", "job.resume", "job.cancel", "job.submit"]


def test_a_running_job_is_asked_to_save(platform: Platform, ask: Asker):
    job = submit(ask)["id"]
    desk, token = work_on(platform, job)

    assert ask.post(f"/api/jobs/{job}/cancel")["status"] == "STOPPING"
    assert dataclasses.astuple(desk.heartbeat(job, token, Report()))[:2] == ("stop", "cancel")


def test_a_job_of_cerulea_train_is_not_resumed_from_afar(platform: Platform, ask: Asker):
    job = submit(ask)["id"]
    platform.database.write(lambda tx: tx.run("UPDATE job SET pinned = 1"))
    ask.post(f"/api/jobs/{job}/cancel")

    assert "--resume" in ask.post(f"/api/jobs/{job}/resume", status=400)["fix"]


@pytest.mark.parametrize(
    ("change", "status", "code", "words"),
    [
        ({"recipe": {"kind": "selfpaly"}}, 400, "E-JOB-003", "The nearest is 'selfplay'"),
        ({"recipe": {"kind": "texd"}}, 400, "E-JOB-003", "The nearest is 'text'"),
        ({"recipe": {"kind": ["text"]}}, 400, "E-JOB-003", "Nobody here runs"),
        ({"recipe": {**RECIPE, "trian": {}}}, 400, "E-RECIPE-001", "nearest known key is 'train'"),
        ({"recipe": {"name": "x"}}, 400, "E-RECIPE-001", "never stops"),
        ({"recipe": {**RECIPE, "name": "../../etc"}}, 400, "E-RECIPE-001", "name is"),
        ({"recipe": {**RECIPE, "model": {"layers": 10**9}}}, 400, "E-RECIPE-001", "at most 4,096"),
        ({"recipe": {**RECIPE, "train": {"steps": 10**40}}}, 400, "E-RECIPE-001", "too large a number"),
        ({"recipe": {**RECIPE, "data": {"train": ["a\0b"]}}}, 400, "E-RECIPE-001", "no text"),
        ({"recipe": {**RECIPE, "data": {"train": ["x" * 70_000]}}}, 400, "E-RECIPE-001", "characters"),
        ({"team": "hom"}, 404, "E-NAME-001", "The nearest name is 'home'"),
        ({"fund": "hime"}, 404, "E-NAME-001", "The nearest name is 'home'"),
        ({"max_cost": "-5"}, 400, "E-MONEY-001", "is no amount"),
        ({"max_cost": "0"}, 400, "E-MONEY-001", "is zero"),
        ({"max_cost": "NaN"}, 400, "E-MONEY-001", "is no amount"),
        ({"max_cost": "9" * 30}, 400, "E-MONEY-001", "is no amount"),
        ({"priority": 10**6}, 422, "E-USE-001", "priority"),
        ({"processes": 0}, 422, "E-USE-001", "processes"),
        ({"nonsense": 1}, 422, "E-USE-001", "nonsense"),
    ],
)
def test_what_cannot_be_run_is_refused_with_a_code(change: dict, status: int, code: str, words: str, ask: Asker):
    problem = ask.post("/api/jobs", {"recipe": RECIPE, **change}, status=status)

    assert problem["code"] == code
    assert words in f"{problem['detail']} {problem['why']} {problem['fix']}"
    assert ask.get("/api/jobs")["items"] == []


def test_a_name_that_is_nearly_right_is_named(ask: Asker):
    job = submit(ask)["id"]

    problem = ask.get(f"/api/jobs/{job[:-1]}", status=404)

    assert job in problem["why"] and "cerulea ps" in problem["fix"]


def test_an_estimate_rests_on_what_is_known(platform: Platform, ask: Asker):
    unknown = ask.post("/api/estimate", {"recipe": RECIPE})
    assert (unknown["basis"], unknown["low"], unknown["per_hour"]) == ("unknown", None, "0.096")

    timed = ask.post("/api/estimate", {"recipe": {**RECIPE, "train": {"minutes": 30}}, "processes": 2})
    assert (timed["basis"], timed["low"], timed["low_s"]) == ("minutes", "0.096", 1800.0)

    job = submit(ask)["id"]
    desk, token = work_on(platform, job)
    usage = Usage(device_ms=60_000, trained_tokens=60 * 8192)
    desk.finish(job, token, Ending(outcome="done", reason="steps", report=Report(usage=usage, step=60)))
    seen = ask.post("/api/estimate", {"recipe": RECIPE})
    assert seen["basis"] == "history" and seen["low_s"] < 60 < seen["high_s"]
    assert nanos(seen["low"]) < nanos("0.0016") < nanos(seen["high"])
    assert len(ask.get("/api/jobs")["items"]) == 1, "an estimate queues nothing"


def test_an_estimate_says_what_the_team_has(platform: Platform):
    ask = asker_for(platform, "developer", "vision")
    platform.ledger.grant("vision", nanos("5"), key="g", actor="owner")
    platform.ledger.draw("vision", "vision", nanos("3"), key="d", actor="owner")

    assert ask.post("/api/estimate", {"recipe": RECIPE})["available"] == "3.00"


def test_curves_and_lines(platform: Platform, ask: Asker):
    job = submit(ask)["id"]
    points = [{"event": "progress", "step": n, "loss": 5.0 if n == 7777 else 1.0} for n in range(10_000)]
    points[3]["loss"] = float("nan")
    platform.journal.write(job, 1, points)
    platform.journal.write(job, 1, [{"text": f"line {n}"} for n in range(30)], stream="log")

    curve = ask.get(f"/api/jobs/{job}/metrics?name=loss")
    assert ask.get(f"/api/jobs/{job}/metrics/names")["items"] == ["loss"]
    assert len(curve["buckets"]) <= 2000 and sum(b["points"] for b in curve["buckets"]) == 10_000
    assert max(b["high"] for b in curve["buckets"] if b["high"] is not None) == 5.0
    few = ask.get(f"/api/jobs/{job}/metrics?name=loss&points=10&first=100&last=200")["buckets"]
    assert len(few) <= 10 and (few[0]["first_step"], few[-1]["last_step"]) == (100, 200)
    assert ask.get(f"/api/jobs/{job}/metrics?name=none")["buckets"] == []
    lines = ask.get(f"/api/jobs/{job}/logs?limit=10")["items"]
    more = ask.get(f"/api/jobs/{job}/logs?after={lines[-1]['cursor']}")["items"]
    assert [line["text"] for line in lines + more] == [f"line {n}" for n in range(30)]
    assert [line["text"] for line in ask.get(f"/api/jobs/{job}/logs?tail=2")["items"]] == ["line 28", "line 29"]
