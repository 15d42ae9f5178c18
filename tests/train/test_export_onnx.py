"""An exported policy computes what torch computes, memory included, step after step. Judge: onnxruntime."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from cerulea.games.catalog import make_game
from cerulea.games.game import observation_buffers, tick_buffers
from cerulea.nn.policy import Policy, masked
from cerulea.train.agent import load_agent, shape_for
from cerulea.train.export_onnx import export_onnx
from cerulea.train.play_recipe import PolicyKeys
from tests.toy_games import make_agent

onnxruntime = pytest.importorskip("onnxruntime")
MATCHES = 3


@pytest.mark.parametrize("core", ["lstm", "mingru", "none"])
def test_two_hundred_steps_differ_by_a_ten_thousandth_at_most(core: str, tmp_path: Path):
    agent = load_agent(make_agent(tmp_path / "agent", "rift-skirmish"))
    game = make_game("rift-skirmish", MATCHES)
    torch.manual_seed(2)
    agent.policy = Policy(shape_for(game.schema, PolicyKeys(core=core, width=32, memory=16), game.teams)).eval()
    agent.check(game)
    players = agent.sides.players
    session = onnxruntime.InferenceSession(export_onnx(agent, tmp_path / "out", players))
    look, tick = observation_buffers(game.schema, MATCHES, 6), tick_buffers(MATCHES, 6)
    seed_M = np.arange(MATCHES, dtype=np.uint64)
    game.reset(seed_M)
    memory = agent.begin(MATCHES, 6)
    theirs = np.zeros((2 * MATCHES, players, agent.policy.shape.state), np.float32)
    worst = 0.0
    for step in range(200):
        game.observe(look)
        looks = (look.vector_MPF, look.units_MPUF, look.critic_MPF, look.mask_MPN)
        vector, units, critic, mask = (array.reshape(2 * MATCHES, players, *array.shape[2:]) for array in looks)
        before = memory.reshape(2 * MATCHES, players, memory.shape[-1])
        with torch.inference_mode():
            given = [torch.from_numpy(part) for part in (vector, units, critic)]
            fresh = torch.zeros(2 * MATCHES, players, dtype=torch.bool)
            logits = masked(agent.policy.step(*given, before, fresh)[0], torch.from_numpy(mask)).numpy()
        action, memory = agent.act(look, memory, seed_M, step)
        named = {"vector": vector, "units": units, "mask": mask, "memory": theirs}
        wanted = {given.name for given in session.get_inputs()}
        told, *rest = session.run(None, {name: value for name, value in named.items() if name in wanted})
        theirs = rest[0] if rest else theirs
        worst = max(worst, float(np.abs(told - logits).max()))
        game.step(action, tick)

    assert worst <= 1e-4
    meaning = json.loads((tmp_path / "out" / "policy.json").read_text(encoding="utf-8"))
    assert ("memory" in meaning["inputs"]) is (core != "none")
    assert meaning["players"] == 3 and meaning["heads"][0]["actions"][0] == "hold"
