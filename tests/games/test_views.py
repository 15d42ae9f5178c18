"""Our games out: PettingZoo's and Gymnasium's own tests pass on them, with 0 warnings."""

from __future__ import annotations

import json
import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from cerulea.core.errors import GameInvalid
from cerulea.games.catalog import make_game
from cerulea.games.match import BotPlayer
from cerulea.games.sides import Side, SideVector, register
from cerulea.games.views import aec_env, parallel_env

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # PettingZoo imports an environment of its own in the old way
    from pettingzoo.test import api_test, parallel_api_test, parallel_seed_test, render_test, seed_test

GAMES = ["rift-duel", "rift-skirmish", "rift", "connect-four"]


@pytest.mark.parametrize("name", GAMES)
def test_the_parallel_environment_passes_pettingzoos_tests(name):
    parallel_api_test(parallel_env(name), num_cycles=100)
    parallel_seed_test(lambda: parallel_env(name), num_cycles=30)


@pytest.mark.parametrize("name", GAMES)
def test_the_environment_in_turns_passes_pettingzoos_tests(name):
    api_test(aec_env(name), num_cycles=60)
    seed_test(lambda: aec_env(name), num_cycles=30)
    render_test(lambda render_mode=None: aec_env(name, render_mode=render_mode))


@pytest.mark.deep
@pytest.mark.parametrize("name", GAMES)
def test_a_thousand_cycles_of_three_seeds_pass_pettingzoos_tests(name):
    for seed in range(3):
        env = parallel_env(name)
        env.reset(seed=seed)
        parallel_api_test(env, num_cycles=1000)
        parallel_seed_test(lambda: parallel_env(name), num_cycles=1000)
        turns = aec_env(name)
        turns.reset(seed=seed)
        api_test(turns, num_cycles=1000)


@pytest.mark.parametrize(("name", "side"), [*((name, side) for name in GAMES for side in (0, 1)), ("cartpole", 0)])
def test_a_side_passes_gymnasiums_check(name, side):
    register()
    check_env(gym.make(f"cerulea/{name}-v0", side=side).unwrapped)


def test_a_step_in_turns_is_the_step_of_all_together():
    """Two heroes' actions given one after the other, and both at once: the same match."""
    turns, together = aec_env("rift-duel"), parallel_env("rift-duel")
    turns.reset(seed=5)
    together.reset(seed=5)
    draw = np.random.default_rng(0)
    for _ in range(40):
        actions = {}
        for agent in together.agents:
            assert turns.agent_selection == agent
            legal = np.flatnonzero(turns.infos[agent]["action_mask"])
            actions[agent] = int(draw.choice(legal))
            turns.step(actions[agent])
        seen, rewards, _, _, infos = together.step(actions)
        for agent in together.agents:
            assert np.array_equal(turns.observe(agent), seen[agent])
            assert turns.rewards[agent] == rewards[agent]
            assert np.array_equal(turns.infos[agent]["action_mask"], infos[agent]["action_mask"])


def test_in_connect_four_only_who_is_to_move_is_asked():
    env = aec_env("connect-four", render_mode="ansi")
    env.reset(seed=1)
    for number, column in enumerate([3, 0, 3, 0, 3, 0, 3]):
        assert env.agent_selection == f"player_{number % 2}"
        assert env.observe(env.agent_selection)[-1] == 1, "last is whether one acts"
        env.step(column)
    assert json.loads(env.render())["winner"] == 0
    ends = {}
    for agent in env.agent_iter():
        _, reward, terminated, _, _ = env.last()
        ends[agent] = (reward, terminated)
        env.step(None)
    assert ends == {"player_0": (1.0, True), "player_1": (-1.0, True)}


def test_a_forbidden_action_is_played_as_the_first_legal_one():
    env = parallel_env("connect-four", render_mode="ansi")
    env.reset(seed=1)
    for _ in range(7):
        _, infos = env.show()
        env.step({"player_0": 0, "player_1": 0})
    assert infos["player_0"]["action_mask"].tolist() == [0, 1, 1, 1, 1, 1, 1]
    board = json.loads(env.render())["board"]
    assert [row[0] for row in board] == [2, 1, 2, 1, 2, 1]
    assert board[5][1] == 1


@pytest.mark.parametrize("side", [0, 1])
def test_a_side_is_asked_only_when_it_is_to_act(side):
    env = Side("connect-four", BotPlayer("taker"), side=side, render_mode="ansi")
    env.reset(seed=4)
    for own in range(3):
        state = json.loads(env.render())
        assert state["to_move"] == side
        assert sum(stone > 0 for row in state["board"] for stone in row) == 2 * own + side
        env.step(np.array([own]))


def test_many_sides_wait_for_their_reset_and_a_seed_repeats_them():
    def play():
        env = SideVector(lambda matches: make_game("connect-four", matches), 8)
        seen, info = env.reset(seed=3)
        rows, ended, resets = [], np.zeros(8, bool), 0
        for step in range(40):
            env.action_space.seed(step)
            seen, reward, terminated, truncated, info = env.step(env.action_space.sample())
            assert not reward[ended].any() and not terminated[ended].any()
            ended |= terminated | truncated
            rows.append((seen["vector"].copy(), reward, info["acting"], info["winner"]))
            if step % 4 == 3 and ended.any():
                resets += int(ended.sum())
                seen, info = env.reset(options={"reset_mask": ended})
                assert not seen["vector"][ended].any() and info["acting"][ended].all()
                ended[:] = False
        return rows, resets

    (first, resets), (again, _) = play(), play()

    assert resets > 4
    for one, two in zip(first, again, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))


def test_a_side_that_is_none_is_refused():
    with pytest.raises(GameInvalid, match="no side 1"):
        Side("cartpole", side=1)


def test_a_vector_of_sides_is_made_by_name():
    register()
    env = gym.make_vec("cerulea/rift-duel-v0", 4, side=1)
    seen, _ = env.reset(seed=1)

    assert seen["units"].shape == (4, 1, 32, 24)
    assert env.step(env.action_space.sample())[1].shape == (4,)


@pytest.mark.parametrize("teams", [None, [0, 0, 1, 1]])
def test_a_side_that_is_out_before_the_end_is_told_of_the_end(teams):
    """Its players die one after the other; the match goes on without them, and `step` comes back when it is over."""
    options = {} if teams is None else {"teams": teams}
    env = Side("pettingzoo:tests.games.last_standing", **options)
    out_early = 0
    for seed in range(12):
        env.reset(seed=seed)
        env.action_space.seed(seed)
        steps, ended = 0, False
        while not ended:
            _, reward, terminated, truncated, info = env.step(env.action_space.sample())
            steps, ended = steps + 1, terminated or truncated
            assert steps < 10
        assert terminated and not truncated and env.vector.over
        assert (info["winner"] == 0) == (reward > 0)
        out_early += env.vector._number > steps

    assert out_early > 0
