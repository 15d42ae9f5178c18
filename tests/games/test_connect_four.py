"""Connect Four of our own: PettingZoo's rules move by move, and a scripted player that takes and blocks."""

from __future__ import annotations

import numpy as np
import pytest

from cerulea.games.catalog import make_game
from cerulea.games.conformance import check_game
from cerulea.games.connect_four import COLUMNS, LINES, ROWS, ConnectFour
from cerulea.games.match import random_actions
from tests.games.playing import Played


def test_it_keeps_the_protocol():
    check_game(ConnectFour, steps=80)


@pytest.mark.parametrize("matches", [30, pytest.param(300, marks=pytest.mark.deep)])
def test_it_is_pettingzoos_move_by_move(matches):
    """Random matches side by side: the same legal columns, the same boards, the same end."""
    ours = Played(make_game("connect-four", matches))
    theirs = Played(make_game("pettingzoo:classic.connect_four_v3", matches))
    for step in range(ROWS * COLUMNS):
        a, b = ours.see(), theirs.see()
        assert np.array_equal(a.acting_MP, b.acting_MP)
        alive = a.acting_MP.any(1)
        assert np.array_equal(a.mask_MPN[a.acting_MP], b.mask_MPN[a.acting_MP])
        board = b.vector_MPF[a.acting_MP].reshape(-1, ROWS, COLUMNS, 2)
        assert np.array_equal(a.vector_MPF[a.acting_MP][:, :42].reshape(-1, ROWS, COLUMNS), board[..., 0])
        assert np.array_equal(a.vector_MPF[a.acting_MP][:, 42:].reshape(-1, ROWS, COLUMNS), board[..., 1])
        actions = random_actions(a.mask_MPN, ours.game.schema.heads, ours.seeds, step)
        one, two = ours.step(actions), theirs.step(actions)
        assert np.array_equal(one.ended_M, two.ended_M)
        assert np.array_equal(one.winner_M, two.winner_M)
        assert np.array_equal(one.reward_MP[alive], two.reward_MP[alive])
    assert ours.tick.ended_M.all()


def slow_taker(game: ConnectFour, m: int, p: int) -> set[int]:
    """What `taker` may do, said the long way."""
    board = game.board[m].reshape(ROWS, COLUMNS)
    free = [c for c in range(COLUMNS) if board[0, c] == 0]
    for who in (p + 1, 2 - p):
        for column in free:
            row = max(r for r in range(ROWS) if board[r, column] == 0)
            tried = board.copy()
            tried[row, column] = who
            if (tried.ravel()[LINES] == who).all(1).any():
                return {column}
    return set(free)


def test_the_scripted_player_takes_wins_and_blocks_losses():
    played = Played(make_game("connect-four", 40))
    forced = 0
    for number in range(ROWS * COLUMNS):
        played.see()
        bots = np.zeros((40, 2), np.int8)
        played.actions[:] = -5
        played.game.script(bots, played.actions)
        for m in np.flatnonzero(~played.game.over):
            may = slow_taker(played.game, int(m), number % 2)
            assert played.actions[m, number % 2, 0] in may
            forced += len(may) == 1
        taken = played.actions.copy()
        played.random()
        assert (taken[played.tick.ended_M & (played.tick.reward_MP == 0).all(1)] == -5).all()
    assert forced > 100
