"""Matches as characters."""

from __future__ import annotations

import numpy as np

from cerulea.cli.board import board
from cerulea.cli.playing import _against, _ended
from cerulea.games.catalog import make_game
from cerulea.games.game import tick_buffers


def test_stones_and_free_places_are_told_apart_without_colours():
    game, tick = make_game("connect-four", 1), tick_buffers(1, 2)
    drawn = board(game.frame(0))
    assert drawn is not None and set(drawn.plain) == set("· \n")

    for column in (3, 4):
        game.step(np.full((1, 2, 1), column, np.int32), tick)

    drawn = board(game.frame(0))
    assert drawn is not None and drawn.plain.splitlines()[-1].split() == ["·", "·", "·", "●", "○", "·", "·"]


def test_who_played_and_how_it_ended():
    assert _against(["bot:random", "bot:random"]) == "bot:random against bot:random"
    assert _against(["x@1"] * 3 + ["bot:laner"] * 3) == "x@1 against bot:laner"
    assert _against(["x@1"]) == "x@1"
    assert _ended(0, False) == "side A won" and _ended(-1, False) == "nobody won"
    assert _ended(1, True) == "nobody won: the time was over (side B was ahead)"
