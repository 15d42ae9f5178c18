"""What happens to a request when one side goes away, comes back, or is told to stop."""

from __future__ import annotations

import asyncio
import json
import random
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import openai
import pytest

from cerulea.api.app import create_app
from cerulea.core.errors import FundTooLow
from cerulea.flows.serving import Gateway
from tests.serving import served
from tests.toy_models import wait_for

from .worlds import World

LONG: dict[str, Any] = {
    "model": "toy",
    "prompt": "The sea was",
    "max_tokens": 900,
    "temperature": 0,
    "ignore_eos": True,
}


def hang_up_plainly(world: World, body: dict[str, Any], until: Any, **headers: str) -> None:
    """Send a whole request over a socket of its own, wait, and close it without having read anything."""
    host, port = world.url.removeprefix("http://").split(":")
    content = json.dumps(body).encode()
    lines = [
        "POST /v1/completions HTTP/1.1",
        f"Host: {host}",
        f"Authorization: Bearer {world.keys['viewer']}",
        "Content-Type: application/json",
        f"Content-Length: {len(content)}",
        *(f"{name}: {value}" for name, value in headers.items()),
    ]
    with socket.create_connection((host, int(port))) as line:
        line.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + content)
        wait_for(until)


def test_who_hangs_up_a_stream_stops_it(world: World):
    with world.http() as http, http.stream("POST", "/v1/completions", json={**LONG, "stream": True}) as answer:
        lines = answer.iter_lines()
        assert next(lines).startswith("data: ")
        world.host.paused = True
        flow = world.host.flows[0]

    wait_for(lambda: bool(world.bills.last.settled))
    used, _, finish = world.bills.last.settled[0]
    assert finish == "abort" and 0 < used.completion_tokens == flow.written < 900


def test_who_hangs_up_while_nothing_is_sent_stops_it_too(world: World):
    world.host.paused = True
    with world.http() as http, http.stream("POST", "/v1/completions", json={**LONG, "stream": True}):
        wait_for(lambda: len(world.host.flows) == 1)

    wait_for(lambda: world.host.flows == [] and bool(world.bills.last.settled))
    assert world.bills.last.settled[0][0].completion_tokens == 0


def test_who_hangs_up_a_plain_call_stops_it(world: World):
    world.host.paused = True
    hang_up_plainly(world, LONG, lambda: len(world.host.flows) == 1)

    wait_for(lambda: world.host.flows == [] and bool(world.bills.last.settled))
    assert world.bills.last.settled[0][2] == "abort"


def test_whoever_hangs_up_pays_what_was_written_for_him(world: World):
    """100 clients, half of them streaming, leave at random: billed = written, and nothing is left."""
    dice = random.Random(7)

    async def visit(http: httpx.AsyncClient, streams: bool) -> None:
        body = {**LONG, "max_tokens": dice.choice([30, 900]), "stream": streams}
        try:
            if not streams:
                await http.post("/v1/completions", json=body, timeout=dice.choice([0.001, 0.05, 0.2]))
                return
            async with http.stream("POST", "/v1/completions", json=body) as answer:
                patience = dice.randrange(40)
                async for _ in answer.aiter_lines():
                    patience -= 1
                    if patience < 0:
                        return
        except httpx.TimeoutException:
            pass

    async def all_of_them() -> None:
        headers = {"Authorization": f"Bearer {world.keys['viewer']}"}
        limits = httpx.Limits(max_connections=30)
        async with httpx.AsyncClient(base_url=world.url, headers=headers, limits=limits, timeout=60) as http:
            await asyncio.gather(*(visit(http, i % 2 == 0) for i in range(100)))

    asyncio.run(all_of_them())

    wait_for(lambda: world.host.flows == [] and world.gateway.running == {})
    written = {request.id.partition(".")[0]: flow.written for request, flow in world.host.every}
    settled = {bill.order.request_id: bill.settled for bill in world.bills.opened}
    assert {name: uses[0][0].completion_tokens for name, uses in settled.items()} == written
    assert all(len(uses) == 1 for uses in settled.values())


def test_a_request_is_stopped_by_its_id(world: World):
    with world.http() as http, http.stream("POST", "/v1/completions", json={**LONG, "stream": True}) as answer:
        request_id = answer.headers["x-request-id"]
        with world.http() as other:
            assert other.delete(f"/v1/requests/{request_id}").json()["aborted"] is True
        *_, last, done = [line for line in answer.iter_lines() if line]

    (choice,) = json.loads(last.removeprefix("data: "))["choices"]
    assert done == "data: [DONE]" and choice["finish_reason"] == "stop"
    assert choice["cerulea"] == {"stop_detail": "aborted"}
    assert world.bills.last.settled[0][2] == "abort"
    with world.http() as http:
        assert http.delete(f"/v1/requests/{request_id}").status_code == 404


def test_another_teams_request_is_not_there(world: World):
    world.host.paused = True
    with world.http() as http, http.stream("POST", "/v1/completions", json={**LONG, "stream": True}) as answer:
        request_id = answer.headers["x-request-id"]
        with world.http("stranger") as other:
            assert other.delete(f"/v1/requests/{request_id}").status_code == 404
        assert request_id in world.gateway.running
        with world.http("admin") as admin:
            assert admin.delete(f"/v1/requests/{request_id}").status_code == 200


# -- once for each key -----------------------------------------------------------------------------------


def test_a_repeat_gets_the_first_answer_and_is_not_charged(world: World):
    headers = {"Idempotency-Key": "repeat"}
    with world.http() as http:
        one, two = (http.post("/v1/completions", json={**LONG, "seed": None}, headers=headers) for _ in range(2))

    assert one.content == two.content and len(world.bills.opened) == 1
    assert one.headers["x-request-id"] == two.headers["x-request-id"]
    assert [a.headers.get("Idempotency-Replayed") for a in (one, two)] == [None, "true"]


def test_a_call_that_timed_out_three_times_is_charged_once(world: World):
    world.host.paused = True
    for _ in range(3):
        hang_up_plainly(world, LONG, lambda: len(world.host.flows) == 1, **{"Idempotency-Key": "patience"})
    world.host.paused = False

    with world.http() as http:
        answer = http.post("/v1/completions", json=LONG, headers={"Idempotency-Key": "patience"})

    assert answer.json()["usage"]["completion_tokens"] == 900
    assert len(world.bills.opened) == 1 and world.bills.last.settled[0][0].completion_tokens == 900


def test_of_many_equal_calls_at_once_one_works(world: World):
    headers = {"Idempotency-Key": "many"}
    with world.http() as http, ThreadPoolExecutor(16) as threads:
        answers = list(
            threads.map(lambda _: http.post("/v1/completions", json=LONG, headers=headers).content, range(16))
        )

    assert len(set(answers)) == 1 and len(world.bills.opened) == 1


def test_another_process_waits_for_the_one_that_works(world: World):
    world.host.paused = True
    headers = {"Idempotency-Key": "elsewhere", "Authorization": f"Bearer {world.keys['viewer']}"}
    other = Gateway(
        platform=world.gateway.platform,
        host=world.host,
        open_bill=world.bills.open,
    )
    with served(create_app(other.platform, gateway=other)) as url, ThreadPoolExecutor(2) as threads:
        ask = lambda base: httpx.post(f"{base}/v1/completions", json=LONG, headers=headers, timeout=60)  # noqa: E731
        first = threads.submit(ask, world.url)
        wait_for(lambda: len(world.host.flows) == 1)
        second = threads.submit(ask, url)
        wait_for(lambda: len(other.keyed) == 1)
        world.host.paused = False

        assert first.result().content == second.result().content
        assert second.result().headers["Idempotency-Replayed"] == "true" and len(world.bills.opened) == 1


def test_a_refusal_is_not_kept(world: World):
    world.bills.refusal = FundTooLow("Fund 'lab' is empty.")
    headers = {"Idempotency-Key": "poor"}
    with world.http() as http:
        assert http.post("/v1/completions", json=LONG, headers=headers).status_code == 402
        world.bills.refusal = None
        assert http.post("/v1/completions", json=LONG, headers=headers).status_code == 200


def test_a_key_of_another_request_is_refused_and_not_tried_again(world: World):
    headers = {"Idempotency-Key": "one"}
    with world.http() as http:
        http.post("/v1/completions", json=LONG, headers=headers)
        answer = http.post("/v1/completions", json={**LONG, "max_tokens": 3}, headers=headers)

    assert answer.status_code == 409 and answer.headers["x-should-retry"] == "false"


def test_a_stream_has_no_key(world: World):
    with world.http() as http:
        answer = http.post("/v1/completions", json={**LONG, "stream": True}, headers={"Idempotency-Key": "x"})

    assert answer.status_code == 400 and answer.json()["error"]["param"] == "stream"


def test_many_more_than_fit_are_refused_and_the_others_finish(world: World):
    """300 requests against a queue of 64: answers or 429 with Retry-After, and no hang."""
    world.host.most = 64
    body = {**LONG, "max_tokens": 30}

    async def all_at_once() -> list[httpx.Response]:
        headers = {"Authorization": f"Bearer {world.keys['viewer']}"}
        async with httpx.AsyncClient(base_url=world.url, headers=headers, timeout=60) as http:
            return list(await asyncio.gather(*(http.post("/v1/completions", json=body) for _ in range(300))))

    answers = asyncio.run(all_at_once())

    done = [answer.json() for answer in answers if answer.status_code == 200]
    refused = [answer for answer in answers if answer.status_code == 429]
    assert len(done) + len(refused) == 300 and len(done) >= 64
    assert all(one["usage"]["completion_tokens"] == 30 for one in done)
    assert all(answer.headers["retry-after"] == "3" for answer in refused)


# -- the end of a server -----------------------------------------------------------------------------------


def test_what_runs_is_finished_when_a_server_stops(world: World):
    with (
        world.http() as http,
        http.stream("POST", "/v1/completions", json={**LONG, "stream": True}) as answer,
    ):
        world.gateway.draining = True
        assert http.get("/readyz").status_code == 503
        refused = http.post("/v1/completions", json=LONG)
        events = [line for line in answer.iter_lines() if line]

    assert refused.status_code == 503 and int(refused.headers["retry-after"]) > 0
    assert events[-1] == "data: [DONE]" and len(events) >= 900


def test_a_server_is_idle_when_everything_is_settled(world: World):
    async def scenario() -> list[int]:
        from cerulea.flows.admit import begin
        from cerulea.flows.ask import Ask, Prompt
        from cerulea.serve.request import SamplingParams

        caller = world.gateway.platform.people.caller()
        model = await world.host.open(caller, "toy")
        ask = Ask(id="r1", endpoint="completions", prompts=(Prompt(ids=(1,)),), sampling=SamplingParams(max_tokens=99))
        await begin(world.gateway, caller, model, ask)
        await world.gateway.idle()
        return [used.completion_tokens for used, _, _ in world.bills.last.settled]

    assert asyncio.run(scenario()) == [99]


# -- a stream is the plain answer --------------------------------------------------------------------------


def sayings(dice: random.Random) -> tuple[list[int], list[str]]:
    """Ids of a text with emoji, CJK and broken bytes, and stop strings, some of which are in it."""
    parts = ["calm ", "é", "海は", "🌊", "👩\u200d🚀", "\n\n", "ab", "aab", "\u202e"]
    raw = b"".join(
        bytes(dice.randrange(128, 256) for _ in range(dice.randrange(1, 4)))
        if dice.random() < 0.2
        else dice.choice(parts).encode()
        for _ in range(dice.randrange(1, 30))
    )
    text = raw.decode("utf-8", "replace")
    stops = [dice.choice(["zz", "🌋", "never"])]
    for _ in range(dice.randrange(3)):
        at = dice.randrange(len(text))
        stops.append(text[at : at + dice.randrange(1, 6)])
    return list(raw), stops


def until_a_stop(whole: str, stops: list[str]) -> str:
    """The text up to the first stop string that is complete, character by character."""
    for length in range(len(whole) + 1):
        found = [at for stop in stops if (at := whole[:length].find(stop)) >= 0]
        if found:
            return whole[: min(found)]
    return whole


@pytest.mark.parametrize("seed", range(4))
def test_a_stream_joined_is_the_plain_text_whatever_is_written(seed: int, world: World):
    """Fifty texts each: any bytes, any stop strings; text, tokens and offsets."""
    dice = random.Random(seed)
    client: openai.OpenAI = world.client
    for _ in range(50):
        ids, stops = sayings(dice)
        world.host.scripts["was"] = ids
        asked: dict[str, Any] = {**LONG, "stop": stops, "logprobs": 1, "max_tokens": 500}
        del asked["ignore_eos"]
        plain = client.completions.create(**asked).choices[0]
        chunks = [chunk.choices[0] for chunk in client.completions.create(**asked, stream=True)]

        assert "".join(chunk.text for chunk in chunks) == plain.text
        tokens = [token for chunk in chunks if chunk.logprobs for token in chunk.logprobs.tokens or ()]
        assert tokens == plain.logprobs.tokens  # type: ignore[union-attr]
        assert chunks[-1].finish_reason == plain.finish_reason == "stop"
        assert not any(stop in plain.text for stop in stops)
        whole = bytes(ids).decode("utf-8", "replace")
        assert plain.text == until_a_stop(whole, stops)
