"""`cerulea games`, `match`, `ladder`, `rate`, `replay`: games between models and bots, on this machine.

Kept:    players are MODELs or `bot:NAME`; a share is told with its 95 % interval, and a timeout is nobody's win.
Not here: live matches (the platform's API), training (`main`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument, Option

from cerulea.cli.lines import put, tell_waiting, waiting
from cerulea.cli.options import Home, Json, OwnGame, settings_of
from cerulea.core.errors import CommandInvalid, GameInvalid, NotFound

if TYPE_CHECKING:
    from cerulea.core.settings import Settings
    from cerulea.games.rating import Rating

PlayerName = Annotated[str, Argument(help="A model (duelist, duelist@3, duelist:prod, a folder), or bot:NAME.")]
GameName = Annotated[str, Argument(metavar="GAME", help="A game, as `cerulea games` lists it.")]
LOOSE = 300.0  # points of an interval that no result on the way to random bounds
LINES = 12  # of a replay's map that are shown in its summary


def games(home: Home = None, as_json: Json = False) -> None:
    """What can be played."""
    from cerulea.games.catalog import GAMES

    if as_json:
        for name, about in GAMES.items():
            put({"game": name, "about": about})
        return
    for name, about in GAMES.items():
        print(f"{name:<16} {about}")
    print(f"{'gymnasium:ID':<16} any environment of Gymnasium that is installed")
    print(f"{'pettingzoo:MOD':<16} any environment of PettingZoo, such as pettingzoo:classic.connect_four_v3")
    print(f"{'python:MODULE':<16} a module of your own on Python's path (PYTHONPATH=.): docs/add-a-game.md")


def match(
    context: typer.Context,
    a: PlayerName,
    b: PlayerName,
    game: Annotated[str, Option(help="What they play, as `cerulea games` lists it.")],
    n: Annotated[int, Option(help="Matches; sides are swapped by halves.")] = 200,
    seed: Annotated[int, Option(help="The same seed plays the same matches.")] = 1,
    replays: Annotated[int, Option(help="Most replays to keep.")] = 10,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Let two players play many matches against one another."""
    from cerulea.flows.ready import compiling

    scripted = any(player.startswith("bot:") and player != "bot:random" for player in (a, b))
    tell_waiting(compiling(game, scripted=scripted))
    from cerulea.flows.arena import play
    from cerulea.flows.platform import open_platform

    with open_platform(settings_of(context, home)) as platform, waiting(f"{a} plays {b}") as status:

        def report(done: int, total: int) -> None:
            if status is not None:
                status.update(f"{a} plays {b}: {done} of {total}")

        try:
            played = play(platform, a, b, game, n=n, seed=seed, keep=replays, report=report)
        except NotFound as error:
            raise _or_bot(error, (a, b), game) from None
    s = played.series
    low, high = s.interval95
    values: dict[str, Any] = {
        "game": played.game,
        "version": played.version,
        "a": s.a,
        "b": s.b,
        "wins_a": s.wins_a,
        "wins_b": s.wins_b,
        "timeouts": s.timeouts,
        "n": s.n,
        "share_a": s.wins_a / s.n,
        "interval95": [low, high],
        "seed": seed,
        "replays": [str(path) for path in played.replays],
    }
    if as_json:
        put(values)
        return
    rest = s.n - s.wins_a - s.wins_b - s.timeouts
    print(f"{s.a} won {s.wins_a} of {s.n} against {s.b}: {s.wins_a / s.n:.1%} (95 %: {low:.1%} to {high:.1%})")
    draws = f", {rest} draws" if rest else ""
    print(f"{s.b} won {s.wins_b}, {s.timeouts} ran out of time{draws}; {played.game} {played.version}, seed {seed}")
    if played.replays:
        print(f"replay: cerulea replay {played.replays[0].stem}   ({len(played.replays)} kept)")


def ladder(context: typer.Context, game: GameName, home: Home = None, as_json: Json = False) -> None:
    """How good everybody is, by all matches that were played here."""
    from cerulea.flows.ready import compiling, has_results

    settings = settings_of(context, home)
    if not has_results(settings, game):
        _check_sides(game)
        _show_ratings([], as_json, game)
        return
    tell_waiting(compiling(game, scripted=False))
    from cerulea.flows.arena import ladder as ratings_of
    from cerulea.flows.platform import open_platform

    with open_platform(settings) as platform:
        found = ratings_of(platform, game)
    _show_ratings(found, as_json, game)


def rate(
    context: typer.Context,
    game: GameName,
    within: Annotated[float, Option(help="Play until every rating is known to so many points, up or down.")] = 4.0,
    rounds: Annotated[int, Option(help="Most rounds, of 20 matches each.")] = 200,
    seed: Annotated[int, Option(help="Decides the matches.")] = 1,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Let all agents and bots of a game play until their ratings are known well."""
    from cerulea.flows.ready import compiling

    _check_sides(game)
    tell_waiting(compiling(game, scripted=True))
    from cerulea.flows.arena import rate as play_on
    from cerulea.flows.platform import open_platform

    with open_platform(settings_of(context, home)) as platform, waiting(f"rating {game}") as status:

        def report(what: str, done: int, total: int) -> None:
            line = f"{what}; {done} of {total} ratings are good"
            if status is not None:
                status.update(line)
            elif as_json:
                put({"event": "round", "pair": what, "good": done, "players": total})
            else:
                print(line, flush=True)

        found = play_on(platform, game, good=within, most=rounds, seed=seed, report=report)
    _show_ratings(found, as_json, game)


def replay(
    context: typer.Context,
    file: Annotated[
        str | None, Argument(metavar="[FILE]", help="A replay's file, or its name; without one they are listed.")
    ] = None,
    every: Annotated[int, Option(help="Seconds of play between lines of the timeline.")] = 30,
    game: OwnGame = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """What happened in a match: summary, timeline, events; without a name, which matches are kept."""
    if file is None:
        _list_replays(settings_of(context, home), as_json)
        return
    from cerulea.cli.board import board, headline
    from cerulea.flows.arena import open_replay, timeline
    from cerulea.flows.platform import open_platform
    from cerulea.flows.ready import compiling

    with open_platform(settings_of(context, home)) as platform:
        path, kept = open_replay(platform, file)
    head = {
        "replay": str(path),
        "game": kept.game,
        "version": kept.version,
        "players": kept.players,
        "seed": kept.seed,
        "steps": kept.steps,
        "winner": kept.winner,
        "timeout": kept.cut,
        "bytes": path.stat().st_size,
    }
    if as_json:
        put({"event": "summary", **head})
    else:
        _show_head(head, path)
    tell_waiting(compiling(kept.game, scripted=False))
    next_s = 0.0
    frame: dict[str, Any] = {}
    for frame, happened in timeline(kept, game=game):
        clock_s = float(frame.get("clock_s", 0.0))
        if "clock_s" in frame and clock_s >= next_s:
            next_s += every
            if as_json:
                put({"event": "timeline", "clock_s": clock_s, "kills": frame["kills"], "worth": frame["worth"]})
            else:
                print(f"        {headline(frame)}")
        for one in happened:
            if as_json:
                put({"event": "happened", "step": one.step, "clock_s": one.clock_s, "what": one.what, "team": one.team})
            else:
                print(f"{int(one.clock_s) // 60:3d}:{int(one.clock_s) % 60:02d}  {one.what}")
    if as_json:
        put({"event": "end", "frame": frame})
    elif (drawn := board(frame)) is not None:
        from rich.console import Console

        Console().print(drawn)


def surgery(
    context: typer.Context,
    model: Annotated[str, Argument(metavar="MODEL", help="The agent.")],
    name: Annotated[str, Option(help="The name that the new one gets.")],
    game: Annotated[str | None, Option(help="The game that it shall fit; its own, as it is now, by default.")] = None,
    like: Annotated[
        list[str] | None, Option(help="NEW=OLD: read a new feature, such as a hero's, like an old one at first.")
    ] = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Fit an agent to a game that shows more or lets it do more; it behaves as before."""
    from cerulea.flows.judging import operate
    from cerulea.flows.platform import open_platform

    pairs = dict(_pair(text) for text in like or [])
    with open_platform(settings_of(context, home)) as platform:
        made, done = operate(platform, model, name, game=game, like=pairs)
    if as_json:
        put(
            {"model": made.name, "version": made.version, "added": done.added(), "gap": done.gap, "states": done.states}
        )
        return
    print(f"{made.label}: as {model}, with {done.gap:.1e} as the largest change of a logit on {done.states:,} states")
    for what, names in done.added().items():
        print(f"new {what}: {', '.join(names)}")


def _pair(text: str) -> tuple[str, str]:
    new, equals, old = text.partition("=")
    if not equals:
        raise CommandInvalid(f"--like {text!r} has no '='.", fix="Write --like is_Pyro=is_Magus.")
    return new, old


COMMANDS = (games, match, ladder, rate, replay, surgery)


def _show_head(head: dict[str, Any], path: Path) -> None:
    print(f"{path.name}: {head['game']} {head['version']}, {_against(head['players'])}")
    how = _ended(head["winner"], head["timeout"])
    print(f"{how}, after {head['steps']:,} steps; seed {head['seed']}, {head['bytes']:,} bytes")


def _against(seats: Sequence[str]) -> str:
    """Who played whom, of the names of all places in order: half of them are a side."""
    half = len(seats) // 2
    sides = (seats[:half], seats[half:]) if half and len(seats) % 2 == 0 else (seats,)
    return " against ".join(", ".join(dict.fromkeys(side)) for side in sides)


def _ended(winner: int, cut: bool) -> str:
    """How a match ended; one that ran out of time is nobody's win, whoever was ahead."""
    if cut:
        ahead = f"side {'AB'[winner]} was ahead" if winner in (0, 1) else "nobody was ahead"
        return f"nobody won: the time was over ({ahead})"
    return f"side {'AB'[winner]} won" if winner in (0, 1) else "nobody won"


def _check_sides(game: str) -> None:
    """Refuse to compare players where nobody plays against another.

    Raises:
        GameInvalid: a game of one side, or of more than two. NotFound: no such game.
    """
    from cerulea.flows.ready import sides_of

    if (sides := sides_of(game)) != 2:
        raise GameInvalid(
            f"{game} has {sides} side{'s' if sides > 1 else ''}, and so no ladder.",
            why="Ratings come of matches between two sides.",
            fix="See how well an agent plays it: cerulea eval MODEL",
        )


def _or_bot(error: NotFound, players: tuple[str, str], game: str) -> NotFound:
    """What was not found, with the bot that may have been meant."""
    for name in players:
        if repr(name) in error.what and ":" not in name:
            from cerulea.games.catalog import make_game

            if name in ("random", *make_game(game, 1).bots):
                error.fix = f"Did you mean bot:{name}?"
    return error


def _list_replays(settings: Settings, as_json: bool) -> None:
    from cerulea.cli.reach import day, show
    from cerulea.core.clock import iso
    from cerulea.flows.replays import list_replays

    found = list_replays(settings)
    if as_json:
        for one in found:
            head = {"replay": one.id, "game": one.game, "version": one.version, "players": list(one.seats)}
            end = {"seed": one.seed, "steps": one.steps, "winner": one.winner, "timeout": one.cut}
            put({**head, **end, "kept_at": iso(one.kept_at), "path": str(one.path)})
        return

    show(
        found,
        False,
        {
            "replay": lambda one: one.id,
            "game": lambda one: f"{one.game} {one.version}",
            "players": lambda one: _against(one.seats),
            "kept": lambda one: day(iso(one.kept_at)),
            "ended": lambda one: _ended(one.winner, one.cut),
        },
        "No replays are kept here. Play some: cerulea match bot:random bot:random --game connect-four",
    )


def _show_ratings(found: list[Rating], as_json: bool, game: str) -> None:
    if as_json:
        for one in found:
            values = {"rating": round(one.rating, 2), "low": round(one.low, 2), "high": round(one.high, 2)}
            put({"player": one.player, **values, "games": one.games})
        return
    if len(found) < 2:
        print(f"No results yet. Play some: cerulea match A bot:random --game {game}, or cerulea rate {game}")
        return
    from rich.console import Console
    from rich.table import Table

    table = Table()
    for column in ("player", "rating", "95 %", "matches"):
        table.add_column(column, justify="left" if column == "player" else "right")
    for one in found:
        table.add_row(one.player, f"{one.rating:.1f}", f"{one.low:.1f} to {one.high:.1f}", f"{one.games:,}")
    Console().print(table)
    loose = [one.player for one in found if one.high - one.low > LOOSE]
    if all(one.player != "bot:random" for one in found):
        print(f"Nobody here played bot:random, from which points count: cerulea match A bot:random --game {game}")
    elif loose:
        print(f"Nothing yet ties {', '.join(loose)} to bot:random, from which points count: cerulea rate {game}")
