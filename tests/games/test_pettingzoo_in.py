"""PettingZoo's environments go through the one protocol: in parallel, in turns, with masks, with players that die."""

from __future__ import annotations

import sys
import tomllib
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from cerulea.core.errors import GameBroken, GameInvalid
from cerulea.games.catalog import make_game
from cerulea.games.conformance import check_game
from tests.games.last_standing import Standing
from tests.games.playing import Played

STANDING = "pettingzoo:tests.games.last_standing"
PURSUIT = {"n_pursuers": 3, "n_evaders": 4, "x_size": 8, "y_size": 8, "max_cycles": 20, "teams": [0, 0, 0]}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("pettingzoo:classic.tictactoe_v3", {}),
        ("pettingzoo:classic.connect_four_v3", {}),
        ("pettingzoo:classic.rps_v2", {"max_cycles": 4}),
        ("pettingzoo:sisl.pursuit_v5", PURSUIT),
        (STANDING, {"count": 5}),
    ],
)
def test_environments_keep_the_protocol(name, options):
    check_game(lambda matches: make_game(name, matches, **options), steps=40, matches=3)


def test_a_team_game_has_one_fate_and_options_are_passed_on():
    game = make_game("pettingzoo:sisl.pursuit_v5", 2, **PURSUIT)

    assert (game.players, game.teams) == (3, (0, 0, 0))
    assert game.options == PURSUIT
    again = make_game(game.name, 1, **game.options)
    assert again.schema == game.schema and again.version == game.version
    played = Played(game)
    while not played.tick.ended_M.all():
        played.random()
    assert played.number <= 20 and played.tick.winner_M.tolist() == [-1, -1]


def test_the_recipe_of_a_parallel_game_makes_it():
    recipe = tomllib.loads((Path(__file__).parents[2] / "recipes" / "pursuit.toml").read_text(encoding="utf-8"))
    game = make_game(recipe["game"]["name"], 2, **recipe["game"]["options"])

    assert (game.players, set(game.teams), len(game.schema.vector)) == (4, {0}, 147)
    Played(game).random()


def test_players_that_die_act_no_more_and_the_last_one_wins():
    played = Played(make_game(STANDING, 3))
    alive = np.ones((3, 4), bool)
    for left in (4, 3, 2):
        look = played.see()
        assert np.array_equal(look.acting_MP, alive)
        assert look.mask_MPN[alive].tolist() == [[True, True, left % 2 == 1]] * (3 * left)
        assert look.mask_MPN[~alive].all()
        tick = played.random()
        assert (tick.terminated_MP.sum(1) == (2 if left == 2 else 1)).all()
        assert not (tick.terminated_MP & ~alive).any()
        alive &= ~tick.terminated_MP
    assert tick.ended_M.all()
    assert np.array_equal(tick.winner_M, tick.reward_MP.argmax(1))
    assert (tick.reward_MP.sum(1) == 1).all()


def test_in_turns_only_who_is_to_move_acts_and_both_learn_how_it_ended():
    """X takes the top row of tic-tac-toe (PettingZoo counts by columns)."""
    played = Played(make_game("pettingzoo:classic.tictactoe_v3", 1))
    for number, place in enumerate([0, 1, 3, 4, 6]):
        look = played.see()
        assert look.acting_MP.tolist() == [[number % 2 == 0, number % 2 == 1]]
        assert look.mask_MPN[0, number % 2].sum() == 9 - number
        tick = played.step(np.full((1, 2, 1), place, np.int32))
    assert tick.ended_M[0] and tick.winner_M[0] == 0
    assert tick.reward_MP.tolist() == [[1, -1]] and tick.terminated_MP.all()
    assert not played.see().acting_MP.any()


@pytest.mark.parametrize("teams", [[0, 0], [1, 1, 1], [0, 2, 2], ["a", "b", "c"]])
def test_teams_that_cannot_be_are_refused(teams):
    with pytest.raises(GameInvalid):
        make_game("pettingzoo:sisl.pursuit_v5", 1, **{**PURSUIT, "teams": teams})


def test_what_cannot_be_made_is_refused_with_its_reason():
    with pytest.raises(GameInvalid, match="neither parallel_env nor env"):
        make_game("pettingzoo:tests.games.playing", 1)
    with pytest.raises(GameInvalid, match=r"cannot be made: .*no_such"):
        make_game("pettingzoo:sisl.pursuit_v5", 1, no_such=3)
    with pytest.raises(GameInvalid, match="mpe2"):
        make_game("pettingzoo:mpe.simple_spread_v3", 1)


class Faulty(Standing):
    fault = ""

    def action_space(self, agent: str) -> Any:
        odd = self.fault == "odd" and agent == "p1"
        return spaces.Discrete(4 if odd else 3)

    def _show(self, left: int) -> Any:
        seen, infos = super()._show(left)
        for each in seen.values():
            if self.fault == "nan":
                each["observation"][1] = np.nan
            if self.fault == "stuck":
                each["action_mask"][:] = 0
            if self.fault == "short":
                each["action_mask"] = np.ones(2, np.int8)
        return seen, infos

    def step(self, actions: dict[str, int]) -> Any:
        seen, rewards, ends, cut, infos = super().step(actions)
        if self.fault == "pays":
            rewards = dict.fromkeys(rewards, float("inf"))
        if self.fault == "deserted":
            ends = {agent: agent == "p0" for agent in ends}
            self.agents = ["p0"]
        return seen, rewards, ends, cut, infos


FAULTS = {
    "nan": "shows a number that is not finite",
    "pays": "pays a number that is not finite",
    "stuck": "without any legal action",
    "short": "an action_mask of 2 entries for 3 actions",
    "odd": "see or do different things",
    "deserted": "goes on with nobody to act",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_an_environment_that_breaks_its_own_rules_is_told_which(fault, monkeypatch):
    module = types.ModuleType("faulty_environment")
    module.parallel_env = type("Faulty", (Faulty,), {"fault": fault})
    monkeypatch.setitem(sys.modules, module.__name__, module)
    with pytest.raises((GameBroken, GameInvalid), match=FAULTS[fault]):
        Played(make_game("pettingzoo:faulty_environment", 1)).random()
