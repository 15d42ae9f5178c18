"""A small self-play recipe for tests, and an agent that was made with it in no time: its weights are what a seed
gives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from cerulea.core.files import write_json
from cerulea.games.catalog import make_game
from cerulea.nn.policy import Policy
from cerulea.train.agent import agent_json, shape_for
from cerulea.train.play_recipe import PlayRecipe
from cerulea.train.recipe import recipe_from

PLAY: dict[str, Any] = {
    "kind": "selfplay",
    "name": "player",
    "game": {"name": "connect-four", "matches": 8},
    "model": {"embed": 8, "vector_width": 16, "width": 32, "memory": 16, "share": 0.0},
    "train": {"steps": 6, "rollout": 8, "minibatch": 64, "checkpoint_steps": 2, "seed": 1},
    "opponents": {"snapshot_steps": 2},
}


def play_recipe(**train: Any) -> PlayRecipe:
    """The recipe, with other keys of [train]."""
    recipe = recipe_from({**PLAY, "train": {**PLAY["train"], **train}})
    assert isinstance(recipe, PlayRecipe)
    return recipe


def write_recipe(path: Path, **train: Any) -> Path:
    """The recipe as a TOML file."""
    values = {**PLAY, "train": {**PLAY["train"], **train}}
    lines = [f"{key} = {json.dumps(value)}" for key, value in values.items() if not isinstance(value, dict)]
    for table, keys in values.items():
        if isinstance(keys, dict):
            lines += [f"[{table}]", *(f"{key} = {json.dumps(value)}" for key, value in keys.items())]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def make_agent(folder: Path, game: str = "connect-four", *, seed: int = 1) -> Path:
    """An agent's folder, as a run registers it."""
    recipe, played = play_recipe(), make_game(game, 1)
    torch.manual_seed(seed)
    policy = Policy(shape_for(played.schema, recipe.model, played.teams))
    folder.mkdir(parents=True)
    write_json(folder / "agent.json", agent_json(played, policy.shape))
    save_file({name: tensor.contiguous() for name, tensor in policy.state_dict().items()}, folder / "model.safetensors")
    extra = {"game": played.name, "version": played.version, "game_version": played.version, "agent_steps": 1000}
    card = {"preset": played.name, "parameters": 1, "context": 0, "vocab": 0, "extra": extra}
    write_json(folder / "card.json", card)
    return folder
