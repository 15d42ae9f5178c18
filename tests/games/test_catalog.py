"""Games by their names, and what is said of names and options that are not known."""

from __future__ import annotations

import pytest

from cerulea.core.errors import GameInvalid, Invalid, NotFound
from cerulea.games.catalog import GAMES, make_game, refuse_imports


@pytest.mark.parametrize("name", GAMES)
def test_a_built_in_game_is_made_by_its_name(name):
    game = make_game(name, 3)
    assert (game.name, game.matches, game.options) == (name, 3, {})


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("rift-skermish", "rift-skirmish"),
        ("conect-four", "connect-four"),
        ("gymnasiun:CartPole-v1", "gymnasium:"),
        ("gymnasium:CartPole-v9", "CartPole-v1"),
        ("pettingzoo:classic.tictacto_v3", "classic.tictactoe_v3"),
        ("pettingzoo:classic.connect_four_v2", "classic.connect_four_v3"),
    ],
)
def test_an_unknown_game_names_the_nearest(name, nearest):
    with pytest.raises(NotFound, match=nearest):
        make_game(name, 1)


@pytest.mark.parametrize(
    "name", ["", "gymnasium:", "pettingzoo:", "python:", "pettingzoo:.x", "python:..", "python:os"]
)
def test_a_name_that_is_none_is_refused(name):
    with pytest.raises(NotFound):
        make_game(name, 1)


@pytest.mark.parametrize("name", ["rift", "connect-four", "cartpole", "pettingzoo:classic.rps_v2"])
@pytest.mark.parametrize("option", ["wings", "name", "matches"])
def test_options_that_a_game_does_not_know_are_refused(name, option):
    with pytest.raises(GameInvalid, match=option):
        make_game(name, 1, **{option: 2})


@pytest.mark.parametrize("options", [{"threads": 0}, {"threads": 10_000}, {"draft": "none"}])
def test_values_that_an_option_cannot_have_are_refused(options):
    with pytest.raises(Invalid, match="rift"):
        make_game("rift", 1, **options)


def test_a_game_has_at_least_one_match():
    with pytest.raises(GameInvalid, match="0 matches"):
        make_game("connect-four", 0)


def test_a_module_of_ones_own_is_asked_for_make_game(tmp_path, monkeypatch):
    (tmp_path / "four_again.py").write_text(
        "from cerulea.games.connect_four import ConnectFour\n"
        "def make_game(matches, bonus=0):\n"
        "    game = ConnectFour(matches)\n"
        "    game.name, game.options = 'python:four_again', {'bonus': bonus}\n"
        "    return game\n"
    )
    monkeypatch.syspath_prepend(tmp_path)

    assert make_game("python:four_again", 2, bonus=3).options == {"bonus": 3}
    with pytest.raises(GameInvalid, match="malus"):
        make_game("python:four_again", 2, malus=3)


@pytest.mark.parametrize("name", ["python:os", "gymnasium:evil.module:Env-v0", "pettingzoo:evil.x_v0", "pettingzoo:os"])
def test_a_name_that_imports_a_module_of_its_writers_choice_is_refused_to_platforms(name):
    with pytest.raises(GameInvalid, match="module"):
        refuse_imports(name)
    for listed in (*GAMES, "gymnasium:ALE/Pong-v5", "pettingzoo:classic.tictactoe_v3"):
        refuse_imports(listed)
