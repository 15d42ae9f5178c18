"""A whole run on a GPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ..conftest import Cerulea

pytestmark = [
    pytest.mark.requires_gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU"),
]


@pytest.mark.parametrize("keys", [["train.precision=bf16"], ["train.precision=bf16", "train.compile=on"]])
def test_a_run_on_the_gpu_lowers_the_loss_and_goes_on(keys: list[str], cerulea: Cerulea, tiny_recipe: Path):
    """Forty steps, then sixty; the model writes on the CPU too."""
    cerulea.environment["CERULEA_DEVICE"] = "cuda"
    words = [word for key in (*keys, "train.schedule=linear") for word in ("--set", key)]

    lines = cerulea.lines("train", tiny_recipe, *words, "--set", "train.steps=40")
    more = cerulea.lines("train", tiny_recipe, *words, "--set", "train.steps=60", "--resume")

    assert lines[0]["execution"]["device"] == "cuda" and lines[0]["execution"]["precision"] == "bf16"
    losses = [line["loss"] for line in (*lines, *more) if line["event"] == "progress"]
    assert len(losses) == 60
    assert losses[39] < losses[0] - 1 and losses[59] < losses[39] + 0.2
    assert more[0]["execution"]["compile"] is ("train.compile=on" in keys)
    cerulea.environment["CERULEA_DEVICE"] = "cpu"
    assert cerulea.lines("sample", "tiny", "--max-tokens", 4)[0]["completion_tokens"] <= 4
