"""How agents are judged: from the fountains, against one exploiter, without modules that only a file names."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cerulea.core.errors import Failed, GameInvalid, Invalid
from cerulea.core.files import read_json, write_json
from cerulea.flows import arena, judging
from cerulea.flows.arena import player_name, results_path
from cerulea.flows.judging import evaluate_agent, exploited, operate
from cerulea.flows.model_folders import find_model, register
from cerulea.flows.models import export_model
from cerulea.flows.platform import Platform
from cerulea.flows.train_play import PlayStory
from cerulea.games.catalog import make_game
from cerulea.games.game import Game
from cerulea.games.rating import Result, add_results, read_results
from cerulea.train.agent import agent_json, load_agent
from cerulea.train.judge import Judgement, Share
from cerulea.train.play_recipe import PlayRecipe
from cerulea.train.recipe import recipe_from
from tests.serving import platform_in
from tests.toy_games import PLAY, make_agent


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[Platform]:
    with platform_in(tmp_path / "home") as opened:
        yield opened


class Made:
    """Every game that is made, in the module that makes it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, module: Any) -> None:
        self.options: list[dict[str, Any]] = []

        def make(name: str, matches: int, **options: Any) -> Game:
            self.options.append(options)
            return make_game(name, matches, **options)

        monkeypatch.setattr(module, "make_game", make)


def agent_with(folder: Path, game: str, /, **change: Any) -> Path:
    """An agent whose file says something else."""
    make_agent(folder, game)
    write_json(folder / "agent.json", {**read_json(folder / "agent.json"), **change})
    return folder


def test_options_for_training_alone_are_not_of_the_agent():
    game = make_game("rift-duel", 1, scatter=0.7, draft="mixed")
    shape = load_shape()

    assert agent_json(game, shape)["options"] == {"draft": "mixed"}
    assert game.options == {"draft": "mixed", "scatter": 0.7}, "a run is resumed with what it had"


def load_shape() -> Any:
    from cerulea.train.agent import shape_for
    from tests.toy_games import play_recipe

    game = make_game("rift-duel", 1)
    return shape_for(game.schema, play_recipe().model, game.teams)


def test_an_agent_of_before_is_judged_from_the_fountains(
    platform: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Its file has the scatter that it was trained with; what it played is kept with all plain matches."""
    folder = agent_with(tmp_path / "duelist", "rift-duel", options={"scatter": 0.7})
    played: list[dict[str, Any]] = []

    def judge(make: Any, folder: Path, **more: Any) -> Judgement:
        played.append(make(1).options)
        return Judgement(shares=[])

    monkeypatch.setattr(judging, "judge", judge)
    evaluate_agent(platform, str(folder), n=2, seed=1, exploit=False)

    assert played == [{}]


def test_the_rating_of_a_run_is_of_matches_from_the_fountains(platform: Platform, monkeypatch: pytest.MonkeyPatch):
    recipe = recipe_from({**PLAY, "game": {"name": "rift-duel", "matches": 2, "options": {"scatter": 0.7}}})
    story = PlayStory(platform.settings, recipe)  # type: ignore[arg-type]
    story.game = story.make(2)
    played: list[dict[str, Any]] = []

    class Enough(Exception):
        pass

    def judge(make: Any, *more: Any, **keys: Any) -> Judgement:
        played.append(make(1).options)
        raise Enough

    monkeypatch.setattr("cerulea.flows.train_play.judge", judge)
    with pytest.raises(Enough):
        story._rated(Path(), {"stepping_s": 1.0, "matches": 10})

    assert played == [{}] and story.game.options == {"scatter": 0.7}


def test_results_lie_apart_by_options_that_count(platform: Platform):
    settings = platform.settings
    plain, mixed, spread = (
        make_game("rift-duel", 1, **options) for options in ({}, {"draft": "mixed"}, {"scatter": 0.7})
    )

    assert results_path(settings, plain) == results_path(settings, spread)
    assert results_path(settings, mixed) != results_path(settings, plain)
    assert results_path(settings, plain).name == f"rift-duel-{plain.version}.jsonl"


def test_what_lies_in_a_folder_is_known_by_its_weights(platform: Platform, tmp_path: Path):
    first = find_model(platform, str(make_agent(tmp_path / "a" / "agent", seed=1)))
    other = find_model(platform, str(make_agent(tmp_path / "b" / "agent", seed=2)))
    again = find_model(platform, str(make_agent(tmp_path / "c" / "agent", seed=1)))

    assert player_name(first) == player_name(again) != player_name(other)
    assert player_name(first).startswith("agent#")


def test_an_exploiter_is_refused_before_matches_are_played(
    platform: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    make_agent(tmp_path / "unknown")
    monkeypatch.setattr(judging, "judge", lambda *args, **keys: pytest.fail("matches were played"))

    with pytest.raises(Failed, match="Nothing here tells how"):
        evaluate_agent(platform, str(tmp_path / "unknown"), n=2, seed=1, exploit=True)


def test_nobody_exploits_who_plays_alone(platform: Platform, tmp_path: Path):
    make_agent(tmp_path / "pole", "cartpole")

    with pytest.raises(Invalid, match="cartpole has one side"):
        evaluate_agent(platform, str(tmp_path / "pole"), n=2, seed=1, exploit=True)


@pytest.mark.parametrize("mode", ["openai-five", "league"])
def test_an_exploiter_learns_against_the_agent_alone(
    platform: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
):
    """Also where the agent was trained in a league; every match that it learns from is against the frozen agent."""
    recipe = {**PLAY, "opponents": {"mode": mode, "snapshot_steps": 2, "exploiters": 0.5}}
    monkeypatch.setattr(judging, "LEAST", 300)
    seen: list[Any] = []

    def self_play(recipe: Any, *more: Any, **keys: Any) -> Iterator[Any]:
        for event in run_really(recipe, *more, **keys):
            seen.append(event)
            yield event

    run_really = judging.self_play
    monkeypatch.setattr(judging, "self_play", self_play)
    model = find_model(platform, str(make_agent(tmp_path / "agent")))

    made_by = recipe_from(recipe)
    assert isinstance(made_by, PlayRecipe)

    share, steps = exploited(
        model, load_agent(model.folder), made_by, n=2, seed=1, report=lambda what, done, total: None
    )

    assert isinstance(share, Share) and share.n == 2 and steps == 300
    steps_seen = [event for event in seen if hasattr(event, "win_shares")]
    assert all(set(event.win_shares) == {"past"} for event in steps_seen if event.win_shares)
    assert steps_seen[-1].agent_steps >= 300 and steps_seen[-1].win_shares


@pytest.mark.parametrize("ask", ["eval", "surgery", "export"])
def test_an_agents_file_imports_no_module(
    platform: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ask: str
):
    """Unless whoever asks names it."""
    (tmp_path / "evil_agent.py").write_text("raise SystemError('it ran')")
    monkeypatch.syspath_prepend(tmp_path)
    folder = str(agent_with(tmp_path / "agent", "connect-four", game="python:evil_agent"))

    def act(game: str | None) -> Any:
        if ask == "eval":
            return evaluate_agent(platform, folder, n=2, seed=1, exploit=False, game=game)
        if ask == "surgery":
            return operate(platform, folder, "grown", game=game, like={})
        return export_model(platform, folder, tmp_path / "out", "onnx", game=game)

    if ask == "export":
        pytest.importorskip("onnx")
    with pytest.raises(GameInvalid, match="--game python:evil_agent"):
        act(None)
    with pytest.raises(SystemError, match="it ran"):
        act("python:evil_agent")


def test_surgery_makes_nothing_under_a_name_that_is_none(platform: Platform, tmp_path: Path):
    agent = str(make_agent(tmp_path / "agent"))

    with pytest.raises(Invalid, match="/out"):
        operate(platform, agent, "../out", game=None, like={})
    assert not list(platform.settings.home.rglob("*surgery*")) and not list(tmp_path.glob("*surgery*"))


def test_rating_begins_with_the_random_player(platform: Platform):
    """Where results of others lie that never met it, whose points count from the weakest."""
    game = make_game("connect-four", 1)
    path = results_path(platform.settings, game)
    for name in ("strong", "weak"):
        register(platform, make_agent(platform.settings.home / name), name, team="home", actor="owner", extra={})
    add_results(path, [Result("strong@1", "weak@1", 1.0, 200), Result("weak@1", "strong@1", 1.0, 200)])
    told: list[str] = []

    ratings = arena.rate(
        platform, "connect-four", good=1000.0, most=4, report=lambda what, done, total: told.append(what)
    )

    assert told[0].startswith("bot:random against ")
    assert {r.player: r.rating for r in ratings}["bot:random"] == 0.0


def test_a_series_that_is_played_again_counts_once(platform: Platform):
    game = make_game("connect-four", 1)
    for n in (4, 4, 6):
        arena.play(platform, "bot:taker", "bot:random", "connect-four", n=n, seed=1)

    results = read_results(results_path(platform.settings, game))

    assert sum(result.count for result in results) == 6
    assert all(len(result.seeds) == result.count for result in results)
