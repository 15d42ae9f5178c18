"""Matches that nobody watches: between models and bots, counted, kept, and turned into ratings.

In:      an open platform, labels of players (a model, or `bot:NAME`), a game.
Out:     how a series went; a ladder; what happened in a replay.
Kept:    every result is appended to CERULEA_HOME/results, a file for each version of a game and its options, under the
         version of each model; ratings are computed from all of them. Replays lie in CERULEA_HOME/replays.
Not here: live matches (`flows.play`), how good one agent is by itself (`flows.judging`), the numbers (`games.rating`).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cerulea.core.clock import new_id
from cerulea.core.errors import Invalid
from cerulea.core.files import sha256_file
from cerulea.core.seeds import mixed
from cerulea.core.settings import Settings
from cerulea.flows.model_folders import Model, check_plays, find_model, list_models
from cerulea.flows.platform import HOME, Platform
from cerulea.flows.ready import file_stem
from cerulea.flows.replays import find_file, replay_path
from cerulea.games.catalog import make_game
from cerulea.games.game import Game, judged_options
from cerulea.games.match import RANDOM, Player, Series, play_series
from cerulea.games.rating import POINTS, Rating, Result, add_results, read_results
from cerulea.games.rating import rate as rate_players
from cerulea.games.replay import Replay, frames, read_replay, save_replay
from cerulea.train.players import BOT, open_player

KEPT = 10  # replays of a series
ROUND = 20  # matches of a pair, between looks at the ratings
GOOD = 4.0  # points: half of an interval that is good enough
MOST_ROUNDS = 200
Report = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """A series, under the names that its results were kept with."""

    game: str
    version: str
    series: Series
    replays: list[Path]


ANCHOR = f"{BOT}{RANDOM}"


def results_path(settings: Settings, game: Game) -> Path:
    """The file of all results of a game's version, and of the options that it is played with."""
    name = file_stem(f"{game.name}-{game.version}")
    if options := judged_options(game):
        plain = json.dumps(options, sort_keys=True, default=str)
        name += f"-{hashlib.sha256(plain.encode()).hexdigest()[:8]}"
    return settings.results / f"{name}.jsonl"


def results_of(series: Series) -> list[Result]:
    """A series as results: equal ones together, with the seeds of their matches."""
    seeds: dict[tuple[str, str, float], list[int]] = {}
    for one in series.outcomes:
        names = (series.a, series.b) if one.first == "a" else (series.b, series.a)
        score = 0.5 if one.timeout or one.winner < 0 else float(one.winner == 0)
        seeds.setdefault((*names, score), []).append(one.seed)
    return [Result(*known, len(own), tuple(own)) for known, own in seeds.items()]


def player_name(model: Model) -> str:
    """What an agent's results are kept under: its version, or its folder's name and its weights' digest.

    What lies in a folder may be another agent tomorrow.
    """
    if model.registered:
        return model.label
    return f"{model.folder.name}#{sha256_file(model.folder / 'model.safetensors')[:8]}"


@dataclass(frozen=True, slots=True)
class Entrant:
    """A player with the name that results are kept under."""

    name: str
    player: Player


def play(
    platform: Platform,
    a: str,
    b: str,
    game: str,
    *,
    n: int,
    seed: int,
    keep: int = KEPT,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> Played:
    """A against B, `n` matches, sides swapped; results and some replays are kept.

    Raises:
        NotFound: no such model, bot or game; names the nearest.
        ModelKindWrong, AgentUnfit: a model that cannot play it.
        GameInvalid: a game without two sides.
    """
    if n < 1:
        raise Invalid(f"--n is {n}.", fix="Play at least one match.")
    first = make_game(game, 1)
    players = [entrant(platform, label, first) for label in (a, b)]
    return _series(platform, first, players[0], players[1], n=n, seed=seed, keep=keep, report=report)


def entrant(platform: Platform, label: str, game: Game) -> Entrant:
    """A player by its label, who can play `game`."""
    if label.startswith(BOT):
        found = Entrant(label, open_player(label, ""))
    else:
        model = find_model(platform, label)
        check_plays(model)
        found = Entrant(player_name(model), open_player(label, str(model.folder)))
    found.player.begin(game)
    return found


def _series(
    platform: Platform,
    game: Game,
    a: Entrant,
    b: Entrant,
    *,
    n: int,
    seed: int,
    keep: int,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> Played:
    series, kept = play_series(
        lambda matches: make_game(game.name, matches, **game.options),
        a.player,
        b.player,
        names=(a.name, b.name),
        n=n,
        seed=seed,
        keep=min(n, keep),
        report=report,
    )
    if a.name != b.name:
        add_results(results_path(platform.settings, game), results_of(series))
    replays = []
    for replay in kept:
        path = replay_path(platform.settings, HOME, new_id("match"))
        save_replay(replay, path)
        replays.append(path)
    return Played(game=game.name, version=game.version, series=series, replays=replays)


# -- ratings --------------------------------------------------------------------------------------------


def ladder(platform: Platform, name: str) -> list[Rating]:
    """Ratings over all results of a game's present version, the best first.

    Raises:
        NotFound: no such game.
    """
    game = make_game(name, 1)
    return rate_players(read_results(results_path(platform.settings, game)), ANCHOR)


def rate(
    platform: Platform,
    name: str,
    *,
    good: float = GOOD,
    most: int = MOST_ROUNDS,
    seed: int = 1,
    report: Report = lambda what, done, total: None,
) -> list[Rating]:
    """Let all agents that fit the game, and its bots, play until every interval is good, or `most` rounds are over.

    The random player, from which points are counted, is met first of all, then whoever has no rating. Then each round
    is for the rung of the ladder that least is known of: of the players beside it, those who tell most play, which are
    the nearest.
    """
    game = make_game(name, 1)
    entrants = {one.name: one for one in _everybody(platform, game)}
    path = results_path(platform.settings, game)
    for number in range(most):
        results = read_results(path)
        ratings = {r.player: r for r in rate_players(results, ANCHOR) if r.player in entrants}
        unsure = [p for p in entrants if p != ANCHOR and (p not in ratings or _half(ratings[p]) > good)]
        if not unsure and (ANCHOR in ratings or not ratings):
            break
        unmet = [p for p in unsure if p not in ratings]
        if ratings and ANCHOR not in ratings:  # without it nobody's points mean anything
            one, other = ANCHOR, min(ratings, key=lambda p: (ratings[p].rating, p))
        elif unmet:
            known = sorted(ratings, key=lambda p: ratings[p].rating) or [ANCHOR]
            one, other = unmet[0], known[len(known) // 2]
        else:
            one, other = _weakest_rung(results, ratings)
        report(f"{one} against {other}", len(entrants) - 1 - len(unsure), len(entrants) - 1)
        pair = entrants[one], entrants[other]
        _series(platform, game, *pair, n=ROUND, seed=mixed(seed, len(results), number) >> 1, keep=0)
    return ladder(platform, name)


def _half(rating: Rating) -> float:
    """Half of an interval."""
    return (rating.high - rating.low) / 2


def _weakest_rung(results: list[Result], ratings: dict[str, Rating]) -> tuple[str, str]:
    """The two neighbours of the ladder between whom least is known: what results say across them, p (1 - p) each."""
    order = sorted(ratings, key=lambda p: (ratings[p].rating, p))
    place = {player: i for i, player in enumerate(order)}
    known = [0.0] * (len(order) - 1)
    for result in results:
        if result.first in place and result.second in place:
            low, high = sorted((place[result.first], place[result.second]))
            gap = (ratings[order[high]].rating - ratings[order[low]].rating) / POINTS
            p = 1 / (1 + math.exp(-gap))
            for rung in range(low, high):
                known[rung] += result.count * p * (1 - p)
    rung = known.index(min(known))
    return order[rung + 1], order[rung]


def _everybody(platform: Platform, game: Game) -> Iterator[Entrant]:
    """The bots, and every agent that was trained in this version of the game."""
    for bot in (RANDOM, *game.bots):
        yield entrant(platform, f"{BOT}{bot}", game)
    for model in list_models(platform):
        extra = model.card().get("extra", {})
        of = extra.get("game"), str(extra.get("game_version", extra.get("version")))
        if model.plays and of == (game.name, game.version):
            yield entrant(platform, model.label, game)


# -- replays --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Happened:
    """One thing that happened in a match."""

    step: int
    clock_s: float
    what: str
    team: int  # for whom it is good; -1 for nobody


def open_replay(platform: Platform, name: str) -> tuple[Path, Replay]:
    """A replay by its name or path.

    Raises:
        NotFound, ReplayInvalid.
    """
    path = find_file(platform.settings, name)
    return path, read_replay(path)


def timeline(replay: Replay, *, game: str | None = None) -> Iterator[tuple[dict[str, Any], list[Happened]]]:
    """Every frame of a match with what happened since the one before.

    Args:
        game: the game's name, of a replay whose game is a module of one's own.

    Raises:
        GameInvalid: it is such a module, and was not named.
        ReplayInvalid: it is of another version of its game, or does not end as it ended.
    """
    before: dict[str, Any] | None = None
    for step, frame in enumerate(frames(replay, named=game)):
        clock_s = float(frame.get("clock_s", step))
        yield frame, [] if before is None else list(_between(before, frame, step, clock_s))
        before = frame


def _between(before: dict[str, Any], after: dict[str, Any], step: int, clock_s: float) -> Iterator[Happened]:
    """What two frames tell by their difference, in games with heroes and buildings."""
    then = {unit["id"]: unit for part in ("heroes", "buildings") for unit in before.get(part, [])}
    for unit in after.get("buildings", []):
        if then[unit["id"]]["alive"] and not unit["alive"]:
            where = f"{unit['lane']} " if unit.get("lane") else ""
            yield Happened(step, clock_s, f"{where}{unit['kind']} of side {'AB'[unit['team']]} falls", 1 - unit["team"])
    for hero in after.get("heroes", []):
        old = then[hero["id"]]
        if old["alive"] and not hero["alive"]:
            others = [h for h in after["heroes"] if h["team"] != hero["team"]]
            killers = [_called(h) for h in others if h["kills"] > then[h["id"]]["kills"]]
            by = f" by {' and '.join(killers)}" if killers else ""
            yield Happened(step, clock_s, f"{_called(hero)} dies{by}", 1 - hero["team"])
        if hero["level"] > old["level"] and hero["level"] in (5, 10):
            yield Happened(step, clock_s, f"{_called(hero)} reaches level {hero['level']}", hero["team"])
    for team, (was, now) in enumerate(zip(before.get("bosses", []), after.get("bosses", []), strict=True)):
        if now > was:
            yield Happened(step, clock_s, f"side {'AB'[team]} takes the boss", team)


def _called(hero: dict[str, Any]) -> str:
    """A hero's name and side: both sides may have the same one."""
    return f"{hero['name']} {'AB'[hero['team']]}"
