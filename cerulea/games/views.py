"""Our games for others: PettingZoo's parallel and AEC environments, Gymnasium's environment and vector environment.

Masks are `action_mask` in PettingZoo's infos and in Gymnasium's observations, int8. An action that it forbids is
played as the first legal one. Not here: the way in (`gymnasium_in`, `pettingzoo_in`), names (`catalog`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode
from pettingzoo import ParallelEnv
from pettingzoo.utils.conversions import parallel_to_aec

from cerulea.core.seeds import mixed
from cerulea.games.catalog import make_game
from cerulea.games.game import Game, Observation, Schema, observation_buffers, tick_buffers
from cerulea.games.match import Player


def observation_space(schema: Schema) -> gym.spaces.Box:
    """What a player sees: all numbers in a row, the flat ones first."""
    size = len(schema.vector) + schema.units * len(schema.unit_features)
    return gym.spaces.Box(-10.0, 10.0, (size,), np.float32)


def action_space(schema: Schema) -> gym.Space[Any]:
    """Discrete where there is one head."""
    sizes = [head.size for head in schema.heads]
    return gym.spaces.Discrete(sizes[0]) if len(sizes) == 1 else gym.spaces.MultiDiscrete(sizes)


def _seen(look: Observation, m: int, p: int) -> Any:
    return np.concatenate([look.vector_MPF[m, p], look.units_MPUF[m, p].ravel()])


class Parallel(ParallelEnv[str, Any, Any]):  # type: ignore[misc]
    """One match for PettingZoo: everybody acts in every step. A dead hero stays and can only hold."""

    def __init__(self, name: str, *, render_mode: str | None = None, **options: Any) -> None:
        self.game = make_game(name, 1, **options)
        self.metadata = {
            "render_modes": ["ansi"],
            "name": f"{name}-v{self.game.version}",
            "is_parallelizable": True,
        }
        self.render_mode = render_mode
        self.possible_agents = [f"player_{p}" for p in range(self.game.players)]
        self.agents: list[str] = []
        seen, done = observation_space(self.game.schema), action_space(self.game.schema)
        self.observation_spaces = dict.fromkeys(self.possible_agents, seen)
        self.action_spaces = dict.fromkeys(self.possible_agents, done)
        self._look = observation_buffers(self.game.schema, 1, self.game.players)
        self._tick = tick_buffers(1, self.game.players)
        self._seed, self._number = 0, 0

    def observation_space(self, agent: str) -> gym.Space[Any]:
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> gym.Space[Any]:
        return self.action_spaces[agent]

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        if seed is not None:
            self._seed, self._number = seed, 0
        self.game.reset(np.array([mixed(self._seed, self._number)], np.uint64))
        self._number += 1
        self.agents = list(self.possible_agents)
        return self._show()

    def _show(self) -> Any:
        self.game.observe(self._look)
        observations = {agent: _seen(self._look, 0, self.possible_agents.index(agent)) for agent in self.agents}
        masks = self._look.mask_MPN[0].astype(np.int8)
        infos = {agent: {"action_mask": masks[self.possible_agents.index(agent)]} for agent in self.agents}
        return observations, infos

    def step(self, actions: dict[str, Any]) -> Any:
        if not actions:
            self.agents = []
            return {}, {}, {}, {}, {}
        heads = len(self.game.schema.heads)
        rows = np.zeros((1, self.game.players, heads), np.int32)
        first = np.cumsum([0, *(head.size for head in self.game.schema.heads)])
        for agent, action in actions.items():
            p = self.possible_agents.index(agent)
            for a, choice in enumerate(np.atleast_1d(action)):
                # A forbidden action is what a sampler without masks sends: it becomes the first legal one.
                mask = self._look.mask_MPN[0, p, first[a] : first[a + 1]]
                rows[0, p, a] = choice if mask[choice] else int(np.argmax(mask))
        self.game.step(rows, self._tick)
        observations, infos = self._show()
        at = {agent: self.possible_agents.index(agent) for agent in self.agents}
        rewards = {agent: float(self._tick.reward_MP[0, p]) for agent, p in at.items()}
        terminations = {agent: bool(self._tick.terminated_MP[0, p]) for agent, p in at.items()}
        truncations = {agent: bool(self._tick.truncated_MP[0, p]) for agent, p in at.items()}
        if self._tick.ended_M[0]:
            self.agents = []
        return observations, rewards, terminations, truncations, infos

    def render(self) -> str | None:
        return None if self.render_mode is None else str(self.game.frame(0))

    def close(self) -> None:
        """Nothing is held."""

    def state(self) -> Any:
        self.game.observe(self._look)
        return self._look.critic_MPF[0].ravel().copy()


def parallel_env(name: str, **options: Any) -> Parallel:
    """One of our games as PettingZoo's parallel environment."""
    return Parallel(name, **options)


def aec_env(name: str, **options: Any) -> Any:
    """The same in turns."""
    return parallel_to_aec(Parallel(name, **options))


class Side(gym.Env[dict[str, Any], Any]):  # type: ignore[misc]
    """One side of a match for Gymnasium: its players act together, everybody else is played by `opponent`.

    The action is one choice for each player and head (MultiDiscrete), the reward the side's mean.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["ansi"]}

    def __init__(
        self,
        name: str,
        opponent: Player | None = None,
        *,
        side: int = 0,
        render_mode: str | None = None,
        **options: Any,
    ) -> None:
        self.vector = SideVector(lambda m: make_game(name, m, **options), 1, opponent, side=side)
        self.render_mode = render_mode
        self.observation_space = self.vector.single_observation_space
        self.action_space = self.vector.single_action_space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        if seed is None:
            seed = int(self.np_random.integers(2**31))
        seen, _ = self.vector.reset(seed=seed)
        return {name: part[0] for name, part in seen.items()}, {}

    def step(self, action: Any) -> Any:
        seen, reward, terminated, truncated, _ = self.vector.step(np.asarray(action)[None])
        one = {name: part[0] for name, part in seen.items()}
        return one, float(reward[0]), bool(terminated[0]), bool(truncated[0]), {}

    def render(self) -> Any:
        return str(self.vector.game.frame(0)) if self.render_mode == "ansi" else None


class SideVector(gym.vector.VectorEnv[dict[str, Any], Any, Any]):  # type: ignore[misc]
    """One side of many matches, stepped together; a match that ended waits for `reset` (AutoresetMode.DISABLED)."""

    metadata: ClassVar[dict[str, Any]] = {"autoreset_mode": AutoresetMode.DISABLED, "render_modes": []}

    def __init__(
        self, make: Callable[[int], Game], matches: int, opponent: Player | None = None, *, side: int = 0
    ) -> None:
        self.game = make(matches)
        self.num_envs = matches
        self.render_mode = None
        schema, heads = self.game.schema, self.game.schema.heads
        self.ours = np.flatnonzero(np.array(self.game.teams) == side)
        k = len(self.ours)
        parts: dict[str, gym.Space[Any]] = {
            "vector": gym.spaces.Box(-10.0, 10.0, (k, len(schema.vector)), np.float32),
            "action_mask": gym.spaces.Box(0, 1, (k, schema.actions), np.int8),
        }
        if schema.units:
            parts["units"] = gym.spaces.Box(-10.0, 10.0, (k, schema.units, len(schema.unit_features)), np.float32)
        self.single_observation_space = gym.spaces.Dict(parts)
        self.single_action_space = gym.spaces.MultiDiscrete([head.size for _ in range(k) for head in heads])
        self.observation_space = gym.vector.utils.batch_space(self.single_observation_space, matches)
        self.action_space = gym.vector.utils.batch_space(self.single_action_space, matches)
        self._look = observation_buffers(schema, matches, self.game.players)
        self._tick = tick_buffers(matches, self.game.players)
        self._action = np.zeros((matches, self.game.players, len(heads)), np.int32)
        self._first = np.cumsum([0, *(head.size for head in heads)])
        self._others = np.ones((matches, self.game.players), np.bool_)
        self._others[:, self.ours] = False
        self._seed_M = np.arange(matches).astype(np.uint64)
        self._number = 0
        self.opponent = opponent
        if opponent is None and self._others.any():
            from cerulea.games.match import BotPlayer

            self.opponent = BotPlayer("random")
        if self.opponent is not None:
            self.opponent.begin(self.game)

    def reset(self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None) -> Any:
        where = None if options is None or "reset_mask" not in options else np.asarray(options["reset_mask"], np.bool_)
        given = (
            [None if seed is None else seed + m for m in range(self.num_envs)] if not isinstance(seed, list) else seed
        )
        for m in range(self.num_envs):
            if where is None or where[m]:
                own = given[m]
                self._seed_M[m] = mixed(own) if own is not None else mixed(int(self._seed_M[m]), 1)
        self.game.reset(self._seed_M, where)
        return self._show(), {}

    def _show(self) -> dict[str, Any]:
        self.game.observe(self._look)
        look, ours = self._look, self.ours
        parts = {"vector": look.vector_MPF[:, ours], "action_mask": look.mask_MPN[:, ours].astype(np.int8)}
        if look.units_MPUF.size:
            parts["units"] = look.units_MPUF[:, ours]
        return {name: parts[name] for name in self.single_observation_space.spaces}

    def step(self, actions: Any) -> Any:
        chosen = np.asarray(actions).reshape(self.num_envs, len(self.ours), -1)
        for a in range(chosen.shape[2]):
            mask = self._look.mask_MPN[:, self.ours, self._first[a] : self._first[a + 1]]
            legal = np.take_along_axis(mask, chosen[:, :, a : a + 1].astype(np.int64), 2)[..., 0]
            self._action[:, self.ours, a] = np.where(legal, chosen[:, :, a], mask.argmax(2))
        if self.opponent is not None:
            self.opponent.act(self._look, self._action, self._others, self._seed_M, self._number)
        self._number += 1
        self.game.step(self._action, self._tick)
        seen = self._show()
        ours = self.ours
        reward = self._tick.reward_MP[:, ours].mean(1).astype(np.float64)
        terminated = self._tick.terminated_MP[:, ours].all(1)
        truncated = self._tick.truncated_MP[:, ours].any(1)
        return seen, reward, terminated.copy(), truncated.copy(), {}
