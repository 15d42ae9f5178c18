"""MaskablePPO of sb3-contrib on `rift` skirmish against `laner`: minutes until it wins 60 %.

    PEER/bin/python benchmarks/peers/sb3_skirmish.py [--minutes 40] [--matches 16] [--width 128]

PEER is an environment of its own: torch==2.13.0, stable-baselines3, sb3-contrib, numba. Prints one JSON line for each
evaluation: seconds of processor time of one thread spent on training, agent steps, the share of 100 matches won.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch

sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parent)]
from arena import Agents, share_won
from sb3_contrib import MaskablePPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv, VecNormalize


class Heroes(VecEnv):
    """Our agents as a vectorised environment of theirs."""

    def __init__(self, agents: Agents) -> None:
        self.agents = agents
        box = gym.spaces.Box(-np.inf, np.inf, (agents.features,), np.float32)
        super().__init__(agents.size, box, gym.spaces.Discrete(agents.game.schema.actions))

    def reset(self) -> np.ndarray:
        return self.agents.look()[0]

    def step_async(self, actions: np.ndarray) -> None:
        self.actions = actions

    def step_wait(self) -> Any:
        reward, terminated, truncated = self.agents.step(self.actions)
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        for index in np.flatnonzero(terminated | truncated):
            assert self.agents.final is not None
            infos[index] = {
                "terminal_observation": self.agents.final[index],
                "TimeLimit.truncated": bool(truncated[index]),
            }
        return self.agents.look()[0], reward, terminated | truncated, infos

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        assert method_name == "action_masks"
        return list(self.agents.look()[1])

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        if attr_name == "action_masks":
            return [True] * self.num_envs
        return [None] * self.num_envs

    def has_attr(self, attr_name: str) -> bool:
        return attr_name == "action_masks"

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None: ...

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        return [False] * self.num_envs

    def close(self) -> None: ...


class Judge(BaseCallback):
    """Plays 100 matches every so often; the clock stands still meanwhile."""

    def __init__(self, every_s: float, most_s: float) -> None:
        super().__init__()
        self.every_s, self.most_s, self.trained_s = every_s, most_s, 0.0
        self.since, self.next = time.process_time(), every_s

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        trained = self.trained_s + time.process_time() - self.since
        if trained >= self.next:
            self.trained_s = trained

            def act(seen: np.ndarray, masks: np.ndarray) -> np.ndarray:
                return self.model.predict(seen, action_masks=masks, deterministic=False)[0]

            won = share_won(act)
            line = {"trained_s": round(trained, 1), "agent_steps": self.model.num_timesteps, "won": won}
            print(json.dumps(line), flush=True)
            self.next = trained + self.every_s
            self.since = time.process_time()
            if won >= 0.6 or trained >= self.most_s:
                sys.exit(0)


def main() -> None:
    """Train until it wins 60 %, or the time is up."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=40.0)
    parser.add_argument("--every", type=float, default=60.0, help="training seconds between evaluations")
    parser.add_argument("--matches", type=int, default=16)
    parser.add_argument("--width", type=int, default=128)
    words = parser.parse_args()
    torch.set_num_threads(1)
    env = VecNormalize(Heroes(Agents(words.matches)), norm_obs=False, norm_reward=True, gamma=0.9967)
    model = MaskablePPO(
        "MlpPolicy",
        env,
        n_steps=256,
        batch_size=2048,
        n_epochs=4,
        gamma=0.9967,
        learning_rate=3e-4,
        ent_coef=0.01,
        policy_kwargs={"net_arch": [words.width, words.width]},
        device="cpu",
    )
    model.learn(10**9, callback=Judge(words.every, 60 * words.minutes))


if __name__ == "__main__":
    main()
