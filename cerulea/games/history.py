"""The state of games that cannot be copied: the seed of each match and what was done since, to be done again.

In:      seeds, actions, and what the environment showed for them.
Out:     arrays that `state` of a Game gives; a hash of each match.
Kept:    the hash is over everything that was done and shown since the match began, so that an environment which does
         not keep to its seed is found, and refused, when it is to come to the same place again.
Not here: environments (`gymnasium_in`, `vector_in`, `pettingzoo_in`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cerulea.core.errors import GameBroken

State = dict[str, NDArray[Any]]


class History:
    """Seeds and actions of matches since each began."""

    def __init__(self, name: str, matches: int, players: int, heads: int) -> None:
        self.name, self.shape = name, (players, heads)
        self.seeds = np.zeros(matches, np.uint64)
        self.begun = np.zeros(matches, np.bool_)
        self.actions: list[list[NDArray[np.int32]]] = [[] for _ in range(matches)]
        self._hashes = [bytes(8)] * matches

    def begin(self, match: int, seed: int, *shown: NDArray[Any]) -> None:
        """A match begins, and shows this."""
        self.seeds[match], self.begun[match] = seed, True
        self.actions[match] = []
        self._hashes[match] = bytes(8)
        self._hash(match, self.seeds[match : match + 1], *shown)

    def add(self, match: int, action: NDArray[np.int32], *shown: NDArray[Any]) -> None:
        """One step of a match, (P, A), and what came of it."""
        self.actions[match].append(action.copy())
        self._hash(match, self.actions[match][-1], *shown)

    def _hash(self, match: int, *arrays: NDArray[Any]) -> None:
        at = hashlib.blake2b(self._hashes[match], digest_size=8)
        for array in arrays:
            at.update(np.ascontiguousarray(array).data)
        self._hashes[match] = at.digest()

    def digests(self) -> NDArray[np.uint64]:
        """A hash of each match: its seed, its actions, and what was shown."""
        return np.array([int.from_bytes(each, "little") for each in self._hashes], np.uint64)

    def state(self) -> State:
        """Arrays: seeds, how many steps (-1 before the first match), all actions one after the other, hashes."""
        done = [step for match in self.actions for step in match]
        lengths = [len(match) if begun else -1 for match, begun in zip(self.actions, self.begun, strict=True)]
        return {
            "seeds": self.seeds.copy(),
            "lengths": np.array(lengths, np.int64),
            "actions": np.array(done, np.int32).reshape(-1, *self.shape),
            "digests": self.digests(),
        }

    def walk(
        self, state: State, begin: Callable[[int, int], None], step: Callable[[int, NDArray[np.int32]], Any]
    ) -> None:
        """Do everything again, match by match.

        Raises:
            GameBroken: the same seeds and actions led elsewhere.
        """
        for match, actions in enumerate(split(state)):
            if state["lengths"][match] < 0:
                continue
            begin(match, int(state["seeds"][match]))
            for action in actions:
                step(match, action)
        self.check(state)

    def check(self, state: State) -> None:
        """Refuse to go on where the same seeds and actions led elsewhere.

        Raises:
            GameBroken: they did.
        """
        differs = (state["lengths"] >= 0) & (state["digests"] != self.digests())
        if differs.any():
            raise GameBroken(
                f"{self.name} does not come to where it was when its seeds and actions are repeated.",
                why="A match in flight is kept as its seed and its actions; the environment draws from elsewhere too.",
                fix="Seed everything it draws in reset(seed=...), or begin the run anew.",
            )


def split(state: State) -> list[NDArray[np.int32]]:
    """The actions of each match, (steps, P, A), from what `state` gave."""
    ends = np.cumsum(np.maximum(state["lengths"], 0))
    return np.split(state["actions"], ends[:-1])
