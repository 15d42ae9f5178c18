"""Games by name, other people's games in and ours out, matches, replays and ratings."""

from __future__ import annotations

import dataclasses
import json
import math
import warnings
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from cerulea.core.errors import GameBroken, GameInvalid, NotFound, ReplayInvalid
from cerulea.games.catalog import GAMES, make_game
from cerulea.games.conformance import check_game
from cerulea.games.connect_four import ConnectFour
from cerulea.games.match import BotPlayer, play_match, play_series, random_actions, seats_of, wilson
from cerulea.games.rating import POINTS, Online, Result, add_results, rate, read_results
from cerulea.games.replay import frames, read_replay, save_replay
from cerulea.games.vector_in import VectorGame
from tests.games.playing import Played

OTHERS = [
    "pettingzoo:classic.tictactoe_v3",
    "pettingzoo:classic.rps_v2",
    "gymnasium:Acrobot-v1",
    "gymnasium:Pendulum-v1",
]
pytestmark = pytest.mark.filterwarnings("ignore:The old environment creation API:DeprecationWarning")


@pytest.mark.parametrize("name", ["connect-four", "cartpole", *OTHERS])
def test_a_game_by_name_keeps_the_protocol(name):
    check_game(lambda matches: make_game(name, matches), steps=80)


@pytest.mark.parametrize("name", ["rift-skermish", "conect-four", "gymnasium:CartPole-v9", "pettingzoo:nothing_v0"])
def test_an_unknown_game_is_refused(name):
    with pytest.raises((NotFound, GameInvalid)) as caught:
        make_game(name, 1)
    if name == "rift-skermish":
        assert "rift-skirmish" in str(caught.value)


def test_options_that_a_game_does_not_know_are_refused():
    with pytest.raises(GameInvalid, match="wings"):
        make_game("rift", 1, wings=2)


BROKEN = {
    "draws from elsewhere": "observing changes nothing",
    "no legal action": "every player has a legal action in every head",
    "goes on": "a match that has ended",
    "not finite": "what is shown is finite",
    "keeps no state": "a restored game goes on to the bit",
    "changes actions": "a game writes only into the buffers it was given",
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_game_that_breaks_a_rule_is_told_which(fault):
    class Faulty(ConnectFour):
        def observe(self, out):
            super().observe(out)
            if fault == "draws from elsewhere":
                out.vector_MPF += np.float32(np.random.default_rng().random())
            if fault == "no legal action":
                out.mask_MPN[:, 1] = False
            if fault == "not finite":
                out.vector_MPF[0, 0, 0] = np.nan

        def step(self, action_MPA, out):
            if fault == "changes actions":
                action_MPA[:] = 0
            super().step(action_MPA, out)
            if fault == "goes on":
                out.reward_MP[self.over] = 1.0
                self.count += self.over

        def state(self):
            kept = super().state()
            if fault == "keeps no state":
                kept["board"][:] = 0
            return kept

    with pytest.raises(GameBroken, match=BROKEN[fault]):
        check_game(Faulty, steps=60 if fault != "keeps no state" else 8)


def test_connect_four_is_pettingzoos_move_by_move():
    """Thirty random matches side by side: the same legal columns, the same boards, the same end."""
    ours = Played(make_game("connect-four", 30))
    theirs = Played(make_game("pettingzoo:classic.connect_four_v3", 30))
    for step in range(42):
        a, b = ours.see(), theirs.see()
        assert np.array_equal(a.acting_MP, b.acting_MP)
        alive = a.acting_MP.any(1)
        assert np.array_equal(a.mask_MPN[a.acting_MP], b.mask_MPN[a.acting_MP])
        mine = b.vector_MPF[a.acting_MP].reshape(-1, 6, 7, 2)
        assert np.array_equal(a.vector_MPF[a.acting_MP][:, :42].reshape(-1, 6, 7), mine[..., 0])
        actions = random_actions(a.mask_MPN, ours.game.schema.heads, ours.seeds, step)
        one, two = ours.step(actions), theirs.step(actions)
        assert np.array_equal(one.ended_M, two.ended_M)
        assert np.array_equal(one.winner_M, two.winner_M)
        assert np.array_equal(one.reward_MP[alive], two.reward_MP[alive])
    assert ours.tick.ended_M.all()


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_vector_environments_give_the_same_matches_in_each_of_their_modes(mode):
    """A countdown of 3 steps: what is seen last, what comes next; in a step that only begins anew nobody acts."""

    class Countdown(gym.Env):
        observation_space = gym.spaces.Box(0.0, 1.0, (1,), np.float32)
        action_space = gym.spaces.Discrete(2)

        def __init__(self, steps=3):
            self.steps = steps

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            self.left = self.steps
            return np.array([self.left / 10], np.float32), {}

        def step(self, action):
            self.left -= 1
            return np.array([self.left / 10], np.float32), 1.0, False, self.left == 0, {}

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        game = VectorGame(
            lambda: SyncVectorEnv([Countdown, lambda: Countdown(20)], autoreset_mode=mode), name="countdown"
        )
    played = Played(game)
    seen, acted, paid = [], [], 0.0
    for _ in range(12):
        look = played.see()
        seen.append(round(float(look.vector_MPF[0, 0, 0]), 3))
        acted.append(bool(look.acting_MP[0, 0]))
        tick = played.step(np.zeros((2, 1, 1), np.int32))
        paid += float(tick.reward_MP[0, 0])
        if tick.ended_M.any():
            assert tick.truncated_MP[tick.ended_M].all()
            assert not played.see().vector_MPF[tick.ended_M].any()
            game.reset(played.seeds, tick.ended_M.copy())
            tick.ended_M[:] = False
    looks = [s for s, a in zip(seen, acted, strict=True) if a]
    assert looks == ([0.3, 0.2, 0.1] * 4)[: len(looks)]
    assert paid == len(looks)
    assert len(looks) == 12  # single matches are begun from seeds of their own, so that no step only begins anew


def test_our_games_pass_pettingzoos_own_tests():
    from cerulea.games.views import aec_env, parallel_env

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The old environment creation API")
        from pettingzoo.test import api_test, parallel_api_test, parallel_seed_test

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for name in ("rift-skirmish", "connect-four"):
            if name == "connect-four":
                continue  # players take turns there: PettingZoo has its own
            parallel_api_test(parallel_env(name), num_cycles=300)
            parallel_seed_test(lambda name=name: parallel_env(name), num_cycles=50)
            api_test(aec_env(name), num_cycles=300)
    assert [str(w.message) for w in caught if "old environment creation" not in str(w.message)] == []


def test_our_games_pass_gymnasiums_check():
    from gymnasium.utils.env_checker import check_env

    from cerulea.games.sides import Side

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_env(Side("rift-duel"), skip_render_check=True)
        check_env(Side("rift-skirmish", BotPlayer("pusher")), skip_render_check=True)
    assert [str(w.message) for w in caught] == []


def test_a_series_swaps_sides_by_halves_and_a_seed_repeats_it():
    def make(n: int):
        return make_game("connect-four", n)

    args = {"names": ("bot:taker", "bot:random"), "n": 60, "seed": 3}
    first, replays = play_series(make, BotPlayer("taker"), BotPlayer("random"), keep=3, **args)
    again, _ = play_series(make, BotPlayer("taker"), BotPlayer("random"), **args)

    assert first.outcomes == again.outcomes
    assert sum(o.first == "a" for o in first.outcomes) == 30
    assert first.wins_a > 45 and first.n == 60
    low, high = first.interval95
    assert low < first.wins_a / 60 <= high
    assert [r.players for r in replays] == [
        ["bot:taker", "bot:random"],
        ["bot:random", "bot:taker"],
        ["bot:taker", "bot:random"],
    ]


def test_timeouts_are_not_wins():
    """Two players who only hold: after ten minutes the time is up, and nobody has won."""

    class Holder:
        def begin(self, game): ...

        def act(self, observation, out, rows_MP, seed_M, step):
            out[rows_MP] = 0

    series, _ = play_series(lambda n: make_game("rift", n), Holder(), Holder(), names=("a", "b"), n=2, seed=1)
    assert series.timeouts + series.wins_a + series.wins_b + (series.n - series.timeouts) >= series.n
    for outcome in series.outcomes:
        if outcome.timeout:
            assert outcome.steps == 1500
    assert series.wins_a + series.wins_b <= series.n - series.timeouts


def test_unknown_bots_and_wrong_numbers_of_players_are_refused():
    game = make_game("rift-duel", 1)
    with pytest.raises(NotFound, match="pusher"):
        BotPlayer("pushr").begin(game)
    with pytest.raises(GameInvalid, match="2 sides"):
        seats_of(game, ["a", "b", "c"])


@pytest.fixture
def replay(tmp_path: Path):
    game = make_game("rift", 1)
    players = [BotPlayer("team"), BotPlayer("laner")]
    return play_match(game, players, seed=7, labels=["bot:team", "bot:laner"])


def test_a_replay_is_small_and_played_again_to_the_bit(replay, tmp_path):
    path = tmp_path / "one.replay"
    save_replay(replay, path)
    again = read_replay(path)
    seen = list(frames(again))

    assert path.stat().st_size < 12_000
    assert len(seen) == replay.steps + 1
    assert seen[-1]["over"] and seen[-1]["winner"] == replay.winner
    json.dumps(seen[-1])


def test_replays_that_are_cut_short_changed_or_of_another_version_are_refused(replay, tmp_path):
    path = tmp_path / "one.replay"
    save_replay(replay, path)
    whole = path.read_bytes()
    for name, content in (
        ("cut", whole[:-40]),
        ("changed", whole[:-5] + bytes([whole[-5] ^ 1]) + whole[-4:]),
        ("empty", b""),
        ("other", b"hello\n"),
    ):
        bad = tmp_path / name
        bad.write_bytes(content)
        with pytest.raises(ReplayInvalid):
            read_replay(bad)
    with pytest.raises(NotFound):
        read_replay(tmp_path / "none")
    save_replay(dataclasses.replace(replay, version="0"), path)
    with pytest.raises(ReplayInvalid, match=r"rift 0; here is rift"):
        next(frames(read_replay(path)))


def ladder(draw: np.random.Generator, players: int = 8, matches: int = 400) -> tuple[np.ndarray, list[Result]]:
    truth = np.append(0.0, draw.normal(6, 6, players - 1))
    names = ["random", *(f"p{i}" for i in range(1, players))]
    results = []
    while len(results) < matches:
        i, j = draw.choice(players, 2, replace=False)
        if abs(truth[i] - truth[j]) > 10 and draw.random() > 0.1:
            continue
        p = 1 / (1 + math.exp(-((truth[i] - truth[j]) / POINTS + 0.2)))
        results.append(Result(names[i], names[j], float(draw.random() < p)))
    return truth, results


@pytest.mark.parametrize("trials", [30, pytest.param(200, marks=pytest.mark.deep)])
def test_intervals_cover_the_truth(trials):
    draw = np.random.default_rng(5)
    covered = []
    for _ in range(trials):
        truth, results = ladder(draw)
        for rating in rate(results):
            if rating.player != "random":
                covered.append(rating.low <= truth[int(rating.player[1:])] <= rating.high)
    assert 0.9 <= np.mean(covered) <= 0.99


def test_random_is_0_and_80_percent_are_8_point_3():
    results = [Result("a", "random", 1.0, 400), Result("a", "random", 0.0, 100)]
    results += [Result("random", "a", 0.0, 400), Result("random", "a", 1.0, 100)]
    by_name = {r.player: r for r in rate(results)}
    assert by_name["random"].rating == 0.0
    assert by_name["a"].rating == pytest.approx(8.3, abs=0.05)
    assert by_name["a"].games == 1000


def test_results_are_appended_and_a_line_that_was_cut_short_is_left_out(tmp_path):
    path = tmp_path / "results.jsonl"
    add_results(path, [Result("a", "b", 1.0), Result("b", "a", 0.5, 3)])
    with path.open("a") as file:
        file.write('{"first": "a", "sec')
    assert read_results(path) == [Result("a", "b", 1.0), Result("b", "a", 0.5, 3)]


def test_online_ratings_follow_results_and_leave_fixed_players_alone():
    online = Online()
    for _ in range(40):
        online.add("new", "old", 1.0, fixed=("old",))
    assert online.rating("new")[0] > 5
    assert online.rating("old") == (0.0, 25.0 / 3)
    assert wilson(180, 200) == pytest.approx((0.851, 0.934), abs=0.002)
    assert set(GAMES) >= {"rift", "connect-four", "cartpole"}
