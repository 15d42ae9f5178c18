"""STAND-IN: players of matches."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from cerulea.core.errors import NotFound
from cerulea.games.game import ActionArray, BoolArray, Game, Head, Observation, SeedArray


class Player(Protocol):
    """A player."""

    def begin(self, game: Game) -> None: ...

    def act(
        self, observation: Observation, out: ActionArray, rows_MP: BoolArray, seed_M: SeedArray, step: int
    ) -> None: ...


def random_actions(mask_MPN: BoolArray, heads: tuple[Head, ...], seed_M: SeedArray, step: int) -> ActionArray:
    """Drawn from the mask."""
    rng = np.random.default_rng([int(seed_M[0]), step])
    m, p, _ = mask_MPN.shape
    out = np.zeros((m, p, len(heads)), np.int32)
    first = 0
    for a, head in enumerate(heads):
        part = mask_MPN[..., first : first + head.size]
        out[..., a] = np.where(part, rng.random(part.shape), -1).argmax(-1)
        first += head.size
    return out


class BotPlayer:
    """A bot."""

    def __init__(self, name: str) -> None:
        self.name = name

    def begin(self, game: Game) -> None:
        self.game = game
        if self.name != "random" and self.name not in game.bots:
            raise NotFound(f"{game.name} has no bot {self.name!r}.", fix=f"Use one of random, {', '.join(game.bots)}.")

    def act(self, observation: Observation, out: ActionArray, rows_MP: BoolArray, seed_M: SeedArray, step: int) -> None:
        if self.name == "random":
            out[rows_MP] = random_actions(observation.mask_MPN, self.game.schema.heads, seed_M, step)[rows_MP]
            return
        self.game.script(np.where(rows_MP, self.game.bots.index(self.name), -1).astype(np.int8), out)


def seats_of(game: Game, players: list[str]) -> list[str]:
    """Labels by place."""
    if len(players) == game.players:
        return list(players)
    return [players[team % len(players)] for team in game.teams]
