"""Operation counts against torch's own counter."""

from __future__ import annotations

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from cerulea.nn.decoder import Decoder
from cerulea.nn.flops import train_flops_per_token
from cerulea.nn.shape import GPT2_SIZES, preset_shape


@pytest.mark.parametrize("preset", ["gpt2", "compat", "modern"])
def test_the_count_is_within_two_percent_of_torchs(preset: str):
    """Judge: torch.utils.flop_counter over one forward and backward pass."""
    shape = preset_shape(preset, vocab=512, layers=4, width=128, heads=4, context=128)
    decoder = Decoder(shape).train()
    token_BT = torch.randint(0, 512, (2, 128))

    # The counter knows matrix products, not the CPU's fused attention: the plain form counts the same work.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        logits_BTV = decoder(token_BT)
        torch.nn.functional.cross_entropy(logits_BTV.flatten(0, 1), token_BT.flatten()).backward()

    ours = train_flops_per_token(shape, 128) * token_BT.numel()
    assert ours == pytest.approx(counter.get_total_flops(), rel=0.02)


def test_gpt2_sizes_cost_what_is_published():
    """0.854, 2.42, 5.20 and 10.27 GFLOP a token at a context of 1,024."""
    found = []
    for layers, width, heads in GPT2_SIZES.values():
        shape = preset_shape("gpt2", vocab=50257, layers=layers, width=width, heads=heads, context=1024)
        found.append(round(train_flops_per_token(shape, 1024) / 1e9, 3))

    assert found == [0.854, 2.423, 5.199, 10.274]
