"""The token of an attempt: what its worker shows with every report, made anew whenever it is asked for, kept nowhere.

In:      a job that was placed on a worker.
Out:     the token's text, for that worker alone; its sha256, which is all that the database has (column `job.token`).
Kept:    the same attempt gets the same text from the same home, so that a worker that lost the answer asks again.
         Whoever reads the database, or a copy of it, can report for no job: the secret is a file of the home (0600).
Not here: who may show one (`api.asking`), what a stale one is answered (`jobs.queue`).
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import secrets
import tempfile
from pathlib import Path

from cerulea.jobs.job import Job

FILE = "lease.secret"


def digest_of(token: str) -> str:
    """What the database keeps of a token."""
    return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()


def token_of(job: Job, secret: bytes) -> str:
    """The token of a placed job's attempt.

    Where and when it was placed is in it beside its number: a database that was put back to an older state counts
    attempts a second time.
    """
    placed = f"{job.id} {job.attempt} {job.worker} {job.queued_at} {job.lease_expires_at}"
    return hmac.new(secret, placed.encode(), hashlib.sha256).hexdigest()


def secret_of(home: Path) -> bytes:
    """The secret of this home, made when it is first asked for."""
    path = home / FILE
    if not path.exists():
        # Written whole under another name first, and linked: of two processes one wins, and neither reads half of it.
        handle, temporary = tempfile.mkstemp(dir=home, prefix=f"{FILE}.")  # 0600
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(secrets.token_bytes(32))
                file.flush()
                os.fsync(file.fileno())
            with contextlib.suppress(FileExistsError):
                path.hardlink_to(temporary)
        finally:
            Path(temporary).unlink()
    return path.read_bytes()
