"""Small decoders of every family, in which nothing is trivially zero or one."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from cerulea.nn.decoder import Decoder
from cerulea.nn.shape import DecoderShape, RopeScaling, preset_shape

VOCAB, CONTEXT = 97, 64
LLAMA: dict[str, Any] = {
    "vocab": VOCAB,
    "context": CONTEXT,
    "layers": 3,
    "width": 48,
    "heads": 6,
    "kv_heads": 2,
    "head_size": 16,
    "hidden": 72,
}
SHAPES = {
    **{
        name: preset_shape(
            name, vocab=VOCAB, layers=3, width=64, heads=4, context=CONTEXT, kv_heads=None if name == "gpt2" else 2
        )
        for name in ("gpt2", "compat", "modern")
    },
    "llama": DecoderShape(
        **LLAMA,
        tied=False,
        rope_scaling=RopeScaling(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_context=32),
    ),
    "mistral": DecoderShape(**LLAMA, tied=False, window=7),
    "qwen2": DecoderShape(**LLAMA, qkv_bias=True),
    "qwen3": DecoderShape(**{**LLAMA, "head_size": 80}, qk_norm="rms"),
    "modern_window": dataclasses.replace(
        preset_shape("modern", vocab=VOCAB, layers=4, width=36, heads=6, context=CONTEXT, kv_heads=3), window=9
    ),
    "odd": preset_shape("gpt2", vocab=VOCAB, layers=2, width=35, heads=5, context=CONTEXT, hidden=71),
}


def decoder_of(name: str) -> Decoder:
    """The family's decoder, always with the same weights."""
    torch.manual_seed(7)
    decoder = Decoder(SHAPES[name])
    with torch.no_grad():
        for weight in decoder.parameters():
            weight.add_(torch.randn_like(weight) * 0.1)
    return decoder.eval()


def logits_of(decoder: Decoder, tokens: list[int]) -> Tensor:
    """What the decoder says after each token, (T, V)."""
    with torch.no_grad():
        return decoder(torch.tensor([tokens]))[0]
