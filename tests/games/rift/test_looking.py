"""What is shown is what is there: an independent decoder reads observations back."""

from __future__ import annotations

import numpy as np
import pytest

from cerulea.games.game import tick_buffers
from cerulea.games.rift import rules as r
from cerulea.games.rift.env import Rift
from cerulea.games.rift.world import ALIVE, HP, LAST, MAX_HP, ORDER, ORDER_UNIT
from tests.games.playing import Played
from tests.games.rift.decoder import Truth, decode


def differences(found, wanted, path=""):
    """Places where two trees of plain values differ; shares may differ in the last of their five digits."""
    if isinstance(wanted, dict):
        assert isinstance(found, dict) and found.keys() == wanted.keys(), (path, found, wanted)
        return [d for k in wanted for d in differences(found[k], wanted[k], f"{path}.{k}")]
    if isinstance(wanted, (list, tuple)) and isinstance(found, (list, tuple)) and len(found) == len(wanted):
        return [d for k, v in enumerate(wanted) for d in differences(found[k], v, f"{path}[{k}]")]
    if isinstance(wanted, float):
        return [] if abs(found - wanted) < 3e-5 else [(path, found, wanted)]
    return [] if found == wanted else [(path, found, wanted)]


def read_back(preset: str, states: int, matches: int, **options: object) -> int:
    """Decode what every hero of so many states is shown; the number of hidden heroes whose memory was checked."""
    played = Played(Rift(preset, matches, **options), seed=11)
    game, remembered = played.game, 0
    names = (game.schema.vector, game.schema.unit_features)
    truths = [Truth() for _ in range(matches)]
    for step in range(states // matches):
        played.see()
        for m, truth in enumerate(truths):
            truth.look(game.world.unit[m], game.world.hero[m], game.world.match[m])
            for p, h in enumerate(game.heroes.tolist()):
                found = decode(names, played.look.vector_MPF[m, p], played.look.units_MPUF[m, p], h // 5)
                wanted = truth.visible(h)
                wrong = differences(found, wanted)
                assert not wrong, (step, m, h, wrong[:3])
                remembered += sum(s is not None and s.get("place") is not None and "age" in s for s in wanted["slots"])
        played.scripted("team") if step % 50 < 40 else played.random()
        if played.tick.ended_M.any():
            ended = np.flatnonzero(played.tick.ended_M)
            game.reset(played.seeds + np.uint64(step), played.tick.ended_M)
            for m in ended:
                truths[m] = Truth()
    return remembered


@pytest.mark.parametrize("preset", ["duel", "skirmish", "rift"])
def test_the_visible_state_is_read_back_from_what_is_shown(preset):
    assert read_back(preset, 120, 2, scatter=1.0) > 50


@pytest.mark.deep
@pytest.mark.parametrize(("preset", "states"), [("duel", 2_000), ("skirmish", 3_000), ("rift", 5_000)])
def test_the_visible_state_is_read_back_exactly_from_ten_thousand_states(preset, states):
    assert read_back(preset, states, 4) > states // 2  # memories of hidden heroes: it is not for want of fog


def test_what_is_shown_lies_within_known_bounds():
    played = Played(Rift("rift", 4, scatter=0.5))
    for step in range(500):
        look = played.see()
        assert np.abs(look.vector_MPF).max() <= 2.0, step
        assert np.abs(look.units_MPUF[..., :3]).max() <= 3.0
        assert np.isfinite(look.units_MPUF).all() and np.isfinite(look.critic_MPF).all()
        played.scripted("team")


def effects(game: Rift, copies: Rift, p: int, mask_N: np.ndarray) -> list[int]:
    """Legal actions of a player after which the world is as if it had held."""
    state = game.state()
    copies.restore({name: np.repeat(array[:1], r.ACTIONS, 0) for name, array in state.items()})
    played = Played.__new__(Played)
    played.game, played.number = copies, 0
    played.tick = tick_buffers(r.ACTIONS, game.players)
    actions = np.zeros((r.ACTIONS, game.players, 1), np.int32)
    actions[:, p, 0] = np.where(mask_N, np.arange(r.ACTIONS), r.HOLD)
    played.step(actions)
    after = copies.state()
    after["hero"][:, [LAST, ORDER, ORDER_UNIT]] = 0  # what was ordered is no effect of it
    same = np.ones(r.ACTIONS, bool)
    for name in ("unit", "hero", "match"):
        same &= (after[name] == after[name][:1]).reshape(r.ACTIONS, -1).all(1)
    h, unit = int(game.heroes[p]), after["unit"]
    missing = state["unit"][0, MAX_HP, h] - state["unit"][0, HP, h]

    def undone(a: int) -> bool:
        """Damage breaks a recall off, and a target may die before one's next blow; both in this very decision."""
        if a == r.RECALL:
            return unit[a, MAX_HP, h] - unit[a, HP, h] > missing
        slot = a - r.ATTACK0
        return 0 <= slot < r.SLOTS and not unit[a, ALIVE, game.world.slot[0, h, slot]]

    return [a for a in np.flatnonzero(mask_N).tolist() if a != r.HOLD and same[a] and not undone(a)]


def test_every_legal_action_has_an_effect():
    played = Played(Rift("rift", 1, scatter=1.0), seed=4)
    copies = Rift("rift", r.ACTIONS)
    tried = 0
    for step in range(320):
        if step % 8 == 0:
            mask_PN = played.see().mask_MPN[0].copy()
            for p in range(played.game.players):
                idle = effects(played.game, copies, p, mask_PN[p])
                tried += int(mask_PN[p].sum()) - 1
                assert not idle, (step, p, [played.game.schema.heads[0].actions[a] for a in idle])
        played.see()
        played.scripted("team") if step % 20 < 15 else played.random()
        if played.tick.ended_M[0]:
            break
    assert tried > 2_000
