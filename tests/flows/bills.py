"""Requests to models, as tests make them."""

from __future__ import annotations

import random
from typing import Any

from cerulea.core.values import Usage
from cerulea.flows.bill import Bill, Order, open_now
from cerulea.flows.platform import Platform
from cerulea.people import Caller

PROMPT, WRITTEN = 100, 400  # nano-units for one token, as the house's price list says


def give(platform: Platform, amount: int) -> None:
    platform.ledger.draw("lab", "text", amount, key=f"draw-{random.random()}", actor="owner")


def opened(platform: Platform, caller: Caller, **more: Any) -> Bill:
    asked = {"request_id": "r1", "model": "brook@3", "endpoint": "completions", "prompt_tokens": 10, "choices": 1}
    how = {name: more.pop(name) for name in ("lease_ms",) if name in more}
    return open_now(platform, caller, Order(**{**asked, "first_tokens": 64, "most_tokens": 1000, **more}), **how)


def used(prompt: int, written: int) -> Usage:
    return Usage(prompt_tokens=prompt, completion_tokens=written)


def settled(platform: Platform) -> int:
    """What the ledger was paid for inference."""
    with platform.database.read() as tx:
        found = tx.value(
            "SELECT SUM(t.amount) FROM transfer t JOIN account c ON c.id = t.credit "
            "WHERE t.kind = 'post' AND c.code = 'platform:inference'"
        )
    return int(found or 0)
