"""What is measured of an agent: shares with intervals, its past, how it behaves."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cerulea.games.catalog import make_game
from cerulea.train.checkpoint import newest_checkpoint
from cerulea.train.judge import PAST_AT, behaviour_of, judge
from cerulea.train.selfplay import self_play
from tests.toy_games import make_agent, play_recipe


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a short run whose pool has a member every second step."""
    folder = tmp_path_factory.mktemp("run")
    for _ in self_play(play_recipe(steps=8, checkpoint_steps=8), make_game("connect-four", 8), folder):
        pass
    last = newest_checkpoint(folder / "checkpoints", lambda text: None)
    assert last is not None
    return last.folder


def test_an_agent_meets_bots_and_its_past(checkpoint: Path):
    judged = judge(
        lambda matches: make_game("connect-four", matches),
        checkpoint,
        name="player",
        opponents=("random",),
        n=10,
        seed=1,
        past=checkpoint,
    )

    assert [share.opponent for share in judged.shares] == ["bot:random"]
    assert len(judged.past) == len(PAST_AT)
    assert all(share.low <= share.share <= share.high and share.n == 10 for share in (*judged.shares, *judged.past))
    assert judged.forgetting == min(share.share for share in judged.past)


def test_behaviour_is_of_the_agents_own_heroes(tmp_path: Path):
    """A script that kills against one that only walks: its deaths are few, whichever side it has."""
    from cerulea.games.match import BotPlayer, play_series

    games = []

    def make(matches: int):
        games.append(make_game("rift-duel", matches))
        return games[-1]

    play_series(make, BotPlayer("team"), BotPlayer("pusher"), names=("a", "b"), n=8, seed=3)
    ours = behaviour_of(games)
    games.clear()
    play_series(make, BotPlayer("pusher"), BotPlayer("team"), names=("a", "b"), n=8, seed=3)
    theirs = behaviour_of(games)

    assert ours["kills"] > theirs["kills"] and ours["deaths"] < theirs["deaths"]
    assert 0 <= ours["buildings_hit_with_a_wave"] <= 1


def test_a_pool_can_be_the_only_opponent(tmp_path: Path):
    """As an exploiter is trained: every match is against the frozen agent, and one side of it learns."""
    from cerulea.train.agent import load_agent

    frozen = dict(load_agent(make_agent(tmp_path / "agent")).policy.state_dict())
    recipe = play_recipe(steps=4)
    recipe = type(recipe)(
        **{
            **{name: getattr(recipe, name) for name in ("kind", "name", "game", "model", "train")},
            "opponents": type(recipe.opponents)(own=0.0, past=1.0, bots=0.0, snapshot_steps=10**9),
        }
    )
    events = list(self_play(recipe, make_game("connect-four", 8), tmp_path / "run", past={0: frozen}))

    steps = [event for event in events if hasattr(event, "win_shares")]
    assert all(set(step.win_shares) <= {"past"} for step in steps) and steps[-1].matches > 0
    assert all(torch.isfinite(torch.tensor(step.loss)) for step in steps)


def test_in_a_game_of_one_side_an_agent_is_told_what_it_is_paid(tmp_path: Path):
    """CartPole pays 1 for each step until the pole has fallen, which random play lets happen within a hundred."""
    asked = []

    judged = judge(
        lambda matches: make_game("cartpole", matches),
        make_agent(tmp_path / "agent", "cartpole"),
        name="pole",
        opponents=("random",),
        n=6,
        seed=1,
        report=lambda what, done, total: asked.append((what, done, total)),
    )

    assert judged.shares == [] and judged.series == []
    assert set(judged.behaviour) == {"episode_return", "episode_return_of_random"}
    assert 8 <= judged.behaviour["episode_return_of_random"] <= 100 and judged.behaviour["episode_return"] >= 8
    assert {("by itself", 6, 6), ("bot:random by itself", 6, 6)} <= set(asked)
