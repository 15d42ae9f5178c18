"""CartPole-v1 with all its matches in one step: Gymnasium's own vectorised rules, each match from its own seed.

Kept:    a match is, to the bit, what Gymnasium's single CartPole-v1 is from the same seed (a test plays them side by
         side), which its vector environment by itself is not: that one draws all beginnings from one generator.
Not here: Gymnasium's other environments (`gymnasium_in`).
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv
from gymnasium.utils.seeding import np_random
from numpy.typing import NDArray

from cerulea.games.game import ActionArray, BoolArray, FloatArray, Head, Observation, Schema, SeedArray, Tick
from cerulea.games.gymnasium_in import SEEDS

SCHEMA = Schema(heads=(Head(name="action", actions=("0", "1")),), vector=tuple(f"x_{i}" for i in range(4)))


class CartPole:
    """Poles on carts; one point for every step in which it stands, for at most 500."""

    name, version = "cartpole", f"CartPole-v1 gymnasium {gym.__version__}"
    schema = SCHEMA
    players = 1
    teams: tuple[int, ...] = (0,)
    bots: tuple[str, ...] = ()
    meters: tuple[str, ...] = ()
    step_s, limit = 0.02, 500

    def __init__(self, matches: int) -> None:
        self.matches = matches
        self.options: dict[str, Any] = {}
        self.rules = CartPoleVectorEnv(matches, max_episode_steps=self.limit)
        self.rules.reset(seed=0)
        self.over = np.ones(matches, np.bool_)
        self.seed = np.zeros(matches, np.uint64)

    def reset(self, seed_M: SeedArray, where_M: BoolArray | None = None) -> None:
        """Begin matches anew, drawn as Gymnasium draws them."""
        where = np.ones(self.matches, np.bool_) if where_M is None else where_M
        for m in np.flatnonzero(where):
            draw, _ = np_random(int(seed_M[m]) % SEEDS)
            self.rules.state[:, m] = draw.uniform(low=-0.05, high=0.05, size=(4,))
        self.rules.steps[where], self.over[where], self.seed[where] = 0, False, seed_M[where]

    def observe(self, out: Observation) -> None:
        """Place and speed of the cart, angle of the pole and its speed."""
        out.vector_MPF[:, 0] = self.rules.state.T
        out.mask_MPN[:] = True
        out.acting_MP[:, 0] = ~self.over

    def step(self, action_MPA: ActionArray, out: Tick) -> None:
        """Push every cart; what has ended stands still."""
        rules, playing = self.rules, ~self.over
        before, steps = rules.state, rules.steps.copy()
        rules.prev_done[:] = False
        _, reward, terminated, truncated, _ = rules.step(np.where(playing, action_MPA[:, 0, 0], 0).astype(np.int64))
        rules.state[:, self.over], rules.steps[self.over] = before[:, self.over], steps[self.over]
        out.reward_MP[:, 0] = np.where(playing, reward, 0.0)
        out.terminated_MP[:, 0] = terminated & playing
        out.truncated_MP[:, 0] = truncated & ~terminated & playing
        self.over |= terminated | truncated
        out.ended_M[:] = self.over
        out.winner_M[:] = -1

    def script(self, bot_MP: NDArray[np.int8], out: ActionArray) -> None:
        """There are no scripted players."""

    def read_meters(self, out_MPF: FloatArray) -> None:
        """There are none."""

    def state(self) -> dict[str, NDArray[Any]]:
        """Where everything is."""
        return {
            "place": self.rules.state.T.copy(),
            "steps": self.rules.steps.copy(),
            "over": self.over.copy(),
            "seed": self.seed.copy(),
        }

    def restore(self, state: dict[str, NDArray[Any]]) -> None:
        """Go on from what `state` gave."""
        self.rules.state[:] = state["place"].T
        self.rules.steps[:], self.over[:], self.seed[:] = state["steps"], state["over"], state["seed"]

    def digests(self) -> NDArray[np.uint64]:
        """FNV-1a over the bits of where everything is, match by match."""
        hashes = np.full(self.matches, 0xCBF29CE484222325, np.uint64)
        words = (*np.ascontiguousarray(self.rules.state).view(np.uint64), self.rules.steps, self.over, self.seed)
        with np.errstate(over="ignore"):
            for word in words:
                hashes = (hashes ^ word.astype(np.uint64)) * np.uint64(0x100000001B3)
        return hashes

    def frame(self, match: int) -> dict[str, Any]:
        """Where everything is."""
        seen = dict(zip(SCHEMA.vector, self.rules.state[:, match].tolist(), strict=True))
        return {"seen": seen, "over": bool(self.over[match])}
