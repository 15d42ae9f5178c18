"""Matches between players: sides swapped by halves, repeated by a seed, timeouts not wins."""

from __future__ import annotations

import numpy as np
import pytest

from cerulea.core.errors import GameBroken, GameInvalid, NotFound
from cerulea.games.catalog import make_game
from cerulea.games.connect_four import ConnectFour
from cerulea.games.game import Head
from cerulea.games.match import BotPlayer, play_match, play_series, random_actions, seats_of, wilson

BOTH = ("bot:taker", "bot:random")


class Fixed:
    """Plays one action always."""

    def __init__(self, action: int) -> None:
        self.action = action

    def begin(self, game): ...

    def act(self, observation, out, rows_MP, seed_M, step):
        out[rows_MP] = self.action


def four(matches: int):
    return make_game("connect-four", matches)


def test_a_series_swaps_sides_by_halves_and_a_seed_repeats_it():
    args = {"names": BOTH, "n": 60, "seed": 3}
    first, replays = play_series(four, BotPlayer("taker"), BotPlayer("random"), keep=3, **args)
    again, _ = play_series(four, BotPlayer("taker"), BotPlayer("random"), **args)
    other, _ = play_series(four, BotPlayer("taker"), BotPlayer("random"), **{**args, "seed": 4})

    assert first.outcomes == again.outcomes != other.outcomes
    assert sum(o.first == "a" for o in first.outcomes) == 30
    assert [o.seed for o in first.outcomes[::2]] == [o.seed for o in first.outcomes[1::2]], "a pair has one seed"
    assert first.wins_a > 45 and first.n == 60
    low, high = first.interval95
    assert low < first.wins_a / 60 <= high
    assert [r.players for r in replays] == [list(BOTH), list(BOTH)[::-1], list(BOTH)]


def test_what_is_played_together_changes_nothing(monkeypatch):
    args = {"names": BOTH, "n": 23, "seed": 3}
    together, _ = play_series(four, BotPlayer("taker"), BotPlayer("random"), **args)
    told = []
    monkeypatch.setattr("cerulea.games.match.MOST_TOGETHER", 5)
    apart, _ = play_series(
        four, BotPlayer("taker"), BotPlayer("random"), report=lambda done, n: told.append((done, n)), **args
    )

    assert together.outcomes == apart.outcomes
    assert told == sorted(told) and told[-1] == (23, 23)


def test_a_side_wins_for_whoever_has_it():
    """Always column 3 against always column 0: the first to move wins, who is A in every other match."""
    series, _ = play_series(four, Fixed(3), Fixed(0), names=("three", "zero"), n=10, seed=1)

    assert (series.wins_a, series.wins_b, series.timeouts) == (5, 5, 0)
    assert {o.winner for o in series.outcomes} == {0}
    assert {o.steps for o in series.outcomes} == {7}


def test_timeouts_are_not_wins():
    """Two heroes who never move: the waves decide, or the time is up; who is ahead by then has not won."""
    series, replays = play_series(
        lambda n: make_game("rift-duel", n), Fixed(0), Fixed(0), names=("a", "b"), n=2, seed=1, keep=2
    )
    for outcome, replay in zip(series.outcomes, replays, strict=True):
        assert outcome.timeout == replay.cut == (outcome.steps == make_game("rift-duel", 1).limit)
    won = sum(o.winner >= 0 and not o.timeout for o in series.outcomes)
    assert series.wins_a + series.wins_b == won
    assert series.timeouts == sum(o.timeout for o in series.outcomes)


def test_a_game_that_is_cut_off_is_won_by_nobody():
    """Rock, paper, scissors ends by its limit alone: whoever was paid more, it is a timeout."""
    series, _ = play_series(
        lambda n: make_game("pettingzoo:classic.rps_v2", n, max_cycles=3),
        Fixed(0),
        Fixed(1),
        names=("r", "p"),
        n=4,
        seed=1,
    )
    assert [o.winner for o in series.outcomes] == [1, 0, 1, 0]
    assert (series.wins_a, series.wins_b, series.timeouts) == (0, 0, 4)


def test_a_match_without_end_is_given_up(monkeypatch):
    class Endless(ConnectFour):
        def step(self, action_MPA, out):
            super().step(action_MPA * 0, out)
            self.board[:], self.count[:], self.over[:], out.ended_M[:] = 0, 0, False, False

    monkeypatch.setattr("cerulea.games.match.MOST_STEPS", 50)
    with pytest.raises(GameBroken, match="has not ended after 50 steps"):
        play_match(Endless(1), [Fixed(0), Fixed(0)], seed=1)


def test_places_are_given_to_sides_or_one_by_one():
    game = make_game("rift-skirmish", 1)

    assert seats_of(game, ["a", "b"]) == ["a", "a", "a", "b", "b", "b"]
    assert seats_of(game, list("abcdef")) == list("abcdef")
    with pytest.raises(GameInvalid, match="2 sides of 3; 4 players"):
        seats_of(game, list("abcd"))
    with pytest.raises(GameInvalid, match="2 sides"):
        play_match(game, [Fixed(0)] * 3, seed=1)
    with pytest.raises(GameInvalid, match="has not two sides"):
        play_series(lambda n: make_game("cartpole", n), Fixed(0), Fixed(1), names=("a", "b"), n=2, seed=1)


def test_unknown_bots_name_the_nearest():
    with pytest.raises(NotFound, match="pusher"):
        BotPlayer("pushr").begin(make_game("rift-duel", 1))


def test_random_actions_are_legal_even_and_of_their_place_alone():
    heads = (Head(name="a", actions=("0", "1", "2", "3")), Head(name="b", actions=("0", "1")))
    mask = np.zeros((4000, 2, 6), bool)
    mask[..., [1, 3, 4, 5]] = True
    seeds = np.arange(4000).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    actions = random_actions(mask, heads, seeds, 7)

    assert set(np.unique(actions[..., 0])) == {1, 3} and set(np.unique(actions[..., 1])) == {0, 1}
    share = np.array([(actions[..., 0] == 3).mean(), actions[..., 1].mean(), (actions[:, 0] == actions[:, 1]).mean()])
    assert (np.abs(share - 0.5) < 0.03).all()
    assert np.array_equal(random_actions(mask[100:101], heads, seeds[100:101], 7), actions[100:101])
    assert not np.array_equal(random_actions(mask, heads, seeds, 8), actions)


def test_wilsons_interval_is_wilsons():
    """Figures of Wilson's interval for 180 of 200, and where all or nothing was won."""
    assert wilson(180, 200) == pytest.approx((0.8506, 0.9344), abs=1e-4)
    assert wilson(0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert wilson(10, 10) == pytest.approx((0.7225, 1.0), abs=1e-4)
    assert wilson(0, 0) == (0.0, 1.0)
