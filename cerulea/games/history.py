"""The state of games that cannot be copied: the seed of each match and what was done since, to be done again.

Kept:    a game goes on from such a state exactly where it was, if its environment keeps to its seed; where it does
         not, the last observation differs, and it is refused.
Not here: environments (`gymnasium_in`, `pettingzoo_in`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cerulea.core.errors import GameBroken
from cerulea.core.seeds import mixed


class History:
    """Seeds and actions of matches since each began."""

    def __init__(self, matches: int, players: int, heads: int) -> None:
        self.shape = (players, heads)
        self.seeds = np.zeros(matches, np.uint64)
        self.actions: list[list[NDArray[np.int32]]] = [[] for _ in range(matches)]

    def begin(self, match: int, seed: int) -> None:
        """A match begins."""
        self.seeds[match] = seed
        self.actions[match] = []

    def add(self, match: int, action: NDArray[np.int32]) -> None:
        """One step of a match, (P, A)."""
        self.actions[match].append(action.copy())

    def state(self) -> dict[str, NDArray[Any]]:
        """Arrays: seeds, how many steps, all actions one after the other."""
        done = [step for match in self.actions for step in match]
        return {
            "seeds": self.seeds.copy(),
            "lengths": np.array([len(match) for match in self.actions], np.int64),
            "actions": np.array(done, np.int32).reshape(-1, *self.shape),
        }

    def walk(
        self,
        state: dict[str, NDArray[Any]],
        begin: Callable[[int, int], None],
        step: Callable[[int, NDArray[np.int32]], None],
    ) -> None:
        """Do everything again, match by match."""
        first = 0
        for match, (seed, length) in enumerate(zip(state["seeds"], state["lengths"], strict=True)):
            begin(match, int(seed))
            for action in state["actions"][first : first + int(length)]:
                step(match, action)
            first += int(length)

    def digests(self) -> NDArray[np.uint64]:
        """A hash of each match's seed and actions."""
        return np.array(
            [
                mixed(int(seed), *(int(a) for step in match for a in step.ravel()))
                for seed, match in zip(self.seeds, self.actions, strict=True)
            ],
            np.uint64,
        )


def check_same(name: str, was: NDArray[Any], now: NDArray[Any]) -> None:
    """Refuse to go on where the same seeds and actions led elsewhere.

    Raises:
        GameBroken: they did.
    """
    if not np.array_equal(was, now, equal_nan=True):
        raise GameBroken(
            f"{name} does not come to where it was when its seeds and actions are repeated.",
            why="A match in flight is kept as its seed and its actions; the environment draws from elsewhere too.",
            fix="Seed everything it draws in reset(seed=...), or begin the run anew.",
        )
