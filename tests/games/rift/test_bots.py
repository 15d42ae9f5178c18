"""Scripted players: each tier beats the one below, sides are even, and nobody reads what the fog hides."""

from __future__ import annotations

import numpy as np
import pytest

from cerulea.games.match import BotPlayer, Series, play_series
from cerulea.games.rift import rules as r
from cerulea.games.rift.env import BOTS, Rift
from cerulea.games.rift.world import GOLD, HP, KIND, MANA, TARGET, X, Y
from tests.games.playing import Played

TIERS = ("random", *BOTS)


def series(preset: str, a: str, b: str, n: int, seed: int = 7) -> Series:
    return play_series(lambda m: Rift(preset, m), BotPlayer(a), BotPlayer(b), names=(a, b), n=n, seed=seed)[0]


@pytest.mark.parametrize(("preset", "strong", "weak"), [("duel", "laner", "pusher"), ("skirmish", "team", "laner")])
def test_a_tier_beats_the_one_below(preset, strong, weak):
    """A small share of the gate below; the seeds are fixed, and so is the result."""
    assert series(preset, strong, weak, 20).wins_a >= 14


def test_a_scripted_player_does_not_see_through_fog():
    """What side A does is the same whatever the units that it does not see are, and wherever they are."""
    rng = np.random.default_rng(3)
    for tier in range(1, len(BOTS)):
        played = Played(Rift("rift", 4))
        hidden = 0
        for step in range(450):
            if step % 15 == 14:
                hidden += _same_without_the_hidden(played.game, tier, rng)
            played.scripted(BOTS[tier])
        assert hidden > 100


def _same_without_the_hidden(game: Rift, tier: int, rng: np.random.Generator) -> int:
    """Move and change all that A does not see; compare what A's players choose; put it back."""
    bots = np.full((game.matches, game.players), -1, np.int8)
    bots[:, : game.players // 2] = tier
    was, now = (np.zeros((game.matches, game.players, 1), np.int32) for _ in range(2))
    game.script(bots, was)
    before = game.state()
    world = game.world
    hidden_MU = world.seen[:, 0] == 0
    hidden_MU[:, :5] = hidden_MU[:, r.CREEP0 : r.CREEP0 + r.CREEPS] = hidden_MU[:, r.TOWER0 : r.BOSS] = False
    for field in (X, Y):
        world.unit[:, field][hidden_MU] = rng.integers(0, r.SIZE, hidden_MU.sum())
    world.unit[:, HP][hidden_MU] = rng.integers(1, 9000, hidden_MU.sum())
    world.unit[:, TARGET][hidden_MU] = -1
    for field in (GOLD, MANA):
        world.hero[:, field][hidden_MU[:, :10]] = rng.integers(0, 3000, hidden_MU[:, :10].sum())
    game.script(bots, now)
    game.restore(before)
    assert np.array_equal(was, now), BOTS[tier]
    return int(hidden_MU[:, 5:10].sum())


@pytest.mark.deep
@pytest.mark.parametrize("preset", ["duel", "skirmish", "rift"])
@pytest.mark.parametrize("weak", range(3))
def test_each_tier_wins_85_of_100_against_the_one_below(preset, weak):
    """400 matches, sides swapped; a match that is cut off is not won."""
    result = series(preset, TIERS[weak + 1], TIERS[weak], 400, seed=9001)

    assert result.wins_a >= 340, (result.wins_a, result.wins_b, result.timeouts)


@pytest.mark.deep
@pytest.mark.parametrize("preset", ["skirmish", "rift"])
def test_no_side_is_the_better_one(preset):
    """Side A wins 47 to 53 % of 2,000 decided matches of `team` against itself."""
    won = decided = first = 0
    while decided < 2_000:
        played = Played(Rift(preset, 400), seed=11, first=first)
        cut = np.zeros(400, np.bool_)
        while not played.tick.ended_M.all():
            played.scripted("team")
            cut |= played.tick.truncated_MP.any(1)
        told = ~cut & (played.tick.winner_M >= 0)
        won, decided, first = (
            won + int((told & (played.tick.winner_M == 0)).sum()),
            decided + int(told.sum()),
            first + 400,
        )

    assert 0.47 <= won / decided <= 0.53, (won, decided)


@pytest.mark.deep
@pytest.mark.parametrize("preset", ["duel", "skirmish"])
def test_every_hero_wins_its_share(preset):
    """40 to 60 % of the matches of `team` against itself in which one side alone has the hero, drawn by lot."""
    won, told = np.zeros(len(r.HERO_NAMES), int), np.zeros(len(r.HERO_NAMES), int)
    for first in range(0, 2_400, 400):
        played = Played(Rift(preset, 400, draft="mixed"), seed=31337, first=first)
        kind_MP = played.game.world.hero[:, KIND, played.game.heroes].copy()
        cut = np.zeros(400, np.bool_)
        while not played.tick.ended_M.all():
            played.scripted("team")
            cut |= played.tick.truncated_MP.any(1)
        decided, half = ~cut & (played.tick.winner_M >= 0), kind_MP.shape[1] // 2
        for kind in range(len(r.HERO_NAMES)):
            in_A, in_B = (kind_MP[:, :half] == kind).any(1), (kind_MP[:, half:] == kind).any(1)
            counts = decided & (in_A != in_B)
            told[kind] += counts.sum()
            won[kind] += (counts & (played.tick.winner_M == np.where(in_A, 0, 1))).sum()

    assert (told > 300).all(), told
    assert ((won >= 0.4 * told) & (won <= 0.6 * told)).all(), (won, told)
