"""A model is run with fewer prefixes, then fewer and shorter rows, until it fits; or it is said what it needs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cerulea.core.errors import ArchitectureUnknown
from cerulea.flows.fitting import SHORTEST, fitted
from cerulea.serve.process import Options

QWEN = {
    "model_type": "qwen3", "vocab_size": 151_936, "hidden_size": 1024, "num_hidden_layers": 28,
    "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128, "intermediate_size": 3072,
    "max_position_embeddings": 40_960,
    "rms_norm_eps": 1e-6, "rope_theta": 1e6, "tie_word_embeddings": True, "hidden_act": "silu", "attention_bias": False,
}  # fmt: skip
GB = 10**9


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Qwen3-0.6B's config; nothing else is read."""
    (tmp_path / "config.json").write_text(json.dumps(QWEN))
    return tmp_path


def test_what_fits_is_run_as_it_was_asked_for(folder: Path):
    options = Options(folder="", weights="bf16")

    found, need = fitted(folder, options, 10_000 * GB)

    assert found == options
    assert need > 100 * GB  # thirty-two rows of forty thousand tokens


def test_rows_become_fewer_and_then_shorter(folder: Path):
    options, seen = Options(folder="", weights="bf16"), []
    for most in (100, 40, 12, 7):
        found, need = fitted(folder, options, most * GB)
        assert need <= most * GB
        seen.append((found.cached_rows, found.most_running, found.max_len))

    assert seen[0][0] == 0
    lengths = [length or 40_960 for _, _, length in seen]  # 0 is the model's own
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[-1] >= SHORTEST


def test_what_does_not_fit_at_all_says_what_it_would_need(folder: Path):
    found, need = fitted(folder, Options(folder="", weights="bf16"), GB)

    assert need > GB
    assert found.max_len == SHORTEST


def test_int8_needs_less_than_float32(folder: Path):
    needs = [
        fitted(folder, Options(folder="", weights=weights), 10_000 * GB)[1] for weights in ("fp32", "bf16", "int8")
    ]

    assert needs == sorted(needs, reverse=True)


def test_a_folder_of_another_family_is_refused(tmp_path: Path):
    (tmp_path / "config.json").write_text('{"model_type": "mamba"}')

    with pytest.raises(ArchitectureUnknown):
        fitted(tmp_path, Options(folder=""), GB)
