"""Play beside a device: matches in two halves, each in a thread of its own, and nothing that is left on the wrong side.

There is no GPU in these tests: the halves' nets lie on the CPU and take the way of a GPU (`Policy`, not `policy_fast`).
"""

from __future__ import annotations

import shutil
from pathlib import Path
from time import sleep
from typing import Any

import pytest
import torch

from cerulea.core.errors import ResumeMismatch
from cerulea.core.values import Checkpoint, PlayProgress
from cerulea.games.catalog import make_game
from cerulea.nn import policy_fast
from cerulea.train import play_state
from cerulea.train.agent import load_agent
from cerulea.train.selfplay import Run, self_play

from .elsewhere import DEVICE, Elsewhere, is_there
from .test_selfplay import killed_at, recipe_of, told

MET = {"snapshot_steps": 2, "own": 0.3, "past": 0.4, "bots": 0.3, "mode": "league"}


@pytest.fixture
def gpu_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy_fast, "takes", lambda policy: False)


def make(game: str, matches: int, late_s: float = 0.0) -> Any:
    """A game; a late one takes its time for each step."""
    made = make_game(game, matches)
    if late_s:
        step = made.step
        made.step = lambda *args: (sleep(late_s), step(*args))[1]  # type: ignore[method-assign]
    return made


def recipe(game: str, **train: Any) -> Any:
    return recipe_of(game, 8, train={"steps": 8, "rollout": 16, "checkpoint_steps": 3, **train}, opponents=MET)


def halves(game: str, folder: Path, late: tuple[float, float] = (0.0, 0.0), **rest: Any) -> Any:
    first, second = (make(game, 4, late_s) for late_s in late)
    return self_play(recipe(game), first, folder, second=second, **rest)


@pytest.mark.usefixtures("gpu_way")
@pytest.mark.parametrize("game", ["connect-four", "rift-duel"])
def test_numbers_do_not_depend_on_which_half_is_faster(tmp_path: Path, game: str):
    """Either half's simulation is held up: the same progress, and the same weights to the bit."""
    runs = {}
    for name, late in {"even": (0.0, 0.0), "first": (0.003, 0.0), "second": (0.0, 0.003)}.items():
        events = list(halves(game, tmp_path / name, late))
        weights = load_agent(events[-1].folder).policy.state_dict()
        runs[name] = [told(e) for e in events if isinstance(e, PlayProgress)], weights

    for progress, weights in (runs["first"], runs["second"]):
        assert progress == runs["even"][0] and len(progress) == 8
        assert all(torch.equal(weight, runs["even"][1][name]) for name, weight in weights.items())
    last = runs["even"][0][-1]
    assert last["staleness"] == 0 and (last["matches"] > 40 or game == "rift-duel")


@pytest.mark.usefixtures("gpu_way")
@pytest.mark.parametrize("game", ["connect-four", "rift-duel"])
def test_both_halves_matches_are_kept_and_gone_on_with(tmp_path: Path, game: str):
    """Left after the checkpoint of step 3, with matches in flight in both halves."""
    whole = [told(e) for e in halves(game, tmp_path / "whole") if isinstance(e, PlayProgress)]
    run = halves(game, tmp_path / "left")
    for event in run:
        if isinstance(event, Checkpoint):
            break
    run.close()
    kept = sorted(path.name for path in event.folder.glob("matches-*"))

    rest = [told(e) for e in halves(game, tmp_path / "left", resume=True) if isinstance(e, PlayProgress)]

    assert kept == ["matches-0.safetensors", "matches-1.safetensors"]
    assert rest == whole[-len(rest) :] and len(rest) >= 4


def test_a_run_of_two_halves_is_not_gone_on_with_in_one(tmp_path: Path):
    list(halves("connect-four", tmp_path))

    with pytest.raises(ResumeMismatch, match="another number of halves"):
        list(self_play(recipe("connect-four"), make("connect-four", 8), tmp_path, resume=True))


SCRIPT = """
import sys, torch
torch.set_num_threads(1)
from pathlib import Path
from cerulea.core.values import PlayProgress
from cerulea.nn import policy_fast
policy_fast.takes = lambda policy: False
from tests.train.test_halves import make, recipe
from cerulea.train.selfplay import self_play
games = [make("rift-duel", 4), make("rift-duel", 4)]
for event in self_play(recipe("rift-duel", steps=12), games[0], Path(sys.argv[1]), second=games[1], resume=True):
    if isinstance(event, PlayProgress):
        print(event.step, event.loss.hex(), event.win_shares, flush=True)
"""


def test_kill_9_of_a_run_of_two_halves(tmp_path: Path):
    whole = killed_at(tmp_path / "whole", 0, SCRIPT)
    first = killed_at(tmp_path / "killed", 5, SCRIPT)
    rest = killed_at(tmp_path / "killed", 0, SCRIPT)

    assert len(whole) == 12 and first == whole[: len(first)]
    assert rest == whole[-len(rest) :] and len(first) + len(rest) >= 12
    shutil.rmtree(tmp_path / "killed")


@pytest.mark.usefixtures("gpu_way")
def test_each_half_plays_matches_of_its_own(tmp_path: Path):
    """Match numbers are shared out in turns, and both halves stand in the rollout that is learned from."""
    games = [make("rift-duel", 4), make("rift-duel", 4)]
    run = Run(recipe("rift-duel"), games, tmp_path, *_alone())
    run.start(False, None, print, None, {})
    next(run.updates(lambda: ""))

    assert [(p.rank, p.ranks) for p in run.players] == [(0, 2), (1, 2)]
    assert len({int(d) for game in games for d in game.digests()}) == 8
    first, second = (p.rollout for p in run.players)
    assert (run.rollout.vector[:, :4] == first.vector).all() and (run.rollout.vector[:, 4:] == second.vector).all()
    assert (first.vector != second.vector).any() and first.log_p.any() and second.log_p.any()
    run.close()


@pytest.mark.parametrize("game", ["rift-duel", "connect-four", "cartpole"])
def test_a_gpus_way_gives_the_losses_of_the_cpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, game: str):
    """To rounding: an action that is drawn otherwise would show at once."""
    ways = []
    for name in ("fast", "torch"):
        if name == "torch":
            monkeypatch.setattr(policy_fast, "takes", lambda policy: False)
        run = self_play(recipe(game, steps=2), make(game, 8), tmp_path / name)
        ways.append(losses(run))

    assert ways[1] == same(ways[0])


@pytest.mark.parametrize("game", ["rift-duel", "connect-four"])
def test_everything_that_a_device_needs_is_moved_there_and_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, game: str
):
    """A device that refuses mixed tensors: a run, its checkpoints and its resume give what the CPU does."""
    written: list[bool] = []
    write = play_state.write_tensors

    def spy(path: Path, tensors: dict[str, torch.Tensor]) -> None:
        written.append(any(is_there(tensor) for tensor in tensors.values()))
        write(path, tensors)

    monkeypatch.setattr(play_state, "write_tensors", spy)
    with Elsewhere() as device:
        for steps in (4, 7):
            run = self_play(recipe(game, steps=steps), make(game, 8), tmp_path / "there", device=DEVICE, resume=True)
            there = losses(run)
    monkeypatch.setattr(policy_fast, "takes", lambda policy: False)
    for steps in (4, 7):
        run = self_play(recipe(game, steps=steps), make(game, 8), tmp_path / "here", resume=True)
        here = losses(run)

    assert there == same(here) and len(here) == 3 and device.moved > 1000
    assert written and not any(written)


def losses(run: Any) -> list[tuple[float, float]]:
    return [(event.loss, event.entropy) for event in run if isinstance(event, PlayProgress)]


def same(values: list[tuple[float, float]]) -> list[Any]:
    """To rounding."""
    return [pytest.approx(each, rel=1e-3, abs=1e-4) for each in values]


def _alone() -> tuple[Any, ...]:
    from cerulea.train.parallel import Team

    return Team(), 0.0, 0
