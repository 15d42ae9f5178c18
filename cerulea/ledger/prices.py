"""What is charged for what: a versioned price list, exact to the nano-unit.

In:      prices.toml in this package, an operator's own file over it; a Usage, a device, a moment.
Out:     Rate for each meter; the price of everything used since a beginning, rounded up once over the sum.
Kept:    a price that holds is never changed: what was charged can be computed again for ever. The operator's own price
         of a sku goes before ours from its date on. What nobody priced is refused, never free.
Not here: who pays (`book`).
"""

from __future__ import annotations

import datetime
import difflib
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from cerulea.core.clock import iso
from cerulea.core.errors import MoneyInvalid
from cerulea.core.money import LIMIT, Nanos, Rate, cost
from cerulea.core.values import Usage
from cerulea.store.database import Database, Tx

PACKAGED = Path(__file__).parent / "prices.toml"
METERS = tuple(meter.name for meter in fields(Usage))
_BY_DEVICE = "device_ms"  # the one meter whose price depends on the device
_BY_MODEL = ("prompt_tokens", "completion_tokens")  # those that may have a price for one model: prompt_tokens/brook
_KEYS = ("sku", "nanos", "per", "from", "source")
_SKU = re.compile(rf"{_BY_DEVICE}\.[a-z0-9_-]+|({'|'.join(_BY_MODEL)})/[A-Za-z0-9][A-Za-z0-9._-]{{0,99}}")
LOOKED_UP_MS = 60_000  # how long prices of tokens are known before they are read again


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """One line of a price list: `nanos` nano-units for each `per`, from a day on."""

    sku: str
    nanos: int
    per: int
    valid_from: int  # ms
    source: str
    own: bool = False  # the operator's


class PriceList:
    """The prices of one platform, kept in its database with every earlier version."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self._known: tuple[int, list[Price]] = (-1, [])  # the minute in which all prices were read last, and these

    def load(self, path: Path | None = None, *, tx: Tx | None = None) -> None:
        """Take up the package's prices, and those in `path` over them; what is there already stays.

        Raises:
            MoneyInvalid: a file that cannot be read, an unknown key or sku, a price that was different before.
        """
        wanted = read_prices(PACKAGED) + ([] if path is None else read_prices(path, own=True))

        def work(tx: Tx) -> None:
            there = {(price.sku, price.valid_from, price.own): price for price in _every(tx)}
            for price in wanted:
                before = there.get((price.sku, price.valid_from, price.own))
                if before is None:
                    tx.run(
                        "INSERT INTO price (sku, nanos, per, valid_from, own, source) "
                        "VALUES (:sku, :nanos, :per, :valid_from, :own, :source) "
                        "ON CONFLICT (sku, valid_from, own) DO NOTHING",
                        sku=price.sku,
                        nanos=price.nanos,
                        per=price.per,
                        valid_from=price.valid_from,
                        own=int(price.own),
                        source=price.source,
                    )
                elif before.nanos * price.per != price.nanos * before.per:
                    raise MoneyInvalid(
                        f"The price of {price.sku} from {iso(price.valid_from)[:10]} is {before.nanos} "
                        f"for {before.per}; {path if price.own else PACKAGED.name} now says "
                        f"{price.nanos} for {price.per}.",
                        why="A price that holds is never changed, for something may have been charged by it.",
                        fix="Put the old line back and add a new one with a later date.",
                    )

        self.database.within(tx, work)
        self._known = (-1, [])

    def every(self, *, tx: Tx | None = None) -> list[Price]:
        """All prices with their history, by sku and date."""
        if tx is not None:
            return _every(tx)
        with self.database.read() as reading:
            return _every(reading)

    def rates(self, device: str, at: int, *, tx: Tx | None = None) -> tuple[Rate, ...]:
        """What each meter costs on a device (cpu, cuda) at a moment.

        Raises:
            MoneyInvalid: a meter, or the device, has no price at that moment.
        """
        holds_at = _that_hold(self.every(tx=tx), at)
        found = []
        for meter in METERS:
            sku = f"{_BY_DEVICE}.{device}" if meter == _BY_DEVICE else meter
            if sku not in holds_at:
                raise _unpriced(sku, at, sorted(holds_at))
            found.append(Rate(meter, holds_at[sku].nanos, holds_at[sku].per))
        return tuple(found)

    def token_rates(self, model: str, at: int) -> tuple[Rate, ...]:
        """What the tokens of a request to a model cost at a moment: its own price where it has one, else everybody's.

        Prices are read once a minute: a request must not wait for them.

        Raises:
            MoneyInvalid: tokens have no price at that moment.
        """
        if self._known[0] != at // LOOKED_UP_MS:
            self._known = (at // LOOKED_UP_MS, self.every())
        holds_at = _that_hold(self._known[1], at)
        found = []
        for meter in _BY_MODEL:
            price = holds_at.get(f"{meter}/{model}") or holds_at.get(meter)
            if price is None:
                raise _unpriced(meter, at, sorted(holds_at))
            found.append(Rate(meter, price.nanos, price.per))
        return tuple(found)

    def price(self, usage: Usage, device: str, at: int, *, tx: Tx | None = None) -> Nanos:
        """What everything used since a beginning costs, rounded up once over the sum.

        Charging what this grew by, tick after tick, costs the same as charging once at the end.
        """
        return Nanos(cost(usage.as_json(), self.rates(device, at, tx=tx)))

    def rate(self, device: str, at: int, *, tx: Tx | None = None) -> Nanos:
        """Nano-units for one second of one slot of a device."""
        return Nanos(cost({_BY_DEVICE: 1000}, self.rates(device, at, tx=tx)))


def read_prices(path: Path, *, own: bool = False) -> list[Price]:
    """The prices in a file.

    Raises:
        MoneyInvalid: it is missing, no TOML, or a line in it is wrong; the line is named.
    """
    try:
        text = path.read_text(encoding="utf-8")
        content = tomllib.loads(text)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise MoneyInvalid(f"The prices in {path} cannot be read: {error}.", fix="Mend the file.") from error
    for key in content:
        if key != "price":
            raise _wrong(path, _line_of(text, key), f"{key!r} is unknown; a file of prices has [[price]] alone")
    tables = content.get("price", [])
    if not isinstance(tables, list):
        raise _wrong(path, _line_of(text, "[price]"), "a price is written as [[price]], with two brackets")
    found = [_price(path, lines, table, own) for lines, table in zip(_blocks(text), tables, strict=False)]
    seen: set[tuple[str, int]] = set()
    for price in found:
        if (price.sku, price.valid_from) in seen:
            raise _wrong(path, 0, f"{price.sku} has two prices from {iso(price.valid_from)[:10]}")
        seen.add((price.sku, price.valid_from))
    return found


def _price(path: Path, lines: dict[str, int], table: dict[str, Any], own: bool) -> Price:
    here = lines[""]
    for key in table:
        if key not in _KEYS:
            near = difflib.get_close_matches(key, _KEYS, n=1, cutoff=0.4)
            hint = f"; the nearest is {near[0]!r}" if near else ""
            raise _wrong(path, lines.get(key, here), f"{key!r} is unknown{hint}")
    for key in _KEYS:
        if key not in table:
            raise _wrong(path, here, f"{key!r} is missing")
    sku, day = table["sku"], table["from"]
    if sku not in METERS and not (isinstance(sku, str) and _SKU.fullmatch(sku)):
        known = [*(meter for meter in METERS if meter != _BY_DEVICE), f"{_BY_DEVICE}.cpu", f"{_BY_DEVICE}.cuda"]
        known.append("prompt_tokens/MODEL")
        raise _wrong(path, lines.get("sku", here), f"nothing meters {sku!r}; there are {', '.join(known)}")
    for key, least in (("nanos", 0), ("per", 1)):
        value = table[key]
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= LIMIT:
            raise _wrong(path, lines.get(key, here), f"{key} = {value!r} is no whole number of {least} or more")
    if not isinstance(day, datetime.date) or isinstance(day, datetime.datetime):
        raise _wrong(path, lines.get("from", here), f"from = {day!r} is no date; write it like 2026-11-23, unquoted")
    if not isinstance(table["source"], str) or not table["source"].strip():
        raise _wrong(path, lines.get("source", here), "source says nothing; name where the price is from")
    midnight = datetime.datetime.combine(day, datetime.time(), datetime.UTC)
    return Price(
        sku=sku,
        nanos=table["nanos"],
        per=table["per"],
        valid_from=int(midnight.timestamp()) * 1000,
        source=table["source"].strip(),
        own=own,
    )


def _blocks(text: str) -> Iterator[dict[str, int]]:
    """Line numbers of each [[price]]: of its keys, and of itself under an empty name."""
    block: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if re.match(r"\s*\[\[\s*price\s*\]\]", line):
            if block:
                yield block
            block = {"": number}
        elif block and (key := re.match(r"\s*[\"']?([A-Za-z_]+)[\"']?\s*=", line)):
            block.setdefault(key.group(1), number)
    if block:
        yield block


def _line_of(text: str, word: str) -> int:
    return next((number for number, line in enumerate(text.splitlines(), 1) if word in line), 0)


def _wrong(path: Path, line: int, what: str) -> MoneyInvalid:
    place = f"{path}, line {line}" if line else str(path)
    return MoneyInvalid(f"{place}: {what}.", fix="Each [[price]] has sku, nanos, per, from and source.")


def _unpriced(sku: str, at: int, known: list[str]) -> MoneyInvalid:
    return MoneyInvalid(
        f"Nothing says what {sku} costs on {iso(at)[:10]}.",
        why=f"What has no price is refused, never free. There are prices of {', '.join(known) or 'nothing'}.",
        fix="Add a [[price]] to prices.toml in CERULEA_HOME.",
    )


def _that_hold(prices: list[Price], at: int) -> dict[str, Price]:
    """By sku: ours before the operator's own, the older before the newer, so that the last one holds."""
    return {price.sku: price for price in prices if price.valid_from <= at}


def _every(tx: Tx) -> list[Price]:
    rows = tx.all("SELECT sku, nanos, per, valid_from, source, own FROM price ORDER BY sku, own, valid_from")
    return [Price(**dict(row._mapping) | {"own": bool(row.own)}) for row in rows]
