"""When a fund's money ends if its teams go on as they do now.

In:      a Database, a Clock, a fund.
Out:     Forecast: burn per day as seen three ways, and the day the money ends with a band around it.
Kept:    no guess where nothing was spent: then there is no day. The band is what the three views disagree about; it is
         no statement of probability.

The three views: what was settled in the last 24 hours; the daily mean of the last 7 days, or since the first settled
charge where that is later; and what the open holds commit to, each spread over the time it was placed for.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

from cerulea.core.clock import DAY_MS, Clock
from cerulea.core.money import Nanos
from cerulea.ledger import accounts
from cerulea.store.database import Database, Tx

HOUR_MS = DAY_MS // 24
FARTHEST_DAYS = 36_500  # beyond it no day is named


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """How long the money lasts."""

    fund: str
    left: Nanos  # not drawn, drawn and free, and held
    burn_24h: Nanos  # per day
    burn_7d: Nanos  # per day
    burn_committed: Nanos  # per day
    ends_at: int | None  # ms; by the middle one of the views that see any burn
    earliest: int | None  # by the highest
    latest: int | None  # by the lowest


def forecast(database: Database, clock: Clock, fund: str) -> Forecast:
    """Foretell the end of a fund's money; of an uncapped fund there is none.

    Raises:
        NotFound: no such fund.
    """
    now = clock.now()
    with database.read() as tx:
        account = accounts.fund_of(tx, fund)
        purses = accounts.every(tx, "team", fund)
        left = account.cr_posted - account.dr_posted + sum(purse.cr_posted - purse.dr_posted for purse in purses)
        ids = [purse.id for purse in purses]
        day = sum(_settled(tx, purse, now - DAY_MS) for purse in ids)
        week = _per_day(sum(_settled(tx, purse, now - 7 * DAY_MS) for purse in ids), _observed_ms(tx, ids, now))
        committed = sum(_committed(tx, purse) for purse in ids)
    seen = [burn for burn in (day, week, committed) if burn > 0]
    if not account.limited or not seen:
        earliest = middle = latest = None
    else:
        earliest, middle, latest = (_end(now, left, burn) for burn in (max(seen), median(seen), min(seen)))
    return Forecast(
        fund=fund,
        left=Nanos(left),
        burn_24h=Nanos(day),
        burn_7d=Nanos(week),
        burn_committed=Nanos(committed),
        ends_at=middle,
        earliest=earliest,
        latest=latest,
    )


def _settled(tx: Tx, purse: int, since: int) -> int:
    """The sum fits the engine's integers, for no account's counters pass the books' limit."""
    found = tx.value(
        "SELECT SUM(amount) FROM transfer WHERE debit = :purse AND at > :since AND kind = 'post'",
        purse=purse,
        since=since,
    )
    return int(found or 0)


def _observed_ms(tx: Tx, purses: list[int], now: int) -> int:
    """How long spending was watched: at most a week, at least an hour, so that one first charge is no torrent."""
    first = [
        tx.value("SELECT MIN(at) FROM transfer WHERE debit = :purse AND kind = 'post' AND at > :since", **values)
        for values in ({"purse": purse, "since": now - 7 * DAY_MS} for purse in purses)
    ]
    began = min((at for at in first if at is not None), default=now)
    return min(max(now - began, HOUR_MS), 7 * DAY_MS)


def _committed(tx: Tx, purse: int) -> int:
    """Per day, of holds that say for how long they were placed."""
    rows = tx.all(
        "SELECT amount, expires_at - at AS ms FROM open_hold WHERE debit = :purse AND expires_at > at", purse=purse
    )
    return sum(_per_day(row.amount, max(row.ms, 1000)) for row in rows)


def _per_day(amount: int, ms: int) -> int:
    return amount * DAY_MS // ms


def _end(now: int, left: int, burn_per_day: float) -> int | None:
    days = max(left, 0) / burn_per_day
    return now + int(days * DAY_MS) if days <= FARTHEST_DAYS else None
