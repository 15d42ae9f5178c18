"""Matrices in the formats of serving."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from cerulea.serve.linear import ROWS, PackedLinear, quantised, timed_table
from cerulea.serve.memory import footprint
from cerulea.serve.runner import DecoderRunner
from tests.serve.shapes import SHAPES, decoder_of


@given(st.integers(1, 40), st.integers(1, 70), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_int8_weights_are_within_half_a_step_of_the_weights(channels: int, inputs: int, seed: int):
    torch.manual_seed(seed)
    weight = torch.randn(channels, inputs) * torch.logspace(-3, 2, channels)[:, None]

    q, scale = quantised(weight)

    assert q.dtype == torch.int8
    assert ((q.float() * scale[:, None] - weight).abs() <= scale[:, None] * 0.5001).all()


def test_a_channel_of_zeros_stays_zero():
    q, scale = quantised(torch.zeros(3, 8))

    assert not q.any()
    assert (scale > 0).all()


@pytest.mark.parametrize("form", ["fp32", "bf16", "int8"])
@pytest.mark.parametrize("kernel", ["plain", "prepacked", "int8"])
@pytest.mark.parametrize("rows", [1, 5, 33])
def test_every_kernel_multiplies_with_the_same_numbers(form: str, kernel: str, rows: int):
    """Judge: float32, with the weights as the format has them."""
    if kernel == "int8" and form != "int8":
        pytest.skip("a kernel of int8 alone")
    torch.manual_seed(0)
    weight, bias, x = torch.randn(48, 64), torch.randn(48), torch.randn(rows, 64)
    held = weight
    if form == "bf16":
        held = weight.bfloat16().float()
    elif form == "int8":
        q, scale = quantised(weight)
        held = q.float() * scale[:, None]
    x = x if form == "fp32" else x.bfloat16().float()

    linear = PackedLinear(weight, bias, form, dict.fromkeys(ROWS, kernel))
    y = linear(x.to(linear.dtype)).float()

    judge = F.linear(x, held, bias)
    assert (y - judge).abs().max() <= (1e-4 if form == "fp32" else 0.02 * judge.abs().max())


@pytest.mark.parametrize("form", ["fp32", "bf16", "int8"])
def test_the_table_has_a_kernel_for_every_row_count(form: str):
    table = timed_table(form, torch.randn(96, 64))

    assert list(table) == list(ROWS)
    assert set(table.values()) <= {"plain", "prepacked", "int8"}


@given(st.integers(1, 70), st.integers(1, 70), st.sampled_from([1, 2]))
@settings(max_examples=40, deadline=None)
def test_packed_panels_hold_every_weight_once(channels: int, inputs: int, step: int):
    pytest.importorskip("numba")
    from cerulea.serve.fused import panels

    weight = np.arange(1, channels * inputs + 1, dtype=np.float32).reshape(channels, inputs)

    flat = panels(weight, step)

    assert flat.size % (32 * step) == 0
    for n, k in ((0, 0), (channels - 1, inputs - 1), (channels // 2, inputs // 3)):
        inside = (n % 32) // 16 * 16 * step + n % 16 * step + k % step
        assert flat[(n // 32 * (-(-inputs // step)) + k // step) * 32 * step + inside] == weight[n, k]
    assert np.sort(flat[flat > 0]).tolist() == weight.ravel().tolist()


@pytest.mark.parametrize("weights", ["fp32", "bf16", "int8"])
@pytest.mark.parametrize("family", list(SHAPES))
def test_the_footprint_covers_what_a_runner_keeps(family: str, weights: str):
    pytest.importorskip("numba")
    shape = SHAPES[family]
    runner = DecoderRunner(decoder_of(family), rows=4, max_len=50, weights=weights, kernels="compiled")
    assert runner.fused is not None
    model = runner.fused.model
    kept = model.weights.nbytes + model.tables.nbytes + model.floats.nbytes

    told = footprint(shape, weights=weights, rows=4, max_len=50)

    assert told.kv >= runner.kv.nbytes()
    # Small matrices are mostly padding; a megabyte covers it here and is nothing for a real one.
    assert kept <= told.weights + (1 << 20)
    assert told.running <= told.peak


def test_the_footprint_of_gpt2_is_what_its_parameters_take():
    """124 M parameters: 248 MB in bf16 and 79 MB of tables; 36 KiB of keys and values for each token."""
    from cerulea.nn.shape import preset_shape

    shape = preset_shape("gpt2", vocab=50257, layers=12, width=768, heads=12, context=1024)

    told = footprint(shape, weights="bf16", rows=16)

    assert told.weights == pytest.approx(2 * (123.65e6 + 39.4e6), rel=0.03)
    assert told.kv == pytest.approx(16 * 1024 * 36 * 1024, rel=0.01)
