"""Gymnasium's environments go through the one protocol, in every way in which they begin anew."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import tests.games.foreign  # noqa: F401  registers them
from cerulea.core.errors import GameBroken, GameInvalid, NotFound
from cerulea.games.catalog import make_game
from cerulea.games.conformance import check_game
from cerulea.games.game import observation_buffers, tick_buffers
from cerulea.games.vector_in import VectorGame
from tests.games.playing import Played

NEXT, SAME, DISABLED = AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP, AutoresetMode.DISABLED


@pytest.mark.parametrize("name", ["gymnasium:foreign/Counter-v0", "gymnasium:Acrobot-v1", "gymnasium:Pendulum-v1"])
def test_single_environments_keep_the_protocol(name):
    check_game(lambda matches: make_game(name, matches), steps=60, matches=3)


def test_what_is_shown_is_flattened_by_name_and_masks_are_read():
    game = make_game("gymnasium:foreign/Counter-v0", 1)
    assert game.schema.vector == (
        *("x_bits_0", "x_bits_1"),
        *("x_pair_0_is_0", "x_pair_0_is_1", "x_pair_0_is_2"),
        *("x_pair_1_0_is_0", "x_pair_1_0_is_1", "x_pair_1_1_is_0", "x_pair_1_1_is_1", "x_pair_1_1_is_2"),
        *("x_pixels_0", "x_pixels_1", "x_pixels_2", "x_pixels_3"),
    )
    assert game.schema.heads[0].actions == ("5", "6")
    played = Played(game)
    for step in range(7):
        look = played.see()
        pair = look.vector_MPF[0, 0, 5:10].tolist()
        assert pair == [*np.eye(2)[step % 2], *np.eye(3)[step % 3]]
        assert look.vector_MPF[0, 0, 10:].tolist() == [2.0 * (step % 2) - 1] * 4
        assert look.mask_MPN[0, 0].tolist() == [step % 3 != 2, True]
        played.step(np.ones((1, 1, 1), np.int32))
    assert played.tick.ended_M[0] and played.tick.terminated_MP[0, 0] and not played.tick.truncated_MP[0, 0]


def test_an_action_of_numbers_is_a_head_for_each_cut_into_bins():
    game = make_game("gymnasium:foreign/Lost-v0", 1, bins=5)
    assert [head.actions for head in game.schema.heads] == [
        ("-1", "-0.5", "0", "0.5", "1"),
        ("0", "0.125", "0.25", "0.375", "0.5"),
    ]
    assert game.options == {"bins": 5}
    assert game.action_of(np.array([4, 4])).tolist() == [1.0, 0.5]
    with pytest.raises(GameInvalid, match="bins is 1"):
        make_game("gymnasium:foreign/Lost-v0", 1, bins=1)


def test_what_cannot_be_read_or_learned_is_refused_by_name():
    with pytest.raises(GameInvalid, match="Observations of Text"):
        make_game("gymnasium:foreign/Words-v0", 1)
    with pytest.raises(NotFound, match=r"nearest is 'CartPole-v1'"):
        make_game("gymnasium:CartPol-v1", 1)
    with pytest.raises(GameInvalid, match="cannot be made"):
        make_game("gymnasium:CartPole-v1", 1, no_such_option=3)
    played = Played(make_game("gymnasium:foreign/Lost-v0", 1))
    with pytest.raises(GameBroken, match="shows a number that is not finite"):
        for _ in range(3):
            played.random()


def test_an_environment_that_does_not_keep_to_its_seed_is_not_taken_up_again():
    played = Played(make_game("gymnasium:foreign/Draws-v0", 2))
    played.random()
    state = played.game.state()

    with pytest.raises(GameBroken, match="does not come to where it was"):
        make_game("gymnasium:foreign/Draws-v0", 2).restore(state)
    with pytest.raises(GameBroken, match="seed and actions decide all"):
        check_game(lambda matches: make_game("gymnasium:foreign/Draws-v0", matches), steps=5)


def vector(name: str, mode: AutoresetMode, count: int) -> SyncVectorEnv:
    return SyncVectorEnv([lambda: gym.make(name, disable_env_checker=True)] * count, autoreset_mode=mode)


@pytest.mark.parametrize("mode", [NEXT, SAME, DISABLED])
@pytest.mark.parametrize("name", ["CartPole-v1", "foreign/Counter-v0"])
def test_vector_environments_keep_the_protocol_in_every_mode(mode, name):
    check_game(lambda matches: VectorGame(lambda: vector(name, mode, matches), name="v"), steps=70, matches=3)


@pytest.mark.parametrize("mode", [NEXT, SAME, DISABLED])
def test_a_vector_environment_plays_what_single_ones_play(mode):
    """Side by side through many matches, each begun anew at once: every number is the same."""
    one = Played(make_game("gymnasium:CartPole-v1", 4))
    many = Played(VectorGame(lambda: vector("CartPole-v1", mode, 4), name="v"))
    ends = 0
    for step in range(150):
        for played in (one, many):
            played.random()
        assert np.array_equal(one.look.vector_MPF, many.look.vector_MPF)
        assert np.array_equal(one.look.acting_MP, many.look.acting_MP)
        for field in ("reward_MP", "terminated_MP", "truncated_MP", "ended_M"):
            assert np.array_equal(getattr(one.tick, field), getattr(many.tick, field)), field
        ended = one.tick.ended_M.copy()
        ends += int(ended.sum())
        if ended.any():
            for played in (one, many):
                played.game.reset(one.seeds + np.uint64(step), ended)
    assert ends > 10


def test_a_step_that_only_begins_anew_is_nobodys():
    """Gymnasium's own CartPole vector takes no seeds for single matches: NEXT_STEP, with the reset step masked."""
    game = VectorGame(lambda: gym.make_vec("CartPole-v1", 3, vectorization_mode="vector_entry_point"), name="v")
    look, tick = observation_buffers(game.schema, 3, 1), tick_buffers(3, 1)
    game.reset(np.arange(3).astype(np.uint64))
    masked = 0
    for _ in range(100):
        game.observe(look)
        waits = ~look.acting_MP[:, 0]
        last = look.vector_MPF.copy()
        game.step(np.ones((3, 1, 1), np.int32), tick)
        assert not tick.reward_MP[waits].any() and not tick.ended_M[waits].any()
        game.observe(look)
        assert (np.abs(look.vector_MPF[waits]) <= 0.05).all()
        assert (np.abs(last[waits]) > 0.05).any(-1).all(), "until then the last match is seen"
        masked += int(waits.sum())
        game.reset(np.zeros(3, np.uint64), tick.ended_M.copy())
    assert masked > 5
    with pytest.raises(GameInvalid, match="cannot be kept"):
        game.state()
    with pytest.raises(GameInvalid, match="right after it ended"):
        game.reset(np.zeros(3, np.uint64), np.array([True, False, False]))


def test_the_built_in_cartpole_is_gymnasiums_bit_for_bit():
    ours, theirs = Played(make_game("cartpole", 16)), Played(make_game("gymnasium:CartPole-v1", 16))
    assert ours.game.schema == theirs.game.schema
    for step in range(120):
        ours.random()
        theirs.random()
        assert np.array_equal(ours.look.vector_MPF, theirs.look.vector_MPF)
        assert np.array_equal(ours.tick.terminated_MP, theirs.tick.terminated_MP)
        assert np.array_equal(ours.tick.reward_MP, theirs.tick.reward_MP)
        if ours.tick.ended_M.any():
            for played in (ours, theirs):
                played.game.reset(ours.seeds + np.uint64(step), ours.tick.ended_M.copy())


def test_cartpole_keeps_the_protocol_and_is_cut_at_500():
    check_game(lambda matches: make_game("cartpole", matches), steps=80)
    played = Played(make_game("cartpole", 1))
    while not played.tick.ended_M[0]:
        x, dx, angle, spin = played.see().vector_MPF[0, 0]
        played.step(np.full((1, 1, 1), int(angle + 0.3 * spin + 0.05 * x + 0.1 * dx > 0), np.int32))
    assert played.number == 500 and played.tick.truncated_MP[0, 0] and not played.tick.terminated_MP[0, 0]


@pytest.mark.parametrize("bins", [1, 10**9, 11.5, "many"])
def test_so_many_values_stand_for_a_number(bins):
    with pytest.raises(GameInvalid, match="bins"):
        make_game("gymnasium:Pendulum-v1", 1, bins=bins)
