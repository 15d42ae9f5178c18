"""Requests to models with the real ledger behind them: what is written is what is paid, and nothing else."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from cerulea.api.app import create_app
from cerulea.flows.limits import set_limit
from cerulea.flows.platform import Platform
from cerulea.flows.serving import Gateway
from cerulea.ledger.audit import audit
from tests.serving import key_for, platform_in, served
from tests.toy_models import ToyHost, wait_for

PROMPT, WRITTEN = 100, 400  # nano-units for one token, as the house's price list says
ASK: dict[str, Any] = {"model": "toy", "prompt": "The sea was", "temperature": 0, "extra_body": {"ignore_eos": True}}


@dataclass
class Shop:
    platform: Platform
    gateway: Gateway
    host: ToyHost
    url: str
    key: str
    client: openai.OpenAI

    def give(self, amount: int) -> None:
        """Money for the team, from where there is enough."""
        self.platform.ledger.draw("text", "text", amount, key=f"draw-{random.random()}", actor="owner")

    def left(self) -> int:
        return self.platform.ledger.available("text", "text")

    def rows(self) -> list[Any]:
        with self.platform.database.read() as tx:
            return list(tx.all("SELECT * FROM request_usage WHERE finish <> 'refused'"))


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    with platform_in(tmp_path / "home") as platform:
        key = key_for(platform, "viewer", "text")
        platform.ledger.grant("text", 10**12, key="grant", actor="owner")
        host = ToyHost()
        gateway = Gateway(platform=platform, host=host)
        with (
            served(create_app(platform, gateway=gateway)) as url,
            openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0) as client,
        ):
            yield Shop(platform, gateway, host, url, key, client)
            wait_for(lambda: gateway.running == {} and gateway.keyed == {})
            assert platform.ledger.holds("text") == []
            assert audit(platform.database).problems == []


def test_a_request_pays_its_prompt_and_what_it_wrote(shop: Shop):
    shop.give(10**9)

    answer = shop.client.completions.create(**ASK, max_tokens=300)

    assert shop.left() == 10**9 - 11 * PROMPT - 300 * WRITTEN
    used = httpx.get(f"{shop.url}/v1/usage/{answer.id}", headers={"Authorization": f"Bearer {shop.key}"}).json()
    assert (used["prompt_tokens"], used["completion_tokens"], used["finish"]) == (11, 300, "length")
    assert (used["model"], used["version"], used["endpoint"]) == ("toy", 1, "completions")


def test_what_another_team_used_is_not_there(shop: Shop):
    shop.give(10**9)
    answer = shop.client.completions.create(**ASK)
    other = key_for(shop.platform, "viewer", "elsewhere")

    found = httpx.get(f"{shop.url}/v1/usage/{answer.id}", headers={"Authorization": f"Bearer {other}"})

    assert found.status_code == 404 and set(found.json()["error"]) == {"message", "type", "param", "code"}


def test_several_texts_pay_their_prompt_once(shop: Shop):
    shop.give(10**9)

    shop.client.completions.create(**ASK, max_tokens=100, n=3)
    shop.client.embeddings.create(model="toy", input=["one", "two"])

    assert shop.left() == 10**9 - 11 * PROMPT - 300 * WRITTEN - 6 * PROMPT


def test_a_cached_prompt_is_not_paid(shop: Shop):
    shop.give(10**9)
    shop.host.cached = 8

    shop.client.completions.create(**ASK, max_tokens=1)

    assert shop.left() == 10**9 - 3 * PROMPT - WRITTEN


def test_the_text_ends_where_the_money_does(shop: Shop):
    """Money for the prompt and exactly 100 tokens: 100 are written, and nothing is left."""
    shop.give(11 * PROMPT + 100 * WRITTEN)

    chunks = list(shop.client.completions.create(**ASK, max_tokens=300, stream=True))

    last = chunks[-1].choices[0]
    assert last.finish_reason == "length" and last.cerulea == {"stop_detail": "budget"}  # type: ignore[attr-defined]
    assert len(shop.host.requests) == 1 and shop.host.every[0][1].written == 100 and shop.left() == 0


def test_with_money_for_fewer_tokens_than_texts_every_text_ends(shop: Shop):
    shop.give(11 * PROMPT + 2 * WRITTEN)

    choices = shop.client.completions.create(**ASK, n=4).choices

    assert [len(choice.text) for choice in choices] == [2, 0, 0, 0] and shop.left() == 0
    assert all(choice.finish_reason == "length" and choice.cerulea for choice in choices)  # type: ignore[attr-defined]


def test_without_money_for_the_prompt_it_is_402(shop: Shop):
    with pytest.raises(openai.APIStatusError) as caught:
        shop.client.completions.create(**ASK)

    assert caught.value.status_code == 402 and caught.value.code == "insufficient_quota"
    assert shop.host.requests == []


def test_strict_holds_everything_at_once_or_refuses(shop: Shop):
    shop.give(11 * PROMPT + 100 * WRITTEN)

    with pytest.raises(openai.APIStatusError) as caught:
        shop.client.completions.create(**{**ASK, "extra_body": {"strict": True}}, max_tokens=300)

    assert caught.value.status_code == 402 and shop.left() == 11 * PROMPT + 100 * WRITTEN


def test_a_keys_minute_is_429_and_says_when(shop: Shop):
    shop.give(10**9)
    set_limit(shop.platform, shop.platform.people.caller(), shop.key, requests_per_minute=2, tokens_per_minute=None)

    shop.client.completions.create(**ASK)
    shop.client.completions.create(**ASK)
    with pytest.raises(openai.RateLimitError) as caught:
        shop.client.completions.create(**ASK)

    assert 1 <= int(caught.value.response.headers["retry-after"]) <= 60


def test_who_hangs_up_pays_what_was_written(shop: Shop):
    shop.give(10**9)
    stream = shop.client.completions.create(**ASK, max_tokens=900, stream=True)
    next(iter(stream))
    stream.close()

    wait_for(lambda: len(shop.rows()) == 1)
    (row,) = shop.rows()
    assert row.finish == "abort" and row.completion_tokens == shop.host.every[0][1].written < 900
    assert row.charged == 11 * PROMPT + row.completion_tokens * WRITTEN


def test_the_same_call_three_times_is_charged_once(shop: Shop):
    shop.give(10**9)
    headers = {"Idempotency-Key": "three"}

    answers = [shop.client.completions.create(**ASK, extra_headers=headers) for _ in range(3)]

    assert len({answer.id for answer in answers}) == 1 and len(shop.rows()) == 1
    assert shop.left() == 10**9 - 11 * PROMPT - 16 * WRITTEN


@pytest.mark.parametrize("share", [1, 2])
def test_many_at_once_spend_what_there_is_and_no_more(share: int, shop: Shop):
    """64 requests of 150 tokens; with money for half of them some are cut or refused, with enough none is."""
    whole = 64 * (11 * PROMPT + 150 * WRITTEN)
    shop.give(whole * share // 2)
    asked = {**ASK, **ASK["extra_body"], "max_tokens": 150}
    del asked["extra_body"]

    async def all_at_once() -> list[httpx.Response]:
        headers = {"Authorization": f"Bearer {shop.key}"}
        async with httpx.AsyncClient(base_url=shop.url, headers=headers, timeout=60) as http:
            return list(await asyncio.gather(*(http.post("/v1/completions", json=asked) for _ in range(64))))

    answers = asyncio.run(all_at_once())

    paid = sum(row.charged for row in shop.rows())
    written = sum(flow.written for _, flow in shop.host.every)
    assert {answer.status_code for answer in answers} <= ({200, 402} if share == 1 else {200})
    assert sum(row.completion_tokens for row in shop.rows()) == written and all(not r.absorbed for r in shop.rows())
    assert shop.left() == whole * share // 2 - paid >= 0
    if share == 2:
        assert shop.left() == 0 and written == 64 * 150
