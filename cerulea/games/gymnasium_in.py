"""Gymnasium's environments as a Game of one player: many copies, each a match of its own.

In:      an environment's ID, or a vector environment in any of its three modes of beginning anew.
Kept:    a match that ended shows its last observation until it is reset, whatever the environment does by itself.
         A step in which it only begins anew (NEXT_STEP) is nobody's decision: `acting` is false there.
Not here: spaces (`spaces`), the way out: our games for Gymnasium (`views`).
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from cerulea.core.errors import GameInvalid, NotFound
from cerulea.games.game import ActionArray, BoolArray, FloatArray, Observation, Schema, SeedArray, Tick
from cerulea.games.history import History, check_same
from cerulea.games.spaces import choices, flat_names, flatten

SEED_BITS = 2**31 - 1  # what every environment takes as a seed


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
    except (gym.error.Error, ImportError) as error:
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

    def __init__(self, environment: str, matches: int, *, name: str = "", **options: Any) -> None:
        self.environments = [make_environment(environment, options) for _ in range(matches)]
        first = self.environments[0]
        spec = first.spec
        self.name = name or f"gymnasium:{environment}"
        self.version = f"{environment} gymnasium {gym.__version__}"
        self.options = options
        self.limit = int(spec.max_episode_steps or 0) if spec is not None else 0
        self.space = first.observation_space
        masks = isinstance(self.space, gym.spaces.Dict) and "action_mask" in self.space.spaces
        if masks:
            self.space = gym.spaces.Dict({k: v for k, v in self.space.spaces.items() if k != "action_mask"})
        self.masked = masks
        heads, self.action_of = choices(first.action_space)
        self.schema = Schema(heads=heads, vector=flat_names(self.space))
        self.matches = matches
        self.seen = np.zeros((matches, len(self.schema.vector)), np.float32)
        self.mask = np.ones((matches, self.schema.actions), np.bool_)
        self.over = np.ones(matches, np.bool_)
        self.history = History(matches, 1, len(heads))

    # -- one match ---------------------------------------------------------------------------------

    def _see(self, match: int, observation: Any, info: dict[str, Any]) -> None:
        mask = info.get("action_mask")
        if self.masked:
            mask = observation["action_mask"]
            observation = {k: observation[k] for k in self.space.spaces}
        self.seen[match] = flatten(self.space, observation)
        if not np.isfinite(self.seen[match]).all():
            raise GameInvalid(
                f"{self.name} shows a number that is not finite.",
                why="Nothing can be learned from it.",
                fix="Correct the environment's observation.",
            )
        if mask is not None:
            self.mask[match] = np.asarray(mask, np.bool_).ravel()

    def _begin(self, match: int, seed: int) -> None:
        self.history.begin(match, seed)
        observation, info = self.environments[match].reset(seed=seed % SEED_BITS)
        self.over[match] = False
        self._see(match, observation, info)

    def _step(self, match: int, action: NDArray[np.int32]) -> tuple[float, bool, bool]:
        self.history.add(match, action)
        observation, reward, terminated, truncated, info = self.environments[match].step(self.action_of(action[0]))
        self.over[match] = bool(terminated or truncated)
        self._see(match, observation, info)
        return float(reward), bool(terminated), bool(truncated and not terminated)

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

    def state(self) -> dict[str, NDArray[Any]]:
        """Seeds and actions of the matches in flight, and what was seen last."""
        return {**self.history.state(), "seen": self.seen.copy()}

    def restore(self, state: dict[str, NDArray[Any]]) -> None:
        """Do again what was done."""
        self.history.walk(state, self._begin, lambda match, action: self._step(match, action) and None)
        check_same(self.name, state["seen"], self.seen)

    def digests(self) -> NDArray[np.uint64]:
        """A hash of each match's seed and actions."""
        return self.history.digests()

    def frame(self, match: int) -> dict[str, Any]:
        """The numbers that are shown."""
        seen = dict(zip(self.schema.vector, self.seen[match].tolist(), strict=True))
        return {"seen": seen, "over": bool(self.over[match])}


class VectorGame:
    """A vector environment as a Game; it begins matches anew by itself, in whichever of its three modes.

    Args:
        make: makes the vector environment; it is made again where a state is restored.
    """

    teams: tuple[int, ...] = (0,)
    players = 1
    bots: tuple[str, ...] = ()
    meters: tuple[str, ...] = ()
    step_s, limit = 0.0, 0

    def __init__(self, make: Callable[[], Any], *, name: str, version: str = "1") -> None:
        self.environment = make()
        self.name, self.version = name, version
        self.options: dict[str, Any] = {}
        mode = self.environment.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP)
        self.mode = AutoresetMode(mode)
        self.space = self.environment.single_observation_space
        heads, self.action_of = choices(self.environment.single_action_space)
        self.schema = Schema(heads=heads, vector=flat_names(self.space))
        self.matches = self.environment.num_envs
        self.seen = np.zeros((self.matches, len(self.schema.vector)), np.float32)
        self.coming = np.zeros_like(self.seen)  # SAME_STEP: the first look at a match that began by itself
        self.over = np.ones(self.matches, np.bool_)
        self.waits = np.zeros(self.matches, np.bool_)  # NEXT_STEP: the next step only begins anew
        self.seeded = False

    def _flat(self, observations: Any) -> NDArray[np.float32]:
        return np.stack([flatten(self.space, each) for each in observations])

    def reset(self, seed_M: SeedArray, where_M: BoolArray | None = None) -> None:
        """Begin anew; but for the first time and in mode DISABLED, the environment's own generator seeds it."""
        where = np.ones(self.matches, np.bool_) if where_M is None else where_M
        if where.all() or not self.seeded:
            observations, _ = self.environment.reset(seed=[int(s) % SEED_BITS for s in seed_M])
            self.seen[:] = self._flat(observations)
            self.seeded = True
            self.over[:], self.waits[:] = False, False
            return
        if self.mode == AutoresetMode.DISABLED:
            seeds = [int(s) % SEED_BITS if w else None for s, w in zip(seed_M, where, strict=True)]
            observations, _ = self.environment.reset(seed=seeds, options={"reset_mask": where})
            self.seen[where] = self._flat(observations)[where]
        elif self.mode == AutoresetMode.SAME_STEP:
            self.seen[where] = self.coming[where]
        else:
            self.waits |= where & self.over
        self.over[where] = False

    def observe(self, out: Observation) -> None:
        """What was shown last; who waits for a match to begin does not act."""
        out.vector_MPF[:, 0] = self.seen
        out.mask_MPN[:] = True
        out.acting_MP[:, 0] = ~self.over & ~self.waits

    def step(self, action_MPA: ActionArray, out: Tick) -> None:
        """One step of all; matches that have ended and were not reset stand still."""
        actions = np.stack([np.asarray(self.action_of(row)) for row in action_MPA[:, 0]])
        observations, reward, terminated, truncated, info = self.environment.step(actions)
        flat = self._flat(observations)
        ended = (terminated | truncated) & ~self.waits & ~self.over
        playing = ~self.over
        out.reward_MP[:, 0] = np.where(playing & ~self.waits, reward, 0.0)
        out.terminated_MP[:, 0] = ended & terminated
        out.truncated_MP[:, 0] = ended & truncated & ~terminated
        if self.mode == AutoresetMode.SAME_STEP and ended.any():
            self.coming[ended] = flat[ended]
            for match in np.flatnonzero(ended):
                flat[match] = flatten(self.space, info["final_obs"][match])
        self.seen[playing] = flat[playing]
        self.waits[:] = False
        self.over |= ended
        out.ended_M[:] = self.over
        out.winner_M[:] = -1

    def script(self, bot_MP: NDArray[np.int8], out: ActionArray) -> None:
        """There are no scripted players."""

    def read_meters(self, out_MPF: FloatArray) -> None:
        """There are none."""

    def state(self) -> dict[str, NDArray[Any]]:
        """What a vector environment holds cannot be asked for.

        Raises:
            GameInvalid: always.
        """
        raise GameInvalid(
            f"{self.name} is a vector environment, whose matches in flight cannot be kept.",
            fix="Use gymnasium:ID, which steps single environments and can be resumed.",
        )

    def restore(self, state: dict[str, NDArray[Any]]) -> None:
        """As `state`."""
        self.state()

    def digests(self) -> NDArray[np.uint64]:
        """A hash of what is shown."""
        return np.array([hash(row.tobytes()) & (2**64 - 1) for row in self.seen], np.uint64)

    def frame(self, match: int) -> dict[str, Any]:
        """The numbers that are shown."""
        return {"seen": dict(zip(self.schema.vector, self.seen[match].tolist(), strict=True))}
