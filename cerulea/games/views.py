"""Our games for PettingZoo: a match in which all act at once (parallel), or one after the other (AEC).

In:      a game's name and its options.
Out:     environments that pass PettingZoo's own tests. What a player sees is one row: the flat features, those of the
         units, and last whether it acts now; masks are `action_mask` in the infos, int8.
Kept:    seeds decide all. An action that the mask forbids, as a sampler without masks sends it, is played as the first
         legal one. A dead hero stays among the agents with nothing legal but to hold.
Not here: the way in (`pettingzoo_in`), Gymnasium's environments (`sides`), names (`catalog`).
"""

from __future__ import annotations

import json
from typing import Any

import gymnasium as gym
import numpy as np
from pettingzoo import AECEnv, ParallelEnv

from cerulea.core.seeds import mixed
from cerulea.games.catalog import make_game
from cerulea.games.game import Schema, observation_buffers, tick_buffers
from cerulea.games.sides import BOUND, legal_actions


def observation_space(schema: Schema) -> gym.spaces.Box:
    """What a player sees: all numbers in a row, the flat ones first, and whether it acts."""
    size = len(schema.vector) + schema.units * len(schema.unit_features) + 1
    return gym.spaces.Box(-BOUND, BOUND, (size,), np.float32)


def action_space(schema: Schema) -> gym.Space[Any]:
    """Discrete where there is one head."""
    sizes = [head.size for head in schema.heads]
    return gym.spaces.Discrete(sizes[0]) if len(sizes) == 1 else gym.spaces.MultiDiscrete(sizes)


class Parallel(ParallelEnv[str, Any, Any]):  # type: ignore[misc]
    """One match for PettingZoo: everybody sends an action in every step; of those who do not act it counts nothing."""

    def __init__(self, name: str, *, render_mode: str | None = None, **options: Any) -> None:
        self.game = make_game(name, 1, **options)
        schema, players = self.game.schema, self.game.players
        fps = 1 / self.game.step_s if self.game.step_s else 1
        label = f"{name}-v{self.game.version}"
        self.metadata = {"render_modes": ["ansi"], "name": label, "is_parallelizable": True, "render_fps": fps}
        self.render_mode = render_mode
        self.possible_agents = [f"player_{p}" for p in range(players)]
        self.agents: list[str] = []
        self.place = {agent: p for p, agent in enumerate(self.possible_agents)}
        seen, done = observation_space(schema), action_space(schema)
        self.observation_spaces = dict.fromkeys(self.possible_agents, seen)
        self.action_spaces = dict.fromkeys(self.possible_agents, done)
        whole = players * (len(schema.critic) or seen.shape[0])
        self.state_space = gym.spaces.Box(-BOUND, BOUND, (whole,), np.float32)
        self._look, self._tick = observation_buffers(schema, 1, players), tick_buffers(1, players)
        self._seed, self._number = 0, 0

    def observation_space(self, agent: str) -> gym.Space[Any]:
        """The same for everybody."""
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> gym.Space[Any]:
        """The same for everybody."""
        return self.action_spaces[agent]

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        """Begin a match; without a seed, the next one of the last seed."""
        if seed is not None:
            self._seed, self._number = seed, 0
        self.game.reset(np.array([mixed(self._seed, self._number)], np.uint64))
        self._number += 1
        self.agents = list(self.possible_agents)
        return self.show()

    def show(self) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
        """What those see who are in the match, and their masks."""
        self.game.observe(self._look)
        rows, masks = self._rows(), self._look.mask_MPN[0].astype(np.int8)
        at = {agent: self.place[agent] for agent in self.agents}
        return {agent: rows[p] for agent, p in at.items()}, {
            agent: {"action_mask": masks[p]} for agent, p in at.items()
        }

    def _rows(self) -> Any:
        look, players = self._look, self.game.players
        units = look.units_MPUF[0].reshape(players, -1)
        return np.concatenate([look.vector_MPF[0], units, look.acting_MP[0, :, None]], axis=1, dtype=np.float32)

    def acting(self) -> list[str]:
        """Whose actions count in the next step."""
        return [agent for agent in self.agents if self._look.acting_MP[0, self.place[agent]]]

    def step(self, actions: dict[str, Any]) -> Any:
        """Let all act once."""
        if not self.agents:
            return {}, {}, {}, {}, {}
        chosen = np.zeros((1, self.game.players, len(self.game.schema.heads)), np.int32)
        for agent, action in actions.items():
            chosen[0, self.place[agent]] = action
        self.game.step(legal_actions(self.game.schema, self._look.mask_MPN, chosen), self._tick)
        observations, infos = self.show()
        at, tick = {agent: self.place[agent] for agent in self.agents}, self._tick
        rewards = {agent: float(tick.reward_MP[0, p]) for agent, p in at.items()}
        terminations = {agent: bool(tick.terminated_MP[0, p]) for agent, p in at.items()}
        truncations = {agent: bool(tick.truncated_MP[0, p]) for agent, p in at.items()}
        self.agents = [agent for agent in at if not (terminations[agent] or truncations[agent])]
        return observations, rewards, terminations, truncations, infos

    def render(self) -> str | None:
        """What a person watching sees, as JSON."""
        return json.dumps(self.game.frame(0)) if self.render_mode == "ansi" else None

    def close(self) -> None:
        """Nothing is held."""

    def state(self) -> Any:
        """What the value alone may see, of all players in a row; where there is no such thing, what they see."""
        self.game.observe(self._look)
        whole = self._look.critic_MPF[0] if self.game.schema.critic else self._rows()
        return whole.ravel().copy()


class Turns(AECEnv[str, Any, Any]):  # type: ignore[misc]
    """One match for PettingZoo, an action at a time: when all have chosen who act now, the match takes its step.

    Nobody sees what others have chosen before the step is taken. Who does not act in a step is not asked.
    """

    def __init__(self, name: str, *, render_mode: str | None = None, **options: Any) -> None:
        super().__init__()
        self.match = Parallel(name, render_mode=render_mode, **options)
        self.metadata, self.render_mode = self.match.metadata, render_mode
        self.possible_agents = self.match.possible_agents
        self.observation_spaces, self.action_spaces = self.match.observation_spaces, self.match.action_spaces
        self.state_space = self.match.state_space
        self.agents: list[str] = []

    def observation_space(self, agent: str) -> gym.Space[Any]:
        """The same for everybody."""
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> gym.Space[Any]:
        """The same for everybody."""
        return self.action_spaces[agent]

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> None:
        """Begin a match; without a seed, the next one of the last seed."""
        self._seen, self.infos = self.match.reset(seed, options)
        self.agents = list(self.possible_agents)
        self.rewards: dict[str, float] = dict.fromkeys(self.agents, 0.0)
        self._cumulative_rewards: dict[str, float] = dict.fromkeys(self.agents, 0.0)
        self.terminations, self.truncations = dict.fromkeys(self.agents, False), dict.fromkeys(self.agents, False)
        self._skip_agent_selection = None
        self._chosen: dict[str, Any] = {}
        self._left = self.match.acting()
        self.agent_selection = self._left[0]

    def observe(self, agent: str) -> Any:
        """What this player sees, also when it is not to act."""
        return self._seen[agent]

    def step(self, action: Any) -> None:
        """Take the action of `agent_selection`; None from one whose match is over."""
        agent = self.agent_selection
        if self.terminations[agent] or self.truncations[agent]:
            self._was_dead_step(action)
            return
        self._cumulative_rewards[agent] = 0.0
        self._clear_rewards()
        self._chosen[agent] = action
        self._left = self._left[1:]
        if not self._left:
            self._go()
        self.agent_selection = self._left[0] if self._left else self.agents[0]
        self._accumulate_rewards()
        self._deads_step_first()

    def _go(self) -> None:
        seen, self.rewards, terminations, truncations, self.infos = self.match.step(self._chosen)
        self._seen = {**self._seen, **seen}
        self.terminations, self.truncations, self._chosen = terminations, truncations, {}
        self._left = self.match.acting()

    def render(self) -> str | None:
        """What a person watching sees, as JSON."""
        return self.match.render()

    def close(self) -> None:
        """Nothing is held."""

    def state(self) -> Any:
        """As the parallel environment tells it."""
        return self.match.state()


def parallel_env(name: str, **options: Any) -> Parallel:
    """One of our games as PettingZoo's parallel environment."""
    return Parallel(name, **options)


def aec_env(name: str, **options: Any) -> Turns:
    """The same, an action at a time."""
    return Turns(name, **options)
