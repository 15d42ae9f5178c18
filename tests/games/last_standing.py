"""A parallel environment of PettingZoo in which players die one after the other: who draws the lowest number is out.

Team games are made of it by `game.options.teams`.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from gymnasium import spaces
from gymnasium.utils.seeding import np_random
from pettingzoo import ParallelEnv


class Standing(ParallelEnv):
    metadata: ClassVar[dict[str, Any]] = {"name": "last_standing"}

    def __init__(self, count: int = 4) -> None:
        self.possible_agents = [f"p{i}" for i in range(count)]
        self.agents: list[str] = []

    def observation_space(self, agent: str) -> Any:
        return spaces.Dict({"observation": spaces.Box(0, 1, (3,)), "action_mask": spaces.MultiBinary(3)})

    def action_space(self, agent: str) -> Any:
        return spaces.Discrete(3)

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        if seed is not None:
            self.draw, _ = np_random(seed)
        self.agents = list(self.possible_agents)
        return self._show(len(self.agents))

    def _show(self, left: int) -> Any:
        seen = {
            agent: {
                "observation": self.draw.random(3).astype(np.float32),
                "action_mask": np.array([1, 1, left % 2], np.int8),
            }
            for agent in self.agents
        }
        return seen, {agent: {} for agent in self.agents}

    def step(self, actions: dict[str, int]) -> Any:
        assert set(actions) == set(self.agents)
        out = min(self.agents, key=lambda agent: (actions[agent], self.draw.random()))
        last = len(self.agents) == 2
        dead = set(self.agents) if last else {out}
        seen, infos = self._show(len(self.agents) - len(dead))
        rewards = {agent: 1.0 if last and agent != out else 0.0 for agent in self.agents}
        ends = {agent: agent in dead for agent in self.agents}
        cut = dict.fromkeys(self.agents, False)
        self.agents = [agent for agent in self.agents if agent not in dead]
        return seen, rewards, ends, cut, infos


def parallel_env(**options: Any) -> Standing:
    return Standing(**options)
