"""The order of samples: a pure function with the properties that training needs."""

from __future__ import annotations

from time import perf_counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cerulea.core.errors import CorpusInvalid
from cerulea.text.order import PATTERN, make_order, permute


@given(count=st.integers(1, 3000), key=st.integers(0, 2**64 - 1))
def test_every_shuffle_is_a_permutation(count: int, key: int):
    index = np.arange(count, dtype=np.uint64)

    out = permute(index, np.full(count, count, np.uint64), np.full(count, key, np.uint64))

    assert sorted(out.tolist()) == list(range(count))


def test_an_epoch_reads_every_row_once():
    order = make_order((10_000,), (1.0,), 100, seed=1)
    rows = int(order.rows[0])

    for epoch in range(3):
        _, starts = order.locate(np.arange(epoch * rows, (epoch + 1) * rows))
        assert len(set((starts // 100).tolist())) == rows
        assert len({s % 100 for s in starts.tolist()}) == 1
        assert starts.min() >= 0 and starts.max() + 101 <= 10_000


def test_epochs_and_seeds_give_different_orders():
    order, other = (make_order((100_000,), (1.0,), 100, seed=s) for s in (1, 2))
    rows = int(order.rows[0])
    first, second = order.locate(np.arange(rows))[1], order.locate(np.arange(rows, 2 * rows))[1]

    assert (first != second).mean() > 0.9
    assert (first != other.locate(np.arange(rows))[1]).mean() > 0.9


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0), (0.7, 0.2, 0.1), (100.0, 1.0, 1.0)])
def test_corpora_take_turns_by_their_weights(weights: tuple[float, ...]):
    order = make_order((50_000, 60_000, 70_000), weights, 50, seed=1)

    corpus, _ = order.locate(np.arange(4 * PATTERN))

    shares = np.bincount(corpus, minlength=3) / len(corpus)
    assert np.allclose(shares, np.array(weights) / sum(weights), atol=2 / PATTERN)
    # Evenly among the others, not one corpus after the other.
    first_half = np.bincount(corpus[: PATTERN // 2], minlength=3) / (PATTERN // 2)
    assert np.allclose(first_half, shares, atol=0.01)


def test_the_billionth_sample_is_found_at_once():
    order = make_order((1_000_000, 2_000_000), (1.0, 2.0), 256, seed=1)
    began = perf_counter()

    corpus, start = order.locate(np.array([1_000_000_000]))

    assert perf_counter() - began < 5  # a walk over a billion samples would take hours
    assert 0 <= start[0] < order.tokens[corpus[0]] - 256


def test_a_corpus_shorter_than_one_row_is_refused():
    with pytest.raises(CorpusInvalid, match="less than one context"):
        make_order((1000, 30), (1.0, 1.0), 100, seed=1)


def test_a_corpus_of_a_single_row_is_read_from_its_start():
    order = make_order((101,), (1.0,), 100, seed=1)

    assert order.locate(np.arange(5))[1].tolist() == [0] * 5


def test_the_smallest_corpus_is_read_too():
    order = make_order((10_000_000, 1000), (10_000_000.0, 1000.0), 100, seed=1)

    assert order.share.tolist() == [PATTERN - 1, 1]
