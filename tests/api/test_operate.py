"""Health, counters, workers, the log, and the document."""

from __future__ import annotations

import re

from prometheus_client.parser import text_string_to_metric_families

from cerulea.flows.platform import Platform
from cerulea.flows.work import Desk
from cerulea.store.schema import VERSIONS
from tests.serving import RECIPE, Asker


def samples(ask: Asker) -> dict[str, float]:
    text = ask.http.get("/metrics").text
    return {
        f"{sample.name}{sorted(sample.labels.values())}": sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_alive_and_ready(both: Platform, ask_both: Asker):
    assert ask_both.get("/healthz")["status"] == ask_both.get("/readyz")["status"] == "ok"

    both.database.write(lambda tx: tx.run("UPDATE alembic_version SET version_num = '9999'"))
    assert "9999" in ask_both.get("/readyz", status=503)["detail"]
    assert ask_both.get("/healthz")["status"] == "ok"
    both.database.write(lambda tx: tx.run("UPDATE alembic_version SET version_num = :v", v=VERSIONS[-1]))


def test_counters_count(both: Platform, ask_both: Asker):
    """Judge: prometheus_client's own parser."""
    job = ask_both.post("/api/jobs", {"recipe": RECIPE}, status=201)["id"]
    ask_both.get(f"/api/jobs/{job}")
    ask_both.get("/api/jobs/job-other", status=404)
    desk = Desk(both)
    desk.enlist("w", name="w", slots=4, device="cpu", kinds=("text",))
    desk.place(both.queue.get(job), {"w": 1})

    found = samples(ask_both)

    assert found["cerulea_jobs['STARTING']"] == 1 and found["cerulea_jobs['QUEUED']"] == 0
    assert found["cerulea_money_held[]"] > 0 and found["cerulea_money_settled[]"] == 0
    assert found["cerulea_worker_slots['alive']"] == 4
    assert found["cerulea_http_requests_total['/api/jobs/{job}', '200', 'GET']"] == 1
    assert found["cerulea_http_requests_total['/api/jobs/{job}', '404', 'GET']"] == 1
    assert found["cerulea_http_request_seconds_count['/api/jobs', 'POST']"] == 1
    assert not any(job in name for name in found), "what a caller writes is no label"


def test_workers_are_listed_with_what_is_free(platform: Platform, ask: Asker):
    job = ask.post("/api/jobs", {"recipe": RECIPE}, status=201)["id"]
    desk = Desk(platform)
    desk.enlist("w", name="host:1", slots=4, device="cpu", kinds=("text",))
    desk.place(platform.queue.get(job), {"w": 1})

    (worker,) = ask.get("/api/workers")["items"]

    assert (worker["id"], worker["slots"], worker["free"], worker["kinds"]) == ("w", 4, 3, ["text"])


def test_the_log_is_read_page_by_page_and_filtered(ask: Asker):
    for n in range(5):
        ask.post("/api/funds", {"name": f"fund-{n}"}, status=201)

    first = ask.get("/api/audit?limit=3")
    second = ask.get(f"/api/audit?limit=3&before={first['next']}")

    assert [one["subject"] for one in first["items"] + second["items"]] == [f"fund-{n}" for n in (4, 3, 2, 1, 0)]
    assert second["next"] is None
    assert len(ask.get("/api/audit?subject=fund-2")["items"]) == 1
    assert ask.get("/api/audit?actor=nobody")["items"] == []


def test_the_document_is_complete(ask: Asker):
    """Every operation has words, its refusals, and a schema for its answer; every write takes a key."""
    document = ask.get("/openapi.json")

    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            name = f"{method} {path}"
            assert operation["description"], name
            good = [status for status in operation["responses"] if status.startswith("2")]
            assert len(good) == 1, name
            assert operation["responses"][good[0]]["content"], name
            if path.startswith("/api"):
                assert {"400", "401", "403", "404", "409", "422"} <= operation["responses"].keys(), name
                assert operation["security"], name
            for parameter in operation.get("parameters", ()):
                assert parameter["description"], f"{name} {parameter['name']}"
                if method != "get" and parameter["name"] == "Idempotency-Key":
                    break
            else:
                writes = method != "get" and not re.search(r"/api/(work|estimate)|tokenize|/v1/requests", path)
                assert not writes, f"{name} takes no Idempotency-Key"
    assert document["components"]["schemas"]["Problem"]["examples"]
    assert "examples" in str(document["components"]["schemas"]["NewRun"])
