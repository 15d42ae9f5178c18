"""An answer that takes a while and is given once: who comes again with the same key waits for it, or gets it again.

In:      who asks for what (`scope`), the caller's own key, a fingerprint of the request, and the work.
Out:     the answer, as it was first given.
Kept:    of equal requests, in one process or in several, one works. It works on when whoever asked hangs up: a caller
         whose patience ended comes again for the same answer, and nothing is done or charged twice. Refusals and
         failures are not kept: nothing was given for them, and the next try may go better.
Not here: writes that fit one transaction (`flows.once`), whose table this shares.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from cerulea.core.clock import new_id
from cerulea.core.errors import KeyReused
from cerulea.flows.once import check_key
from cerulea.flows.platform import Platform
from cerulea.flows.serving import Gateway
from cerulea.store.database import Tx

log = logging.getLogger("cerulea.serving")

BEAT_S = 5.0  # how often who works says so
DEAD_MS = 20_000  # a claim without a beat for so long is a dead process's
LOOK_S = 0.25  # how often a waiting process looks


class Kept(NamedTuple):
    """What a request was answered."""

    id: str
    body: str  # JSON
    repeated: bool = False


Work = Callable[[], Awaitable[Kept]]


async def attach(gateway: Gateway, scope: str, key: str, fingerprint: str, work: Work) -> Kept:
    """Do `work` and keep its answer under (scope, key), or wait for whoever does it, or give the answer that is there.

    Raises:
        KeyReused: the key came before with another request.
        CeruleaError: what the work raised; every one who waits here gets it.
    """
    check_key(key)
    name = (scope, key)
    first = name not in gateway.keyed
    if first:
        task = asyncio.create_task(_work_once(gateway.platform, scope, key, fingerprint, work))
        gateway.keyed[name] = (fingerprint, task)
        task.add_done_callback(lambda done: _forget(gateway, name, done))
    theirs, task = gateway.keyed[name]
    if theirs != fingerprint:
        raise _reused(key)
    answer: Kept = await asyncio.shield(task)
    return answer if first else answer._replace(repeated=True)


def _forget(gateway: Gateway, name: tuple[str, str], done: asyncio.Task[Kept]) -> None:
    del gateway.keyed[name]
    if not done.cancelled():
        done.exception()  # whoever asked may be gone


async def _work_once(platform: Platform, scope: str, key: str, fingerprint: str, work: Work) -> Kept:
    claim = new_id("claim")
    while (found := await asyncio.to_thread(_claim, platform, scope, key, fingerprint, claim)) != claim:
        if isinstance(found, Kept):
            return found
        await asyncio.sleep(LOOK_S)
    beating = asyncio.create_task(_beat(platform, scope, key, claim))
    try:
        answer = await work()
        await asyncio.to_thread(_keep, platform, scope, key, claim, answer)
        return answer
    except BaseException:
        await asyncio.to_thread(_release, platform, scope, key, claim)
        raise
    finally:
        beating.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await beating


async def _beat(platform: Platform, scope: str, key: str, claim: str) -> None:
    while True:
        await asyncio.sleep(BEAT_S)
        try:
            await asyncio.to_thread(_touch, platform, scope, key, claim)
        except Exception:  # the claim stands a while longer: there is a next time
            log.exception("a claim was not renewed")


# -- the table; status 0 is a claim, whose response is the name of who works -----------------------------


def _claim(platform: Platform, scope: str, key: str, fingerprint: str, claim: str) -> str | Kept | None:
    """The answer; or `claim` itself, which is now the one that works; or None while another one does."""

    def work(tx: Tx) -> str | Kept | None:
        now = platform.clock.now()
        made = tx.run(
            "INSERT INTO idempotency (scope, key, fingerprint, status, response, at) "
            "VALUES (:scope, :key, :fingerprint, 0, :claim, :now) ON CONFLICT DO NOTHING",
            scope=scope,
            key=key,
            fingerprint=fingerprint,
            claim=claim,
            now=now,
        )
        if made:
            return claim
        row = tx.one(
            "SELECT fingerprint, status, response, at FROM idempotency WHERE scope = :scope AND key = :key",
            scope=scope,
            key=key,
        )
        if row is None:
            return None  # released a moment ago: look again
        if row.fingerprint != fingerprint:
            raise _reused(key)
        if row.status:
            id, _, body = row.response.partition("\n")
            return Kept(id, body, repeated=True)
        taken = row.at < now - DEAD_MS and tx.run(
            "UPDATE idempotency SET response = :claim, at = :now "
            "WHERE scope = :scope AND key = :key AND status = 0 AND response = :theirs",
            scope=scope,
            key=key,
            claim=claim,
            now=now,
            theirs=row.response,
        )
        return claim if taken else None

    return platform.database.write(work)


_MINE = "WHERE scope = :scope AND key = :key AND status = 0 AND response = :claim"


def _keep(platform: Platform, scope: str, key: str, claim: str, answer: Kept) -> None:
    response = f"{answer.id}\n{answer.body}"
    sql = f"UPDATE idempotency SET status = 200, response = :response, at = :now {_MINE}"
    now = platform.clock.now()
    platform.database.write(lambda tx: tx.run(sql, scope=scope, key=key, claim=claim, response=response, now=now))


def _touch(platform: Platform, scope: str, key: str, claim: str) -> None:
    sql, now = f"UPDATE idempotency SET at = :now {_MINE}", platform.clock.now()
    platform.database.write(lambda tx: tx.run(sql, scope=scope, key=key, claim=claim, now=now))


def _release(platform: Platform, scope: str, key: str, claim: str) -> None:
    sql = f"DELETE FROM idempotency {_MINE}"
    platform.database.write(lambda tx: tx.run(sql, scope=scope, key=key, claim=claim))


def _reused(key: str) -> KeyReused:
    return KeyReused(
        f"The key {key[:40]!r} came before with another request.",
        why="A repeated key gets the first answer and never does anything else.",
        fix="Use a new Idempotency-Key for a new request.",
    )
