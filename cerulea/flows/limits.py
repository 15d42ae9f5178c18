"""How many requests and tokens an API key may use in a minute.

In:      an open platform; a key's prefix, numbers; what a request counts for.
Out:     nothing where it fits; RateLimited with the seconds until it does.
Kept:    the minute is the calendar's (UTC), fixed: in none does a key get more requests in than its limit says, however
         many gateways serve it, for they share one counter and look and count in one statement. What was refused is
         not counted. A request counts the tokens of its prompt and of its first lease when it comes, and what it is
         leased later as that is leased; the latter is never refused, for a text that has begun is not cut for it.
Not here: money and its caps (`ledger.caps`), which key it is (`people`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from cerulea.core.errors import Invalid, NotFound, RateLimited
from cerulea.flows.platform import Platform
from cerulea.people import ApiKey, Caller
from cerulea.people.rows import find_key, read_api_key
from cerulea.store.database import Tx

MINUTE_MS = 60_000
MOST = 2**53  # of either limit
UNLIMITED = 2**62

# A gateway whose clock is a little behind counts in the minute that the others are in; one that was set back by more
# than that begins anew.
_SAME = "key_minute.minute BETWEEN excluded.minute AND excluded.minute + 1"
_COUNT = (
    "INSERT INTO key_minute (api_key, minute, requests, tokens) VALUES (:key, :minute, :requests, :tokens) "
    "ON CONFLICT (api_key) DO UPDATE SET "
    f"minute = CASE WHEN {_SAME} THEN key_minute.minute ELSE excluded.minute END, "
    f"requests = excluded.requests + CASE WHEN {_SAME} THEN key_minute.requests ELSE 0 END, "
    f"tokens = excluded.tokens + CASE WHEN {_SAME} THEN key_minute.tokens ELSE 0 END "
)
_TAKE = (
    f"{_COUNT} WHERE NOT ({_SAME}) OR (key_minute.requests + excluded.requests <= :most_requests "
    "AND key_minute.tokens + excluded.tokens <= :most_tokens)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyLimit:
    """The limits of one key; None is none."""

    api_key: str  # prefix
    requests_per_minute: int | None
    tokens_per_minute: int | None


def set_limit(
    platform: Platform,
    caller: Caller,
    prefix: str,
    *,
    requests_per_minute: int | None,
    tokens_per_minute: int | None,
    tx: Tx | None = None,
) -> ApiKey:
    """Limit what a key may use in a minute, instead of the limits before; None lifts one.

    Raises:
        NotFound: no such key, or it is another team's.
        Invalid: a number below 1.
    """
    asked = {"requests_per_minute": requests_per_minute, "tokens_per_minute": tokens_per_minute}
    for name, number in asked.items():
        if number is not None and not 1 <= number <= MOST:
            raise Invalid(f"{name} is {number}.", fix="Use 1 or more; leave it out to lift the limit.")
    short = prefix.removeprefix("ck_")[:8]

    def work(tx: Tx) -> ApiKey:
        row = find_key(tx, short)
        if row is None or (caller.teams is not None and row.team not in caller.teams):
            raise NotFound(f"There is no key {prefix[:11]!r}.", fix="See them: cerulea key list")
        tx.run(
            "INSERT INTO key_limit (api_key, requests_per_minute, tokens_per_minute, actor, at) "
            "VALUES (:key, :requests_per_minute, :tokens_per_minute, :actor, :at) ON CONFLICT (api_key) DO UPDATE SET "
            "requests_per_minute = excluded.requests_per_minute, tokens_per_minute = excluded.tokens_per_minute, "
            "actor = excluded.actor, at = excluded.at",
            key=short,
            actor=caller.actor,
            at=platform.clock.now(),
            **asked,
        )
        platform.people.record(caller.actor, "key.limit", short, row.team, asked, tx=tx)
        return read_api_key(find_key(tx, short))

    return platform.database.within(tx, work)


def take(tx: Tx, limit: KeyLimit, tokens: int, now: int) -> None:
    """Count one request of so many tokens.

    Raises:
        RateLimited: it does not fit into this minute any more.
        Invalid: it fits into none.
    """
    most = limit.tokens_per_minute or UNLIMITED
    if tokens > most:
        raise Invalid(
            f"The request counts {tokens:,} tokens; the key ck_{limit.api_key} may use {most:,} in a minute.",
            why="It would fit into no minute.",
            fix="Send a shorter prompt, or have the limit raised: cerulea key limit",
        )
    values: dict[str, Any] = {"key": limit.api_key, "minute": now // MINUTE_MS, "requests": 1, "tokens": tokens}
    if tx.run(_TAKE, **values, most_requests=limit.requests_per_minute or UNLIMITED, most_tokens=most):
        return
    row = tx.one("SELECT minute, requests, tokens FROM key_minute WHERE api_key = :key", key=limit.api_key)
    assert row is not None
    if limit.requests_per_minute is not None and row.requests >= limit.requests_per_minute:
        used = f"all {limit.requests_per_minute:,} requests"
    else:
        used = f"{row.tokens:,} of {most:,} tokens"
    wait_s = math.ceil(((row.minute + 1) * MINUTE_MS - now) / 1000)
    raise RateLimited(
        f"The key ck_{limit.api_key} has used {used} of this minute; this request counts {tokens:,} tokens.",
        why="The minute is the calendar's, and the key's own; it is counted for all gateways together.",
        retry_after_s=float(max(wait_s, 1)),
    )


def add(tx: Tx, api_key: str, tokens: int, now: int) -> None:
    """Count tokens that a request which is running was leased."""
    tx.run(_COUNT, key=api_key, minute=now // MINUTE_MS, requests=0, tokens=tokens)
