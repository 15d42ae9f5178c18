"""A server over toy models, with everything that a test may change or look at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import httpx
import openai

from cerulea.flows.serving import Gateway
from tests.toy_models import ToyBills, ToyHost

HELLO = [{"role": "user", "content": "hello"}]


@dataclass
class World:
    client: openai.OpenAI
    host: ToyHost
    bills: ToyBills
    gateway: Gateway
    url: str
    keys: dict[str, str]

    def complete(self, **asked: Any) -> Any:
        return self.client.completions.create(**{"model": "toy", "prompt": "The sea was", "temperature": 0, **asked})

    def chat(self, **asked: Any) -> Any:
        return self.client.chat.completions.create(
            **{"model": "toy", "messages": HELLO, "temperature": 0, "max_completion_tokens": 16, **asked}
        )

    def http(self, role: str = "viewer", **more: Any) -> httpx.Client:
        headers = {"Authorization": f"Bearer {self.keys[role]}"} if role else {}
        return httpx.Client(base_url=self.url, headers=headers, timeout=30, **more)
