"""Money as whole nano-units (1e-9), so that thirty millionths of a cent a token adds up exactly.

In:      decimal text, as people and the wire write it: "12.34".
Out:     int, signed 64 bit; text again with two to nine decimals.
Kept:    no float touches money; splitting loses nothing; an amount beyond LIMIT is refused where it is read.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, NewType

from cerulea.core.errors import MoneyInvalid

Nanos = NewType("Nanos", int)  # 1e-9 of the fund's currency

UNIT = 1_000_000_000
LIMIT = Nanos(2**62)  # no counter of the books may pass it: 4.6 billion units, with room for a sum of two
_DECIMAL = re.compile(r"([0-9]{1,10})(?:\.([0-9]{1,9}))?")


def nanos(text: str) -> Nanos:
    """Read an amount that is moved: plain decimal, above zero, at most nine decimals.

    Raises:
        MoneyInvalid: signs, exponents, separators, NaN, more than nine decimals, zero, or beyond the books.
    """
    amount = nanos_or_zero(text)
    if amount == 0:
        raise MoneyInvalid("The amount is zero.", why="Only money that moves is booked.", fix="Name an amount above 0.")
    return amount


def nanos_or_zero(text: str) -> Nanos:
    """Read an amount that may be zero, such as a cap; else as `nanos`."""
    found = _DECIMAL.fullmatch(text.strip()) if isinstance(text, str) and len(text) < 80 else None
    if found is None:
        raise MoneyInvalid(
            f"{str(text)[:40]!r} is no amount.",
            why="An amount is a plain decimal of at most ten digits before the point and nine after it.",
            fix="Write it like 25 or 25.50.",
        )
    whole, decimals = found.group(1), (found.group(2) or "").ljust(9, "0")
    amount = int(whole) * UNIT + int(decimals)
    if amount > LIMIT:
        raise MoneyInvalid(
            f"{text} is more than the books can hold.", why=f"The most is {show(LIMIT)}.", fix="Name a smaller amount."
        )
    return Nanos(amount)


def show(amount: int) -> str:
    """Decimal text with at least two and at most nine decimals: 12.00, 0.000000030, -1.25."""
    whole, part = divmod(abs(amount), UNIT)
    decimals = f"{part:09d}".rstrip("0").ljust(2, "0")
    return f"{'-' if amount < 0 else ''}{whole}.{decimals}"


def split(amount: int, weights: Sequence[int]) -> list[Nanos]:
    """Parts of `amount` in proportion to `weights`, each within one nano-unit of its share, that sum to `amount`.

    The units that rounding leaves go to the largest remainders, the first of equals first.
    """
    total = sum(weights)
    assert amount >= 0 and total > 0 and min(weights) >= 0
    parts = [amount * weight // total for weight in weights]
    rest = amount - sum(parts)
    by_remainder = sorted(range(len(weights)), key=lambda i: (-(amount * weights[i] % total), i))
    for i in by_remainder[:rest]:
        parts[i] += 1
    return [Nanos(part) for part in parts]


def price_of(quantity: int, nanos_per: int, per: int) -> int:
    """Price of a quantity at `nanos_per` nano-units for each `per`, rounded up once."""
    return -(-quantity * nanos_per // per)


class Rate(NamedTuple):
    """What a meter costs: `nanos` nano-units for each `per` of it."""

    meter: str  # a field of Usage
    nanos: int
    per: int


def cost(quantities: Mapping[str, int], rates: Iterable[Rate]) -> int:
    """Nano-units for what was used since the beginning, rounded up once over the sum.

    Charging what this grew by, tick after tick, costs the same as charging once at the end.
    """
    rates = [rate for rate in rates if rate.nanos and quantities.get(rate.meter)]
    common = math.lcm(*(rate.per for rate in rates)) if rates else 1
    total = sum(quantities[rate.meter] * rate.nanos * (common // rate.per) for rate in rates)
    return -(-total // common)
