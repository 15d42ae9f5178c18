"""An answer that takes a while and is given once: who comes again with the same key waits for it, or gets it again.

In:      who asks for what (`scope`), the caller's own key, a fingerprint of the request, and the work.
Out:     the answer, as it was first given.
Kept:    of equal requests, in one process or in several, one works, and what it pays commits together with its answer:
         a process that dies leaves both or neither. It works on when whoever asked hangs up: a caller
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


class Claim:
    """The right to work for one key, until the answer is kept or another process has taken it over."""

    def __init__(self, platform: Platform, scope: str, key: str) -> None:
        self.platform, self.scope, self.key, self.name = platform, scope, key, new_id("claim")
        self.kept = False

    def keep(self, tx: Tx, answer: Kept) -> bool:
        """Write the answer down; False where it is another one's to give."""
        sql = f"UPDATE idempotency SET status = 200, response = :response, at = :now {_MINE}"
        response = f"{answer.id}\n{answer.body}"
        self.kept = bool(tx.run(sql, **self._values, response=response, now=self.platform.clock.now()))
        return self.kept

    def touch(self) -> None:
        """Say that its process lives."""
        sql, now = f"UPDATE idempotency SET at = :now {_MINE}", self.platform.clock.now()
        self.platform.database.write(lambda tx: tx.run(sql, **self._values, now=now))

    def release(self) -> None:
        """Let the next one work."""
        self.platform.database.write(lambda tx: tx.run(f"DELETE FROM idempotency {_MINE}", **self._values))

    @property
    def _values(self) -> dict[str, str]:
        return {"scope": self.scope, "key": self.key, "claim": self.name}


Work = Callable[[Claim], Awaitable[Kept]]  # keeps its answer by the claim, in the transaction that pays for it


async def attach(gateway: Gateway, scope: str, key: str, fingerprint: str, work: Work) -> Kept:
    """Do `work` and keep its answer under (scope, key), or wait for whoever does it, or give the answer that is there.

    Raises:
        KeyReused: the key came before with another request.
        NotReady: another process works, and this one is about to stop.
        CeruleaError: what the work raised; every one who waits here gets it.
    """
    check_key(key)
    name = (scope, key)
    first = name not in gateway.keyed
    if first:
        task = asyncio.create_task(_work_once(gateway, scope, key, fingerprint, work))
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


async def _work_once(gateway: Gateway, scope: str, key: str, fingerprint: str, work: Work) -> Kept:
    while True:
        claim = Claim(gateway.platform, scope, key)
        while (found := await asyncio.to_thread(_claim, claim, fingerprint)) is not claim:
            if isinstance(found, Kept):
                return found
            gateway.refuse_if_draining()  # whoever asked comes again, here or elsewhere, and finds the answer
            await asyncio.sleep(LOOK_S)
        beating = asyncio.create_task(_beat(claim))
        try:
            answer = await work(claim)
        except BaseException:
            await asyncio.to_thread(claim.release)
            raise
        finally:
            beating.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await beating
        if claim.kept:
            return answer
        # It stood still for so long that another process has the claim; nothing was charged, and that one answers.


async def _beat(claim: Claim) -> None:
    while True:
        await asyncio.sleep(BEAT_S)
        try:
            await asyncio.to_thread(claim.touch)
        except Exception:  # the claim stands a while longer: there is a next time
            log.exception("a claim was not renewed")


# -- the table; status 0 is a claim, whose response is the name of who works -----------------------------

_MINE = "WHERE scope = :scope AND key = :key AND status = 0 AND response = :claim"


def _claim(claim: Claim, fingerprint: str) -> Claim | Kept | None:
    """The answer; or `claim` itself, which is now the one that works; or None while another one does."""
    platform, scope, key = claim.platform, claim.scope, claim.key

    def work(tx: Tx) -> Claim | Kept | None:
        now = platform.clock.now()
        made = tx.run(
            "INSERT INTO idempotency (scope, key, fingerprint, status, response, at) "
            "VALUES (:scope, :key, :fingerprint, 0, :claim, :now) ON CONFLICT DO NOTHING",
            scope=scope,
            key=key,
            fingerprint=fingerprint,
            claim=claim.name,
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
            claim=claim.name,
            now=now,
            theirs=row.response,
        )
        return claim if taken else None

    return platform.database.write(work)


def _reused(key: str) -> KeyReused:
    return KeyReused(
        f"The key {key[:40]!r} came before with another request.",
        why="A repeated key gets the first answer and never does anything else.",
        fix="Use a new Idempotency-Key for a new request.",
    )
