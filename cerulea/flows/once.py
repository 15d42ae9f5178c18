"""An answer that is given once: whoever lost it and asks again gets the same one, and nothing is done twice.

In:      who asks for what (`scope`), the caller's own key, a fingerprint of the request, and the work.
Out:     the answer, as it was first given; a refusal is an answer too.
Kept:    the work and its answer commit together, so that a crash leaves both or neither. Of two equal requests at the
         same moment one works and the other waits for its answer.
Not here: HTTP (`api`); the keys of transfers and jobs, which hold for ever (`ledger`, `jobs`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from cerulea.core.clock import DAY_MS
from cerulea.core.errors import CeruleaError, Failed, Invalid, KeyReused, Unreachable
from cerulea.flows.platform import Platform
from cerulea.store.database import Tx

KEPT_MS = 30 * DAY_MS  # how long an answer is known; the ledger and the queue know their keys for ever
LONGEST_KEY = 200


class Answer(NamedTuple):
    """What a request was answered."""

    status: int  # HTTP
    body: str  # JSON
    repeated: bool = False


def once(
    platform: Platform,
    scope: str,
    key: str,
    fingerprint: str,
    work: Callable[[Tx], Answer],
    refuse: Callable[[CeruleaError], Answer],
) -> Answer:
    """Do `work` in a transaction and keep its answer under (scope, key), or give the answer that is there.

    Raises:
        KeyReused: the key came before with another request.
    """
    check_key(key)

    def both(tx: Tx) -> Answer:
        row = tx.one(
            "SELECT fingerprint, status, response FROM idempotency WHERE scope = :scope AND key = :key",
            scope=scope,
            key=key,
        )
        if row is not None:
            if row.fingerprint != fingerprint:
                raise KeyReused(
                    f"The key {key[:40]!r} came before with another request.",
                    why="A repeated key gets the first answer and never does anything else.",
                    fix="Use a new Idempotency-Key for a new request.",
                )
            return Answer(row.status, row.response, repeated=True)
        # First the key, then the work: of two equal requests the second waits here until the first has its answer.
        tx.run(
            "INSERT INTO idempotency (scope, key, fingerprint, status, response, at) "
            "VALUES (:scope, :key, :fingerprint, 0, '', :at)",
            scope=scope,
            key=key,
            fingerprint=fingerprint,
            at=platform.clock.now(),
        )
        answer = _tried(tx, work, refuse)
        tx.run(
            "UPDATE idempotency SET status = :status, response = :response WHERE scope = :scope AND key = :key",
            status=answer.status,
            response=answer.body,
            scope=scope,
            key=key,
        )
        return answer

    return platform.database.write(both)


def forget_answers(platform: Platform) -> int:
    """Drop answers that are older than KEPT_MS; how many."""
    before = platform.clock.now() - KEPT_MS
    return platform.database.write(lambda tx: tx.run("DELETE FROM idempotency WHERE at < :before", before=before))


def check_key(key: str) -> None:
    """Refuse what cannot be a key."""
    if not 0 < len(key) <= LONGEST_KEY or not key.isascii() or not key.isprintable():
        raise Invalid(
            "The Idempotency-Key cannot be used.",
            why=f"It has 1 to {LONGEST_KEY} printable ASCII characters.",
            fix="Send a random one, such as a UUID.",
        )


def _tried(tx: Tx, work: Callable[[Tx], Answer], refuse: Callable[[CeruleaError], Answer]) -> Answer:
    """The work's answer, or its refusal with nothing of the work left."""
    tx.run("SAVEPOINT tried")
    try:
        answer = work(tx)
    except (Failed, Unreachable):
        raise  # nobody refused: it may go better the next time
    except CeruleaError as error:
        tx.run("ROLLBACK TO SAVEPOINT tried")
        answer = refuse(error)
    tx.run("RELEASE SAVEPOINT tried")
    return answer
