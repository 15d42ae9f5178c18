"""What things cost: exact, versioned, never free by accident."""

from __future__ import annotations

from fractions import Fraction
from math import ceil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cerulea.core.clock import DAY_MS
from cerulea.core.errors import MoneyInvalid
from cerulea.core.money import Rate, cost
from cerulea.core.values import Usage
from cerulea.ledger.prices import PACKAGED, PriceList, read_prices
from cerulea.store.database import Database

NOW = 1_795_392_000_000  # 2026-11-23
LINE = '[[price]]\nsku = "{sku}"\nnanos = {nanos}\nper = {per}\nfrom = {day}\nsource = "{source}"\n'


def line(**changes: object) -> str:
    return LINE.format(
        **{"sku": "prompt_tokens", "nanos": 7, "per": 2, "day": "2026-02-01", "source": "here", **changes}
    )


@pytest.fixture
def prices(database: Database) -> PriceList:
    found = PriceList(database)
    found.load()
    return found


def test_our_own_prices_are_whole_and_say_where_they_are_from(prices: PriceList):
    """0.096 an hour on a CPU, 6.98 on a GPU; every meter has a price."""
    hour = Usage(device_ms=3_600_000)

    assert prices.price(hour, "cpu", NOW) == 96_000_000
    assert prices.price(hour, "cuda", NOW) == 6_980_000_000
    assert prices.price(Usage(prompt_tokens=1_000_000, completion_tokens=1_000_000), "cpu", NOW) == 500_000_000
    assert prices.rate("cpu", NOW) == ceil(Fraction(96_000_000, 3600))
    assert [rate.meter for rate in prices.rates("cpu", NOW)] == list(Usage().as_json())
    assert all(len(price.source) > 20 for price in read_prices(PACKAGED))


@given(
    ticks=st.lists(st.tuples(st.integers(0, 10**7), st.integers(0, 10**7)), min_size=1, max_size=30),
    nanos=st.integers(0, 10**10),
    per=st.integers(1, 10**7),
)
def test_charging_what_the_cost_grew_by_costs_the_same_as_once(ticks, nanos, per):
    """A job cut into many ticks pays what it pays in one."""
    rates = [Rate("device_ms", nanos, per), Rate("prompt_tokens", 30, 7)]
    charged, used = 0, Usage()
    for ms, tokens in ticks:
        used += Usage(device_ms=ms, prompt_tokens=tokens)
        charge = cost(used.as_json(), rates) - charged
        assert charge >= 0
        charged += charge

    exact = Fraction(used.device_ms * nanos, per) + Fraction(used.prompt_tokens * 30, 7)
    assert charged == ceil(exact)


def test_a_price_holds_from_its_day_on(prices: PriceList, tmp_path: Path):
    """An operator's price of prompt tokens from February, another from June; ours before."""
    own = tmp_path / "prices.toml"
    own.write_text(line() + line(nanos=9, per=1, day="2026-06-01"), encoding="utf-8")
    prices.load(own)
    prices.load(own)
    tokens = Usage(prompt_tokens=1000)
    january = NOW - 300 * DAY_MS

    assert prices.price(tokens, "cpu", january) == 100_000
    assert prices.price(tokens, "cpu", NOW - 200 * DAY_MS) == 3_500
    assert prices.price(tokens, "cpu", NOW) == 9_000
    assert len([price for price in prices.every() if price.sku == "prompt_tokens"]) == 3


def test_a_price_that_holds_is_never_changed(prices: PriceList, tmp_path: Path):
    own = tmp_path / "prices.toml"
    own.write_text(line(), encoding="utf-8")
    prices.load(own)
    own.write_text(line(nanos=14, per=4), encoding="utf-8")
    prices.load(own)  # 14 for 4 is 7 for 2
    own.write_text(line(nanos=8), encoding="utf-8")

    with pytest.raises(MoneyInvalid, match=r"is 7 for 2.*now says 8 for 2"):
        prices.load(own)


def test_what_has_no_price_is_refused(prices: PriceList):
    with pytest.raises(MoneyInvalid, match=r"device_ms\.tpu costs"):
        prices.rates("tpu", NOW)
    with pytest.raises(MoneyInvalid):
        prices.price(Usage(), "cpu", 0)


BAD = {
    "no toml": ("[[price]\n", "line 1"),
    "an unknown table": ('[[prices]]\nsku = "x"\n', "line 1: 'prices' is unknown"),
    "one bracket": ('[price]\nsku = "x"\n', "two brackets"),
    "an unknown key": (line() + line(sku="completion_tokens").replace("per", "pro"), "line 10: 'pro' is unknown"),
    "a missing key": (line().replace("per = 2\n", ""), "line 1: 'per' is missing"),
    "an unknown sku": (line(sku="gpu_hours"), "line 2: nothing meters 'gpu_hours'"),
    "a negative price": (line(nanos=-1), "line 3: nanos = -1"),
    "a float": (line(nanos=0.5), "line 3: nanos = 0.5"),
    "a price for nothing": (line(per=0), "line 4: per = 0"),
    "a huge price": (line(nanos=10**18 * 5), "line 3"),
    "a date in quotes": (line(day='"2026-01-01"'), "line 5: from = '2026-01-01' is no date"),
    "a time": (line(day="2026-01-01T00:00:00Z"), "line 5"),
    "no source": (line(source=" "), "line 6: source says nothing"),
    "the same twice": (line() + line(nanos=8), "two prices from 2026-02-01"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_of_prices_names_the_line(tmp_path: Path, name: str):
    content, named = BAD[name]
    path = tmp_path / "prices.toml"
    path.write_text(content, encoding="utf-8")

    with pytest.raises(MoneyInvalid) as refused:
        read_prices(path)

    assert named in str(refused.value)


def test_a_missing_file_of_prices_is_named(tmp_path: Path):
    with pytest.raises(MoneyInvalid, match=r"nowhere\.toml"):
        read_prices(tmp_path / "nowhere.toml")
