"""Fixtures that several folders use."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.databases import database, databases, sqlite_database  # noqa: F401  (fixtures for every folder)

# Tests run side by side, one worker per core: more threads each would only make them wait for one another.
os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(1)

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared" / "data"

needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason=f"open text data is not at {SHARED}")


@pytest.fixture(autouse=True)
def _subnormal_numbers() -> Iterator[None]:
    """A run lets its process flush the smallest numbers to zero; the next test's process is not that of a run."""
    yield
    torch.set_flush_denormal(False)


@pytest.fixture
def shared() -> Path:
    if not SHARED.is_dir():
        pytest.skip(f"open text data is not at {SHARED}")
    return SHARED


WORDS = "the sea was calm and the boat went out to find what lay under the blue water of the bay at night".split()  # noqa: SIM905


def prose(seed: int, words: int) -> str:
    """Text with some structure, the same for the same seed."""
    draw = random.Random(seed)
    return " ".join(draw.choice(WORDS) for _ in range(words)) + ".\n"


@pytest.fixture
def corpus_folder(tmp_path: Path) -> Path:
    """Forty documents of a few hundred words."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    for i in range(40):
        (folder / f"{i:02d}.txt").write_text(prose(i, 300), encoding="utf-8")
    return folder


TINY = """
kind = "text"
name = "tiny"
[data]
train = ["{corpus}"]
valid_fraction = 0.2
[tokenizer]
kind = "bpe"
vocab = 300
[model]
preset = "modern"
layers = 2
width = 32
heads = 2
context = 32
[train]
precision = "fp32"
steps = 12
batch_tokens = 256
eval_steps = 6
sample_tokens = 8
checkpoint_steps = 4
seed = 1
"""


@pytest.fixture
def tiny_recipe(tmp_path: Path, corpus_folder: Path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(TINY.format(corpus=corpus_folder.as_posix()), encoding="utf-8")
    return path


class Cerulea:
    """The command line, run as a user runs it, with a home of its own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.environment = {**os.environ, "CERULEA_HOME": str(home), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": ""}

    def run(self, *words: object, input: str | None = None, code: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "cerulea.cli.main", *map(str, words)],
            env=self.environment,
            capture_output=True,
            text=True,
            input=input,
            timeout=300,
        )
        assert done.returncode == code, f"exit {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        assert "Traceback" not in done.stderr
        return done

    def lines(self, *words: object, code: int = 0) -> list[dict]:
        done = self.run(*words, "--json", code=code)
        return [json.loads(line) for line in done.stdout.splitlines()]

    def start(self, *words: object) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "cerulea.cli.main", *map(str, words)],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


@pytest.fixture
def cerulea(tmp_path: Path) -> Cerulea:
    return Cerulea(tmp_path / "home")
