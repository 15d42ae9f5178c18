"""Whether a game keeps the rules that players and trainers rely on; it names the first rule that it breaks.

    check_game(lambda matches: MyGame(matches))

Four copies are played with the same random actions: the game, its twin (whose buffers hold rubbish and whose players
that do not act send anything legal), one match alone, and one that is taken up again from `state` in the middle.
Not here: whether a game is fun.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import numpy as np

from cerulea.core.errors import GameBroken
from cerulea.core.seeds import mixed
from cerulea.games.game import Game, Observation, Schema, observation_buffers, schema_from, tick_buffers
from cerulea.games.match import random_actions

LOOKS = ("vector_MPF", "units_MPUF", "critic_MPF", "mask_MPN", "acting_MP")
TICKS = ("reward_MP", "terminated_MP", "truncated_MP", "ended_M", "winner_M")
EVERY = 3  # matches that ended stand still until the next step of which this is a divisor
REPEATS = "seed and actions decide all"
STILL = "a match that has ended stands still until it is reset"


def check_game(make: Callable[[int], Game], *, steps: int = 200, matches: int = 4, seed: int = 1) -> None:
    """Play at random, twice and side by side, and look.

    Args:
        make: makes the game with so many matches.
        steps: how long; matches that end are begun anew.

    Raises:
        GameBroken: a rule of the protocol is broken; the error names it.
    """
    game, scripted = make(matches), make(matches)
    _check_about(game)
    seeds = np.array([mixed(seed, m) for m in range(matches)], np.uint64)
    run, twin, alone = _Run(game, 0.0), _Run(make(matches), 7.0), _Run(make(1), -3.0)
    taken: _Run | None = None
    standing = False
    for each, count in ((run, matches), (twin, matches), (alone, 1)):
        each.begin(seeds[:count], None)
    for step in range(steps):
        look = run.look()
        _check_look(run, look)
        _need(_same(look, run.look(), LOOKS) is None, "observing changes nothing", "two looks at one state differ")
        actions = random_actions(look.mask_MPN, game.schema.heads, seeds, step)
        ended = bool(run.tick.ended_M.any())
        if step == steps // 2 or (step > steps // 2 and ended and not standing):
            # Once from the middle, and once more where a match stands that has ended.
            taken, standing = _taken(make, run, matches), ended
        copies = [each for each in (run, twin, alone, taken) if each is not None]
        _check_copies(copies, look, step)
        if game.bots:
            _check_bots(run, scripted, look, actions)
        before, digests = run.tick.ended_M.copy(), game.digests()
        idle = random_actions(look.mask_MPN, game.schema.heads, seeds + np.uint64(1), step)
        for each in copies:
            own = np.where(look.acting_MP[..., None], actions, idle) if each is twin else actions
            each.step(own[: each.game.matches])
        _check_tick(run, before, digests)
        run.length_M += ~before
        _check_steps(copies, step)
        over_M = run.tick.ended_M.copy()
        if over_M.any() and step % EVERY == EVERY - 1:
            fresh = np.array([mixed(seed, step, m, 5) for m in range(matches)], np.uint64)
            for each in copies:
                each.begin(fresh[: each.game.matches], over_M[: each.game.matches])


class _Run:
    """A game with its buffers, which hold something else before each call: what is not written would be seen."""

    def __init__(self, game: Game, rubbish: float) -> None:
        self.game, self.rubbish = game, rubbish
        self.tick = tick_buffers(game.matches, game.players)
        self.gone_MP = np.zeros((game.matches, game.players), np.bool_)  # who has come to an end
        self.length_M = np.zeros(game.matches, np.int64)

    def begin(self, seeds: Any, where: Any) -> None:
        given, marked = seeds.copy(), None if where is None else where.copy()
        if where is None or where.any():
            self.game.reset(given, marked)
        rule = "a game writes only into the buffers it was given"
        _need(np.array_equal(given, seeds), rule, "reset changed the seeds")
        _need(marked is None or np.array_equal(marked, where), rule, "reset changed what it was to reset")
        every = np.ones(self.game.matches, np.bool_) if where is None else where
        self.tick.ended_M[every], self.gone_MP[every], self.length_M[every] = False, False, 0

    def look(self) -> Observation:
        out = observation_buffers(self.game.schema, self.game.matches, self.game.players)
        for name in LOOKS[:3]:
            getattr(out, name)[:] = self.rubbish
        out.mask_MPN[:] = out.acting_MP[:] = self.rubbish > 0
        self.game.observe(out)
        return out

    def step(self, actions: Any) -> None:
        given = np.ascontiguousarray(actions).copy()
        for name in TICKS:
            buffer = getattr(self.tick, name)
            buffer[:] = self.rubbish if buffer.dtype != np.bool_ else self.rubbish > 0
        self.game.step(given, self.tick)
        rule = "a game writes only into the buffers it was given"
        _need(np.array_equal(given, actions), rule, "step changed the actions")


def _need(right: bool, rule: str, seen: str) -> None:
    if not right:
        raise GameBroken(
            f"The game breaks a rule: {rule}.", why=f"Seen: {seen}.", fix="docs/add-a-game.md explains the protocol."
        )


def _same(a: Any, b: Any, names: tuple[str, ...]) -> str | None:
    """The first buffer in which two differ, over the matches that both have."""
    for name in names:
        one, other = getattr(a, name), getattr(b, name)
        count = min(len(one), len(other))
        if not np.array_equal(one[:count], other[:count], equal_nan=one.dtype == np.float32):
            return name
    return None


def _check_about(game: Game) -> None:
    """What a game says of itself."""
    schema, at = game.schema, 0
    for part in schema.unit_classes:
        _need(part.first == at, "unit classes cover the slots without gaps", f"{part.name} begins at {part.first}")
        at += part.count
    _need(len(game.teams) == game.players, "every player has a team", f"{len(game.teams)} teams")
    counted = set(game.teams) == set(range(max(game.teams) + 1))
    _need(counted, "teams are counted from 0", f"teams are {set(game.teams)}")
    _need(bool(game.name and game.version), "a game has a name and a version", "one is empty")
    _need(bool(schema.heads), "an action has a head", "there is none")
    for head in schema.heads:
        _need(head.size >= 1, "a head has actions", f"{head.name} has none")
        for pointer in head.pointers:
            fits = pointer.count == schema.units and pointer.first + pointer.count <= head.size
            _need(fits, "a pointer has an action for each unit slot", f"{pointer.name} has {pointer.count}")
    for what, names in _named(schema):
        _need(len(set(names)) == len(names), "names are unique", f"two {what} have one name")
    _need(schema_from(json.loads(json.dumps(schema.as_json()))) == schema, "a schema is plain values", "it is not")
    _need(_plain(game.options), "options are plain values", f"they are {game.options!r}")
    _need("random" not in game.bots, "random is everywhere and not among the bots", "it is")


def _named(schema: Schema) -> list[tuple[str, tuple[str, ...]]]:
    return [
        ("features", schema.vector),
        ("features of units", schema.unit_features),
        ("features of the critic", schema.critic),
        ("unit classes", tuple(c.name for c in schema.unit_classes)),
        ("heads", tuple(h.name for h in schema.heads)),
        *((f"actions of {h.name}", h.actions) for h in schema.heads),
    ]


def _plain(values: Any) -> bool:
    try:
        return bool(json.loads(json.dumps(values, allow_nan=False)) == values)
    except (TypeError, ValueError):
        return False


def _check_look(run: _Run, look: Observation) -> None:
    game, ended_M = run.game, run.tick.ended_M
    for name in LOOKS[:3]:
        _need(bool(np.isfinite(getattr(look, name)).all()), "what is shown is finite", f"{name} is not")
    first = 0
    for head in game.schema.heads:
        legal = look.mask_MPN[..., first : first + head.size].any(-1)
        _need(bool(legal.all()), "every player has a legal action in every head", f"{head.name} has none")
        first += head.size
    acting = look.acting_MP
    _need(not acting[ended_M].any(), "nobody acts in a match that has ended", "somebody does")
    _need(not (acting & run.gone_MP).any(), "nobody acts after their end", "somebody does")
    _need(bool(acting[~ended_M].any(1).all()), "somebody acts in a match that goes on", "nobody does")
    for m in range(game.matches):
        frame = game.frame(m)
        _need(isinstance(frame, dict) and _plain(frame), "a frame is plain values", "JSON does not give it back")


def _check_bots(run: _Run, other: Game, look: Observation, actions: Any) -> None:
    """Scripted players do what is legal, in the places that are marked, and the same in the same state.

    They play in another copy: a game may note there who is scripted.
    """
    game, first = run.game, np.cumsum([0, *(head.size for head in run.game.schema.heads)])
    for bot, name in enumerate(game.bots):
        places = np.full((game.matches, game.players), -1, np.int8)
        places[:, bot % game.players :: 2] = bot
        out, again = actions.copy(), actions.copy()
        for written in (out, again):
            other.restore(game.state())
            other.script(places, written)
        _need(np.array_equal(out, again), REPEATS, f"bot {name} does one thing and then another")
        _need(np.array_equal(out[places < 0], actions[places < 0]), "script writes marked places alone", f"bot {name}")
        for a, head in enumerate(game.schema.heads):
            chosen = out[..., a]
            fits = bool(((chosen >= 0) & (chosen < head.size)).all())
            _need(fits, "scripted players do what is legal", f"bot {name}: no such action of {head.name}")
            mask = look.mask_MPN[..., first[a] : first[a + 1]]
            legal = np.take_along_axis(mask, chosen[..., None].astype(np.int64), -1)[..., 0]
            right = bool(legal[look.acting_MP & (places >= 0)].all())
            _need(right, "scripted players do what is legal", f"bot {name}: an action of {head.name} is forbidden")


def _taken(make: Callable[[int], Game], run: _Run, matches: int) -> _Run:
    """Another copy that goes on from the middle, after it was somewhere else."""
    state = run.game.state()
    kept = copy.deepcopy(state)
    taken = _Run(make(matches), 5.0)
    taken.begin(np.arange(matches).astype(np.uint64) + np.uint64(99), None)
    taken.game.restore(state)
    # A state that shares memory with a game would follow it.
    run.game.observe(observation_buffers(run.game.schema, matches, run.game.players))
    unchanged = all(np.array_equal(kept[name], state[name], equal_nan=False) for name in kept)
    _need(unchanged, "a state is a copy", "restoring it changed it")
    taken.tick.ended_M[:], taken.gone_MP[:], taken.length_M[:] = run.tick.ended_M, run.gone_MP, run.length_M
    for name, array in state.items():
        array[...] = np.zeros((), array.dtype)
        shared = any(np.shares_memory(array, own) for own in run.game.state().values())
        _need(not shared, "a state is a copy", f"{name} is the game's own memory")
    return taken


RULES = (REPEATS, "a match does not depend on those beside it", "a restored game goes on to the bit")


def _rule(copies: list[_Run], number: int) -> str:
    """Which rule says that this copy does what the first does."""
    single = copies[number].game.matches == 1 and copies[0].game.matches > 1
    return RULES[1] if single else RULES[0] if number == 1 else RULES[2]


def _check_copies(copies: list[_Run], look: Observation, step: int) -> None:
    for number, each in enumerate(copies[1:], start=1):
        differs = _same(look, each.look(), LOOKS)
        _need(differs is None, _rule(copies, number), f"{differs} differs at step {step}")


def _check_steps(copies: list[_Run], step: int) -> None:
    run = copies[0]
    meters = np.zeros((run.game.matches, run.game.players, len(run.game.meters)), np.float32)
    run.game.read_meters(meters)
    _need(bool(np.isfinite(meters).all()), "meters are finite", "one is not")
    for number, each in enumerate(copies[1:], start=1):
        rule = _rule(copies, number)
        differs = _same(run.tick, each.tick, TICKS)
        _need(differs is None, rule, f"{differs} differs at step {step}")
        count = each.game.matches
        same = np.array_equal(run.game.digests()[:count], each.game.digests())
        _need(same, rule, f"digests differ at step {step}")
        own = np.zeros((count, run.game.players, len(run.game.meters)), np.float32)
        each.game.read_meters(own)
        _need(np.array_equal(own, meters[:count]), rule, f"meters differ at step {step}")


def _check_tick(run: _Run, before: Any, digests: Any) -> None:
    game, tick = run.game, run.tick
    _need(bool(np.isfinite(tick.reward_MP).all()), "rewards are finite", "one is not")
    ends = tick.terminated_MP | tick.truncated_MP
    _need(not (tick.terminated_MP & tick.truncated_MP).any(), "a player ends in one way", "one ends in both")
    _need(not (ends & run.gone_MP).any(), "a player ends once", "one ends again")
    _need(not tick.reward_MP[before].any(), "a match that has ended pays nothing", "it pays")
    _need(bool(tick.ended_M[before].all()), STILL, "it goes on")
    _need(np.array_equal(game.digests()[before], digests[before]), STILL, "its state changed")
    run.gone_MP |= ends
    over = bool(run.gone_MP[tick.ended_M].all())
    _need(over, "when a match ends, each player has ended", "one was neither terminated nor truncated")
    gone = run.gone_MP.all(1)
    _need(bool(tick.ended_M[gone].all()), "when each player has ended, the match ends", "it goes on")
    most = max(game.teams)
    _need(bool(((tick.winner_M >= -1) & (tick.winner_M <= most)).all()), "a winner is a team", str(tick.winner_M))
    _need(bool((tick.winner_M[~tick.ended_M] == -1).all()), "nobody has won while a match goes on", str(tick.winner_M))
    if game.limit:
        late = bool((run.length_M[~before] + 1 > game.limit).any())
        _need(not late, f"a match has at most {game.limit} steps (`limit`)", "one goes on")
