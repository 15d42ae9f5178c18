"""Shapes: exact parameter counts, and contradictions refused before a tensor is made."""

from __future__ import annotations

import json

import pytest

from cerulea.core.errors import RecipeInvalid, ShapeInvalid
from cerulea.nn.decoder import Decoder
from cerulea.nn.shape import GPT2_SIZES, DecoderShape, RopeScaling, preset_shape, shape_from_json

COUNTS = {
    "gpt2-124m": 124_439_808,
    "gpt2-355m": 354_823_168,
    "gpt2-774m": 774_030_080,
    "gpt2-1558m": 1_557_611_200,
}


@pytest.mark.parametrize("size", GPT2_SIZES)
def test_gpt2_has_exactly_openais_parameters(size: str):
    layers, width, heads = GPT2_SIZES[size]

    shape = preset_shape("gpt2", vocab=50257, layers=layers, width=width, heads=heads, context=1024)

    assert shape.parameters() == COUNTS[size]


@pytest.mark.parametrize("preset", ["gpt2", "compat", "modern"])
@pytest.mark.parametrize("kv_heads", [None, 2])
def test_the_count_equals_what_is_built(preset: str, kv_heads: int | None):
    if preset == "gpt2" and kv_heads:
        pytest.skip("GPT-2 shares no heads")
    shape = preset_shape(preset, vocab=300, layers=3, width=64, heads=4, context=32, kv_heads=kv_heads)

    assert sum(w.numel() for w in Decoder(shape).parameters()) == shape.parameters()


def test_a_width_that_heads_cannot_share_is_refused():
    with pytest.raises(ShapeInvalid, match="width of 100 cannot be divided among 3 heads"):
        preset_shape("modern", vocab=300, layers=2, width=100, heads=3, context=32)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": 0}, "layers is 0"),
        ({"kv_heads": 3}, "cannot share 3 key-value heads"),
        ({"width": 60, "heads": 4}, "A head has 15 channels"),
    ],
)
def test_shapes_that_cannot_be_are_refused(changes: dict, message: str):
    sizes = {"vocab": 300, "layers": 2, "width": 64, "heads": 4, "context": 32, **changes}

    with pytest.raises(ShapeInvalid, match=message):
        preset_shape("modern", **sizes)


def test_an_unknown_preset_is_refused():
    with pytest.raises(RecipeInvalid, match="no preset 'llama'"):
        preset_shape("llama", vocab=300, layers=2, width=64, heads=4, context=32)


def test_a_shape_comes_back_from_json():
    shape = DecoderShape(
        vocab=10,
        context=8,
        layers=1,
        width=8,
        heads=2,
        kv_heads=1,
        head_size=4,
        hidden=16,
        rope_scaling=RopeScaling(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_context=8),
    )

    assert shape_from_json(json.loads(json.dumps(shape.as_json()))) == shape
