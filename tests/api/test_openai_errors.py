"""Whatever is sent to a path of OpenAI's, a refusal has its four keys, and is never a fault of ours."""

from __future__ import annotations

import json
import socket
from typing import Any

import httpx
import openai
import pytest

from cerulea.api import app as application
from cerulea.core.errors import CeruleaError
from tests.toy_models import wait_for

from .worlds import HELLO, World

PATHS = ("/v1/completions", "/v1/chat/completions", "/v1/embeddings", "/tokenize", "/detokenize")


def error_of(answer: httpx.Response, status: int) -> Any:
    assert answer.status_code == status, answer.text[:300]
    assert answer.headers["content-type"] == "application/json" and answer.headers["x-request-id"]
    body = answer.json()
    assert list(body) == ["error"] and set(body["error"]) == {"message", "type", "param", "code"}
    assert body["error"]["message"] and body["error"]["type"]
    return body["error"]


def test_paths_and_methods_that_are_not_there(world: World):
    with world.http() as http:
        assert "/v1/none" in error_of(http.get("/v1/none"), 404)["message"]
        error_of(http.post("/v1/audio/speech", json={}), 404)
        answer = http.get("/v1/completions")
        error_of(answer, 405)
        assert answer.headers["allow"] == "POST"
        assert http.get("/tokenizer_info").status_code == 404, "one of lm-eval's two probes is not there"


def test_without_a_key_every_route_is_401(world: World):
    with world.http("") as http:
        for path in PATHS:
            answer = http.post(path, json={})
            assert error_of(answer, 401)["code"] == "invalid_api_key"
            assert answer.headers["www-authenticate"] == "Bearer"
            error_of(http.post(path, json={}, headers={"Idempotency-Key": "a b"}), 401)
        error_of(http.get("/v1/models"), 401)
        error_of(http.get("/v1/usage/x"), 401)
        error_of(http.delete("/v1/requests/x"), 401)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"text"',
        b"\xff\xfe",
        b'{"model": "toy", "prompt": "\xff\xfe"}',
        b'{"model": "toy", "prompt": "\xc3"}',
        b'{"model": "toy", "prompt": "\\ud800"}',
        b'{"model": "toy\\ud800", "prompt": "x", "input": "x", "tokens": [1]}',
        b'{"\\ud800": 1}',
        b"[" * 100_000,
        b'{"model": "toy", "prompt": ' + b"[" * 100_000,
        b'{"model": "toy", "prompt": "x", "max_tokens": ' + b"9" * 5000 + b"}",
        b'{"model": "toy", "prompt": "x", "temperature": 1e400}',
        b'{"model": "toy", "prompt": "x", "temperature": NaN}',
        b'{"model": "toy", "prompt": "x", "n": true}',
        b'{"model": "toy", "prompt": {"a": 1}, "input": {"a": 1}}',
        b'{"model": "toy", "prompt": "x", "stop": ""}',
        b'{"model": "toy", "prompt": "x", "logit_bias": {"x": 1}}',
        b'{"model": "", "prompt": "x", "messages": [], "input": "x", "tokens": [1]}',
    ],
)
def test_no_body_is_a_fault(body: bytes, world: World):
    with world.http() as http:
        for path in PATHS:
            answer = http.post(path, content=body, headers={"content-type": "application/json"})
            error_of(answer, 404 if b'"model": "toy\\' in body and answer.status_code == 404 else 400)


@pytest.mark.parametrize(
    "schema",
    ['{"\\ud800": 1}', '{"type": "\\ud800"}', '{"enum": ["\\udfff"]}', "[]", "7", '{"a":' * 400 + "1" + "}" * 400],
)
def test_no_schema_and_no_tool_is_a_fault(schema: str, world: World):
    form = f'{{"type": "json_schema", "json_schema": {{"name": "x", "schema": {schema}}}}}'
    tools = f'[{{"type": "function", "function": {{"name": "x", "parameters": {schema}}}}}]'
    messages, kind = json.dumps(HELLO), {"content-type": "application/json"}
    with world.http() as http:
        for more in (f'"response_format": {form}', f'"tools": {tools}', f'"tools": {tools}, "tool_choice": "required"'):
            body = f'{{"model": "toy", "messages": {messages}, "max_tokens": 1, {more}}}'
            answer = http.post("/v1/chat/completions", content=body.encode(), headers=kind)
            assert answer.status_code < 500, answer.text
            if answer.status_code != 200:
                error_of(answer, 400)


def test_another_content_type_is_refused_with_a_hint(world: World):
    with world.http() as http:
        answer = http.post("/v1/completions", content=b'{"model": "toy"}', headers={"content-type": "text/plain"})

    assert "application/json" in error_of(answer, 400)["message"]


def test_a_large_body_is_refused_by_its_length_alone(world: World):
    """The answer is there before a byte of it was sent."""
    host, port = world.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as line:
        line.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 104857600\r\n\r\n")
        answer = b"".join(iter(lambda: line.recv(65536), b""))

    assert answer.startswith(b"HTTP/1.1 413") and b'"error"' in answer


def test_a_body_of_100_mb_is_refused(world: World):
    """Sent in full, with its length and without."""
    part = b" " * (1 << 20)
    with world.http() as http:
        for content in (part * 100, (part for _ in range(100))):
            try:
                answer = http.post("/v1/completions", content=content, headers={"content-type": "application/json"})
            except httpx.TransportError:
                continue  # the line was closed while the client was still sending
            error_of(answer, 413)
        assert http.get("/v1/models").status_code == 200
    assert application.MODEL_BODY_BYTES < 100 << 20


def test_a_fault_of_ours_has_the_shape_too_and_tells_nothing(world: World, caplog: pytest.LogCaptureFixture):
    def broken(caller: Any, label: str) -> Any:
        raise RuntimeError("secret detail")

    world.host.open = broken  # type: ignore[method-assign]

    with pytest.raises(openai.InternalServerError) as caught:
        world.complete()

    assert caught.value.type == "server_error" and "secret" not in str(caught.value.body)


def test_an_engine_that_raises_fails_its_request_alone(world: World, caplog: pytest.LogCaptureFixture):
    def broken(logprobs: Any, script: Any) -> int:
        raise RuntimeError("secret detail")

    world.host.paused = True
    with world.http() as http, http.stream("POST", "/v1/completions", json={"model": "toy", "stream": True}) as answer:
        wait_for(lambda: len(world.host.flows) == 1)
        world.host.flows[0].pick = broken  # type: ignore[method-assign]
        world.host.paused = False
        lines = [line for line in answer.iter_lines() if line]

    error = json.loads(lines[-1].removeprefix("data: "))["error"]
    assert set(error) == {"message", "type", "param", "code"} and error["code"] == "engine_failed"
    assert "[DONE]" not in str(lines) and "secret" not in str(lines)
    assert world.complete().choices[0].text


@pytest.mark.parametrize("error", [CeruleaError("The ledger does not answer."), RuntimeError("secret detail")])
def test_a_bill_that_cannot_be_settled_is_told_and_logged(
    error: Exception, world: World, caplog: pytest.LogCaptureFixture
):
    async def unsettled(*_: Any, **__: Any) -> None:
        raise error

    opened = world.bills.open

    async def open_it(*args: Any, **asked: Any) -> Any:
        bill = await opened(*args, **asked)
        bill.settle, bill.settled = unsettled, [None]
        return bill

    world.gateway.open_bill = open_it

    with pytest.raises(openai.InternalServerError, match=r"The ledger does not answer|could not be settled"):
        world.complete()
    assert "not settled" in caplog.text


def test_a_lease_that_cannot_be_extended_ends_the_request(world: World, caplog: pytest.LogCaptureFixture):
    opened = world.bills.open

    async def open_it(*args: Any, **asked: Any) -> Any:
        bill = await opened(*args, **asked)
        bill.extend = lambda tokens: 1 / 0
        return bill

    world.gateway.open_bill = open_it

    with pytest.raises(openai.InternalServerError, match="could not be extended"):
        world.complete(max_tokens=300)
    assert world.bills.last.settled[0][2] == "error" and "no new lease" in caplog.text


def test_tokens_and_text_go_both_ways(world: World):
    with world.http() as http:
        tokens = http.post("/tokenize", json={"model": "toy", "prompt": "é<|end|>"}).json()
        text = http.post("/detokenize", json={"model": "toy", "tokens": tokens["tokens"]}).json()
        wrong = http.post("/detokenize", json={"model": "toy", "tokens": [9999]})

    assert tokens["count"] == 3 and tokens["max_model_len"] == 1024
    assert tokens["token_strs"] == ["bytes:\\xc3", "bytes:\\xa9", "<|end|>"]
    assert text == {"prompt": "é<|end|>"}
    assert "9999" in error_of(wrong, 400)["message"]
