"""Environments of other people, as small as they can be, each with one peculiarity."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces


class Counter(gym.Env):
    """Count to seven by 0 or 1; what it shows and takes is of every kind that an adapter reads."""

    observation_space = spaces.Dict(
        {
            "action_mask": spaces.MultiBinary(2),
            "pixels": spaces.Box(0, 255, (2, 2), np.uint8),
            "pair": spaces.Tuple((spaces.Discrete(3, start=1), spaces.MultiDiscrete([2, 3]))),
            "bits": spaces.MultiBinary(2),
        }
    )
    action_space = spaces.Discrete(2, start=5)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.total, self.extra = 0, int(self.np_random.integers(3))
        return self._show(), {}

    def _show(self) -> Any:
        return {
            "action_mask": np.array([self.total % 3 != 2, 1], np.int8),
            "pixels": np.full((2, 2), 255 * (self.total % 2), np.uint8),
            "pair": (1 + self.extra, np.array([self.total % 2, self.total % 3])),
            "bits": np.array([1, self.total % 2], np.int8),
        }

    def step(self, action: Any) -> Any:
        assert action in (5, 6)
        self.total += action - 5
        return self._show(), float(action - 5), self.total >= 7, False, {}


class Draws(gym.Env):
    """Shows draws from a generator that no seed reaches."""

    observation_space = spaces.Box(-1, 1, (2,))
    action_space = spaces.Discrete(2)

    def __init__(self) -> None:
        self.draw = np.random.default_rng()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        return self._show(), {}

    def _show(self) -> Any:
        return self.draw.random(2).astype(np.float32)

    def step(self, action: Any) -> Any:
        return self._show(), 0.0, False, False, {}


class Lost(gym.Env):
    """Shows NaN from its third step on."""

    observation_space = spaces.Box(-np.inf, np.inf, (1,))
    action_space = spaces.Box(np.array([-1.0, 0.0], np.float32), np.array([1.0, 0.5], np.float32))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> Any:
        assert self.action_space.contains(action), action
        self.steps += 1
        return np.full(1, np.nan if self.steps > 2 else 1.0, np.float32), 1.0, False, False, {}


class Words(gym.Env):
    """Shows text."""

    observation_space = spaces.Text(8)
    action_space = spaces.Discrete(2)


for _name, _kind in {"Counter": Counter, "Draws": Draws, "Lost": Lost, "Words": Words}.items():
    gym.register(f"foreign/{_name}-v0", _kind, max_episode_steps=50)
