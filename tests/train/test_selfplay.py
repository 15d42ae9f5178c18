"""Self-play: it learns, it goes on to the bit after any death, and who is not trained is not trained."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cerulea.core.errors import RecipeInvalid, ResumeMismatch
from cerulea.core.values import Checkpoint, PlayProgress
from cerulea.games.catalog import make_game
from cerulea.games.game import Head, Schema
from cerulea.train.agent import load_agent
from cerulea.train.opponents import BOT, PAST, SELF, Pool, choose, shares_now
from cerulea.train.recipe import recipe_from
from cerulea.train.selfplay import self_play

CLOCK = ("agent_steps_per_s", "elapsed_s", "match_years_per_day")


def recipe_of(game: str, matches: int, **tables: dict[str, Any]) -> Any:
    train = {"steps": 6, "rollout": 8, "minibatch": 64, "checkpoint_minutes": 0.0, **tables.pop("train", {})}
    return recipe_from(
        {
            "kind": "selfplay",
            "name": "x",
            "game": {"name": game, "matches": matches},
            "train": train,
            "model": {"width": 16, "memory": 8, "vector_width": 16, "embed": 8, **tables.pop("model", {})},
            **tables,
        }
    )


def told(event: PlayProgress) -> dict[str, Any]:
    return {key: value for key, value in asdict(event).items() if key not in CLOCK}


class Bandit:
    """One step a match: the arm that the look names pays 1. With `delay`, the name is shown only at first."""

    name, version = "bandit", "1"
    bots: tuple[str, ...] = ()
    meters: tuple[str, ...] = ()
    step_s, limit = 0.0, 0
    players, teams = 1, (0,)

    def __init__(self, matches: int, delay: int = 0) -> None:
        self.matches, self.delay = matches, delay
        self.options: dict[str, Any] = {}
        self.schema = Schema(
            heads=(Head(name="arm", actions=("a", "b", "c")),), vector=("is_a", "is_b", "is_c", "asks")
        )
        self.arm = np.zeros(matches, np.int64)
        self.age = np.zeros(matches, np.int64)
        self.over = np.zeros(matches, np.bool_)

    def reset(self, seed_M, where_M=None):
        where = np.ones(self.matches, np.bool_) if where_M is None else where_M
        self.arm[where] = (seed_M[where] % np.uint64(3)).astype(np.int64)
        self.age[where], self.over[where] = 0, False

    def observe(self, out):
        out.vector_MPF[:] = 0.0
        shown = self.age == 0
        out.vector_MPF[np.flatnonzero(shown), 0, self.arm[shown]] = 1.0
        out.vector_MPF[:, 0, 3] = self.age == self.delay
        out.mask_MPN[:] = True
        out.acting_MP[:, 0] = ~self.over

    def step(self, action_MPA, out):
        last = self.age == self.delay
        out.reward_MP[:, 0] = (action_MPA[:, 0, 0] == self.arm) & last & ~self.over
        out.terminated_MP[:, 0] = last & ~self.over
        out.truncated_MP[:] = False
        self.over |= last
        self.age += 1
        out.ended_M[:] = self.over
        out.winner_M[:] = -1

    def script(self, bot_MP, out): ...

    def read_meters(self, out_MPF): ...

    def state(self):
        return {"arm": self.arm.copy(), "age": self.age.copy(), "over": self.over.copy()}

    def restore(self, state):
        self.arm[:], self.age[:], self.over[:] = state["arm"], state["age"], state["over"]

    def digests(self):
        return self.arm.astype(np.uint64)

    def frame(self, match):
        return {}


@pytest.mark.parametrize(("delay", "core", "least"), [(0, "none", 0.95), (3, "lstm", 0.9)])
def test_toys_are_solved_one_of_them_by_memory(tmp_path, delay, core, least):
    """What to do is seen at once, or three steps before it is asked for: then only memory knows it."""
    steps = 40 if delay == 0 else 120
    recipe = recipe_of(
        "bandit",
        64,
        train={"steps": steps, "learning_rate": 1e-2, "minibatch": 64, "discount": 0.9, "final_rate": 0.2},
        model={"core": core},
    )
    last = None
    for event in self_play(recipe, Bandit(64, delay), tmp_path):
        last = event if isinstance(event, PlayProgress) else last
    assert last is not None and last.episode_return > least


def test_a_policy_without_memory_cannot_solve_what_needs_it(tmp_path):
    recipe = recipe_of("bandit", 64, train={"steps": 60, "learning_rate": 5e-3}, model={"core": "none"})
    last = [e for e in self_play(recipe, Bandit(64, 3), tmp_path) if isinstance(e, PlayProgress)][-1]
    assert last.episode_return < 0.6


@pytest.mark.parametrize("game", ["connect-four", "rift-duel", "cartpole"])
def test_a_resumed_run_goes_on_as_if_nothing_had_been(tmp_path, game):
    """Stopped after 4 of 9 updates, with matches in flight: the other five tell the same numbers to the bit."""
    o = {"snapshot_steps": 2, "own": 0.4, "past": 0.3, "bots": 0.3}
    recipe = recipe_of(game, 6, train={"steps": 9, "checkpoint_steps": 4}, opponents=o)
    whole = [told(e) for e in self_play(recipe, make_game(game, 6), tmp_path / "a") if isinstance(e, PlayProgress)]
    run = self_play(recipe, make_game(game, 6), tmp_path / "b")
    for event in run:
        if isinstance(event, Checkpoint):
            break
    run.close()
    rest = self_play(recipe, make_game(game, 6), tmp_path / "b", resume=True)

    after = [told(e) for e in rest if isinstance(e, PlayProgress)]

    assert len(whole) == 9 and after == whole[-len(after) :] and len(after) >= 4


SCRIPT = """
import sys, torch
torch.set_num_threads(1)
from pathlib import Path
from tests.train.test_selfplay import recipe_of, told
from cerulea.games.catalog import make_game
from cerulea.core.values import PlayProgress
from cerulea.train.selfplay import self_play
o = {"snapshot_steps": 3, "own": 0.4, "past": 0.3, "bots": 0.3}
recipe = recipe_of("rift-duel", 8, train={"steps": 60, "checkpoint_steps": 5}, opponents=o)
for event in self_play(recipe, make_game("rift-duel", 8), Path(sys.argv[1]), resume=True):
    if isinstance(event, PlayProgress):
        print(event.step, event.loss.hex(), event.win_shares, flush=True)
"""


def killed_at(folder: Path, line: int, script: str = SCRIPT) -> list[str]:
    """Lines of a run that is killed after so many of them; 0 lets it end."""
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-c", script, str(folder)]
    lines = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root, env={**os.environ}) as run:
        assert run.stdout is not None
        for text in run.stdout:
            lines.append(text)
            if len(lines) == line:
                run.send_signal(signal.SIGKILL)
                break
    return lines


def kill_and_go_on(tmp_path: Path, kills: list[int]) -> None:
    whole = killed_at(tmp_path / "whole", 0)
    assert len(whole) == 60
    for number, line in enumerate(kills):
        folder = tmp_path / f"killed-{number}"
        first = killed_at(folder, line)
        rest = killed_at(folder, 0)
        assert first == whole[: len(first)]
        assert rest == whole[-len(rest) :]
        assert len(first) + len(rest) >= 60
        shutil.rmtree(folder)


def test_kill_9_loses_no_more_than_what_came_after_the_last_checkpoint(tmp_path):
    kill_and_go_on(tmp_path, [17])


@pytest.mark.deep
def test_ten_of_ten_kills(tmp_path):
    kill_and_go_on(tmp_path, [1, 4, 5, 6, 11, 23, 30, 41, 52, 59])


def test_another_recipe_is_not_gone_on_with(tmp_path):
    recipe = recipe_of("connect-four", 4)
    list(self_play(recipe, make_game("connect-four", 4), tmp_path))
    other = recipe_of("connect-four", 4, model={"memory": 16})
    with pytest.raises(ResumeMismatch, match="another model"):
        list(self_play(other, make_game("connect-four", 4), tmp_path, resume=True))


def test_more_matches_than_memory_holds_are_refused_with_the_estimate(tmp_path):
    recipe = recipe_of("rift", 2)
    with pytest.raises(RecipeInvalid, match=r"need about .* GB") as caught:
        list(self_play(recipe, make_game("rift", 2), tmp_path, memory_bytes=10**6))
    assert "game.matches=" in str(caught.value)


def test_opponents_stay_for_a_match_and_are_never_trained(tmp_path, monkeypatch):
    """What each row was played by changes only where a match begins; rows of others have no weight."""
    from cerulea.train.learn import Learner

    seen = []
    original = Learner.learn

    def spy(self, r, sides, advantage, **rest):
        seen.append((r.learns.copy(), r.fresh.copy()))
        return original(self, r, sides, advantage, **rest)

    monkeypatch.setattr(Learner, "learn", spy)
    o = {"own": 0.2, "past": 0.4, "bots": 0.4, "snapshot_steps": 1, "always_bots": True}
    recipe = recipe_of("rift-duel", 12, train={"steps": 12, "rollout": 16}, opponents=o)
    list(self_play(recipe, make_game("rift-duel", 12), tmp_path))

    one_sided = 0
    for learns, fresh in seen:
        both = learns.all(-1)
        one_sided += int((~both).sum())
        changed = learns[1:] != learns[:-1]
        assert not (changed & ~fresh[1:-1]).any()
    assert one_sided > 0


def test_past_selves_are_drawn_by_quality_and_lose_it_when_they_are_beaten():
    pool = Pool()
    for step in (10, 20, 30):
        pool.add(step, 64)
    assert pool.quality == [0.0, 0.0, 0.0]
    pool.beaten(20)
    assert pool.quality[1] == pytest.approx(-0.01 / (3 * (1 / 3)))
    pool.quality = [1.0, -2.0, 0.5]
    pool.add(40, 64)
    assert pool.quality[-1] == 1.0
    assert pool.add(50, 4) == 20
    assert 20 not in pool.steps and 50 in pool.steps


def test_who_is_met_follows_the_shares_and_is_a_function_of_the_seed():
    pool = Pool()
    pool.add(10, 64)
    pool.choose_active(1, 10, 4)
    pool.shares = {"weak": 0.99, "hard": 0.3}
    kinds = [choose(pool, ("weak", "hard"), (0.6, 0.2, 0.2), seed=1, number=n, sides=2) for n in range(3000)]
    again = [choose(pool, ("weak", "hard"), (0.6, 0.2, 0.2), seed=1, number=n, sides=2) for n in range(3000)]

    assert kinds == again
    for kind, share in ((SELF, 0.6), (PAST, 0.2), (BOT, 0.2)):
        assert abs(sum(k.kind == kind for k in kinds) / 3000 - share) < 0.03
    bots = [k.member for k in kinds if k.kind == BOT]
    assert sum(bots) / len(bots) > 0.85
    sides = [k.side for k in kinds if k.kind != SELF]
    assert 0.45 < sum(sides) / len(sides) < 0.55
    assert shares_now(0.65, 0.2, 0.15, 0.7)[2] == 0


def test_an_agent_plays_from_its_folder_what_its_match_alone_decides(tmp_path):
    """The same match gets the same actions whatever stands beside it."""
    from tests.games.playing import Played

    recipe = recipe_of("rift-duel", 4)
    last = list(self_play(recipe, make_game("rift-duel", 4), tmp_path))[-1]
    agent = load_agent(last.folder)
    many, alone = Played(make_game("rift-duel", 5)), Played(make_game("rift-duel", 1), first=3)
    agent.check(many.game)
    memories = [agent.begin(5, 2), agent.begin(1, 2)]
    for step in range(30):
        for i, played in enumerate((many, alone)):
            actions, memories[i] = agent.act(played.see(), memories[i], played.seeds, step)
            played.step(actions)
        assert np.array_equal(many.actions[3:4], alone.actions) or step == 0
        assert many.game.digests()[3] == alone.game.digests()[0]
    assert torch.isfinite(memories[0]).all()
