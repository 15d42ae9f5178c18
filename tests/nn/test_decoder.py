"""The decoder: caches, losses, first losses, contexts."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F

from cerulea.core.errors import PromptTooLong
from cerulea.nn.attention import KVCache
from cerulea.nn.decoder import Decoder
from cerulea.nn.loss import IGNORE
from cerulea.nn.shape import DecoderShape, preset_shape

PRESETS = ["gpt2", "compat", "modern"]


def small(preset: str, **changes: object) -> DecoderShape:
    kv_heads = None if preset == "gpt2" else 2
    shape = preset_shape(preset, vocab=97, layers=3, width=64, heads=4, context=48, kv_heads=kv_heads)
    return dataclasses.replace(shape, **changes)


def randomised(shape: DecoderShape, seed: int = 0, dropout: float = 0.0) -> Decoder:
    """A decoder in which nothing is trivially zero or one."""
    torch.manual_seed(seed)
    decoder = Decoder(shape, dropout=dropout)
    with torch.no_grad():
        for weight in decoder.parameters():
            weight.add_(torch.randn_like(weight) * 0.1)
    return decoder


@pytest.mark.parametrize("window", [0, 7])
@pytest.mark.parametrize("preset", PRESETS)
def test_cached_decoding_equals_the_full_forward_pass(preset: str, window: int):
    """A prompt in two parts, then one token at a time."""
    decoder = randomised(small(preset, window=window)).eval()
    token_BT = torch.randint(0, 97, (3, 40))

    with torch.no_grad():
        whole = decoder(token_BT)
        cache = KVCache(decoder.shape, 3, 48, whole)
        parts = [decoder(token_BT[:, :9], cache), decoder(token_BT[:, 9:20], cache)]
        parts += [decoder(token_BT[:, t : t + 1], cache) for t in range(20, 40)]

    assert (torch.cat(parts, dim=1) - whole).abs().max() <= 1e-4


@pytest.mark.parametrize("preset", PRESETS)
def test_the_chunked_loss_and_its_gradients_equal_torchs(preset: str, monkeypatch: pytest.MonkeyPatch):
    """Pieces of 64 positions, some not scored; judge: torch's cross-entropy on whole logits, in float64."""
    monkeypatch.setitem(__import__("cerulea.nn.loss", fromlist=["x"]).PIECE_ELEMENTS, "cpu", 1)
    decoder = randomised(small(preset)).double()
    decoder.compute_dtype = torch.float64
    token_BT, target_BT = torch.randint(0, 97, (6, 40)), torch.randint(0, 97, (6, 40))
    target_BT[torch.rand(6, 40) < 0.3] = IGNORE
    logits = F.linear(decoder.hidden(token_BT), decoder.head_weight).flatten(0, 1)
    if decoder.shape.softcap:
        logits = decoder.shape.softcap * torch.tanh(logits / decoder.shape.softcap)
    theirs = F.cross_entropy(logits, target_BT.flatten(), ignore_index=IGNORE, reduction="sum")

    ours = decoder.loss(token_BT, target_BT)

    weights = [w for w in decoder.parameters() if w.requires_grad]
    mine, judge = (torch.autograd.grad(x, weights, retain_graph=True, allow_unused=True) for x in (ours, theirs))
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-6)
    for a, b in zip(mine, judge, strict=True):
        if b is not None and b.norm() > 1e-9:
            assert (a - b).norm() <= 1e-5 * b.norm()
    assert decoder.nats(token_BT, target_BT).sum().item() == pytest.approx(theirs.item(), rel=1e-5)


@pytest.mark.parametrize("preset", ["compat", "modern"])
def test_a_zero_head_begins_at_the_logarithm_of_the_vocabulary(preset: str):
    decoder = Decoder(small(preset))
    token_BT = torch.randint(0, 97, (4, 48))

    assert decoder.loss(token_BT, token_BT).item() / 192 == pytest.approx(math.log(97), abs=1e-3)


def test_gpt2_begins_near_the_logarithm_of_the_vocabulary():
    decoder = Decoder(small("gpt2"))
    token_BT = torch.randint(0, 97, (4, 48))

    assert decoder.loss(token_BT, token_BT.roll(1)).item() / 192 == pytest.approx(math.log(97), abs=0.1)


@pytest.mark.parametrize("preset", PRESETS)
def test_bf16_activations_stay_near_float32(preset: str):
    decoder = randomised(small(preset))
    token_BT = torch.randint(0, 97, (2, 40))
    exact = decoder.loss(token_BT, token_BT).item()

    decoder.compute_dtype = torch.bfloat16
    loss = decoder.loss(token_BT, token_BT)
    loss.backward()

    assert loss.item() == pytest.approx(exact, rel=0.02)
    assert all(w.grad.dtype == torch.float32 for w in decoder.parameters() if w.grad is not None)


def test_more_tokens_than_the_context_are_refused():
    decoder = Decoder(small("modern"))

    with pytest.raises(PromptTooLong, match="49 tokens do not fit this model's context of 48"):
        decoder(torch.zeros(1, 49, dtype=torch.int64))


def test_a_token_sees_nothing_after_it():
    for preset in PRESETS:
        decoder = randomised(small(preset)).eval()
        token_BT = torch.randint(0, 97, (1, 40))
        other_BT = token_BT.clone()
        other_BT[:, 25:] = (other_BT[:, 25:] + 1) % 97

        with torch.no_grad():
            assert torch.equal(decoder(token_BT)[:, :25], decoder(other_BT)[:, :25])


def test_dropout_is_drawn_from_the_seed_and_absent_in_evaluation():
    decoder = randomised(small("modern"), dropout=0.5)
    token_BT = torch.randint(0, 97, (2, 40))

    def loss(seed: int) -> float:
        torch.manual_seed(seed)
        return decoder.loss(token_BT, token_BT).item()

    assert loss(1) == loss(1) != loss(2)
    decoder.eval()
    assert loss(1) == loss(2)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torch warns about its own compiler
def test_compiled_blocks_give_the_same_loss_and_gradients():
    decoder = randomised(small("modern"))
    token_BT = torch.randint(0, 97, (2, 40))
    loss = decoder.loss(token_BT, token_BT)
    loss.backward()
    before = {name: w.grad.clone() for name, w in decoder.named_parameters() if w.grad is not None}
    decoder.zero_grad()

    decoder.compile_blocks()
    compiled = decoder.loss(token_BT, token_BT)
    compiled.backward()

    assert compiled.item() == pytest.approx(loss.item(), rel=1e-5)
    for name, weight in decoder.named_parameters():
        if weight.grad is not None:
            assert (weight.grad - before[name]).norm() <= 1e-4 * before[name].norm() + 1e-6
    assert all("_orig_mod" not in name for name in decoder.state_dict())
