"""Leagues, pools and teams of processes: who meets whom, whom it trains, and that all of it goes on to the bit."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cerulea.core.errors import RecipeInvalid
from cerulea.core.values import Checkpoint, PlayProgress
from cerulea.games.catalog import make_game
from cerulea.train.fitting import bots_of
from cerulea.train.learn import Learner
from cerulea.train.opponents import HUNTER, LINE, MAIN, NOW, PAST, ROVER, SELF, Opponent, Pool, choose, teaches
from cerulea.train.parallel import Team
from cerulea.train.ppo import advantages, told_decisions
from cerulea.train.rated import noted, outclassed, taken_in, without
from cerulea.train.selfplay import Run, self_play

from .test_selfplay import recipe_of, told

LEAGUE = {"mode": "league", "own": 0.3, "past": 0.5, "bots": 0.2, "snapshot_steps": 1, "exploiters": 0.5}


def test_a_match_of_a_league_trains_one_net_and_only_on_its_side(tmp_path, monkeypatch):
    """Rows that a net learns from were all decided by it; each net's matches have it on one side, or on both alone."""
    seen: list[tuple[int, np.ndarray, np.ndarray, list[Opponent]]] = []
    original = Learner.learn

    def spy(self, r, sides, advantage, **rest):
        seen.append((rest["number"], r.learns.copy(), r.owner.copy(), list(run.players[0].opponents)))
        return original(self, r, sides, advantage, **rest)

    monkeypatch.setattr(Learner, "learn", spy)
    recipe = recipe_of("rift-duel", 24, train={"steps": 12, "rollout": 16}, opponents=LEAGUE)
    run = Run(recipe, [make_game("rift-duel", 24)], tmp_path, Team(), 0.0, 0)
    run.start(False, None, print, None, {})
    before = [{n: w.clone() for n, w in net.state_dict().items()} for net in run.league.nets]
    list(run.updates(lambda: ""))
    run.close()

    assert {number for number, *_ in seen} == {MAIN, HUNTER, ROVER}
    assert max(run.league.pool.steps) > LINE
    assert all(f"past-{member}" in run.state.ratings for member in run.league.pool.steps)
    for _, learns, owner, opponents in seen:
        for m, opponent in enumerate(opponents):
            last_learns, last_owner = learns[-1, m], owner[-1, m]
            if opponent.kind == SELF:
                assert opponent.learner == MAIN and last_learns.all()
            else:
                assert not last_learns[1 - opponent.side]
            assert (last_owner[last_learns] == opponent.learner).all()
    for net, old in zip(run.league.nets, before, strict=True):
        assert any(not torch.equal(w, old[n]) for n, w in net.state_dict().items())
    assert {member // LINE for member in run.league.pool.steps} == {0, 1, 2}


def test_a_net_is_changed_by_its_own_matches_alone(tmp_path):
    """Without matches of its exploiters, they stay as they were while the main net learns."""
    recipe = recipe_of("rift-duel", 8, train={"steps": 3}, opponents={**LEAGUE, "exploiters": 0.0})
    run = Run(recipe, [make_game("rift-duel", 8)], tmp_path, Team(), 0.0, 0)
    run.start(False, None, print, None, {})
    before = [{n: w.clone() for n, w in net.state_dict().items()} for net in run.league.nets]
    list(run.updates(lambda: ""))
    run.close()

    same = [
        all(torch.equal(w, old[n]) for n, w in net.state_dict().items())
        for net, old in zip(run.league.nets, before, strict=True)
    ]
    assert same == [False, True, True]


@pytest.mark.parametrize("mode", ["league", "pfsp"])
def test_every_mode_goes_on_to_the_bit(tmp_path, mode):
    recipe = recipe_of("rift-duel", 6, train={"steps": 8, "checkpoint_steps": 4}, opponents={**LEAGUE, "mode": mode})
    whole = [told(e) for e in self_play(recipe, make_game("rift-duel", 6), tmp_path / "a") if not _saved(e)]
    run = self_play(recipe, make_game("rift-duel", 6), tmp_path / "b")
    for event in run:
        if _saved(event):
            break
    run.close()
    rest = self_play(recipe, make_game("rift-duel", 6), tmp_path / "b", resume=True)

    after = [told(e) for e in rest if isinstance(e, PlayProgress)]

    assert len(after) >= 4 and after == whole[-len(after) :]


def _saved(event: Any) -> bool:
    return isinstance(event, Checkpoint)


def test_exploiters_hunt_the_main_net_and_learn_from_its_past_when_that_is_hopeless():
    pool = Pool(mode="league")
    for member in (1, 2, 2 + LINE, 2 + 2 * LINE):
        pool.add(member, 64)
    pool.active = list(pool.steps)

    def drawn(**keys):
        return [
            choose(pool, ("a", "b"), (0.4, 0.4, 0.2), seed=1, number=n, sides=2, exploiters=0.5) for n in range(2000)
        ]

    matches = drawn()
    by_learner = [sum(o.learner == number for o in matches) / 2000 for number in (MAIN, HUNTER, ROVER)]
    assert np.abs(np.array(by_learner) - [0.5, 0.25, 0.25]).max() < 0.04
    assert {o.kind for o in matches if o.learner == HUNTER} == {NOW}
    assert {o.kind for o in matches if o.learner == ROVER} == {PAST}
    assert {o.member // LINE for o in matches if o.learner == ROVER} == {0, 1, 2}
    pool.won[f"{HUNTER}:now"] = 0.05
    hunted = [o for o in drawn() if o.learner == HUNTER]
    assert {o.kind for o in hunted} == {NOW, PAST}
    assert all(o.member < LINE for o in hunted if o.kind == PAST)


def test_scripted_players_are_met_by_what_they_teach():
    """Most those who are beaten now and then; next those who never are; last those who always are; nobody never.

    Who is strong waits for the next weaker one to be beaten.
    """
    assert teaches(0.5) > teaches(0.05) > teaches(0.0) > teaches(0.95) > teaches(1.0) > 0
    assert teaches(0.3, weaker=0.9) > teaches(0.3, weaker=0.5) > teaches(0.3, weaker=0.05) > 0
    pool = Pool(shares={"easy": 1.0, "even": 0.5, "strong": 0.0})

    met = Counter(
        choose(pool, ("easy", "even", "strong"), (0.0, 0.0, 1.0), seed=3, number=n, sides=2).member
        for n in range(2_000)
    )

    assert met[1] > met[2] > met[0] > 20


def test_who_is_outclassed_is_seldom_met():
    """By online ratings: members more than 10 points below the main net become active one time in ten of their like."""
    ratings = {"learner": [25.0, 1.0], "past-1": [3.0, 1.0], "past-2": [16.0, 1.0]}
    assert outclassed(ratings, [1, 2, 3]) == [1]

    drawn: Counter[int] = Counter()
    for number in range(600):
        pool = Pool(steps=[1, 2], quality=[0.0, 0.0])
        pool.choose_active(5, number, 1, outclassed=[1])
        drawn.update(pool.active)

    assert 0 < drawn[1] < 0.2 * drawn[2]


def test_active_members_are_met_alike():
    """They were drawn by their worth when they became active."""
    pool = Pool(steps=[1, 2, 3], quality=[0.0, -3.0, -3.0], active=[1, 2])

    met = Counter(choose(pool, (), (0.0, 1.0, 0.0), seed=3, number=n, sides=2).member for n in range(2_000))

    assert set(met) == {1, 2}
    assert abs(met[1] - met[2]) < 200


def test_pfsp_meets_those_who_are_hard_to_beat():
    pool = Pool(mode="pfsp")
    for member in (1, 2, 3):
        pool.add(member, 64)
    for _ in range(200):
        pool.note(Opponent(PAST, 1, 0), 1.0)
        pool.note(Opponent(PAST, 2, 0), 0.0)
    easy, hard, unknown = pool.probabilities()
    assert hard > unknown > easy > 0
    assert pool.quality == [0.0, 0.0, 0.0]


def test_matches_in_flight_never_need_more_past_nets_than_the_recipe_says(tmp_path):
    """Matches outlast many snapshots; what each rollout step runs stays bounded, and newcomers are met in time."""
    o = {"own": 0.0, "past": 1.0, "bots": 0.0, "snapshot_steps": 1, "groups": 3}
    recipe = recipe_of("connect-four", 12, train={"steps": 40, "rollout": 2}, opponents=o)
    run = Run(recipe, [make_game("connect-four", 12)], tmp_path, Team(), 0.0, 0)
    run.start(False, None, print, None, {})
    met: set[int] = set()
    for _ in run.updates(lambda: ""):
        flying = {each.member for each in run.players[0].opponents if each.kind == PAST}
        assert len(flying | set(run.league.pool.active)) <= 3
        met |= flying
    run.close()
    assert len(met) > 5


def test_one_is_let_go_for_each_new_choice_and_others_come_when_its_matches_have_ended():
    pool = Pool()
    for member in range(10):
        pool.add(member, 64)
    pool.choose_active(1, 0, 3)
    first = list(pool.active)
    assert len(set(first)) == 3
    pool.choose_active(1, 1, 3, busy=first)
    assert pool.active == first[1:]
    pool.choose_active(1, 2, 3, busy=first[1:])
    assert len(pool.active) == 3 and pool.active[:2] == first[1:]


def test_one_past_self_at_a_time_gives_way_too():
    pool = Pool()
    for member in range(10):
        pool.add(member, 64)

    met = set()
    for number in range(60):
        pool.choose_active(1, number, 1)
        assert len(pool.active) == 1
        met.add(pool.active[0])

    assert len(met) > 5


def test_scripted_players_wait_for_weaker_ones_however_a_recipe_names_them():
    recipe = recipe_of("rift-duel", 2, opponents={"names": ["team", "pusher", "team"]})

    assert bots_of(recipe, make_game("rift-duel", 1)) == ("pusher", "team")


@pytest.mark.parametrize("game", ["connect-four", "pettingzoo:classic.connect_four_v3"])
def test_the_random_player_is_met_where_a_recipe_names_it(tmp_path, game):
    """It is the weakest, plays legal actions of its own, and what it does is not learned from."""
    opponents = {"names": ["random"], "own": 0.0, "past": 0.0, "bots": 1.0, "always_bots": True}
    recipe = recipe_of(game, 6, train={"steps": 3, "rollout": 16}, opponents=opponents)
    rollouts: list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]] = []
    played = make_game(game, 6)
    assert bots_of(recipe, played) == ("random",)
    original = Learner.learn

    def spy(self, r, sides, advantage, **rest):
        bots_MP = run.players[0].bot_MP
        rollouts.append((r.learns.copy(), r.acting.copy(), r.action.copy(), r.mask.copy()))
        assert (bots_MP == len(played.bots)).sum() == 6 and set(np.unique(bots_MP)) == {-1, len(played.bots)}
        return original(self, r, sides, advantage, **rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Learner, "learn", spy)
        run = Run(recipe, [played], tmp_path, Team(), 0.0, 0)
        run.start(False, None, print, None, {})
        ends = [event for event in run.updates(lambda: "") if isinstance(event, PlayProgress)]
        run.close()

    assert "random" in ends[-1].win_shares
    scripted = Counter()
    for learns, acting, action, mask in rollouts:
        theirs = acting[:-1] & ~learns
        assert theirs.sum() > 0.3 * acting[:-1].sum()
        assert np.take_along_axis(mask[:-1][theirs], action[theirs].astype(np.int64), -1).all()
        scripted.update(action[theirs][:, 0].tolist())
    assert set(scripted) == set(range(7)) and max(scripted.values()) < 0.3 * sum(scripted.values())


def test_what_nobody_answered_before_the_rollout_ended_is_not_learned_from():
    """Two players take turns; the last decision of one has no answer yet, unless its match has ended."""
    acting = np.array([[[True, False]], [[False, True]], [[True, False]], [[False, True]], [[True, False]]])
    over = np.zeros((4, 1, 2), np.bool_)
    told_TMP = told_decisions(acting, over)
    assert told_TMP[:, 0].tolist() == [[True, False], [False, True], [True, False], [False, False]]
    over[3] = True
    assert told_decisions(acting, over)[3, 0].tolist() == [False, True]
    over[3] = False
    ones, zeros = np.ones((4, 1, 2)), np.zeros((4, 1, 2))
    rest = (acting[:-1], over, over, zeros, np.full((1, 2), 99.0))

    found = advantages(zeros, ones, *rest, discount=0.9, trace=0.8, told_TMP=told_TMP)

    assert found[3, 0, 1] == 0  # and its 99 is nowhere in what came before
    assert found[1, 0, 1] == pytest.approx(0.9 * 1 - 1)


def test_a_league_with_unknown_keys_is_refused():
    with pytest.raises(RecipeInvalid, match="league"):
        recipe_of("rift-duel", 4, opponents={"mode": "leauge"})


def test_ratings_begin_at_the_random_player_and_rise_with_what_is_beaten():
    """Past selves keep what they had; scripted players are found out."""
    ratings = noted({}, "taker", 0.0)
    assert ratings["learner"][0] < 0 < ratings["taker"][0]
    ratings = taken_in({}, 10)
    for _ in range(30):
        ratings = noted(ratings, "past-10", 1.0)
    assert ratings["learner"][0] > 1
    ratings = taken_in(ratings, 20)
    kept = ratings["past-20"]
    assert kept == ratings["learner"]
    ratings = noted(ratings, "past-20", 0.0)
    assert ratings["past-20"] == kept and ratings["learner"][0] < kept[0]
    assert set(without(ratings, [10])) == {"learner", "past-10"}


SCRIPT = """
import sys, torch
torch.set_num_threads(1)
from pathlib import Path
from tests.train.test_selfplay import recipe_of
from cerulea.games.catalog import make_game
from cerulea.core.values import PlayProgress
from cerulea.train.parallel import join_team, leave_team
from cerulea.train.rated import noted, taken_in, without
from cerulea.train.selfplay import Run
import hashlib, time
team = join_team(torch.device("cpu"))
steps = int(sys.argv[2])
o = {"snapshot_steps": 2, "own": 0.4, "past": 0.3, "bots": 0.3, "mode": sys.argv[3]}
recipe = recipe_of("connect-four", 12, train={"steps": 6, "checkpoint_steps": 3}, opponents=o)
run = Run(recipe, [make_game("connect-four", 6)], Path(sys.argv[1]), team, time.monotonic(), 0)
run.start(len(sys.argv) > 4, None, lambda text: None, None, {})
for event in run.updates(lambda: ""):
    if isinstance(event, PlayProgress) and event.step > steps:
        break
    if isinstance(event, PlayProgress):
        weights = b"".join(w.numpy().tobytes() for net in run.league.nets for w in net.state_dict().values())
        print(event.step, event.loss.hex(), event.agent_steps, hashlib.sha256(weights).hexdigest(), flush=True)
run.close()
leave_team()
"""


def two_processes(*words: str) -> list[list[str]]:
    """What each of two processes of a team says."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    root = Path(__file__).resolve().parents[2]
    own = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", SCRIPT, *words]
    team = [
        subprocess.Popen(command, cwd=root, env={**own, "RANK": str(rank)}, stdout=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    said = [process.communicate(timeout=240)[0].splitlines() for process in team]
    assert [process.returncode for process in team] == [0, 0]
    return said


@pytest.mark.parametrize("mode", [pytest.param("openai-five", marks=pytest.mark.deep), "league"])
def test_two_processes_keep_one_net_and_go_on_to_the_bit(tmp_path, mode):
    """Each plays half of the matches; both tell the same and have equal weights, after a resume too."""
    first, second = two_processes(str(tmp_path / "whole"), "6", mode)
    assert first == second and len(first) == 6
    assert two_processes(str(tmp_path / "parts"), "4", mode)[0] == first[:4]
    rest, other = two_processes(str(tmp_path / "parts"), "6", mode, "resume")
    assert rest == other == first[3:]
    assert json.loads((tmp_path / "parts" / "metrics.jsonl").read_text().splitlines()[-1])["step"] == 6
