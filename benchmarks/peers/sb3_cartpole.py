"""PPO of stable-baselines3 on CartPole-v1 until the mean return of 100 matches is 475, the whole program.

    PEER/bin/python benchmarks/peers/sb3_cartpole.py [--seed 1]

Its settings are those that rl-baselines3-zoo publishes for this game (hyperparams/ppo.yml). Compare with

    cerulea train recipes/cartpole.toml
"""

from __future__ import annotations

import time

BEGAN = time.perf_counter()

import argparse
import json
import sys

import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env


class Target(BaseCallback):
    """Ends the program when the last 100 matches are good enough."""

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        last = [each["r"] for each in self.model.ep_info_buffer]
        if len(last) == 100 and np.mean(last) >= 475:
            told = {"steps": self.model.num_timesteps, "clock_s": round(time.perf_counter() - BEGAN, 2)}
            print(json.dumps({**told, "processor_s": round(time.process_time(), 2)}), flush=True)
            sys.exit(0)


def main() -> None:
    """Train until then."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    words = parser.parse_args()
    torch.set_num_threads(1)
    model = PPO(
        "MlpPolicy",
        make_vec_env("CartPole-v1", n_envs=8, seed=words.seed),
        n_steps=32,
        batch_size=256,
        gae_lambda=0.8,
        gamma=0.98,
        n_epochs=20,
        ent_coef=0.0,
        learning_rate=lambda left: 1e-3 * left,
        clip_range=lambda left: 0.2 * left,
        seed=words.seed,
        device="cpu",
    )
    model.learn(100_000, callback=Target())
    print(json.dumps({"steps": model.num_timesteps, "reached": False, "processor_s": round(time.process_time(), 2)}))


if __name__ == "__main__":
    main()
