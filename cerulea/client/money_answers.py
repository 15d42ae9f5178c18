"""What a platform answers about money, as frozen values. Amounts are decimal text, a time is ISO 8601 text.

Not here: how they are read (`answers.read`).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Fund:
    """A fund."""

    name: str
    approval: bool
    uncapped: bool
    closed: bool
    available: str
    created_at: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    """A movement of money."""

    id: int
    fund: str
    team: str | None
    amount: str
    debit: str
    credit: str
    at: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """A draw, done or asked for."""

    status: str  # asked, drawn or denied
    request: str | None
    fund: str
    team: str
    amount: str
    asked_by: str
    decided_by: str | None
    at: str
    decided_at: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """Money that came into a fund."""

    sponsor: str
    amount: str
    until: str | None
    lapsed: str
    at: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What one team did with its part of a fund."""

    team: str
    drawn: str
    held: str
    settled: str
    available: str
    inference: str  # of what is settled


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """What became of a fund's money."""

    fund: str
    uncapped: bool
    granted: str
    lapsed: str
    drawn: str
    held: str
    settled: str
    available: str
    inference: str  # of what is settled, for requests to models
    teams: list[Part]


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """When a fund's money ends."""

    fund: str
    left: str
    burn_24h: str
    burn_7d: str
    burn_committed: str
    ends_at: str | None
    earliest: str | None
    latest: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """The books, added up."""

    balanced: bool
    transfers: int
    sealed: int
    problems: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cap:
    """A limit on what may be held and spent; None: lifted."""

    scope: str
    subject: str
    period: str
    amount: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """A line of the price list."""

    sku: str
    price: str
    per: int
    valid_from: str
    source: str
    own: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Used:
    """What all requests of one day, team, key or model used and paid."""

    name: str
    requests: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    charged: str
    absorbed: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestUsage:
    """What one request used and paid."""

    request_id: str
    begun_at: str
    ended_at: str
    team: str
    fund: str
    person: str
    api_key: str
    model: str
    version: int | None
    endpoint: str
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    charged: str
    absorbed: str
    finish: str
