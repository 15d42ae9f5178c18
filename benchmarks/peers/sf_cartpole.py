"""APPO of Sample Factory on CartPole-v1 until the mean return of 100 matches is 475, the whole program.

    PEER/bin/python benchmarks/peers/sf_cartpole.py [--seed 1] [--serial]

PEER is an environment of its own: torch==2.13.0, sample-factory==2.1.1, gymnasium==0.29.1, numpy<2. The settings are
those of its own example (sf_examples/train_gym_env.py) with one sampling process, since there are two cores;
`--serial` is all of it in one process with one thread. Compare with

    cerulea train recipes/cartpole.toml
"""

from __future__ import annotations

import time

BEGAN = time.perf_counter()

import argparse
import json
import os
import resource
import shutil
import tempfile
from typing import Any

import gymnasium as gym
import numpy as np
from sample_factory.algo.runners.runner import AlgoObserver, Runner
from sample_factory.cfg.arguments import parse_full_cfg, parse_sf_args
from sample_factory.envs.env_utils import register_env
from sample_factory.train import make_runner

STEPS = 2_000_000  # after which it has not reached it


class Target(AlgoObserver):
    """Tells when the last 100 matches are good enough, and ends its processes."""

    def on_training_step(self, runner: Runner, training_iteration_since_resume: int) -> None:
        lengths = runner.policy_avg_stats.get("len", [[]])[0]  # of a match; its return is the same number
        if len(lengths) == 100 and np.mean(lengths) >= 475:
            tell(runner.env_steps[0], reached=True)
            runner._stop_training()


def tell(steps: int, *, reached: bool) -> None:
    """The figures until now; processor time is that of this process: of all of it, with --serial."""
    spent = resource.getrusage(resource.RUSAGE_SELF)
    told = {"steps": steps, "reached": reached, "clock_s": round(time.perf_counter() - BEGAN, 2)}
    print(json.dumps({**told, "processor_s": round(spent.ru_utime + spent.ru_stime, 2)}), flush=True)


def make(full_env_name: str, cfg: Any = None, env_config: Any = None, render_mode: str | None = None) -> gym.Env:
    """Gymnasium's own."""
    return gym.make(full_env_name, render_mode=render_mode)


def main() -> None:
    """Train until then."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--serial", action="store_true")
    words = parser.parse_args()
    register_env("CartPole-v1", make)
    folder = tempfile.mkdtemp()
    settings = [
        "--algo=APPO",
        "--env=CartPole-v1",
        "--experiment=run",
        f"--train_dir={folder}",
        f"--seed={words.seed}",
        "--device=cpu",
        "--use_rnn=False",
        "--recurrence=1",
        "--with_vtrace=False",
        "--batch_size=512",
        "--reward_scale=0.1",
        "--num_workers=1",
        f"--train_for_env_steps={STEPS}",
        # In one process a rollout of 32 steps has to be one batch.
        *(["--serial_mode=True", "--async_rl=False"] if words.serial else []),
        f"--num_envs_per_worker={16 if words.serial else 20}",
    ]
    parser, _ = parse_sf_args(settings)
    _, runner = make_runner(parse_full_cfg(parser, settings))
    target = Target()
    runner.register_observer(target)
    try:
        runner.init()
        runner.run()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if runner.env_steps.get(0, 0) >= STEPS:
        tell(runner.env_steps[0], reached=False)
    os._exit(0)  # its processes are stopped; what waits for their queues is not worth the wait


if __name__ == "__main__":
    main()
