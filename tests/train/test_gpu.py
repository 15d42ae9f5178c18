"""Self-play on a GPU computes what it does on the CPU, with its matches in two halves."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cerulea.core.values import Checkpoint
from cerulea.games.catalog import make_game
from cerulea.train.selfplay import self_play

from .test_halves import losses, make, recipe, same

pytestmark = [
    pytest.mark.requires_gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU"),
]


def test_the_first_losses_are_those_of_the_cpu(tmp_path: Path):
    """Both take the matches in two halves; products are true float32 on both."""
    runs = {}
    for name in ("cpu", "cuda"):
        games = [make("rift-duel", 4), make("rift-duel", 4)]
        run = self_play(
            recipe("rift-duel", steps=3), games[0], tmp_path / name, second=games[1], device=torch.device(name)
        )
        runs[name] = losses(run)

    assert runs["cuda"] == same(runs["cpu"])


def test_a_run_on_the_gpu_is_gone_on_with(tmp_path: Path):
    """Left after its first checkpoint: the rest tells what an uninterrupted run does."""

    def begin(folder: Path, resume: bool = False):
        first, second = make_game("connect-four", 4), make_game("connect-four", 4)
        device = torch.device("cuda")
        return self_play(recipe("connect-four"), first, folder, second=second, device=device, resume=resume)

    whole = losses(begin(tmp_path / "whole"))
    run = begin(tmp_path / "left")
    next(event for event in run if isinstance(event, Checkpoint))
    run.close()

    rest = losses(begin(tmp_path / "left", resume=True))

    assert rest == same(whole[-len(rest) :]) and len(rest) >= 4
