"""Time as whole milliseconds since 1970 UTC, asked of a clock that a test can hold still; and new ids."""

from __future__ import annotations

import datetime
import secrets
import time
from typing import Protocol

DAY_MS = 86_400_000


class Clock(Protocol):
    """What tells the time."""

    def now(self) -> int:
        """Milliseconds since 1970 UTC, as calendars count; may jump when an operator sets it."""
        ...

    def elapsed(self) -> int:
        """Milliseconds since some fixed moment, never set back: for intervals."""
        ...


class SystemClock:
    """This machine's clocks."""

    def now(self) -> int:
        return time.time_ns() // 1_000_000

    def elapsed(self) -> int:
        return time.monotonic_ns() // 1_000_000


class FakeClock:
    """A clock that moves when it is told to."""

    def __init__(self, now: int = 1_767_225_600_000) -> None:  # 2026-01-01
        self._now, self._elapsed = now, 0

    def now(self) -> int:
        return self._now

    def elapsed(self) -> int:
        return self._elapsed

    def advance(self, ms: int) -> None:
        """Let `ms` milliseconds pass."""
        self._now += ms
        self._elapsed += ms

    def jump(self, ms: int) -> None:
        """Set the calendar by `ms` without any time passing."""
        self._now += ms


def new_id(kind: str) -> str:
    """`job-7f3a91c2d0b4`: a kind and 48 random bits; a unique key in the database has the last word."""
    return f"{kind}-{secrets.token_hex(6)}"


def iso(ms: int) -> str:
    """UTC, ISO 8601, to the millisecond: how times travel on the wire."""
    return datetime.datetime.fromtimestamp(ms / 1000, datetime.UTC).isoformat(timespec="milliseconds")


def month_of(ms: int) -> str:
    """`2026-11`: the calendar month, UTC."""
    return datetime.datetime.fromtimestamp(ms / 1000, datetime.UTC).strftime("%Y-%m")
