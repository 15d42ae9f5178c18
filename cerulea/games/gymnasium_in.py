"""Gymnasium's environments as a Game of one player: many copies, each a match of its own.

In:      an environment's ID, and what it is made with; `bins` says into how many values a number of an action is cut.
Kept:    a match that ended shows its last observation until it is reset. Every match begins from its own seed, so that
         it can be played again, kept and taken up (`history`). Masks by convention: `action_mask` in the observation
         or in the info.
Not here: spaces (`spaces`), vector environments (`vector_in`), the way out: our games for Gymnasium (`views`).
"""

from __future__ import annotations

import difflib
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from cerulea.core.errors import GameInvalid, NotFound
from cerulea.games.game import ActionArray, BoolArray, FloatArray, Observation, Schema, SeedArray, Tick
from cerulea.games.history import History, State
from cerulea.games.spaces import BINS, check_legal, check_seen, choices, read_mask, reader, without_mask

SEEDS = 2**31 - 1  # below it is a seed for every environment


def make_environment(name: str, options: dict[str, Any]) -> Any:
    """One environment by its ID.

    Raises:
        NotFound, GameInvalid: there is none, or it cannot be made here.
    """
    try:
        return gym.make(name, disable_env_checker=True, **options)
    except (gym.error.NameNotFound, gym.error.VersionNotFound, gym.error.NamespaceNotFound) as error:
        near = difflib.get_close_matches(name, gym.registry, n=1, cutoff=0.4)
        raise NotFound(
            f"Gymnasium has no environment {name!r}.",
            why=f"The nearest is {near[0]!r}." if near else "",
            fix="gymnasium.pprint_registry() lists them.",
        ) from error
    except Exception as error:  # the code of others: whatever it raises, the user named it
        raise GameInvalid(
            f"{name} cannot be made: {error}", fix="Install what it needs, or correct game.options."
        ) from error


class GymnasiumGame:
    """Copies of one environment, stepped one after the other. Its reward is the environment's own."""

    teams: tuple[int, ...] = (0,)
    players = 1
    bots: tuple[str, ...] = ()
    meters: tuple[str, ...] = ()
    step_s = 0.0

    def __init__(self, environment: str, matches: int, *, bins: int = BINS, **options: Any) -> None:
        self.name = f"gymnasium:{environment}"
        self.version = f"{environment} gymnasium {gym.__version__}"
        self.options = {**options, **({"bins": bins} if bins != BINS else {})}
        self.environments = [make_environment(environment, options) for _ in range(matches)]
        first = self.environments[0]
        self.limit = int(first.spec.max_episode_steps or 0)
        self.space, self.masked = without_mask(first.observation_space)
        heads, self.action_of = choices(first.action_space, bins)
        names, self.read = (r := reader(self.space)).names, r.read
        self.schema = Schema(heads=heads, vector=names)
        self.matches = matches
        self.seen = np.zeros((matches, len(names)), np.float32)
        self.mask = np.ones((matches, self.schema.actions), np.bool_)
        self.over = np.ones(matches, np.bool_)
        self.history = History(self.name, matches, 1, len(heads))

    # -- one match ---------------------------------------------------------------------------------

    def _see(self, match: int, observation: Any, info: dict[str, Any], reward: float = 0.0) -> None:
        mask = observation["action_mask"] if self.masked else info.get("action_mask")
        self.seen[match] = self.read(observation)
        check_seen(self.name, self.seen[match], reward)
        if mask is not None and not self.over[match]:
            self.mask[match] = read_mask(self.name, mask, self.schema.heads)
            check_legal(self.name, self.mask[match], self.schema.heads)

    def _begin(self, match: int, seed: int) -> None:
        observation, info = self.environments[match].reset(seed=seed % SEEDS)
        self.over[match], self.mask[match] = False, True
        self._see(match, observation, info)
        self.history.begin(match, seed, self.seen[match], self.mask[match])

    def _step(self, match: int, action: NDArray[np.int32]) -> tuple[float, bool, bool]:
        observation, paid, terminated, truncated, info = self.environments[match].step(self.action_of(action[0]))
        reward = float(paid)
        self.over[match] = bool(terminated or truncated)
        self._see(match, observation, info, reward)
        self.history.add(match, action, self.seen[match], self.mask[match], np.array([reward, terminated, truncated]))
        return reward, bool(terminated), bool(truncated and not terminated)

    # -- the protocol ------------------------------------------------------------------------------

    def reset(self, seed_M: SeedArray, where_M: BoolArray | None = None) -> None:
        """Begin matches anew, each from its own seed."""
        for match in range(self.matches):
            if where_M is None or where_M[match]:
                self._begin(match, int(seed_M[match]))

    def observe(self, out: Observation) -> None:
        """What each environment showed last."""
        out.vector_MPF[:, 0] = self.seen
        out.mask_MPN[:, 0] = self.mask
        out.acting_MP[:, 0] = ~self.over

    def step(self, action_MPA: ActionArray, out: Tick) -> None:
        """Step every environment that has not ended."""
        out.reward_MP[:], out.terminated_MP[:], out.truncated_MP[:] = 0.0, False, False
        for match in np.flatnonzero(~self.over):
            reward, terminated, truncated = self._step(int(match), action_MPA[match])
            out.reward_MP[match], out.terminated_MP[match], out.truncated_MP[match] = reward, terminated, truncated
        out.ended_M[:] = self.over
        out.winner_M[:] = -1

    def script(self, bot_MP: NDArray[np.int8], out: ActionArray) -> None:
        """There are no scripted players."""

    def read_meters(self, out_MPF: FloatArray) -> None:
        """There are none."""

    def state(self) -> State:
        """Seeds and actions of the matches in flight."""
        return self.history.state()

    def restore(self, state: State) -> None:
        """Do again what was done."""
        self.history.walk(state, self._begin, self._step)

    def digests(self) -> NDArray[np.uint64]:
        """A hash of what was done and shown in each match."""
        return self.history.digests()

    def frame(self, match: int) -> dict[str, Any]:
        """The numbers that are shown."""
        seen = dict(zip(self.schema.vector, self.seen[match].tolist(), strict=True))
        return {"seen": seen, "over": bool(self.over[match])}
