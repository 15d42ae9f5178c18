"""An agent as an ONNX graph, its memory among the inputs and outputs, to be run where there is no torch.

In:      an agent's folder.
Out:     policy.onnx and policy.json (what its inputs mean, by name) in a new folder.
Kept:    the graph computes what `Policy.step` does, to 1e-4 over a whole match (tests compare them in onnxruntime).
Not here: drawing actions from logits; the value, which only training needs.

    inputs    vector (sides, players, F) · units (sides, players, slots, F) · mask bool (sides, players, N)
              memory (sides, players, D), zeros where a match begins
    outputs   logits (sides, players, N), -1e9 where the mask forbids · memory_out, for the next step
    Games without units have no `units`, agents without a memory neither `memory` nor `memory_out`.
"""

from __future__ import annotations

import io
import logging
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cerulea.core.errors import Failed
from cerulea.core.files import write_bytes, write_json
from cerulea.nn.policy import Policy, masked
from cerulea.train.agent import Agent

GRAPH, MEANING = "policy.onnx", "policy.json"
OPSET = 17


class Acting(nn.Module):
    """A policy without its value: what it takes to act."""

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self.policy, shape = policy, policy.shape
        self.inputs = (
            "vector",
            *(["units"] if shape.unit_classes else []),
            "mask",
            *(["memory"] if shape.state else []),
        )
        self.outputs = ("logits", *(["memory_out"] if shape.state else []))

    def forward(self, *given: Tensor) -> tuple[Tensor, ...]:
        """Masked logits and the new memory; rows whose match begins come with a memory of zeros."""
        named = dict(zip(self.inputs, given, strict=True))
        vector, shape = named["vector"], self.policy.shape
        sides, players = vector.shape[:2]
        nothing = vector.new_zeros(sides, players, 0)
        critic = vector.new_zeros(sides, players, shape.critic)
        fresh = torch.zeros(sides, players, dtype=torch.bool)
        units = named.get("units", nothing[..., None])
        logits, _, after = self.policy.step(vector, units, critic, named.get("memory", nothing), fresh)
        told = masked(logits, named["mask"])
        return (told, after) if shape.state else (told,)


def export_onnx(agent: Agent, folder: Path, players: int) -> Path:
    """Write the graph and what its inputs mean.

    Args:
        players: of one side, who share what they have in mind.

    Raises:
        Failed: the packages that write ONNX are not installed.
    """
    try:
        import onnx
    except ImportError as error:
        raise Failed(
            "onnx is not installed.", fix="pip install 'cerulea[onnx]', or here: pip install -e '.[onnx]'"
        ) from error
    folder.mkdir(parents=True, exist_ok=True)
    graph = _graph(agent, players)
    onnx.checker.check_model(onnx.load_model_from_string(graph))
    write_bytes(folder / GRAPH, graph)
    write_json(folder / MEANING, _meaning(agent, players))
    return folder / GRAPH


def _graph(agent: Agent, players: int) -> bytes:
    shape = agent.policy.shape
    slots = sum(count for _, count, _ in shape.unit_classes)
    acting = Acting(agent.policy).eval()
    looks = {
        "vector": torch.zeros(2, players, shape.vector),
        "units": torch.zeros(2, players, slots, shape.unit_features),
        "mask": torch.ones(2, players, shape.actions, dtype=torch.bool),
        "memory": torch.zeros(2, players, shape.state),
    }
    file = io.BytesIO()
    quiet = logging.getLogger("torch.onnx")
    level = quiet.level
    with warnings.catch_warnings(), torch.inference_mode():
        # Tracing: a step has no branches that depend on values. torch would rather have its other exporter used.
        warnings.simplefilter("ignore")
        quiet.setLevel(logging.ERROR)
        try:
            torch.onnx.export(
                acting,
                tuple(looks[name] for name in acting.inputs),
                file,  # type: ignore[arg-type]  # a file object is taken too, its annotation forgets it
                input_names=list(acting.inputs),
                output_names=list(acting.outputs),
                dynamic_axes={name: {0: "sides"} for name in (*acting.inputs, *acting.outputs)},
                opset_version=OPSET,
                dynamo=False,
            )
        finally:
            quiet.setLevel(level)
    return file.getvalue()


def _meaning(agent: Agent, players: int) -> dict[str, Any]:
    schema, acting = agent.schema.as_json(), Acting(agent.policy)
    return {
        "game": agent.game,
        "version": agent.version,
        "players": players,
        "memory": agent.policy.shape.state,
        "heads": schema["heads"],
        "vector": schema["vector"],
        "unit_features": schema["unit_features"],
        "unit_classes": schema["unit_classes"],
        "inputs": list(acting.inputs),
        "outputs": list(acting.outputs),
    }
