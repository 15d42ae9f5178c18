"""A write with a key is done once, whatever happens to its answer."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from cerulea.core.money import nanos, show
from cerulea.flows.once import KEPT_MS, forget_answers
from cerulea.flows.platform import Platform
from tests.serving import RECIPE, Asker, asker_for


def rows(platform: Platform, table: str) -> int:
    with platform.database.read() as tx:
        return int(tx.value(f"SELECT count(*) FROM {table}"))


def test_a_repeat_gets_the_first_answer_and_does_nothing(both: Platform, ask_both: Asker):
    first = ask_both.post("/api/jobs", {"recipe": RECIPE}, status=201, Idempotency_Key="k1")
    ask_both.post(f"/api/jobs/{first['id']}/cancel", Idempotency_Key="k2")

    again = ask_both.post("/api/jobs", {"recipe": dict(reversed(RECIPE.items()))}, status=201, Idempotency_Key="k1")

    assert again == first and again["status"] == "QUEUED", "the answer of then, not the job of now"
    assert rows(both, "job") == 1
    assert ask_both.get(f"/api/jobs/{first['id']}")["status"] == "CANCELLED"


def test_a_repeat_says_that_it_is_one(ask: Asker):
    headers = {"Idempotency-Key": "k"}
    answers = [ask.http.post("/api/funds", json={"name": "lab"}, headers=headers) for _ in range(2)]

    assert [a.headers.get("Idempotency-Replayed") for a in answers] == [None, "true"]
    assert answers[0].content == answers[1].content


def test_another_body_with_the_same_key_is_refused(ask_both: Asker):
    ask_both.post("/api/funds", {"name": "lab"}, status=201, Idempotency_Key="k")

    problem = ask_both.post("/api/funds", {"name": "lob"}, status=409, Idempotency_Key="k")

    assert problem["code"] == "E-KEY-001"
    assert [fund["name"] for fund in ask_both.get("/api/funds")["items"]] == ["home", "lab"]


def test_a_key_is_of_one_caller_and_one_route(platform: Platform):
    one, other = asker_for(platform, "admin", "red"), asker_for(platform, "admin", "blue")

    for ask, fund in ((one, "a"), (other, "b")):
        ask.post("/api/funds", {"name": fund}, status=201, Idempotency_Key="k")
    one.post("/api/teams", {"name": "green", "fund": "a"}, status=201, Idempotency_Key="k")

    assert {fund["name"] for fund in one.get("/api/funds")["items"]} >= {"a", "b"}


def test_a_refusal_is_an_answer_too(both: Platform, ask_both: Asker):
    """A draw that was denied stays denied under its key, though the money has come since."""
    ask_both.post("/api/funds", {"name": "lab"}, status=201)
    ask_both.post("/api/teams", {"name": "vision", "fund": "lab"}, status=201)
    wanted = {"team": "vision", "amount": "10"}

    first = ask_both.post("/api/funds/lab/draws", wanted, status=402, Idempotency_Key="k")
    ask_both.post("/api/funds/lab/grants", {"amount": "20"}, status=201)
    again = ask_both.post("/api/funds/lab/draws", wanted, status=402, Idempotency_Key="k")

    assert again == first
    ask_both.post("/api/funds/lab/draws", wanted, status=201, Idempotency_Key="another")
    assert both.ledger.available("lab") == nanos("10")


def test_a_refusal_leaves_nothing_of_the_work(both: Platform, ask_both: Asker):
    """The log's line is written before the refusal, and is gone with it."""
    before = rows(both, "audit_event")

    ask_both.post("/api/jobs/job-none/cancel", status=404, Idempotency_Key="k")
    ask_both.post("/api/teams", {"name": "x", "fund": "none"}, status=404, Idempotency_Key="k")

    assert rows(both, "audit_event") == before


def test_of_many_equal_requests_at_once_one_is_done(both: Platform, ask_both: Asker):
    """Sixteen threads, one key: one transfer, sixteen equal answers."""
    ask = ask_both
    ask.post("/api/funds", {"name": "lab"}, status=201)
    ask.post("/api/funds/lab/grants", {"amount": "0"}, status=400)  # routes are built at their first request

    def grant(_: int) -> dict:
        return ask.post("/api/funds/lab/grants", {"amount": "7"}, status=201, Idempotency_Key="same")

    with ThreadPoolExecutor(16) as threads:
        answers = list(threads.map(grant, range(16)))

    assert all(answer == answers[0] for answer in answers)
    assert show(both.ledger.available("lab")) == "7.00"
    assert rows(both, "transfer") == 1


def test_the_text_of_a_key_is_shown_once_and_kept_nowhere(both: Platform, ask_both: Asker):
    body = {"person": "owner", "team": "home", "name": "laptop"}
    first = ask_both.post("/api/keys", body, status=201, Idempotency_Key="k")
    again = ask_both.post("/api/keys", body, status=201, Idempotency_Key="k")

    assert first["key"].startswith("ck_") and again == {**first, "key": None}
    with both.database.read() as tx:
        kept = [str(row) for row in tx.all("SELECT * FROM idempotency")]
    assert len(kept) == 1 and first["key"][12:] not in kept[0]


@pytest.mark.parametrize("key", ["", " ", "a b", "é", "x" * 201, "a\tb"])
def test_what_cannot_be_a_key_is_refused(key: str, ask: Asker):
    answer = ask.http.post("/api/funds", json={"name": "lab"}, headers=[(b"idempotency-key", key.encode())])

    assert answer.status_code == 422 and answer.json()["code"] == "E-USE-001"
    assert [fund["name"] for fund in ask.get("/api/funds")["items"]] == ["home"]


def test_old_answers_are_forgotten(platform: Platform, ask: Asker):
    ask.post("/api/funds", {"name": "lab"}, status=201, Idempotency_Key="k")
    assert forget_answers(platform) == 0

    platform.database.write(lambda tx: tx.run("UPDATE idempotency SET at = at - :ms", ms=KEPT_MS + 1000))

    assert forget_answers(platform) == 1
