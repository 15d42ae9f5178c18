"""What a self-play run knows between two updates, and how a checkpoint keeps it.

Kept:    plain values and tensors only: no pickle, no generator's state.
Not here: when it is written (`selfplay`), the atomic folder (`checkpoint`).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor

from cerulea.core.values import ModelCard
from cerulea.games.game import Game
from cerulea.nn.policy import Policy
from cerulea.train.agent import AGENT
from cerulea.train.checkpoint import write_file, write_state, write_tensors
from cerulea.train.opponents import KINDS, Opponent, Pool
from cerulea.train.play_recipe import LearnKeys, PlayRecipe
from cerulea.train.rollout import Player

POOL, MATCHES = "pool.safetensors", "matches-{rank}.safetensors"
PROCESSES, HALVES = "number of processes", "number of halves"  # of a process's matches; in a checkpoint's binding


@dataclass(slots=True)
class PlayState:
    """What a run knows besides tensors."""

    step: int = 0
    agent_steps: int = 0
    played_steps: int = 0  # decisions of all players, learning or not
    matches: int = 0
    elapsed_s: float = 0.0
    stepping_s: float = 0.0
    returns_seen: float = 0.0  # for the running spread of returns: count, mean, sum of squared deviations
    returns_mean: float = 0.0
    returns_m2: float = 0.0
    recent: list[float] = field(default_factory=list)  # what the last matches paid
    recent_steps: list[int] = field(default_factory=list)
    meters: dict[str, float] = field(default_factory=dict)
    ratings: dict[str, list[float]] = field(default_factory=dict)  # online, by name: mean and spread
    stop_reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentSnapshot:
    """A self-play checkpoint: an agent's folder with what a resume needs."""

    agent: dict[str, Any]
    weights: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    pool: dict[str, Tensor]
    matches: list[dict[str, Tensor]]  # of each Player of all processes: matches in flight
    state: dict[str, Any]
    card: ModelCard

    def fill(self, folder: Path) -> None:
        """All files but the manifest."""
        write_file(folder / AGENT, (json.dumps(self.agent, indent=1) + "\n").encode())
        write_tensors(folder / "model.safetensors", self.weights)
        write_tensors(folder / "optim.safetensors", self.optimizer)
        write_tensors(folder / POOL, self.pool)
        for rank, tensors in enumerate(self.matches):
            write_tensors(folder / MATCHES.format(rank=rank), tensors)
        write_state(folder, self.state, self.card)


def fraction_of(keys: LearnKeys, state: PlayState, stepping_s: float) -> float:
    """How much of a run is done: the largest share of all limits that its recipe sets."""
    shares = [0.0]
    if keys.steps:
        shares.append(state.step / keys.steps)
    if keys.agent_steps:
        shares.append(state.agent_steps / keys.agent_steps)
    if keys.minutes:
        shares.append(stepping_s / (60 * keys.minutes))
    return min(1.0, max(shares))


def limit_reached(keys: LearnKeys, state: PlayState) -> str:
    """Which limit a run that is done has reached."""
    if keys.steps and state.step >= keys.steps:
        return "steps"
    return "agent_steps" if keys.agent_steps and state.agent_steps >= keys.agent_steps else "minutes"


def binding_of(recipe: PlayRecipe, game: Game, ranks: int, halves: int) -> dict[str, Any]:
    """What a resumed run must have in common with the one that it goes on with."""
    values = recipe.as_json()
    lasting = {k: v for k, v in values["train"].items() if k not in recipe.ends.values()}
    lasting = {k: v for k, v in lasting.items() if not k.startswith(("checkpoint", "keep"))}
    return {
        "game": [game.name, game.version, game.schema.digest(), values["game"]],
        "model": values["model"],
        "train keys": lasting,
        "opponents": values["opponents"],
        PROCESSES: ranks,
        HALVES: halves,
    }


def card_of(game: Game, policy: Policy, state: PlayState, pool: Pool) -> ModelCard:
    """What a person wants to know of the agent."""
    return ModelCard(
        preset="policy",
        parameters=sum(p.numel() for p in policy.parameters()),
        context=0,
        vocab=0,
        extra={
            "game": game.name,
            "version": game.version,
            "agent_steps": state.agent_steps,
            "matches": state.matches,
            "win_shares": {name: round(share, 4) for name, share in sorted(pool.shares.items())},
            "episode_return": round(float(np.mean(state.recent)), 4) if state.recent else None,
        },
    )


def matches_of(player: Player) -> dict[str, Tensor]:
    """The matches in flight of one Player, as tensors that safetensors keeps."""
    opponents = np.array([(KINDS.index(o.kind), o.member, o.side, o.learner) for o in player.opponents], np.int64)
    arrays: dict[str, NDArray[Any]] = {
        "opponents": opponents,
        "length": player.length_M,
        "paid": player.paid_MP,
        "fresh": player.fresh_M.view(np.uint8),
        "begun": np.array([player.begun]),
        **{f"game.{name}": array for name, array in player.game.state().items()},
    }
    tensors = {name: torch.from_numpy(_plain(array).copy()) for name, array in arrays.items()}
    return {**tensors, "state": player.state.to("cpu", copy=True)}


def load_matches(path: Path, player: Player) -> None:
    """Take matches up again where `matches_of` left them."""
    tensors, game = load_file(path), player.game
    player.opponents = [Opponent(KINDS[k], m, s, n) for k, m, s, n in tensors["opponents"].tolist()]
    player.seat()
    player.length_M[:] = tensors["length"].numpy()
    player.paid_MP[:] = tensors["paid"].numpy()
    player.fresh_M[:] = tensors["fresh"].numpy().view(np.bool_)
    player.begun = int(tensors["begun"])
    player.state = tensors["state"].to(player.device, copy=True)
    current = game.state()
    game.restore(
        {
            name: tensors[f"game.{name}"].numpy().view(array.dtype).reshape(tensors[f"game.{name}"].shape)
            for name, array in current.items()
        }
    )


def _plain(array: NDArray[Any]) -> NDArray[Any]:
    """An array of a type that safetensors keeps; unsigned 64 bits as signed ones."""
    array = np.ascontiguousarray(array)
    if array.dtype == np.uint64:
        return array.view(np.int64)
    return array.view(np.uint8) if array.dtype == np.bool_ else array
