"""Games on the command line: what a user types, with bots and with an agent that a recipe made."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cerulea.cli.view_play import PlayView
from tests.conftest import Cerulea
from tests.toy_games import write_recipe

KEYS = {"a", "b", "wins_a", "wins_b", "timeouts", "n", "interval95", "replays"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Cerulea:
    """A home with an agent."""
    home: Path = tmp_path_factory.mktemp("played")
    cerulea = Cerulea(home / "home")
    lines = cerulea.lines("train", write_recipe(home / "play.toml"))
    kinds = [line["event"] for line in lines]
    assert kinds[0] == "started" and {"progress", "checkpoint"} <= set(kinds)
    done = lines[-1]
    assert done["event"] == "done" and (done["model"], done["version"], done["stop_reason"]) == ("player", 1, "steps")
    assert {"train_s", "cost", "rating", "low", "high", "win_shares"} <= set(done)
    progress = next(line for line in lines if line["event"] == "progress")
    assert {"step", "agent_steps", "agent_steps_per_s", "win_shares", "rating", "entropy"} <= set(progress)
    return cerulea


def test_games_are_listed(cerulea: Cerulea):
    assert {"rift", "rift-duel", "connect-four"} <= {line["game"] for line in cerulea.lines("games")}


def test_a_match_is_counted_kept_and_rated(trained: Cerulea):
    (found,) = trained.lines("match", "player", "bot:random", "--game", "connect-four", "--n", 10)

    assert set(found) >= KEYS
    assert (found["a"], found["b"], found["n"]) == ("player@1", "bot:random", 10)
    assert found["wins_a"] + found["wins_b"] + found["timeouts"] <= 10
    assert found["interval95"][0] <= found["wins_a"] / 10 <= found["interval95"][1]
    assert all(Path(path).is_file() for path in found["replays"])
    (again,) = trained.lines("match", "player", "bot:random", "--game", "connect-four", "--n", 10)
    assert [again[key] for key in KEYS - {"replays"}] == [found[key] for key in KEYS - {"replays"}]
    ladder = {line["player"]: line for line in trained.lines("ladder", "connect-four")}
    assert set(ladder) == {"player@1", "bot:random"}
    assert ladder["bot:random"]["rating"] == 0.0
    assert ladder["player@1"]["games"] == 10, "the same matches again tell nothing new"
    assert ladder["player@1"]["low"] <= ladder["player@1"]["rating"] <= ladder["player@1"]["high"]


def test_rating_plays_until_everybody_is_known(trained: Cerulea):
    lines = trained.lines("rate", "connect-four", "--within", 6)

    rounds, ratings = ([line for line in lines if (line.get("event") == "round") is known] for known in (True, False))
    assert rounds and {line["player"] for line in ratings} == {"player@1", "bot:random", "bot:taker"}
    assert max(line["high"] - line["low"] for line in ratings) / 2 <= 6


def test_a_replay_tells_what_happened(cerulea: Cerulea):
    (found,) = cerulea.lines("match", "bot:team", "bot:pusher", "--game", "rift-duel", "--n", 2)

    lines = cerulea.lines("replay", found["replays"][0])

    head, events = lines[0], [line["event"] for line in lines]
    assert head["event"] == "summary" and head["players"] == ["bot:team", "bot:pusher"]
    assert head["bytes"] < 8_000 and {"timeline", "happened", "end"} <= set(events)
    assert any("falls" in line["what"] for line in lines if line["event"] == "happened")
    assert lines[-1]["frame"]["winner"] == head["winner"]
    shown = cerulea.run("replay", Path(found["replays"][0]).stem).stdout
    assert "rift-duel" in shown and "kills" in shown


def test_an_agent_is_shown_evaluated_operated_on_and_exported(trained: Cerulea, tmp_path: Path):
    pytest.importorskip("onnx")

    (judged,) = trained.lines("eval", "player", "--n", 4)
    (known,) = trained.lines("show", "player")
    (made,) = trained.lines("surgery", "player", "--name", "grown")
    (exported,) = trained.lines("export", "player", tmp_path / "out", "--format", "onnx")

    assert [share["opponent"] for share in judged["against"]] == ["bot:random", "bot:taker"]
    assert len(judged["past"]) >= 2  # of six steps, whose pool has a member every second one
    assert known["config"]["game"] == "connect-four" and known["children"] == []
    assert (made["model"], made["version"], made["added"]) == ("grown", 1, {}) and made["gap"] <= 1e-5
    (as_it_is,) = trained.lines("export", "player", tmp_path / "as-it-is")
    assert as_it_is["family"] == "agent" and (tmp_path / "as-it-is" / "agent.json").is_file()
    said = trained.run("show", "player").stdout
    assert "agent_steps" in said and not any(name in said for name in ("vocab", "bits_per_byte", "trained_tokens"))
    assert exported["family"] == "onnx" and (tmp_path / "out" / "policy.onnx").is_file()
    rows = {line["model"]: line for line in trained.lines("models")}
    assert rows["player"]["preset"] == "connect-four" and "points" in trained.run("models").stdout


@pytest.mark.parametrize(
    ("words", "exit_code", "code", "says"),
    [
        (("match", "player", "bot:randm", "--game", "connect-four"), 2, "E-NAME-001", "random"),
        (("match", "playr", "bot:random", "--game", "connect-four"), 2, "E-NAME-001", "player"),
        (("match", "player", "bot:random", "--game", "conect-four"), 2, "E-NAME-001", "connect-four"),
        (("match", "player", "bot:random", "--game", "rift-duel"), 5, "E-AGENT-001", "--game connect-four"),
        (("match", "taker", "bot:random", "--game", "connect-four"), 2, "E-NAME-001", "bot:taker"),
        (("match", "connect-four", "bot:random", "bot:taker"), 2, "E-USE-002", "bot:taker --game connect-four"),
        (("ladder", "cartpole"), 2, "E-GAME-002", "cerulea eval"),
        (("ladder", "conect-four"), 2, "E-NAME-001", "connect-four"),
        (("match", "bot:random", "bot:random", "--game", "cartpole"), 2, "E-GAME-002", "two sides"),
        (("sample", "player"), 2, "E-MODEL-003", "cerulea match"),
        (("chat", "player"), 2, "E-MODEL-003", "cerulea match"),
        (("export", "player", "nowhere", "--format", "hf"), 2, "E-MODEL-003", "onnx"),
        (("replay", "nothing"), 2, "E-NAME-001", "cerulea replay"),
        (("replay", "folder/nothing.replay"), 2, "E-NAME-001", "no file folder/nothing.replay"),
        (("surgery", "player", "--name", "../out"), 2, "E-USE-001", "'../out'"),
    ],
)
def test_what_cannot_be_is_refused_with_a_code(
    words: tuple[str, ...], exit_code: int, code: str, says: str, trained: Cerulea
):
    done = trained.run(*words, "--json", code=exit_code, input="hello\n")

    error = json.loads(done.stdout.splitlines()[-1])
    assert error["code"] == code and says in f"{error['what']} {error['why']} {error['fix']}"


def test_kept_replays_are_listed(cerulea: Cerulea):
    assert "No replays" in cerulea.run("replay").stdout
    (found,) = cerulea.lines("match", "bot:taker", "bot:random", "--game", "connect-four", "--n", 2)

    listed = cerulea.lines("replay")

    assert {line["path"] for line in listed} == set(found["replays"])
    assert all(line["game"] == "connect-four" and "bot:taker" in line["players"] for line in listed)
    assert listed[0]["replay"] in cerulea.run("replay").stdout


def test_a_game_that_nobody_played_is_not_made_for_its_ladder(cerulea: Cerulea):
    assert "--game connect-four" in cerulea.run("ladder", "connect-four").stdout


def test_what_is_said_next_fits_the_games_sides():
    view = PlayView(as_json=False)

    view.facts = {"game": "cartpole", "sides": 1}
    assert view.next_command("pole").endswith(" eval pole")
    view.facts = {"game": "connect-four", "sides": 2}
    assert view.next_command("player").endswith(" match player bot:random --game connect-four")


@pytest.mark.parametrize(
    ("change", "code", "says"),
    [('game.name="conect-four"', "E-NAME-001", "connect-four"), ("game.matches=100000000", "E-RECIPE-001", "GB")],
)
def test_what_cannot_be_trained_is_refused_before_a_run_begins(
    change: str, code: str, says: str, cerulea: Cerulea, tmp_path: Path
):
    lines = cerulea.lines("train", write_recipe(tmp_path / "play.toml"), "--set", change, code=2)

    assert [(line["event"], line["code"]) for line in lines] == [("error", code)]
    assert says in f"{lines[0]['what']} {lines[0]['why']}"
    assert not list((cerulea.home / "runs").glob("*/run.json"))


def test_nobody_is_asked_to_talk_with_a_model_that_is_not_there(cerulea: Cerulea):
    assert "E-NAME-001" in cerulea.run("chat", "brok", code=2, input="").stderr
