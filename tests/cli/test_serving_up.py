"""`cerulea up` with a model, as its users meet it: real processes, a real engine, OpenAI's own client."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import openai
import pytest

from cerulea.core.settings import Settings
from cerulea.flows.model_folders import find_registered
from cerulea.flows.models import import_model
from cerulea.flows.platform import open_platform
from tests.running import Up, descendants
from tests.serve.test_parity import SMALL, folder_of_gpt2

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    root = tmp_path_factory.mktemp("serving")
    folder = folder_of_gpt2(root / "gpt2", SMALL)
    with open_platform(Settings(home=root / "home")) as platform:
        import_model(platform, folder, "brook")
        platform.registry.alias("brook", "served", 1, "owner")
        import_model(platform, folder, "creek")
        platform.registry.retire("creek", 1, "owner")
        damaged = find_registered(platform, import_model(platform, folder, "damaged").label).folder
        weights = damaged / "model.safetensors"
        content = weights.read_bytes()
        weights.unlink()  # a link to the blob, which stays whole
        weights.write_bytes(content[:-1000])
    with Up(root / "home", workers=0, environment={"CERULEA_SERVE_WEIGHTS": "fp32"}) as running:
        yield running


def client(up: Up) -> openai.OpenAI:
    http = httpx.Client(trust_env=False, timeout=120)
    return openai.OpenAI(base_url=f"{up.url}/v1", api_key=up.key, http_client=http, max_retries=3)


def test_a_served_model_is_loaded_before_anybody_asks(up: Up):
    with client(up) as asks:
        up.wait_for(lambda: [m.id for m in asks.models.list() if m.loaded], "the model with the alias to be loaded")
        answer = asks.completions.create(model="brook", prompt="The sea", max_tokens=5, temperature=0)

    assert answer.usage.completion_tokens == 5
    assert answer.model == "brook@1"


def test_the_terminal_talks_with_a_platform_elsewhere(up: Up):
    (first,) = up.cli("sample", "brook", "--prompt", "The sea", "--max-tokens", 6, "--seed", 3)
    (again,) = up.cli("sample", "brook", "--prompt", "The sea", "--max-tokens", 6, "--seed", 3)

    assert first == again
    assert first["completion_tokens"] == len(first["token_ids"]) == 6
    (error,) = up.cli("sample", "brok", code=2)
    assert (error["code"], "brook" in error["why"]) == ("E-NAME-001", True)


def test_what_requests_cost_is_what_the_books_say(up: Up):
    with client(up) as asks:
        answer = asks.completions.create(
            model="brook", prompt=[5, 6, 7], max_tokens=9, n=2, extra_body={"ignore_eos": True}
        )
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (3, 18)

    found = httpx.get(
        f"{up.url}/v1/usage/{answer.id}", headers={"Authorization": f"Bearer {up.key}"}, trust_env=False
    ).json()
    (audit,) = up.cli("fund", "audit")

    assert (found["prompt_tokens"], found["completion_tokens"]) == (3, 18)
    assert found["charged"] == "0.0000075"  # 3 x 100 + 18 x 400 nano-units
    assert audit["balanced"]


def test_dashboards_find_their_names(up: Up):
    with client(up) as asks:
        asks.completions.create(model="brook", prompt="The sea", max_tokens=5)
    text = httpx.get(f"{up.url}/metrics", trust_env=False).text

    for name in (
        "num_requests_running", "num_requests_waiting", "kv_cache_usage_perc", "prefix_cache_queries_total",
        "prefix_cache_hits_total", "prompt_tokens_total", "generation_tokens_total", "request_success_total",
        "time_to_first_token_seconds_count", "inter_token_latency_seconds_count", "e2e_request_latency_seconds_count",
        "request_queue_time_seconds_count", "request_prefill_time_seconds_count", "request_decode_time_seconds_count",
    ):  # fmt: skip
        assert f"cerulea:{name}{{" in text, name


def test_a_killed_engine_ends_its_streams_with_an_error_and_comes_back(up: Up):
    with client(up) as asks:
        stream = asks.completions.create(
            model="brook", prompt="The sea", max_tokens=900, stream=True, extra_body={"ignore_eos": True}
        )
        next(iter(stream))
        pid = next(
            pid for pid in descendants(up.process.pid)
            if "cerulea.serve.process" in Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
        )  # fmt: skip
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(openai.APIError, match="ended"):
            for _ in stream:
                pass
        assert asks.completions.create(model="brook", prompt="The sea", max_tokens=3).usage.completion_tokens == 3


def test_a_damaged_and_a_retired_model_are_refused_with_their_reasons(up: Up):
    with client(up) as asks:
        with pytest.raises(openai.NotFoundError, match="creek"):
            asks.completions.create(model="creek@1", prompt="x", max_tokens=1)
        with pytest.raises(openai.APIStatusError, match="safetensors") as refused:
            asks.completions.create(model="damaged", prompt="x", max_tokens=1)
    assert refused.value.status_code == 400


def test_sigterm_lets_sixteen_streams_end(up: Up):
    """Readiness falls at once, nothing new is taken, every stream ends whole, the exit code is 0."""
    began = threading.Barrier(17)

    def one(number: int) -> str:
        with client(up) as asks:
            stream = asks.completions.create(
                model="brook",
                prompt="The sea",
                max_tokens=400,
                stream=True,
                seed=number,
                extra_body={"ignore_eos": True},
            )
            events = iter(stream)
            next(events)
            began.wait()
            return list(events)[-1].choices[0].finish_reason

    with ThreadPoolExecutor(16) as pool:
        streams = [pool.submit(one, number) for number in range(16)]
        began.wait()
        up.process.terminate()
        asked = time.monotonic()
        up.wait_for(lambda: _status(up, "/readyz") != 200, "readiness to fall")
        fell_s = time.monotonic() - asked
        assert [stream.result() for stream in streams] == ["length"] * 16
    assert up.stop() == 0
    assert fell_s < 10
    up.said.clear()
    up.start()  # for whoever comes after


def _status(up: Up, path: str) -> int:
    try:
        return httpx.get(f"{up.url}{path}", trust_env=False).status_code
    except httpx.TransportError:
        return 0
