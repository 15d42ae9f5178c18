"""Sample Factory's APPO on `rift` skirmish against `laner`: minutes until it wins 60 %.

    PEER/bin/python benchmarks/peers/sf_skirmish.py [--minutes 40] [--matches 16]

PEER is an environment of its own: torch==2.13.0, sample-factory==2.1.1, gymnasium==0.29.1, numpy<2, numba. The learner
runs for a while at a time, is saved, and is judged by 100 matches between. It is all one process with one thread (its
serial mode), so that processor time is comparable; only that of training is counted.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch

sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parent)]
from arena import Agents, share_won
from sample_factory.algo.learning.learner import Learner
from sample_factory.algo.utils.action_distributions import get_action_distribution
from sample_factory.algo.utils.make_env import make_env_func_batched
from sample_factory.algo.utils.rl_utils import prepare_and_normalize_obs
from sample_factory.cfg.arguments import parse_full_cfg, parse_sf_args
from sample_factory.envs.env_utils import register_env
from sample_factory.model.action_parameterization import ActionParameterizationDefault
from sample_factory.model.actor_critic import ActorCriticSharedWeights, create_actor_critic
from sample_factory.model.model_utils import get_rnn_size
from sample_factory.train import run_rl


class Heroes(gym.Env):
    """Our agents as a multi-agent environment of theirs."""

    is_multiagent = True

    def __init__(self, matches: int, seed: int) -> None:
        self.agents = Agents(matches, seed=seed)
        self.num_agents = self.agents.size
        actions = self.agents.game.schema.actions
        self.observation_space = gym.spaces.Dict(
            obs=gym.spaces.Box(-np.inf, np.inf, (self.agents.features,), np.float32),
            action_mask=gym.spaces.Box(0, 1, (actions,), np.float32),
        )
        self.action_space = gym.spaces.Discrete(actions)
        self.render_mode = None

    def _look(self) -> list[dict[str, np.ndarray]]:
        seen, masks = self.agents.look()
        masks = masks.astype(np.float32)
        return [{"obs": a, "action_mask": b} for a, b in zip(seen, masks, strict=True)]

    def reset(self, **kwargs: Any) -> Any:
        return self._look(), [{} for _ in range(self.num_agents)]

    def step(self, actions: Any) -> Any:
        reward, terminated, truncated = self.agents.step(np.asarray(actions))
        infos = [{} for _ in range(self.num_agents)]
        return self._look(), list(reward), list(terminated), list(truncated), infos


def with_masks() -> None:
    """Let its policies choose among legal actions alone: this version has no masks, and most actions are illegal."""
    plain_head, plain_actions = ActorCriticSharedWeights.forward_head, ActionParameterizationDefault.forward

    def head(self: Any, obs: Any) -> Any:
        self.action_parameterization.mask = obs["action_mask"]
        return plain_head(self, obs)

    def actions(self: Any, core: Any) -> Any:
        logits, _ = plain_actions(self, core)
        logits = logits.masked_fill(self.mask < 0.5, -1e9)
        return logits, get_action_distribution(self.action_space, raw_logits=logits)

    ActorCriticSharedWeights.forward_head, ActionParameterizationDefault.forward = head, actions


def make(full_env_name: str, cfg: Any = None, env_config: Any = None, render_mode: Any = None) -> Heroes:
    """An environment for one of its workers, which are processes."""
    return Heroes(cfg.matches, seed=1 + (env_config.env_id if env_config else 0))


def settings(folder: str, matches: int, steps: int) -> Any:
    """Its defaults, but for the sizes that two cores ask for."""
    words = [
        "--env=rift_skirmish",
        "--experiment=run",
        f"--train_dir={folder}",
        "--device=cpu",
        "--serial_mode=True",
        "--async_rl=False",
        "--num_workers=1",
        "--num_envs_per_worker=2",
        "--worker_num_splits=2",
        "--rollout=32",
        "--batch_size=3072",
        "--use_rnn=True",
        "--rnn_size=128",
        "--rnn_type=lstm",
        "--encoder_mlp_layers",
        "128",
        "--gamma=0.9967",
        "--exploration_loss_coeff=0.01",
        "--learning_rate=3e-4",
        "--normalize_input=False",
        "--restart_behavior=resume",
        f"--train_for_env_steps={steps}",
        "--save_every_sec=20",
        f"--matches={matches}",
    ]
    parser, _ = parse_sf_args(words)
    parser.add_argument("--matches", type=int, default=16)
    return parse_full_cfg(parser, words)


def judge(cfg: Any) -> float:
    """Share won by the newest checkpoint, its actions drawn."""
    from types import SimpleNamespace

    env = make_env_func_batched(cfg, env_config=SimpleNamespace(worker_index=0, vector_index=0, env_id=0))
    net = create_actor_critic(cfg, env.observation_space, env.action_space)
    net.eval()
    name = Learner.get_checkpoints(Learner.checkpoint_dir(cfg, 0), "checkpoint_*")
    net.load_state_dict(Learner.load_checkpoint(name, torch.device("cpu"))["model"])
    memory: list[torch.Tensor] = []

    def act(seen: np.ndarray, masks: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            mask = torch.from_numpy(masks.astype(np.float32))
            look = prepare_and_normalize_obs(net, {"obs": torch.from_numpy(seen), "action_mask": mask})
            states = memory[0] if memory else torch.zeros(len(seen), get_rnn_size(cfg))
            out = net(look, states)
            memory[:] = [out["new_rnn_states"]]
            return out["actions"].reshape(-1).numpy()

    return share_won(act)


def main() -> None:
    """Train until it wins 60 %, or the time is up."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=40.0)
    parser.add_argument("--every", type=int, default=600_000, help="agent steps between evaluations")
    parser.add_argument("--matches", type=int, default=16)
    words = parser.parse_args()
    torch.set_num_threads(1)
    # Its checkpoints hold numbers of NumPy's types, which newer versions of torch refuse unless asked.
    torch.load = partial(torch.load, weights_only=False)

    with_masks()
    register_env("rift_skirmish", make)
    folder = tempfile.mkdtemp()
    trained, steps = 0.0, 0
    try:
        while trained < 60 * words.minutes:
            began = time.process_time()
            steps += words.every
            cfg = settings(folder, words.matches, steps)
            run_rl(cfg)
            trained += time.process_time() - began
            won = judge(cfg)
            print(json.dumps({"trained_s": round(trained, 1), "agent_steps": steps, "won": won}), flush=True)
            if won >= 0.6:
                break
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
