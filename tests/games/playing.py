"""Matches played at random, for tests."""

from __future__ import annotations

import numpy as np

from cerulea.core.seeds import mixed
from cerulea.games.game import Game, Observation, Tick, observation_buffers, tick_buffers
from cerulea.games.match import random_actions


class Played:
    """A game with its buffers, stepped with random legal actions or scripted ones."""

    def __init__(self, game: Game, seed: int = 1, first: int = 0) -> None:
        self.game = game
        self.look = observation_buffers(game.schema, game.matches, game.players)
        self.tick = tick_buffers(game.matches, game.players)
        self.seeds = np.array([mixed(seed, first + m) for m in range(game.matches)], np.uint64)
        self.actions = np.zeros((game.matches, game.players, len(game.schema.heads)), np.int32)
        self.number = 0
        game.reset(self.seeds)

    def see(self) -> Observation:
        self.game.observe(self.look)
        return self.look

    def random(self) -> Tick:
        self.see()
        self.actions = random_actions(self.look.mask_MPN, self.game.schema.heads, self.seeds, self.number)
        return self.step(self.actions)

    def scripted(self, tier: str) -> Tick:
        bots = np.full((self.game.matches, self.game.players), self.game.bots.index(tier), np.int8)
        self.game.script(bots, self.actions)
        return self.step(self.actions)

    def step(self, actions: np.ndarray) -> Tick:
        self.game.step(actions, self.tick)
        self.number += 1
        return self.tick
