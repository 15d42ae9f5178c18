"""Whose keys have been seen lately: a memory of one process, so that not every request asks the database.

Kept:    it knows a key by its hash, as the database does. What opens something goes by it for KNOWN_MS alone, so that a
         key that another process revokes is refused after that; what this process revokes is forgotten at once.
Not here: whether a key is good (`book.People.authenticate`).
"""

from __future__ import annotations

from typing import NamedTuple

from cerulea.core.clock import Clock
from cerulea.core.errors import KeyUnknown
from cerulea.people.keys import read_key
from cerulea.people.roles import Caller

KNOWN_MS, KNOWN = 1000, 4096  # how long, and of how many keys
_EVER = 2**62


class _Seen(NamedTuple):
    caller: Caller
    expires_at: int  # ms
    looked: int  # of the clock's `elapsed`


class Known:
    """Callers by their keys."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._seen: dict[str, _Seen] = {}

    def note(self, hashed: str, caller: Caller, expires_at: int | None, looked: int) -> Caller:
        """The database said so at that moment."""
        if len(self._seen) >= KNOWN:
            self._seen.clear()
        self._seen[hashed] = _Seen(caller, expires_at or _EVER, looked)
        return caller

    def recall(self, bearer: str, *, within_ms: int | None = KNOWN_MS) -> Caller | None:
        """Who sends this key, where that is known; it reads nothing and never waits.

        Args:
            bearer: the Authorization header's value, or the key alone.
            within_ms: how old the word may be; None for any age, for what opens nothing.
        """
        try:
            seen = self._seen.get(read_key(bearer).hash)
        except KeyUnknown:
            return None
        late = seen is not None and within_ms is not None and seen.looked + within_ms <= self._clock.elapsed()
        return None if seen is None or late or seen.expires_at <= self._clock.now() else seen.caller

    def forget(self) -> None:
        """Keys, roles or teams have changed."""
        self._seen.clear()
