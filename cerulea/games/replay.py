"""STAND-IN: replays."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cerulea.games.catalog import make_game
from cerulea.games.game import Game, tick_buffers


@dataclass
class Replay:
    game: str
    version: str
    players: list[str]
    seed: int
    steps: int
    winner: int
    cut: bool
    actions: list[Any]


def replay_of(game: Game, labels: list[str], seed: int, actions: list[Any], *, winner: int, cut: bool) -> Replay:
    return Replay(game.name, game.version, labels, seed, len(actions), winner, cut, [a.tolist() for a in actions])


def save_replay(replay: Replay, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(asdict(replay)))


def read_replay(path: Path) -> Replay:
    return Replay(**json.loads(path.read_text()))


def frames(replay: Replay) -> Iterator[dict[str, Any]]:
    game = make_game(replay.game, 1)
    game.reset(np.array([replay.seed], np.uint64))
    tick = tick_buffers(1, game.players)
    yield game.frame(0)
    for action in replay.actions:
        game.step(np.array([action], np.int32), tick)
        yield game.frame(0)
