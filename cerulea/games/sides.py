"""Our games for Gymnasium: one side of a match, or of many, while somebody else plays the others.

In:      a game, who plays the other sides (a Player; the random one where nobody is named).
Out:     an environment that passes Gymnasium's `check_env`, and a vector environment in mode DISABLED; their names
         (`register`). What is seen is a dictionary of arrays for the side's players, `action_mask` among them; the
         action is one choice for each player and head; the reward is the side's mean.
Kept:    seeds decide all. An action that the mask forbids is played as the first legal one.
Not here: PettingZoo's environments (`views`), players (`match`).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode

from cerulea.core.errors import GameInvalid
from cerulea.core.seeds import mixed
from cerulea.games.catalog import GAMES, make_game
from cerulea.games.game import ActionArray, BoolArray, Game, Schema, observation_buffers, tick_buffers
from cerulea.games.match import RANDOM, BotPlayer, Player

BOUND = 10.0  # what is shown lies within about [-1, 1]; nothing of ours comes near this


def register() -> None:
    """Tell Gymnasium of our games: `make("cerulea/rift-v0")` is then a Side of `rift`, and `make_vec` a SideVector."""
    for name in GAMES:
        if (id_ := f"cerulea/{name}-v0") not in gym.registry:
            at = "cerulea.games.sides"
            gym.register(id_, f"{at}:Side", vector_entry_point=f"{at}:make_sides", kwargs={"name": name})


def make_sides(
    num_envs: int, name: str, opponent: Player | None = None, *, side: int = 0, **options: Any
) -> SideVector:
    """A SideVector of a game by its name."""
    return SideVector(lambda matches: make_game(name, matches, **options), num_envs, opponent, side=side)


def legal_actions(schema: Schema, mask: BoolArray, chosen: ActionArray) -> ActionArray:
    """Choices (..., A), each that the mask (..., N) forbids or does not know as the first legal one of its head."""
    out, first = np.zeros(chosen.shape, np.int32), 0
    for a, head in enumerate(schema.heads):
        own = mask[..., first : first + head.size]
        wanted = np.clip(chosen[..., a], 0, head.size - 1).astype(np.int64)
        fits = np.take_along_axis(own, wanted[..., None], -1)[..., 0] & (wanted == chosen[..., a])
        out[..., a] = np.where(fits, wanted, own.argmax(-1))
        first += head.size
    return out


class SideVector(gym.vector.VectorEnv[dict[str, Any], Any, Any]):  # type: ignore[misc]
    """One side of many matches, stepped together; a match that ended waits for `reset` with `reset_mask`.

    In a game of turns there are steps in which the side does not act: `info["acting"]` tells, and what it sends then
    counts for nothing. A player with a memory is told of beginnings by a reset of all matches alone.
    """

    metadata: ClassVar[dict[str, Any]] = {"autoreset_mode": AutoresetMode.DISABLED, "render_modes": []}

    def __init__(
        self, make: Callable[[int], Game], matches: int, opponent: Player | None = None, *, side: int = 0
    ) -> None:
        self.game = make(matches)
        self.num_envs = matches
        self.render_mode = None
        schema, heads = self.game.schema, self.game.schema.heads
        self.ours = np.flatnonzero(np.array(self.game.teams) == side)
        if not len(self.ours):
            raise GameInvalid(f"{self.game.name} has no side {side}.", fix=f"Sides are 0 to {max(self.game.teams)}.")
        k = len(self.ours)
        parts: dict[str, gym.Space[Any]] = {
            "vector": gym.spaces.Box(-BOUND, BOUND, (k, len(schema.vector)), np.float32),
            "action_mask": gym.spaces.Box(0, 1, (k, schema.actions), np.int8),
        }
        if schema.units:
            parts["units"] = gym.spaces.Box(-BOUND, BOUND, (k, schema.units, len(schema.unit_features)), np.float32)
        self.single_observation_space = gym.spaces.Dict(parts)
        self.single_action_space = gym.spaces.MultiDiscrete([head.size for _ in range(k) for head in heads])
        self.observation_space = gym.vector.utils.batch_space(self.single_observation_space, matches)
        self.action_space = gym.vector.utils.batch_space(self.single_action_space, matches)
        self._look = observation_buffers(schema, matches, self.game.players)
        self._tick = tick_buffers(matches, self.game.players)
        self._action = np.zeros((matches, self.game.players, len(heads)), np.int32)
        self._others = np.ones((matches, self.game.players), np.bool_)
        self._others[:, self.ours] = False
        self._seed_M = np.arange(matches).astype(np.uint64)
        self._cut_M = np.zeros(matches, np.bool_)  # where our players were cut off by a limit of time
        self._number = 0  # steps since all matches began
        self.opponent = opponent
        if opponent is None and self._others.any():
            self.opponent = BotPlayer(RANDOM)

    def reset(self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None) -> Any:
        """Begin all matches, or those of `options["reset_mask"]`."""
        mask = (options or {}).get("reset_mask")
        where = np.ones(self.num_envs, np.bool_) if mask is None else np.asarray(mask, np.bool_)
        each: list[int | None] = (
            [None if seed is None else seed + m for m in range(self.num_envs)]
            if seed is None or isinstance(seed, int)
            else list(seed)
        )
        for m in np.flatnonzero(where):
            own = each[m]
            self._seed_M[m] = mixed(int(self._seed_M[m]), 1) if own is None else mixed(int(own))
        if where.all():
            self._number = 0
            if self.opponent is not None:
                self.opponent.begin(self.game)
        self.game.reset(self._seed_M, where)
        self._tick.ended_M[where], self._cut_M[where] = False, False
        return self._show(), self._info()

    @property
    def over(self) -> bool:
        """Whether all matches have ended."""
        return bool(self._tick.ended_M.all())

    def _show(self) -> dict[str, Any]:
        self.game.observe(self._look)
        look, ours = self._look, self.ours
        parts = {"vector": look.vector_MPF[:, ours], "action_mask": look.mask_MPN[:, ours].astype(np.int8)}
        if look.units_MPUF.size:
            parts["units"] = look.units_MPUF[:, ours]
        return {name: parts[name] for name in self.single_observation_space.spaces}

    def _info(self) -> dict[str, Any]:
        return {"acting": self._look.acting_MP[:, self.ours], "winner": self._tick.winner_M.astype(np.int64)}

    def step(self, actions: Any) -> Any:
        """One step of all matches; one that has ended stands still."""
        chosen = np.asarray(actions).reshape(self.num_envs, len(self.ours), -1)
        self._action[:, self.ours] = legal_actions(self.game.schema, self._look.mask_MPN[:, self.ours], chosen)
        if self.opponent is not None:
            self.opponent.act(self._look, self._action, self._others, self._seed_M, self._number)
        self._number += 1
        before_M = self._tick.ended_M.copy()
        self.game.step(self._action, self._tick)
        seen, ours, tick = self._show(), self.ours, self._tick
        reward = tick.reward_MP[:, ours].mean(1).astype(np.float64)
        # A side may be out before its match is over, which is when it learns who has won.
        self._cut_M |= tick.truncated_MP[:, ours].any(1)
        new_M = tick.ended_M & ~before_M
        return seen, reward, new_M & ~self._cut_M, new_M & self._cut_M, self._info()


class Side(gym.Env[dict[str, Any], Any]):  # type: ignore[misc]
    """One side of one match: it is asked whenever it is to act, and never when it is not."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["ansi"], "render_fps": 1}

    def __init__(
        self,
        name: str,
        opponent: Player | None = None,
        *,
        side: int = 0,
        render_mode: str | None = None,
        **options: Any,
    ) -> None:
        self.vector = SideVector(lambda matches: make_game(name, matches, **options), 1, opponent, side=side)
        self.game = self.vector.game
        if self.game.step_s:
            self.metadata = {**self.metadata, "render_fps": 1 / self.game.step_s}  # type: ignore[misc]
        self.render_mode = render_mode
        self.observation_space = self.vector.single_observation_space
        self.action_space = self.vector.single_action_space
        self._nothing = np.zeros((1, len(self.action_space.nvec)), np.int64)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        """Begin a match, and play it to where this side is to act."""
        super().reset(seed=seed)
        seen, info = self.vector.reset(seed=int(self.np_random.integers(2**31)) if seed is None else seed)
        while not (info["acting"].any() or self.vector.over):
            seen, _, _, _, info = self.vector.step(self._nothing)
        return self._one(seen), {}

    def step(self, action: Any) -> Any:
        """Act, and play on to where this side is to act again, or to the end."""
        seen, paid, _, truncated, info = self.vector.step(np.asarray(action)[None])
        total = float(paid[0])
        while not (self.vector.over or info["acting"].any()):
            seen, paid, _, truncated, info = self.vector.step(self._nothing)
            total += float(paid[0])
        cut = bool(truncated[0])
        return self._one(seen), total, self.vector.over and not cut, cut, {"winner": int(info["winner"][0])}

    def _one(self, seen: dict[str, Any]) -> dict[str, Any]:
        return {name: part[0] for name, part in seen.items()}

    def render(self) -> str | None:
        """What a person watching sees, as JSON."""
        return json.dumps(self.game.frame(0)) if self.render_mode == "ansi" else None
