"""Rates as functions of step and fraction."""

from __future__ import annotations

import pytest

from cerulea.train.schedule import batch_rows, momentum_at, rate_scale

REST = {"warmup_steps": 10, "decay_fraction": 0.4, "final_rate": 0.1}


@pytest.mark.parametrize("kind", ["wsd", "cosine", "linear"])
def test_every_schedule_warms_up_and_ends_at_the_final_rate(kind: str):
    assert rate_scale(kind, 0, 0.0, **REST) == pytest.approx(0.1)
    assert rate_scale(kind, 9, 0.0, **REST) == pytest.approx(1.0)
    assert rate_scale(kind, 1000, 1.0, **REST) == pytest.approx(0.1)


def test_wsd_is_constant_and_then_falls_in_a_line():
    def at(fraction: float) -> float:
        return rate_scale("wsd", 1000, fraction, **REST)

    assert at(0.1) == at(0.6) == 1.0
    assert at(0.8) == pytest.approx(0.1 + 0.9 * 0.5)


def test_cosine_is_half_way_in_the_middle():
    assert rate_scale("cosine", 1000, 0.5, **REST) == pytest.approx(0.55)


def test_momentum_rises_over_the_first_steps():
    assert [momentum_at(s, 0.95) for s in (0, 50, 100, 9999)] == pytest.approx([0.85, 0.90, 0.95, 0.95])


def test_the_ramp_says_which_share_of_the_batch_has_begun():
    ramp = [[0.0, 0.25], [0.5, 0.5], [0.75, 1.0]]

    assert [batch_rows(16, ramp, f) for f in (0.0, 0.49, 0.5, 0.8, 1.0)] == [4, 4, 8, 16, 16]
    assert batch_rows(16, [], 0.3) == 16
    assert batch_rows(2, [[0.0, 0.01]], 0.0) == 1
