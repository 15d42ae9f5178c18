"""One step: gradients however cut, spikes and NaN left out, a small batch learned by heart."""

from __future__ import annotations

import math

import pytest
import torch

from cerulea.core.errors import TrainingDiverged
from cerulea.nn.decoder import Decoder
from cerulea.nn.loss import IGNORE
from cerulea.nn.optim import Optimizer, OptimizerSettings
from cerulea.nn.shape import preset_shape
from cerulea.train.loop import (
    BROKEN_IN_A_ROW,
    SPIKES_IN_A_ROW,
    Slot,
    SpikeGuard,
    add_gradients,
    clip,
    count_targets,
    gradient_norm,
)


def decoder_of(preset: str = "modern", seed: int = 0) -> Decoder:
    torch.manual_seed(seed)
    decoder = Decoder(preset_shape(preset, vocab=64, layers=2, width=32, heads=2, context=64))
    with torch.no_grad():
        for weight in decoder.parameters():
            weight.add_(torch.randn_like(weight) * 0.05)
    return decoder


def cut(token_BT: torch.Tensor, target_BT: torch.Tensor, parts: int) -> list[Slot]:
    pairs = zip(token_BT.chunk(parts), target_BT.chunk(parts), strict=True)
    return [Slot(i, a, b) for i, (a, b) in enumerate(pairs)]


@pytest.mark.parametrize("preset", ["gpt2", "compat", "modern"])
def test_gradients_do_not_depend_on_how_rows_are_cut(preset: str):
    """32 rows of unequal length as 1, 4, 16 and 32 micro-batches; judge: float64 in one piece, within 1e-6."""
    token_BT = torch.randint(0, 64, (32, 64))
    target_BT = token_BT.roll(-1, 1)
    for row in range(32):
        target_BT[row, 2 + 2 * row :] = IGNORE
    found = {}
    for parts in (1, 4, 16, 32):
        decoder = decoder_of(preset).double()
        decoder.compute_dtype = torch.float64
        slots = cut(token_BT, target_BT, parts)
        add_gradients(decoder, slots, count_targets(slots), seed=1, step=0)
        found[parts] = torch.cat([w.grad.flatten() for w in decoder.parameters() if w.grad is not None])

    for parts in (4, 16, 32):
        assert (found[parts] - found[1]).norm() <= 1e-6 * found[1].norm()


@pytest.mark.parametrize("parts", [4, 16, 32])
def test_in_float32_too_the_cut_changes_a_millionth_at_most(parts: int):
    token_BT = torch.randint(0, 64, (32, 64))
    target_BT = token_BT.roll(-1, 1)
    for row in range(32):
        target_BT[row, 2 + 2 * row :] = IGNORE
    gradients = []
    for count in (1, parts):
        decoder = decoder_of()
        slots = cut(token_BT, target_BT, count)
        add_gradients(decoder, slots, count_targets(slots), seed=1, step=0)
        gradients.append(torch.cat([w.grad.flatten() for w in decoder.parameters() if w.grad is not None]))

    assert (gradients[0] - gradients[1]).norm() <= 1e-6 * gradients[0].norm()


def test_dropout_is_a_function_of_seed_step_and_slot():
    token_BT = torch.randint(0, 64, (4, 64))

    def gradient(step: int, seed: int, noise: int) -> torch.Tensor:
        decoder = decoder_of()
        decoder.set_dropout(0.3)
        torch.manual_seed(noise)
        add_gradients(decoder, cut(token_BT, token_BT, 2), 256, seed=seed, step=step)
        return decoder.blocks[0].mlp.up.weight.grad

    assert torch.equal(gradient(3, 1, noise=1), gradient(3, 1, noise=2))
    assert not torch.equal(gradient(3, 1, noise=1), gradient(4, 1, noise=1))
    assert not torch.equal(gradient(3, 1, noise=1), gradient(3, 2, noise=1))


@pytest.mark.parametrize("preset", ["gpt2", "modern"])
def test_a_small_batch_is_learned_by_heart(preset: str):
    """Four rows of 64 tokens, below 0.01 nats within 300 steps."""
    torch.manual_seed(0)
    decoder = Decoder(preset_shape(preset, vocab=64, layers=2, width=64, heads=2, context=64))
    kind = "adamw" if preset == "gpt2" else "muon"
    rate = 3e-3 if preset == "gpt2" else 0.02
    optimizer = Optimizer(
        decoder,
        OptimizerSettings(
            kind=kind,
            learning_rate=rate,
            embedding_rate=0.03,
            head_rate=0.01,
            vector_rate=0.01,
            weight_decay=0.0,
            beta1=0.9,
            beta2=0.95,
            momentum=0.95,
        ),
    )
    token_BT = torch.randint(0, 64, (4, 65))
    slots = [Slot(0, token_BT[:, :-1], token_BT[:, 1:])]
    for step in range(300):
        decoder.zero_grad()
        loss = float(add_gradients(decoder, slots, 256, seed=1, step=step)) / 256
        if loss < 0.01:
            break
        optimizer.step(rate_scale=1 - 0.9 * step / 300, momentum=0.95, decay_scale=0.0)

    assert loss < 0.01


def test_clipping_scales_the_whole_gradient():
    decoder = decoder_of()
    token_BT = torch.randint(0, 64, (4, 64))
    add_gradients(decoder, cut(token_BT, token_BT, 1), 1, seed=1, step=0)
    before = gradient_norm(decoder)

    clip(decoder, before, 0.0)
    assert gradient_norm(decoder) == before
    clip(decoder, before, 0.5)
    assert gradient_norm(decoder) == pytest.approx(0.5, rel=1e-4)


def test_a_spike_is_left_out_and_a_new_level_is_accepted():
    guard = SpikeGuard(sigma=6.0)
    for i in range(100):
        assert guard.reason_to_skip(3.0 + 0.01 * (i % 5), 1.0) == ""

    reasons = [guard.reason_to_skip(9.0, 1.0) for _ in range(SPIKES_IN_A_ROW + 1)]

    assert all("spike of" in r for r in reasons[:-1])
    assert reasons[-1] == ""


def test_a_non_finite_step_is_left_out_and_many_in_a_row_end_the_run():
    guard = SpikeGuard(sigma=6.0)
    assert "not finite" in guard.reason_to_skip(math.nan, 1.0)
    assert "not finite" in guard.reason_to_skip(1.0, math.inf)
    assert guard.reason_to_skip(1.0, 1.0) == ""

    with pytest.raises(TrainingDiverged):
        for _ in range(BROKEN_IN_A_ROW):
            guard.reason_to_skip(math.nan, math.nan)


def test_the_guard_goes_on_where_it_was():
    guard, again = SpikeGuard(6.0), SpikeGuard(6.0)
    for i in range(90):
        guard.reason_to_skip(3.0 + 0.1 * (i % 7), 1.0 + 0.1 * (i % 3))

    again.load(guard.state())

    assert again.state() == guard.state()
    assert again.reason_to_skip(50.0, 1.0) == guard.reason_to_skip(50.0, 1.0) != ""
