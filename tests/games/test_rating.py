"""Ratings from results: on the scale of OpenAI Five, with intervals that hold what they say."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from cerulea.core.errors import FileTrouble
from cerulea.games.rating import POINTS, Online, Rating, Result, add_results, rate, read_results


def ladder(draw: np.random.Generator, players: int = 8, matches: int = 400) -> tuple[dict[str, float], list[Result]]:
    """Players of known strength who met others within ten points, and now and then anybody; sides are worth 0.2."""
    names = ["random", *(f"p{i}" for i in range(1, players))]
    truth = dict(zip(names, np.append(0.0, draw.normal(6, 6, players - 1)).tolist(), strict=True))
    results: list[Result] = []
    while len(results) < matches:
        a, b = draw.choice(names, 2, replace=False).tolist()
        if abs(truth[a] - truth[b]) > 10 and draw.random() > 0.1:
            continue
        wins = 1 / (1 + math.exp(-((truth[a] - truth[b]) / POINTS + 0.2)))
        results.append(Result(a, b, float(draw.random() < wins)))
    return truth, results


@pytest.mark.parametrize("trials", [30, pytest.param(200, marks=pytest.mark.deep)])
@pytest.mark.parametrize(("players", "matches"), [(8, 400), (5, 60)])
def test_intervals_cover_the_truth(trials, players, matches):
    draw = np.random.default_rng(5)
    covered = []
    for _ in range(trials):
        truth, results = ladder(draw, players, matches)
        for rating in rate(results):
            if rating.player != "random":
                covered.append(rating.low <= truth[rating.player] <= rating.high)
    print(f"{trials} ladders of {players} players, {matches} matches: {np.mean(covered):.1%} covered")
    assert 0.9 <= np.mean(covered) <= 0.99


def by_name(results: list[Result], **options: str) -> dict[str, Rating]:
    return {r.player: r for r in rate(results, **options)}


def test_random_is_0_and_80_percent_are_8_point_3():
    rated = by_name(
        [
            *(Result("a", "random", 1.0, 400), Result("a", "random", 0.0, 100)),
            *(Result("random", "a", 0.0, 400), Result("random", "a", 1.0, 100)),
        ]
    )
    assert (rated["random"].rating, rated["random"].low, rated["random"].high) == (0.0, 0.0, 0.0)
    assert rated["a"].rating == pytest.approx(8.3, abs=0.02)
    assert rated["a"].games == 1000
    # Half an interval: 1.96 / sqrt(n p (1 - p)) in log odds.
    assert rated["a"].high - rated["a"].rating == pytest.approx(1.96 / math.sqrt(160) * POINTS, rel=0.03)


def test_the_side_is_worth_what_it_is_worth():
    """Equals of whom the first wins 70 %: nobody is better; who only ever had the good side is not, either."""
    rated = by_name(
        [
            Result("a", "random", 1.0, 70),
            Result("a", "random", 0.0, 30),
            Result("random", "a", 1.0, 70),
            Result("random", "a", 0.0, 30),
            Result("b", "random", 1.0, 70),
            Result("b", "random", 0.0, 30),
        ]
    )
    assert rated["a"].rating == pytest.approx(0.0, abs=0.05)
    assert rated["b"].rating == pytest.approx(0.0, abs=0.2)


def test_a_draw_counts_half_for_both():
    drawn = by_name([Result("a", "random", 0.5, 200), Result("random", "a", 0.5, 200)])
    shared = by_name(
        [Result("a", "random", score, 100) for score in (0.0, 1.0)]
        + [Result("random", "a", score, 100) for score in (0.0, 1.0)]
    )
    assert drawn == shared
    assert drawn["a"].rating == pytest.approx(0.0, abs=1e-9)


def test_who_has_never_lost_is_surely_better_and_nobody_knows_by_how_much():
    """100 of 100: the true share is above 98 % with 95 % (by the likelihood), and without an upper end."""
    rated = by_name([Result("a", "random", 1.0, 50), Result("random", "a", 0.0, 50)])["a"]

    assert rated.low == pytest.approx(math.log(0.98 / 0.02) * POINTS, abs=1.0)
    assert rated.high > 100


def test_who_has_met_nobody_of_the_ladder_may_be_anywhere():
    rated = by_name([Result("a", "random", 1.0, 5), Result("random", "a", 1.0, 5), Result("x", "y", 1.0, 5)])

    assert rated["x"].low < -300 and rated["x"].high > 300
    assert math.isfinite(rated["x"].low) and rated["x"].rating > rated["y"].rating


def test_without_the_anchor_the_weakest_is_0():
    rated = rate([Result("a", "b", 1.0, 30), Result("b", "a", 0.0, 20), Result("b", "a", 1.0, 10)])

    assert [r.player for r in rated] == ["a", "b"] and rated[1].rating == 0.0
    assert rate([]) == []
    assert by_name([Result("a", "a", 1.0, 3)])["a"].rating == 0.0


def test_results_are_appended_and_a_line_that_was_cut_short_loses_no_other(tmp_path):
    path = tmp_path / "deep" / "results.jsonl"
    add_results(path, [Result("a", "b", 1.0), Result("b", "a", 0.5, 3)])
    with path.open("a") as file:
        file.write('{"first": "a", "sec')
    add_results(path, [])
    add_results(path, [Result("c", "b", 0.0)])

    assert read_results(path) == [Result("a", "b", 1.0), Result("b", "a", 0.5, 3), Result("c", "b", 0.0)]
    assert read_results(tmp_path / "none") == []


def test_a_match_that_was_played_again_counts_once(tmp_path):
    """By its players, their sides and its seed. Lines of before seeds were kept stay as they are."""
    path = tmp_path / "results.jsonl"
    add_results(path, [Result("a", "b", 1.0), Result("a", "b", 1.0, 2, (5, 6)), Result("b", "a", 0.0, 2, (5, 6))])
    add_results(path, [Result("a", "b", 1.0, 3, (5, 6, 7)), Result("a", "b", 1.0)])
    add_results(path, [Result("a", "b", 1.0, 2, (5, 6))])

    assert read_results(path) == [
        Result("a", "b", 1.0),
        Result("a", "b", 1.0, 2, (5, 6)),
        Result("b", "a", 0.0, 2, (5, 6)),
        Result("a", "b", 1.0, 1, (7,)),
        Result("a", "b", 1.0),
    ]


def test_many_who_append_at_once_lose_nothing(tmp_path):
    path = tmp_path / "results.jsonl"
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: add_results(path, [Result(f"p{i}", "q", 1.0)] * 20), range(40)))

    assert len(read_results(path)) == 800


@pytest.mark.parametrize("line", ['{"first": "a"}', "[1]", '{"first": "a", "second": "b", "score": 7, "count": 1}'])
def test_a_line_that_is_no_result_is_named(tmp_path, line):
    path = tmp_path / "results.jsonl"
    add_results(path, [Result("a", "b", 1.0)])
    with path.open("a") as file:
        file.write(line + "\n")
    with pytest.raises(FileTrouble, match="Line 2 of"):
        read_results(path)


def test_online_ratings_follow_results_and_leave_fixed_players_alone():
    online = Online()
    for _ in range(40):
        online.add("new", "old", 1.0, fixed=("old",))

    assert online.rating("new")[0] > 5 and online.rating("new")[1] < 25 / 3
    assert online.rating("old") == online.rating("nobody") == (0.0, 25.0 / 3)
    before = online.rating("new")[0]
    online.add("new", "old", 0.5)
    assert online.rating("new")[0] < before and online.rating("old")[0] > 0
