"""Surgery: an agent goes on in a game that shows more or lets it do more, and behaves as before.

In:      an agent's folder; the schema that the game has now.
Out:     a new folder: the same weights, put to the places that their names have now. Its manifest of what was added.
Kept:    what the old agent saw gives the same logits for what it could do, to 1e-5: new features are read with zero
         columns, kinds of units that are new are not read at first, new actions begin with a low logit. `gap` measures
         it on states.
Not here: training after it (the recipe's first steps at a low rate), dropping what an agent has learned to read.
Source:  OpenAI Five's surgery (arXiv 1912.06680, appendix B), by name instead of by hand.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from cerulea.core.errors import AgentUnfit
from cerulea.core.files import write_json
from cerulea.games.game import Game, Schema, UnitClass, observation_buffers, tick_buffers
from cerulea.games.match import random_actions
from cerulea.nn.policy import Policy, PolicyShape
from cerulea.train.agent import AGENT, Agent, agent_json
from cerulea.train.rollout import Sides

LOW = -4.0  # a new action's logit at first: rare, and never so rare that it is not tried
EXACT = 1e-5  # of a logit
NEAR_NOTHING = 0.01
STATES = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What is new, by name."""

    vector: tuple[str, ...] = ()
    unit_features: tuple[str, ...] = ()
    unit_classes: tuple[str, ...] = ()
    critic: tuple[str, ...] = ()
    actions: dict[str, tuple[str, ...]] = field(default_factory=dict)  # by head

    def __bool__(self) -> bool:
        return any(getattr(self, spec.name) for spec in dataclasses.fields(self))


@dataclass(frozen=True, slots=True, kw_only=True)
class Converted:
    """What surgery did, and how exactly the agent does what it did."""

    change: Change
    gap: float  # the largest change of any logit
    states: int  # on which that was measured

    def added(self) -> dict[str, list[str]]:
        """What is new, by what it is."""
        change = self.change
        found = {
            "features": list(change.vector),
            "features of units": list(change.unit_features),
            "kinds of units": list(change.unit_classes),
            "features of the critic": list(change.critic),
            **{f"actions of {head}": list(names) for head, names in change.actions.items()},
        }
        return {what: names for what, names in found.items() if names}


def change_between(old: Schema, new: Schema) -> Change:
    """What a schema has that another one has not.

    Raises:
        AgentUnfit: something is gone; that would change what the agent does.
    """
    _refuse_lost("features", old.vector, new.vector)
    _refuse_lost("features of units", old.unit_features, new.unit_features)
    _refuse_lost("features of the critic", old.critic, new.critic)
    _refuse_lost("kinds of units", _names(old), _names(new))
    _refuse_lost("choices", tuple(h.name for h in old.heads), tuple(h.name for h in new.heads))
    added = [h.name for h in new.heads if h.name not in {o.name for o in old.heads}]
    if added:
        raise AgentUnfit(
            f"The game asks for a choice that the agent never made: {', '.join(added)}.",
            why="A new choice has no behaviour that could stay what it was.",
            fix="Train an agent anew, or let the game keep its choices and add actions to one of them.",
        )
    before = {c.name: c for c in old.unit_classes}
    for now in new.unit_classes:
        then = before.get(now.name)
        if then is not None and (now.count, now.ordered) != (then.count, then.ordered):
            raise AgentUnfit(
                f"The game shows {now.count} {now.name}, the agent knows {then.count}.",
                why="The mean over a kind of units is not the same with more of them.",
                fix="Let the game show the new units as a kind of their own, or train an agent anew.",
            )
    actions = {}
    for head in new.heads:
        known = next(h for h in old.heads if h.name == head.name)
        _refuse_lost(f"actions of {head.name}", _plain(known), _plain(head))
        for pointer in known.pointers:
            if pointer.name not in {p.name for p in head.pointers}:
                raise AgentUnfit(f"The game has no {pointer.name!r} any more.", fix="Train an agent anew.")
        new_ones = tuple(a for a in head.actions if a not in known.actions)
        if new_ones:
            actions[head.name] = new_ones
    return Change(
        vector=_new(old.vector, new.vector),
        unit_features=_new(old.unit_features, new.unit_features),
        unit_classes=_new(_names(old), _names(new)),
        critic=_new(old.critic, new.critic),
        actions=actions,
    )


def shape_after(shape: PolicyShape, new: Schema) -> PolicyShape:
    """The same widths for what the game shows now."""
    pointers, first = [], 0
    for head in new.heads:
        pointers += [(first + pointer.first, pointer.count) for pointer in head.pointers]
        first += head.size
    return dataclasses.replace(
        shape,
        vector=len(new.vector),
        unit_features=len(new.unit_features),
        unit_classes=tuple((c.first, c.count, c.ordered) for c in new.unit_classes),
        critic=len(new.critic) if shape.critic else 0,
        heads=tuple(head.size for head in new.heads),
        pointers=tuple(sorted(pointers)),
    )


def operate(
    policy: Policy, old: Schema, new: Schema, *, like: Mapping[str, str] | None = None
) -> tuple[Policy, Change]:
    """A policy for the new schema that does what the old one did.

    Args:
        like: for new flat features, an old one that they are read like at first, instead of not at all. That is for
            what is 0 in everything the agent has seen, as the feature of a hero it never played is.

    Raises:
        AgentUnfit: something that it relies on is gone.
    """
    change = change_between(old, new)
    before, shape = policy.state_dict(), shape_after(policy.shape, new)
    after = Policy(shape)
    tensors = {name: tensor.clone() for name, tensor in after.state_dict().items()}
    _place_columns(tensors, before, "vector.weight", old.vector, new.vector)
    for name, model in (like or {}).items():
        if name not in change.vector or model not in old.vector:
            raise AgentUnfit(f"{name!r} cannot be read like {model!r}.", fix="Name a new flat feature and an old one.")
        tensors["vector.weight"][:, new.vector.index(name)] = before["vector.weight"][:, old.vector.index(model)]
    tensors["vector.bias"] = before["vector.bias"]
    _units(tensors, before, old, new)
    _mix(tensors, before, policy.shape, old, new)
    for name in ("core_in.weight", "core_in.bias", "core_state.weight"):
        if name in before:
            tensors[name] = before[name]
    _plain_rows(tensors, before, old, new)
    _query_rows(tensors, before, policy.shape.embed, old, new)
    if "critic.weight" in tensors:
        _place_columns(tensors, before, "critic.weight", old.critic, new.critic)
        tensors["critic.bias"] = before["critic.bias"]
    for name in ("value.weight", "value.bias"):
        tensors[name] = before[name]
    after.load_state_dict(tensors)
    return after.eval(), change


def convert(
    agent: Agent, game: Game, folder: Path, *, like: Mapping[str, str] | None = None, states: int = STATES
) -> Converted:
    """Write an agent for the game as it is now, after proof that it does what it did.

    Args:
        folder: a new one; gets agent.json and model.safetensors.
        like: see `operate`.
        states: of the game, from random play, on which logits are compared.

    Raises:
        AgentUnfit: something that it relies on is gone, or it would not do what it did.
    """
    policy, change = operate(agent.policy, agent.schema, game.schema, like=like)
    news = _states(game, states)
    for name in like or {}:
        news["vector"][..., game.schema.vector.index(name)] = 0.0  # as in everything that it has seen
    olds = seen_before(agent.schema, game.schema, news)
    changed = gap(agent.policy, policy, olds, news, common_actions(agent.schema, game.schema))
    if changed > EXACT:
        raise AgentUnfit(
            f"A logit would change by {changed:.2g}; at most {EXACT:.0e} is allowed.", fix="Report it: a bug of ours."
        )
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / AGENT, agent_json(game, policy.shape))
    save_file({name: tensor.contiguous() for name, tensor in policy.state_dict().items()}, folder / "model.safetensors")
    return Converted(change=change, gap=changed, states=len(news["vector"]))


def _states(game: Game, states: int) -> dict[str, Tensor]:
    """What sides see in random play of a game with any number of matches: at least `states` rows."""
    m, sides = game.matches, Sides.of(game.teams)
    look, tick = observation_buffers(game.schema, m, game.players), tick_buffers(m, game.players)
    seed_M = np.arange(1, m + 1, dtype=np.uint64)
    game.reset(seed_M)
    rows: dict[str, list[Tensor]] = {"vector": [], "units": [], "critic": [], "mask": []}
    step = taken = 0
    while taken < states:
        game.observe(look)
        if step % 16 == 0:
            looks = (look.vector_MPF, look.units_MPUF, look.critic_MPF, look.mask_MPN)
            for name, array in zip(rows, looks, strict=True):
                rows[name].append(
                    torch.from_numpy(array.copy()).reshape(m * sides.sides, sides.players, *array.shape[2:])
                )
            taken += len(rows["vector"][-1])
        game.step(random_actions(look.mask_MPN, game.schema.heads, seed_M, step), tick)
        if tick.ended_M.any():
            seed_M[tick.ended_M] += np.uint64(m)
            game.reset(seed_M, tick.ended_M.copy())
        step += 1
    return {name: torch.cat(parts) for name, parts in rows.items()}


def gap(
    old: Policy, new: Policy, olds: dict[str, Tensor], news: dict[str, Tensor], actions: list[tuple[int, int]]
) -> float:
    """The largest change of any logit that both have, over the same states as each of them sees these.

    Args:
        olds, news: `vector`, `units`, `critic` (rows, players, ...), `mask` (rows, players, N) of what was legal
        before. actions: (number before, number now) of every action that both have.
    """
    with torch.inference_mode():
        logits = [_logits(policy, seen) for policy, seen in ((old, olds), (new, news))]
    then = torch.tensor([a for a, _ in actions])
    now = torch.tensor([b for _, b in actions])
    changed = (logits[0][..., then] - logits[1][..., now]).abs()
    return float(changed[olds["mask"][..., then]].max())


def seen_before(old: Schema, new: Schema, seen: dict[str, Tensor]) -> dict[str, Tensor]:
    """States of the new game as the old agent would have seen them: `vector`, `units`, `critic`, `mask` by name."""
    slots = []
    places = {c.name: c.first for c in new.unit_classes}
    for unit_class in old.unit_classes:
        slots += [places[unit_class.name] + i for i in range(unit_class.count)]
    mask = torch.zeros(*seen["mask"].shape[:-1], old.actions, dtype=torch.bool)
    for then, now in common_actions(old, new):
        mask[..., then] = seen["mask"][..., now]
    return {
        "vector": seen["vector"][..., [new.vector.index(name) for name in old.vector]],
        "units": seen["units"][..., slots, :][..., [new.unit_features.index(name) for name in old.unit_features]],
        "critic": seen["critic"][..., [new.critic.index(name) for name in old.critic]],
        "mask": mask,
    }


def common_actions(old: Schema, new: Schema) -> list[tuple[int, int]]:
    """(number before, number now) of every action that both have, over all heads; pointers by their units."""
    pairs, first_then = [], 0
    starts = _starts(new)
    for head in old.heads:
        now = next(h for h in new.heads if h.name == head.name)
        for number, (kind, name) in enumerate(_meanings(old, head)):
            for other, meaning in enumerate(_meanings(new, now)):
                if meaning == (kind, name):
                    pairs.append((first_then + number, starts[head.name] + other))
        first_then += head.size
    return pairs


# -- parts of the net -----------------------------------------------------------------------------------


def _place_columns(
    tensors: dict[str, Tensor], before: dict[str, Tensor], key: str, old: tuple[str, ...], new: tuple[str, ...]
) -> None:
    """Columns by name; those of new features are zero."""
    weight = torch.zeros_like(tensors[key])
    for i, name in enumerate(old):
        weight[:, new.index(name)] = before[key][:, i]
    tensors[key] = weight


def _units(tensors: dict[str, Tensor], before: dict[str, Tensor], old: Schema, new: Schema) -> None:
    """One small net for each class; one of a new class gives nothing, and learns from nothing on."""
    places_then, places_now = _ordered(old), _ordered(new)
    for number, unit_class in enumerate(new.unit_classes):
        if unit_class.name in _names(old):
            then = _names(old).index(unit_class.name)
            key = f"units.{number}.weight"
            weight = torch.zeros_like(tensors[key])
            for i, name in enumerate(old.unit_features):
                weight[:, new.unit_features.index(name)] = before[f"units.{then}.weight"][:, i]
            tensors[key], tensors[f"units.{number}.bias"] = weight, before[f"units.{then}.bias"]
            if unit_class.ordered:
                known = before[f"places.{places_then.index(unit_class.name)}"]
                tensors[f"places.{places_now.index(unit_class.name)}"] = known
        else:  # near nothing, but not nothing, or it would never learn
            tensors[f"units.{number}.weight"] *= NEAR_NOTHING


def _mix(tensors: dict[str, Tensor], before: dict[str, Tensor], shape: PolicyShape, old: Schema, new: Schema) -> None:
    """The layer that joins oneself and the pools of all classes: a new class's pools are not read at first."""
    weight, known = torch.zeros_like(tensors["mix.weight"]), before["mix.weight"]
    weight[:, : shape.vector_width] = known[:, : shape.vector_width]
    wide = 2 * shape.embed  # the largest and the mean of a class
    for number, unit_class in enumerate(new.unit_classes):
        if unit_class.name in _names(old):
            then = _names(old).index(unit_class.name)
            to, source = shape.vector_width + wide * number, shape.vector_width + wide * then
            weight[:, to : to + wide] = known[:, source : source + wide]
    tensors["mix.weight"], tensors["mix.bias"] = weight, before["mix.bias"]


def _plain_rows(tensors: dict[str, Tensor], before: dict[str, Tensor], old: Schema, new: Schema) -> None:
    """A row for each action that is no pointer; new ones begin with a low logit, whatever is seen."""
    rows_then, rows_now = _all_plain(old), _all_plain(new)
    weight, bias = torch.zeros_like(tensors["plain.weight"]), torch.full_like(tensors["plain.bias"], LOW)
    for number, name in enumerate(rows_now):
        if name in rows_then:
            then = rows_then.index(name)
            weight[number], bias[number] = before["plain.weight"][then], before["plain.bias"][then]
    tensors["plain.weight"], tensors["plain.bias"] = weight, bias


def _query_rows(tensors: dict[str, Tensor], before: dict[str, Tensor], embed: int, old: Schema, new: Schema) -> None:
    """A query for each pointer, in the order of their first actions; a new pointer points nowhere at first."""
    if "query.weight" not in tensors:
        return
    names_then, names_now = _pointers(old), _pointers(new)
    weight, bias = torch.zeros_like(tensors["query.weight"]), torch.zeros_like(tensors["query.bias"])
    for number, name in enumerate(names_now):
        if name in names_then:
            to, then = embed * number, embed * names_then.index(name)
            weight[to : to + embed] = before["query.weight"][then : then + embed]
            bias[to : to + embed] = before["query.bias"][then : then + embed]
    tensors["query.weight"], tensors["query.bias"] = weight, bias


def _logits(policy: Policy, seen: dict[str, Tensor]) -> Tensor:
    rows, players = seen["vector"].shape[:2]
    state = torch.zeros(rows, players, policy.shape.state)
    critic = seen["critic"] if policy.shape.critic else torch.zeros(rows, players, 0)
    fresh = torch.ones(rows, players, dtype=torch.bool)
    logits, _, _ = policy.step(seen["vector"], seen["units"], critic, state, fresh)
    return logits


# -- names ----------------------------------------------------------------------------------------------


def _names(schema: Schema) -> tuple[str, ...]:
    return tuple(c.name for c in schema.unit_classes)


def _ordered(schema: Schema) -> list[str]:
    return [c.name for c in schema.unit_classes if c.ordered]


def _new(old: tuple[str, ...], new: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name for name in new if name not in old)


def _refuse_lost(what: str, old: tuple[str, ...], new: tuple[str, ...]) -> None:
    lost = [name for name in old if name not in new]
    if lost:
        raise AgentUnfit(
            f"The game has lost {what} that the agent relies on: {', '.join(lost[:5])}.",
            why="Surgery adds; what is taken away changes what an agent does.",
            fix="Train an agent anew.",
        )


def _plain(head: Any) -> tuple[str, ...]:
    """Actions of a head that are no pointers."""
    pointing = {i for p in head.pointers for i in range(p.first, p.first + p.count)}
    return tuple(name for i, name in enumerate(head.actions) if i not in pointing)


def _all_plain(schema: Schema) -> list[tuple[str, str]]:
    return [(head.name, name) for head in schema.heads for name in _plain(head)]


def _pointers(schema: Schema) -> list[str]:
    """Names of pointers in the order of their first actions over all heads."""
    starts = _starts(schema)
    found = [(starts[h.name] + p.first, f"{h.name}.{p.name}") for h in schema.heads for p in h.pointers]
    return [name for _, name in sorted(found)]


def _starts(schema: Schema) -> dict[str, int]:
    starts, first = {}, 0
    for head in schema.heads:
        starts[head.name] = first
        first += head.size
    return starts


def _meanings(schema: Schema, head: Any) -> list[tuple[str, str]]:
    """What each action of a head means: a plain one its name, one that points its unit by class and place."""
    found: list[tuple[str, str]] = [("", name) for name in head.actions]
    for pointer in head.pointers:
        for slot in range(pointer.count):
            found[pointer.first + slot] = (pointer.name, _unit_of(schema.unit_classes, slot))
    return found


def _unit_of(classes: tuple[UnitClass, ...], slot: int) -> str:
    for unit_class in classes:
        if unit_class.first <= slot < unit_class.first + unit_class.count:
            return f"{unit_class.name} {slot - unit_class.first}"
    return f"slot {slot}"
