"""The same match everywhere: over threads, beside others, replayed from seed and actions; and no memory is taken."""

from __future__ import annotations

import numpy as np
import pytest
from numba.core.runtime import _nrt_python, rtsys

from cerulea.games.rift import rules as r
from cerulea.games.rift.env import Rift
from tests.games.playing import Played


def recorded(preset: str, matches: int, first: int, steps: int) -> tuple[Played, np.ndarray, np.ndarray]:
    """Matches played by scripts and at random: actions and state hashes of every step."""
    played = Played(Rift(preset, matches), first=first)
    actions, hashes = [], []
    for step in range(steps):
        if step % 40 < 30:
            played.scripted("team")
        else:
            played.random()
        actions.append(played.actions.astype(np.int8))
        hashes.append(played.game.digests())
        if played.tick.ended_M.all():
            break
    return played, np.array(actions), np.array(hashes)


def replayed(game: Rift, seeds: np.ndarray, actions: np.ndarray) -> np.ndarray:
    """State hashes of every step of a game that is given the actions alone."""
    played = Played(game)
    game.reset(seeds)
    hashes = []
    for step_actions in actions:
        played.step(step_actions.astype(np.int32))
        hashes.append(game.digests())
    return np.array(hashes)


def check_everywhere(preset: str, matches: int, first: int, steps: int, alone: range) -> None:
    played, actions, hashes = recorded(preset, matches, first, steps)
    assert np.array_equal(replayed(Rift(preset, matches, threads=2), played.seeds, actions), hashes)
    one = Rift(preset, 1)
    for m in alone:
        assert np.array_equal(replayed(one, played.seeds[m : m + 1], actions[:, m : m + 1])[:, 0], hashes[:, m]), m


def test_a_match_is_decided_by_its_seed_and_actions_alone():
    """State hashes of every step: in company of 255, by two threads, alone, and replayed without anybody looking."""
    check_everywhere("rift", 256, 0, 60, range(0, 256, 32))
    check_everywhere("skirmish", 16, 0, 400, range(4))


@pytest.mark.deep
def test_a_thousand_whole_matches_are_the_same_everywhere():
    for first in range(0, 1000, 250):
        check_everywhere("rift", 250, first, r.LIMIT, range(250))


def allocations(matches: int) -> tuple[int, int]:
    """What one look and one step take of Numba's memory, in a game that is well under way."""
    played = Played(Rift("rift", matches, scatter=1.0))
    for _ in range(20):
        played.see()
        played.scripted("team")
    before = rtsys.get_allocation_stats()
    played.see()
    played.step(played.actions)
    after = rtsys.get_allocation_stats()
    return after.alloc - before.alloc, after.mi_alloc - before.mi_alloc


def test_a_look_and_a_step_take_no_memory_for_a_match():
    """What is counted are the arguments, handed over once for a call, however many matches there are."""
    _nrt_python.memsys_enable_stats()
    try:
        assert allocations(1) == allocations(64)
    finally:
        _nrt_python.memsys_disable_stats()
