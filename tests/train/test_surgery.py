"""An agent that fits a game which shows more and allows more does what it did."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from cerulea.core.errors import AgentUnfit
from cerulea.games.catalog import make_game
from cerulea.games.game import Head, Observation, Pointer, Schema, UnitClass, schema_from
from cerulea.nn.policy import Policy
from cerulea.train.agent import load_agent, shape_for
from cerulea.train.play_recipe import PolicyKeys
from cerulea.train.surgery import EXACT, change_between, convert, operate
from tests.toy_games import make_agent

KEYS = PolicyKeys(embed=8, vector_width=16, width=32, memory=16)


class Grown:
    """A game that shows four features more, a kind of units more and a hero's feature, and allows an action more."""

    def __init__(self, game) -> None:
        self.inner, old = game, game.schema
        for name in ("name", "options", "matches", "players", "teams", "bots", "meters", "step_s", "limit"):
            setattr(self, name, getattr(game, name))
        self.version = "next"
        (head,) = old.heads
        count = old.units + 2
        actions, pointers = list(head.actions[: head.pointers[0].first]), []
        for pointer in head.pointers:
            pointers.append(Pointer(name=pointer.name, first=len(actions), count=count))
            actions += [f"{pointer.name}_{slot}" for slot in range(count)]
        last = head.pointers[-1]
        self.rest = list(head.actions[last.first + last.count :])
        actions += ["dance", *self.rest]
        self.schema = Schema(
            heads=(Head(name=head.name, actions=tuple(actions), pointers=tuple(pointers)),),
            vector=("wind", *old.vector[:7], "is_Pyro", *old.vector[7:], "tide"),
            unit_features=(*old.unit_features[:2], "armour", *old.unit_features[2:]),
            unit_classes=(*old.unit_classes, UnitClass(name="ward", first=old.units, count=2)),
            critic=(*old.critic, "secret"),
        )

    def reset(self, seed_M, where_M=None) -> None:
        self.inner.reset(seed_M, where_M)

    def observe(self, out: Observation) -> None:
        from cerulea.games.game import observation_buffers

        old, new = self.inner.schema, self.schema
        seen = observation_buffers(old, self.matches, self.players)
        self.inner.observe(seen)
        draw = np.random.default_rng(1)
        for ours, theirs, before, now in (
            (out.vector_MPF, seen.vector_MPF, old.vector, new.vector),
            (out.critic_MPF, seen.critic_MPF, old.critic, new.critic),
        ):
            ours[:] = draw.normal(size=ours.shape)
            ours[..., [now.index(name) for name in before]] = theirs
        out.units_MPUF[:] = draw.normal(size=out.units_MPUF.shape)
        columns = [new.unit_features.index(name) for name in old.unit_features]
        out.units_MPUF[:, :, : old.units, columns] = seen.units_MPUF
        out.mask_MPN[:] = False
        for i, name in enumerate(old.heads[0].actions):
            out.mask_MPN[..., new.heads[0].actions.index(name)] = seen.mask_MPN[..., i]
        out.acting_MP[:] = seen.acting_MP

    def step(self, action_MPA, out) -> None:
        old, new = self.inner.schema.heads[0].actions, self.schema.heads[0].actions
        known = {new.index(name): i for i, name in enumerate(old)}
        self.inner.step(np.vectorize(lambda a: known.get(int(a), 0))(action_MPA).astype(np.int32), out)


@pytest.fixture(scope="module")
def grown() -> Grown:
    return Grown(make_game("rift-duel", 64))


def trained(game, seed: int = 3) -> Policy:
    """A policy whose logits are far from nothing, as after training."""
    torch.manual_seed(seed)
    policy = Policy(shape_for(game.schema, KEYS, game.teams))
    with torch.no_grad():
        for weight in policy.parameters():
            weight += 0.1 * torch.randn_like(weight)
    return policy.eval()


def test_no_logit_changes_on_a_thousand_states(grown: Grown, tmp_path: Path):
    """Features, units, an action and a hero at once; what is new is random in these states, but for the hero's."""
    agent = load_agent(make_agent(tmp_path / "old", "rift-duel"))
    agent.policy = trained(grown.inner)
    agent = dataclasses.replace(agent, schema=grown.inner.schema)

    done = convert(agent, grown, tmp_path / "new", like={"is_Pyro": grown.inner.schema.vector[-1]})

    assert done.states >= 1000 and done.gap <= EXACT
    assert done.change.vector == ("wind", "is_Pyro", "tide") and done.change.unit_classes == ("ward",)
    assert "dance" in done.change.actions["action"]
    after = load_agent(tmp_path / "new")
    assert after.schema == grown.schema and after.version == "next"


def test_a_new_action_is_rare_and_a_new_hero_is_read_like_an_old_one(grown: Grown):
    policy, old, new = trained(grown.inner), grown.inner.schema, grown.schema

    after, _ = operate(policy, old, new, like={"is_Pyro": old.vector[3]})

    plain = [name for name in new.heads[0].actions if "_" not in name or name.startswith("move")]
    assert after.plain.bias[plain.index("dance")].item() == -4.0
    hero, model = new.vector.index("is_Pyro"), old.vector.index(old.vector[3])
    assert torch.equal(after.vector.weight[:, hero], policy.vector.weight[:, model])
    assert not after.vector.weight[:, new.vector.index("wind")].any()


@pytest.mark.parametrize("gone", ["vector", "action", "units"])
def test_what_an_agent_relies_on_may_not_go(gone: str, grown: Grown):
    """The schema the other way round: what was new is lost."""
    new = grown.inner.schema
    kept = {
        "vector": dataclasses.replace(grown.schema, vector=new.vector),
        "action": dataclasses.replace(grown.schema, heads=new.heads),
        "units": dataclasses.replace(grown.schema, unit_features=new.unit_features),
    }[gone]

    with pytest.raises(AgentUnfit, match="has lost"):
        change_between(grown.schema, kept)


def test_more_units_of_a_kind_are_refused(grown: Grown):
    """The mean over a kind would change; the error says what to do instead."""
    old = grown.inner.schema
    first = dataclasses.replace(old.unit_classes[0], count=old.unit_classes[0].count + 1)
    more = schema_from({**old.as_json()})
    more = dataclasses.replace(more, unit_classes=(first, *old.unit_classes[1:]))

    with pytest.raises(AgentUnfit, match="a kind of their own"):
        change_between(old, more)
