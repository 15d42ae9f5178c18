"""The story of an agent's run: the same fund, queue and registry as a text's, metered in decisions."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from cerulea.core.errors import AgentUnfit, Conflict, NotFound, RecipeInvalid
from cerulea.core.files import read_json, write_json
from cerulea.core.settings import Settings
from cerulea.core.values import Checkpoint, PlayProgress
from cerulea.flows import train as story
from cerulea.flows.here import Done, train_here
from cerulea.flows.link import Link
from cerulea.flows.model_folders import find_model, folder_model, register
from cerulea.flows.platform import open_platform
from cerulea.flows.runs import list_runs
from cerulea.flows.story import Seen, Started
from cerulea.jobs.protocol import Assignment, Order
from cerulea.ledger.prices import PACKAGED, read_prices
from cerulea.train.play_recipe import PlayRecipe
from cerulea.train.record import read_metrics
from tests.toy_games import make_agent, play_recipe, write_recipe

from .test_train import MACHINE

TIMED = ("agent_steps_per_s", "elapsed_s", "match_years_per_day")


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setattr(story, "know_machine", lambda settings: (MACHINE, torch.device("cpu")))
    return Settings(home=tmp_path / "home", threads=1, device="cpu")


def run(settings: Settings, recipe: PlayRecipe, **keywords: Any) -> list[Any]:
    return list(train_here(settings, recipe, **keywords))


def told(settings: Settings, name: str) -> list[dict[str, Any]]:
    """What a run's steps told, without what the clock says."""
    folder = next(f for f in list_runs(settings) if read_json(f / "run.json")["recipe"]["name"] == name)
    lines = [line for line in read_metrics(folder / "metrics.jsonl") if line["event"] == "progress"]
    return [{key: value for key, value in line.items() if key not in TIMED} for line in lines]


def test_a_recipe_becomes_a_rated_agent(settings: Settings):
    events = run(settings, play_recipe())

    assert isinstance(events[0], Started) and events[0].facts["game"] == "connect-four"
    steps = [e for e in events if isinstance(e, PlayProgress)]
    assert [e.step for e in steps] == [1, 2, 3, 4, 5, 6]
    assert any(isinstance(e, Seen) and e.frame for e in events)
    done = events[-1]
    assert isinstance(done, Done) and (done.model, done.version, done.stop_reason) == ("player", 1, "steps")
    assert done.score["low"] <= done.score["rating"] <= done.score["high"]
    assert done.usage.agent_steps == steps[-1].agent_steps > 0 and done.usage.trained_tokens == 0
    with open_platform(settings) as platform:
        model = find_model(platform, "player")
        assert model.plays and model.registered is not None
        assert sorted(model.registered.manifest) == ["agent.json", "model.safetensors"]
        assert model.card()["preset"] == "connect-four"
        assert model.card()["extra"]["rating"] == done.score["rating"]
        assert "bot:random" in model.card()["extra"]["win_shares"]
    record = read_json(list_runs(settings)[0] / "run.json")
    assert record["finished"] and record["game"]["name"] == "connect-four"


def test_a_run_that_was_left_goes_on_as_if_it_had_not_been(settings: Settings):
    """Watching ends after step 3, past the checkpoint of step 2; resumed, its steps tell what a whole run's do."""
    run(settings, replace(play_recipe(), name="whole"))
    events = train_here(settings, play_recipe())
    for event in events:
        if isinstance(event, PlayProgress) and event.step == 3:
            break
    events.close()

    resumed = run(settings, play_recipe(), resume=True)

    assert resumed[0].resumed.step == 2
    assert told(settings, "player") == told(settings, "whole")


def test_a_game_that_cannot_be_shared_by_processes_is_refused(settings: Settings, monkeypatch: pytest.MonkeyPatch):
    from cerulea.flows.train_play import PlayStory
    from cerulea.train.parallel import Team

    told = PlayStory(settings, play_recipe())

    with pytest.raises(RecipeInvalid, match="8 matches cannot be shared by 3"):
        told.begin(MACHINE, torch.device("cpu"), Team(0, 3), None)


def test_matches_are_halved_beside_a_gpu_and_stay_as_they_began(settings: Settings):
    """Four and four on a GPU; eight where it cannot be, on the CPU, and where the run began so."""
    from cerulea.flows.train_play import PlayStory
    from cerulea.train.parallel import Team

    def halves(device: str, begun: Checkpoint | None = None) -> list[int]:
        told = PlayStory(settings, play_recipe())
        told.begin(MACHINE, torch.device(device), Team(), begun)
        return [game.matches for game in (told.game, told.second) if game is not None]

    assert (halves("cpu"), halves("cuda")) == ([8], [4, 4])
    last = [e for e in run(settings, play_recipe()) if isinstance(e, Checkpoint)][-1]
    assert halves("cuda", begun=last) == [8]
    state = read_json(last.folder / "state.json")
    write_json(last.folder / "state.json", {**state, "binding": {**state["binding"], "number of halves": 2}})
    assert halves("cpu", begun=last) == [4, 4]


def test_a_run_begins_with_an_agent_of_the_same_schema_only(settings: Settings, tmp_path: Path):
    """By its name or its folder; another game's is refused."""
    with open_platform(settings) as platform:
        for name, game in (("known", "connect-four"), ("other", "cartpole")):
            register(platform, make_agent(tmp_path / name, game), name, team="home", actor="owner", extra={})
    recipe = play_recipe(steps=1)
    begun = [replace(recipe, model=replace(recipe.model, init=init)) for init in ("known", "other", "knowm")]

    assert isinstance(run(settings, begun[0])[-1], Done)
    with pytest.raises(AgentUnfit, match="plays cartpole, not connect-four"):
        run(settings, begun[1])
    with pytest.raises(NotFound, match="nearest name is 'known'"):
        run(settings, begun[2])


def test_a_run_that_ended_before_its_first_checkpoint_begins_again_with_its_agent(settings: Settings, tmp_path: Path):
    make_agent(tmp_path / "known", seed=7)
    recipe = play_recipe()
    recipe = replace(
        recipe,
        model=replace(recipe.model, init=str(tmp_path / "known")),
        train=replace(recipe.train, steps=2, checkpoint_steps=0, learning_rate=0.0),
    )
    events = train_here(settings, recipe)
    assert any(isinstance(event, PlayProgress) for event in events), "one step is done, and nothing is saved"
    events.close()

    done = run(settings, recipe, resume=True)[-1]

    assert isinstance(done, Done)
    with open_platform(settings) as platform:
        found = load_file(find_model(platform, done.model).folder / "model.safetensors")
    first = load_file(tmp_path / "known" / "model.safetensors")
    assert all(torch.equal(found[name], first[name]) for name in first)


def test_a_finished_run_goes_on_with_more_decisions(settings: Settings):
    recipe = play_recipe()
    short = replace(recipe, train=replace(recipe.train, steps=0, agent_steps=1))
    run(settings, short)
    with pytest.raises(Conflict, match="is finished: agent_steps"):
        run(settings, short, resume=True)

    longer = replace(short, train=replace(short.train, agent_steps=1_000))
    done = run(settings, longer, resume=True)[-1]

    assert isinstance(done, Done) and done.usage.agent_steps >= 1_000


@pytest.mark.parametrize(("named", "nearest"), [("takr", "taker"), ("zzz", "")])
def test_an_unknown_scripted_player_is_refused_before_a_run_begins(settings: Settings, named: str, nearest: str):
    recipe = play_recipe()
    recipe = replace(recipe, opponents=replace(recipe.opponents, names=[named]))

    with pytest.raises(RecipeInvalid, match=f"opponents.names has '{named}'") as refused:
        run(settings, recipe)

    assert nearest in refused.value.why
    assert list_runs(settings) == []


class Silent:
    """A desk that takes everything."""

    def heartbeat(self, *values: Any) -> Order:
        return Order(desired="run", reason="", paid=None, rates=(), heartbeat_s=60)

    def record(self, *values: Any) -> None: ...

    def finish(self, *values: Any) -> None: ...


def test_decisions_and_time_are_what_is_metered():
    """A job of two slots: its decisions as they are, its time for each slot."""
    assignment = Assignment(
        job="j",
        attempt=1,
        token="t",
        kind="selfplay",
        name="player",
        recipe={},
        run="r",
        slots=2,
        order=Silent().heartbeat(),
        checkpoint_step=None,
        checkpoint_digest=None,
        checkpoint_tokens=None,
    )
    link = Link(Silent(), assignment)
    values = dict.fromkeys(PlayProgress.__slots__, 0) | {"win_shares": {}, "meters": {}}

    link.see(PlayProgress(**{**values, "step": 3, "agent_steps": 4096, "elapsed_s": 1.5, "fraction": 0.5}))

    assert (link.report.usage.agent_steps, link.report.usage.device_ms, link.report.step) == (4096, 3000, 3)


def test_decisions_have_a_price():
    assert [price.nanos for price in read_prices(PACKAGED) if price.sku == "agent_steps"] == [0]


@pytest.mark.slow
def test_sigterm_saves_and_a_killed_run_loses_only_what_came_after_a_checkpoint(tmp_path: Path):
    """Two processes of the command line: one is asked to stop and one is killed; both go on to the same end."""
    home = tmp_path / "home"
    recipe = write_recipe(tmp_path / "play.toml", steps=40, checkpoint_steps=3)
    for name, number in (("asked", signal.SIGTERM), ("killed", signal.SIGKILL)):
        words = ["--home", str(home), "train", str(recipe), "--name", name, "--json"]
        lines = _until(words, "checkpoint", number)
        assert (lines[-1]["event"] == "done") is (number == signal.SIGTERM)
        rest = _until([*words, "--resume"], "", None)
        assert rest[-1]["event"] == "done" and rest[-1]["step"] == 40
    settings = Settings(home=home)
    assert told(settings, "asked") == told(settings, "killed")
    assert [line["step"] for line in told(settings, "asked")] == list(range(1, 41))


def _until(words: list[str], event: str, number: int | None) -> list[dict[str, Any]]:
    """What a command says; it is sent a signal at the first line of that event."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CERULEA_THREADS": "1", "PYTHONWARNINGS": ""}
    command = [sys.executable, "-m", "cerulea.cli.main", *words]
    found = []
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            found.append(json.loads(line))
            if number is not None and found[-1]["event"] == event:
                process.send_signal(number)
                number = None
    return found


def test_a_checkpoint_is_told_with_its_step(settings: Settings):
    assert [e.step for e in run(settings, play_recipe()) if isinstance(e, Checkpoint)] == [2, 4, 6]


def test_an_agents_folder_is_a_model(tmp_path: Path):
    assert folder_model(make_agent(tmp_path / "a")).plays
