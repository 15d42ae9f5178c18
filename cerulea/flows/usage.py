"""What requests to models used and paid: one row for each, and reports by team, key, model or day.

In:      an open platform, who asks, a span of time.
Out:     RequestUsage; sums over many of them.
Kept:    a row is written once, in the transaction of its charge (`bill`); the sum of `charged` is what the ledger
         settled for inference. Whoever sees only his own team sees only its requests.
Not here: charging (`bill`), jobs (`show`).
"""

from __future__ import annotations

import datetime
from dataclasses import asdict, dataclass
from typing import Any, Literal

from cerulea.core.clock import DAY_MS
from cerulea.core.errors import NotFound
from cerulea.core.money import Nanos
from cerulea.flows.platform import Platform
from cerulea.people import Caller
from cerulea.store.database import Tx

By = Literal["day", "team", "key", "model"]
_COLUMNS = {"day": f"ended_at / {DAY_MS}", "team": "team", "key": "api_key", "model": "model"}
_SUMS = ("prompt_tokens", "cached_tokens", "completion_tokens", "charged", "absorbed")


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestUsage:
    """One request that ended."""

    request_id: str
    begun_at: int  # ms
    ended_at: int
    team: str
    fund: str
    person: str
    api_key: str  # prefix; empty for whoever sat at the machine itself
    model: str
    version: int | None
    endpoint: str
    prompt_tokens: int
    cached_tokens: int  # of the prompt, not read again and not charged
    completion_tokens: int
    charged: Nanos
    absorbed: Nanos  # what the house paid, because the lease had ended before anybody settled
    finish: str


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageSum:
    """All requests of one day, team, key or model."""

    name: str
    requests: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    charged: Nanos
    absorbed: Nanos


def note(tx: Tx, usage: RequestUsage) -> bool:
    """Write a request's row; False where there is one, which stays."""
    values = asdict(usage)
    return (
        tx.run(
            f"INSERT INTO request_usage ({', '.join(values)}) VALUES ({', '.join(':' + name for name in values)}) "
            "ON CONFLICT (request_id) DO NOTHING",
            **values,
        )
        == 1
    )


def usage_of(platform: Platform, caller: Caller, request_id: str) -> RequestUsage:
    """What one request used and paid.

    Raises:
        NotFound: none of that id has ended, or it is another team's.
    """
    with platform.database.read() as tx:
        row = tx.one("SELECT * FROM request_usage WHERE request_id = :id", id=request_id)
    if row is None or (caller.teams is not None and row.team not in caller.teams):
        raise NotFound(
            f"There is no usage of a request {request_id[:100]!r}.",
            why="A request's usage is known when it has ended.",
            fix="Check the id; the answer's header names it.",
        )
    return RequestUsage(**row._mapping)


def report(
    platform: Platform,
    caller: Caller,
    *,
    by: By,
    since: int,
    until: int,
    team: str | None = None,
    api_key: str | None = None,
    model: str | None = None,
    limit: int,
) -> list[UsageSum]:
    """Requests that ended in [since, until), summed: days from the newest on, others by what they were charged.

    Args:
        team, api_key, model: of these only.
        limit: most rows.
    """
    where, values = ["ended_at >= :since", "ended_at < :until"], dict[str, Any](since=since, until=until, limit=limit)
    for column, value in (("team", team), ("api_key", api_key), ("model", model)):
        if value is not None:
            where.append(f"{column} = :{column}")
            values[column] = value
    if caller.teams is not None:
        seen = {f"seen_{chr(97 + i)}": name for i, name in enumerate(caller.teams)}
        where.append(f"team IN ({', '.join(':' + name for name in seen)})")
        values |= seen
    sums = ", ".join(f"SUM({name}) AS {name}" for name in _SUMS)
    order = "name DESC" if by == "day" else "charged DESC, name"
    with platform.database.read() as tx:
        rows = tx.all(
            f"SELECT {_COLUMNS[by]} AS name, COUNT(*) AS requests, {sums} FROM request_usage "
            f"WHERE {' AND '.join(where)} GROUP BY 1 ORDER BY {order} LIMIT :limit",
            **values,
        )
    return [
        UsageSum(
            name=_day(row.name) if by == "day" else row.name,
            requests=int(row.requests),
            prompt_tokens=int(row.prompt_tokens),
            cached_tokens=int(row.cached_tokens),
            completion_tokens=int(row.completion_tokens),
            charged=Nanos(int(row.charged)),
            absorbed=Nanos(int(row.absorbed)),
        )
        for row in rows
    ]


def _day(number: int) -> str:
    return (datetime.date(1970, 1, 1) + datetime.timedelta(days=int(number))).isoformat()
