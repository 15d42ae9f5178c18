"""A vector environment of Gymnasium as a Game of one player, whichever way it begins matches anew by itself.

    VectorGame(lambda: gymnasium.make_vec("CartPole-v1", 64), name="cart")

In:      what makes the vector environment, in any of the three modes NEXT_STEP, SAME_STEP and DISABLED.
Kept:    a match that ended shows its last observation until it is reset, whatever the environment does by itself.
         Where the environment can begin single matches from seeds of their own (`reset_mask`: Gymnasium's Sync and
         Async, and everything in mode DISABLED), a match is decided by its seed and can be kept and taken up. Where it
         cannot, only the first matches begin from the seeds that are given, the step in which others begin anew is
         nobody's decision (`acting` is false), and a state is refused.
Not here: single environments (`gymnasium_in`), spaces (`spaces`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from gymnasium.vector.utils import iterate
from numpy.typing import NDArray

from cerulea.core.errors import GameInvalid
from cerulea.games.game import ActionArray, BoolArray, FloatArray, Observation, Schema, SeedArray, Tick, tick_buffers
from cerulea.games.gymnasium_in import SEEDS
from cerulea.games.history import History, State, split
from cerulea.games.spaces import BINS, check_legal, check_seen, choices, read_mask, reader, without_mask


class VectorGame:
    """A vector environment as a Game.

    Args:
        make: makes the vector environment.
        bins: into how many values a number of an action is cut.
    """

    teams: tuple[int, ...] = (0,)
    players = 1
    bots: tuple[str, ...] = ()
    meters: tuple[str, ...] = ()
    step_s, limit = 0.0, 0

    def __init__(self, make: Callable[[], Any], *, name: str, version: str = "1", bins: int = BINS) -> None:
        self.environment = make()
        self.name, self.version = name, version
        self.options: dict[str, Any] = {}
        self.mode = AutoresetMode(self.environment.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP))
        one_by_one = isinstance(self.environment.unwrapped, SyncVectorEnv | AsyncVectorEnv)
        self.seeded = one_by_one or self.mode == AutoresetMode.DISABLED  # whether each match has a seed of its own
        space = self.environment.single_observation_space
        self.space, self.masked = without_mask(space)
        heads, self.action_of = choices(self.environment.single_action_space, bins)
        names, self.read = (r := reader(self.space)).names, r.read
        self.schema = Schema(heads=heads, vector=names)
        m = self.matches = int(self.environment.num_envs)
        self.seen = np.zeros((m, len(names)), np.float32)
        self.mask = np.ones((m, self.schema.actions), np.bool_)
        self.coming = [(self.seen[0].copy(), self.mask[0].copy())] * m  # SAME_STEP: the first look at the next match
        self.over = np.ones(m, np.bool_)
        self.idle = np.ones(m, np.bool_)  # the environment waits to begin this one anew
        self.waits = np.zeros(m, np.bool_)  # the next step only begins it anew
        self.fresh = True  # nothing has begun yet
        self.history = History(name, m, 1, len(heads))

    def reset(self, seed_M: SeedArray, where_M: BoolArray | None = None) -> None:
        """Begin matches anew, each from its own seed where the environment can."""
        where = np.ones(self.matches, np.bool_) if where_M is None else where_M.copy()
        if not where.any():
            return
        if where.all() or self.fresh or self.seeded:
            self._begin(seed_M, where)
        elif not self.idle[where].all():
            raise GameInvalid(
                f"{self.name} can begin a match anew only right after it ended.",
                why="It is a vector environment that does not take reset_mask.",
                fix="Reset matches in the step in which they end.",
            )
        elif self.mode == AutoresetMode.SAME_STEP:
            for m in np.flatnonzero(where):
                self.seen[m], self.mask[m] = self.coming[m]
        else:
            self.waits |= where & self.idle
        self.over[where] = False
        for m in np.flatnonzero(where):
            self.history.begin(int(m), int(seed_M[m]), self.seen[m], self.mask[m])

    def _begin(self, seed_M: SeedArray, where: BoolArray) -> None:
        seeds: list[int | None] = [int(seed) % SEEDS for seed in seed_M]
        if where.all() or self.fresh:
            observations, infos = self.environment.reset(seed=seeds if self.seeded else seeds[0])
            self.idle[:] = False
        else:
            own = [seed if begins else None for seed, begins in zip(seeds, where, strict=True)]
            observations, infos = self.environment.reset(seed=own, options={"reset_mask": where.copy()})
            self.idle[where] = False
        self.fresh = False
        self.mask[where], self.waits[where] = True, False
        self._see(where, observations, infos)

    def _see(self, where: BoolArray, observations: Any, infos: dict[str, Any]) -> None:
        for m, observation in enumerate(iterate(self.environment.observation_space, observations)):
            if where[m]:
                self._see_one(m, observation, infos)

    def _see_one(self, m: int, observation: Any, infos: dict[str, Any]) -> None:
        self.seen[m] = self.read(observation)
        check_seen(self.name, self.seen[m])
        mask = observation["action_mask"] if self.masked else None
        if "action_mask" in infos and infos.get("_action_mask", np.ones(self.matches))[m]:
            mask = infos["action_mask"][m]
        if mask is not None:
            self.mask[m] = read_mask(self.name, mask, self.schema.heads)

    def observe(self, out: Observation) -> None:
        """What was shown last; who waits for a match to begin does not act."""
        out.vector_MPF[:, 0] = self.seen
        acting = ~self.over & ~self.waits
        out.mask_MPN[:, 0] = np.where(acting[:, None], self.mask, True)
        out.acting_MP[:, 0] = acting

    def step(self, action_MPA: ActionArray, out: Tick) -> None:
        """One step of all; matches that have ended and were not reset stand still."""
        if self.mode == AutoresetMode.DISABLED and self.idle.any():
            # What stands still is stepped with the others, from a beginning that nobody looks at.
            self.environment.reset(options={"reset_mask": self.idle.copy()})
            self.idle[:] = False
        playing = ~self.over & ~self.waits
        observations, reward, terminated, truncated, infos = self.environment.step(self._actions(action_MPA, playing))
        done = np.asarray(terminated | truncated)
        ended = done & playing
        seen = playing | self.waits
        if self.mode == AutoresetMode.SAME_STEP:
            self._see(ended, observations, infos)
            for m in np.flatnonzero(ended):
                self.coming[m] = (self.seen[m].copy(), self.mask[m].copy())
                self.seen[m] = self.read(_row(self.space, infos["final_obs"], int(m)))
            seen = seen & ~ended
        self._see(seen, observations, infos)
        out.reward_MP[:, 0] = np.where(playing, reward, 0.0)
        out.terminated_MP[:, 0] = ended & terminated
        out.truncated_MP[:, 0] = ended & truncated & ~terminated
        self.over |= ended
        self.idle[:], self.waits[:] = done, False
        out.ended_M[:] = self.over
        out.winner_M[:] = -1
        for m in np.flatnonzero(playing):
            check_seen(self.name, self.seen[m], float(reward[m]))
            if not ended[m]:
                check_legal(self.name, self.mask[m], self.schema.heads)
            ends = np.array([reward[m], terminated[m], truncated[m]], np.float64)
            self.history.add(int(m), action_MPA[m], self.seen[m], ends)

    def _actions(self, action_MPA: ActionArray, playing: BoolArray) -> Any:
        chosen = np.where(playing[:, None], action_MPA[:, 0], 0)
        return np.stack([np.asarray(self.action_of(row)) for row in chosen])

    def script(self, bot_MP: NDArray[np.int8], out: ActionArray) -> None:
        """There are no scripted players."""

    def read_meters(self, out_MPF: FloatArray) -> None:
        """There are none."""

    def state(self) -> State:
        """Seeds and actions of the matches in flight.

        Raises:
            GameInvalid: the environment does not begin single matches from seeds of their own.
        """
        self._need_seeds()
        return self.history.state()

    def restore(self, state: State) -> None:
        """Do again what was done: matches begin one after the other, so that all come to their last step together."""
        self._need_seeds()
        length_M, actions = state["lengths"], split(state)
        longest = int(max(length_M.max(), 0))
        chosen: ActionArray = np.zeros((self.matches, 1, len(self.schema.heads)), np.int32)
        scratch = tick_buffers(self.matches, 1)
        self.over[:] = True
        for t in range(longest + 1):
            self.reset(state["seeds"], (length_M >= 0) & (longest - length_M == t))
            if t == longest:
                break
            for m in np.flatnonzero(~self.over):
                chosen[m] = actions[m][t - longest + length_M[m]]
            self.step(chosen, scratch)
        self.history.check(state)

    def _need_seeds(self) -> None:
        if not self.seeded:
            raise GameInvalid(
                f"{self.name} is a vector environment whose matches in flight cannot be kept.",
                why="It does not begin single matches from seeds of their own.",
                fix="Use gymnasium:ID, or a vector environment that takes reset_mask.",
            )

    def digests(self) -> NDArray[np.uint64]:
        """A hash of what was done and shown in each match."""
        return self.history.digests()

    def frame(self, match: int) -> dict[str, Any]:
        """The numbers that are shown."""
        seen = dict(zip(self.schema.vector, self.seen[match].tolist(), strict=True))
        return {"seen": seen, "over": bool(self.over[match])}


def _row(space: Any, batch: Any, m: int) -> Any:
    """One environment's part of `final_obs`, which is an array of observations, or a dictionary of such arrays."""
    if isinstance(space, spaces.Dict) and isinstance(batch, dict):
        return {key: _row(part, batch[key], m) for key, part in space.spaces.items()}
    return batch[m]
