"""Whether a game keeps the rules that players and trainers rely on; it names the first rule that it breaks.

    check_game(lambda matches: MyGame(matches))

Not here: whether a game is fun.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from cerulea.core.errors import GameBroken
from cerulea.core.seeds import mixed
from cerulea.games.game import Game, Observation, Tick, observation_buffers, tick_buffers
from cerulea.games.match import random_actions


def check_game(make: Callable[[int], Game], *, steps: int = 200, matches: int = 4, seed: int = 1) -> None:
    """Play at random, twice and side by side, and look.

    Args:
        make: makes the game with so many matches.

    Raises:
        GameBroken: a rule of the protocol is broken; the error names it.
    """
    game, again, alone = make(matches), make(matches), make(1)
    _check_schema(game)
    seeds = np.array([mixed(seed, m) for m in range(matches)], np.uint64)
    run, twin, single = _Run(game, seeds), _Run(again, seeds), _Run(alone, seeds[:1])
    kept: dict[str, Any] | None = None
    for step in range(steps):
        look = run.look()
        _check_look(run, look)
        _need(_same(look, run.look()), "seed and actions decide all", "two looks at one state differ")
        other = twin.look()
        _need(_same(look, other), "seed and actions decide all", f"two runs of the same differ at step {step}")
        _need(
            np.array_equal(look.vector_MPF[:1], single.look().vector_MPF),
            "a match does not depend on those beside it",
            f"alone it differs at step {step}",
        )
        actions = random_actions(look.mask_MPN, game.schema.heads, seeds, step)
        before = run.tick.ended_M.copy()
        digests = game.digests()
        if step == steps // 2:
            kept = game.state()
            kept_actions: list[Any] = []
        tick = run.step(actions)
        twin.step(actions)
        single.step(actions[:1])
        _check_tick(run, tick, before, digests)
        _need(np.array_equal(game.digests(), again.digests()), "seed and actions decide all", "digests differ")
        ended = tick.ended_M.copy()
        if kept is not None:
            kept_actions.append((actions.copy(), ended.copy()))
        if ended.any() and step % 3 == 2:
            fresh = np.array([mixed(seed, step, m, 5) for m in range(matches)], np.uint64)
            for each, count in ((run, matches), (twin, matches), (single, 1)):
                each.begin(fresh[:count], ended[:count].copy())
            kept = None
    if kept is not None:
        _check_restore(make, game, kept, [a for a, _ in kept_actions], matches)


class _Run:
    """A game with its buffers."""

    def __init__(self, game: Game, seeds: Any) -> None:
        self.game = game
        self.tick = tick_buffers(game.matches, game.players)
        game.reset(seeds)

    def begin(self, seeds: Any, where: Any) -> None:
        self.game.reset(seeds, where)
        self.tick.ended_M[where] = False

    def look(self) -> Observation:
        # Buffers that hold something else: what is not written would be seen.
        out = observation_buffers(self.game.schema, self.game.matches, self.game.players)
        out.vector_MPF[:], out.units_MPUF[:], out.critic_MPF[:] = 7.0, 7.0, 7.0
        self.game.observe(out)
        return out

    def step(self, actions: Any) -> Tick:
        given = actions.copy()
        self.game.step(given, self.tick)
        _need(np.array_equal(given, actions), "a game writes only into buffers for it", "step changed the actions")
        return self.tick


def _need(right: bool, rule: str, seen: str) -> None:
    if not right:
        raise GameBroken(
            f"The game breaks a rule: {rule}.", why=f"Seen: {seen}.", fix="docs/add-a-game.md explains the protocol."
        )


def _same(a: Observation, b: Observation) -> bool:
    names = ("vector_MPF", "units_MPUF", "critic_MPF", "mask_MPN", "acting_MP")
    return all(np.array_equal(getattr(a, n), getattr(b, n), equal_nan=n.endswith("F")) for n in names)


def _check_schema(game: Game) -> None:
    at = 0
    for part in game.schema.unit_classes:
        _need(part.first == at, "unit classes cover the slots without gaps", f"{part.name} begins at {part.first}")
        at += part.count
    _need(len(game.teams) == game.players, "every player has a team", f"{len(game.teams)} teams")
    _need(
        set(game.teams) == set(range(max(game.teams) + 1)), "teams are counted from 0", f"teams are {set(game.teams)}"
    )
    _need(bool(game.version), "a game has a version", "it is empty")
    for head in game.schema.heads:
        _need(head.size >= 1, "a head has actions", f"{head.name} has none")
        for pointer in head.pointers:
            fits = pointer.count == game.schema.units and pointer.first + pointer.count <= head.size
            _need(fits, "a pointer has an action for each unit slot", f"{pointer.name} has {pointer.count}")


def _check_look(run: _Run, look: Observation) -> None:
    game = run.game
    for name in ("vector_MPF", "units_MPUF", "critic_MPF"):
        _need(bool(np.isfinite(getattr(look, name)).all()), "what is shown is finite", f"{name} is not")
        _need(
            not (getattr(look, name) == 7.0).all() or not getattr(look, name).size, "all is written", f"{name} is not"
        )
    first = 0
    for head in game.schema.heads:
        legal = look.mask_MPN[..., first : first + head.size].any(-1)
        _need(bool(legal.all()), "every player has a legal action in every head", f"{head.name} has none")
        first += head.size
    acting = look.acting_MP
    _need(not acting[run.tick.ended_M].any(), "nobody acts in a match that has ended", "somebody does")
    _need(bool(acting[~run.tick.ended_M].any(1).all()), "somebody acts in a match that goes on", "nobody does")


def _check_tick(run: _Run, tick: Tick, before: Any, digests: Any) -> None:
    game = run.game
    _need(bool(np.isfinite(tick.reward_MP).all()), "rewards are finite", "one is not")
    _need(not (tick.terminated_MP & tick.truncated_MP).any(), "a match ends in one way", "it ends in both")
    _need(not tick.reward_MP[before].any(), "a match that has ended pays nothing", "it pays")
    again = tick.terminated_MP[before].any() or tick.truncated_MP[before].any()
    _need(not again, "a match ends once", "it ends again")
    _need(bool(tick.ended_M[before].all()), "a match that has ended stands still until it is reset", "it goes on")
    _need(
        np.array_equal(game.digests()[before], digests[before]),
        "a match that has ended stands still until it is reset",
        "its state changed",
    )
    most = max(game.teams)
    _need(bool(((tick.winner_M >= -1) & (tick.winner_M <= most)).all()), "a winner is a team", str(tick.winner_M))
    _need(bool((tick.winner_M[~tick.ended_M] == -1).all()), "nobody has won while a match goes on", str(tick.winner_M))


def _check_restore(make: Callable[[int], Game], game: Game, kept: Any, actions: Any, matches: int) -> None:
    other = make(matches)
    other.reset(np.arange(matches).astype(np.uint64))
    other.restore(kept)
    tick = tick_buffers(matches, game.players)
    for action in actions:
        other.step(action, tick)
    rule = "a restored game goes on to the bit"
    _need(np.array_equal(other.digests(), game.digests()), rule, "digests differ")
    looks = []
    for each in (game, other):
        out = observation_buffers(each.schema, matches, each.players)
        each.observe(out)
        looks.append(out)
    _need(_same(looks[0], looks[1]), rule, "what is shown differs")
