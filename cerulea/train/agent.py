"""An agent: a policy with the schema of the game it was trained in, from a folder and ready to play."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from cerulea.core.errors import AgentUnfit, WeightsInvalid
from cerulea.core.files import read_json
from cerulea.games.game import (
    ActionArray,
    BoolArray,
    Game,
    Observation,
    Schema,
    SeedArray,
    judged_options,
    schema_from,
)
from cerulea.games.match import uniform_draws
from cerulea.nn.policy import Policy, PolicyShape, masked, policy_shape_from
from cerulea.train.play_recipe import PolicyKeys
from cerulea.train.rollout import Sides, draw_actions

AGENT = "agent.json"


def shape_for(schema: Schema, keys: PolicyKeys, teams: tuple[int, ...]) -> PolicyShape:
    """The policy's shape for what a game shows."""
    pointers, first = [], 0
    for head in schema.heads:
        pointers += [(first + pointer.first, pointer.count) for pointer in head.pointers]
        first += head.size
    return PolicyShape(
        vector=len(schema.vector),
        unit_features=len(schema.unit_features),
        unit_classes=tuple((c.first, c.count, c.ordered) for c in schema.unit_classes),
        critic=len(schema.critic) if keys.critic else 0,
        heads=tuple(head.size for head in schema.heads),
        pointers=tuple(sorted(pointers)),
        embed=keys.embed,
        vector_width=keys.vector_width,
        width=keys.width,
        core=keys.core,
        memory=keys.memory,
        share=int(keys.width * keys.share) if Sides.of(teams).players > 1 else 0,
    )


def agent_json(game: Game, shape: PolicyShape) -> dict[str, Any]:
    """What agent.json holds."""
    return {
        "game": game.name,
        "version": game.version,
        "options": judged_options(game),
        "schema": game.schema.as_json(),
        "shape": shape.as_json(),
    }


def is_agent(folder: Path) -> bool:
    """Whether a model's folder holds an agent."""
    return (folder / AGENT).is_file()


@dataclass(slots=True)
class Agent:
    """A policy that plays; it does not learn."""

    policy: Policy
    schema: Schema
    game: str
    version: str
    about: dict[str, Any]
    sides: Sides = Sides(1, 1, 1)  # of the game that is played

    def check(self, game: Game) -> None:
        """Take a seat in a game, or refuse one that shows something else.

        Raises:
            AgentUnfit: the schemas differ, or it is another game altogether.
        """
        if self.schema.digest() != game.schema.digest():
            if _family(self.game) != _family(game.name):
                raise AgentUnfit(
                    f"The agent plays {self.game}, not {game.name}.",
                    why="They have nothing in common that it could go on with.",
                    fix=f"Let it play its own game (--game {self.game}), or name an agent of {game.name}.",
                )
            ours, theirs = set(self.schema.vector), set(game.schema.vector)
            missing = sorted((theirs - ours) | (set(game.schema.unit_features) - set(self.schema.unit_features)))
            raise AgentUnfit(
                f"The agent was trained in {self.game} {self.version} and does not fit {game.name} {game.version}.",
                why="What players see or may do differs" + (f": new are {', '.join(missing[:5])}." if missing else "."),
                fix=f"Convert it by name: cerulea surgery MODEL --game {game.name} --name NEW",
            )

        self.sides = Sides.of(game.teams)

    @property
    def schema_digest(self) -> str:
        """Of what it was trained to see and do."""
        return self.schema.digest()

    def begin(self, matches: int, players: int) -> Tensor:
        """An empty memory; to empty that of single matches, set their rows to 0."""
        return torch.zeros(matches, players, self.policy.shape.state)

    def act(
        self,
        observation: Observation,
        memory: Tensor,
        seed_M: SeedArray,
        step: int,
        *,
        greedy: bool = False,
        rows_MP: BoolArray | None = None,
    ) -> tuple[ActionArray, Tensor]:
        """Actions of the marked players (all by default), and their memory after it; other rows are 0 and as they were.

        Sides are thought through whole: marked players of a side share what its unmarked ones see. What is drawn is a
        function of (seed of the match, step, place): it does not depend on which matches stand beside.
        """
        m, p = observation.acting_MP.shape
        rows_MP = np.ones((m, p), np.bool_) if rows_MP is None else rows_MP
        sides, players = self.sides.sides, self.sides.players
        at = torch.from_numpy(np.flatnonzero(rows_MP.reshape(m * sides, players).any(1)))
        heads = self.policy.shape.heads

        def some(array: Any) -> Tensor:
            tensor = torch.as_tensor(np.ascontiguousarray(array) if isinstance(array, np.ndarray) else array)
            return tensor.reshape(m * sides, players, *tensor.shape[2:])[at]

        with torch.inference_mode():
            critic = observation.critic_MPF if self.policy.shape.critic else np.zeros((m, p, 0), np.float32)
            old = some(memory)
            logits, _, state = self.policy.step(
                some(observation.vector_MPF),
                some(observation.units_MPUF),
                some(critic),
                old,
                some(np.zeros((m, p), bool)),
            )
            memory = memory.clone()
            memory.view(m * sides, players, memory.shape[-1])[at] = state
            mask = some(observation.mask_MPN)
            if greedy:
                parts = masked(logits, mask).split(list(heads), dim=-1)
                actions = torch.stack([part.argmax(-1) for part in parts], dim=-1)
            else:
                actions, _ = draw_actions(logits, mask, heads, some(uniform_draws(seed_M, step, p, len(heads))))
        chosen = np.zeros((m * sides, players, len(heads)), np.int32)
        chosen[at.numpy()] = actions.numpy()
        return np.where(rows_MP[..., None], chosen.reshape(m, p, len(heads)), 0), memory


def _family(game: str) -> str:
    """What presets of one game share: `rift` of `rift-duel`; other people's games have no presets."""
    return game if ":" in game or not game.startswith("rift-") else "rift"


def load_agent(folder: Path) -> Agent:
    """An agent from its folder.

    Raises:
        WeightsInvalid: files are missing, damaged or do not fit one another.
    """
    try:
        about = read_json(folder / AGENT)
        shape = policy_shape_from(about["shape"])
        policy = Policy(shape)
        policy.load_state_dict(load_file(folder / "model.safetensors"))
        schema = schema_from(about["schema"])
    except (OSError, KeyError, TypeError, ValueError, RuntimeError, SafetensorError, json.JSONDecodeError) as error:
        raise WeightsInvalid(
            f"{folder} holds no agent that can be used: {error}", fix="Train it again, or use another version."
        ) from error
    policy.eval()
    return Agent(policy, schema, about["game"], about["version"], about)
