"""How good an agent is, asked of itself: against bots, its own past, an exploiter; and agents changed by name.

In:      an open platform, the label of an agent.
Out:     plain values for a person or a program; for surgery a new version.
Kept:    what is measured here is measured on seeds of its own, sides swapped by halves. An exploiter is trained with
         EXPLOIT of the steps that the agent had, against the agent alone, which does not learn; its run is not kept.
Not here: ratings over everybody (`flows.arena`), the measures (`train.judge`), the operation (`train.surgery`).
"""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cerulea.core.errors import Failed, Invalid
from cerulea.core.values import ModelCard, PlayProgress
from cerulea.flows.arena import player_name, results_of, results_path
from cerulea.flows.known import record_of
from cerulea.flows.model_folders import Model, check_plays, find_model, register
from cerulea.flows.platform import HOME, Platform
from cerulea.games.catalog import make_game, name_in_file
from cerulea.games.game import judged_options
from cerulea.games.match import RANDOM, play_series
from cerulea.games.rating import add_results
from cerulea.registry import check_name
from cerulea.train.agent import Agent, load_agent
from cerulea.train.checkpoint import newest_checkpoint
from cerulea.train.judge import Share, judge, share_of
from cerulea.train.play_recipe import PlayRecipe
from cerulea.train.players import AgentPlayer
from cerulea.train.recipe import recipe_from
from cerulea.train.selfplay import self_play
from cerulea.train.surgery import Converted, convert

EXPLOIT = 0.1
LEAST = 20_000  # decisions of an exploiter, at least
NEVER = 1_000_000_000
Report = Callable[[str, int, int], None]


def evaluate_agent(
    platform: Platform,
    label: str,
    *,
    n: int,
    seed: int,
    exploit: bool,
    game: str | None = None,
    report: Report = lambda what, done, total: None,
) -> dict[str, Any]:
    """Everything that can be measured of an agent by letting it play.

    Args:
        game: the agent's game, where that is a module of one's own.

    Raises:
        GameInvalid: it is such a module, and was not named.
        NotFound: no such model. Invalid: less than one match, or an exploiter in a game of one side.
        Failed: an exploiter is asked for, and nothing is known of how the agent was trained.
        ModelKindWrong: it plays no games. AgentUnfit: its game is not what it was.
    """
    if n < 1:
        raise Invalid(f"--n is {n}.", fix="Play at least one match against each.")
    model = find_model(platform, label)
    check_plays(model)
    agent = load_agent(model.folder)
    name = name_in_file(agent.game, game)
    options = agent.about.get("options", {})
    options = judged_options(make_game(name, 1, **options), options)
    played = make_game(name, 1, **options)
    agent.check(played)
    if exploit and not max(played.teams):
        raise Invalid(
            f"{agent.game} has one side: nobody plays against {model.label}, so nobody can exploit it.",
            fix="Evaluate it without --exploit.",
        )
    recipe = trained_as(platform, model) if exploit else None  # before minutes of matches
    judged = judge(
        lambda matches: make_game(name, matches, **options),
        model.folder,
        name=player_name(model),
        opponents=(RANDOM, *played.bots),
        n=n,
        seed=seed,
        past=_checkpoint_of(platform, model),
        report=report,
    )
    results = [r for series in judged.series for r in results_of(series) if series.b.startswith("bot:")]
    add_results(results_path(platform.settings, played), results)
    values = {"model": model.label, "game": agent.game, "version": played.version, "n": n, **judged.as_json()}
    if recipe is not None:
        share, steps = exploited(model, agent, recipe, n=n, seed=seed, report=report)
        values["exploiter"] = {**dataclasses.asdict(share), "agent_steps": steps}
    return values


def trained_as(platform: Platform, model: Model) -> PlayRecipe:
    """The recipe that made an agent.

    Raises:
        Failed: nothing is known of how it was trained.
    """
    record = record_of(platform.settings, model.registered.run if model.registered else None)
    if record is None:
        raise Failed(
            f"Nothing here tells how {model.label} was trained.",
            why="An exploiter is trained as the agent was, with a tenth of its steps.",
            fix="Evaluate it without --exploit, or where it was trained.",
        )
    recipe = recipe_from({**record["recipe"]})
    assert isinstance(recipe, PlayRecipe)
    return recipe


def exploited(
    model: Model, agent: Agent, recipe: PlayRecipe, *, n: int, seed: int, report: Report
) -> tuple[Share, int]:
    """What an exploiter wins against the agent, and the decisions that it was trained with.

    Args:
        recipe: that made the agent; the exploiter is trained as it was, with a tenth of its steps.
    """
    steps = max(LEAST, int(EXPLOIT * model.card().get("extra", {}).get("agent_steps", 0)))
    recipe = dataclasses.replace(
        recipe,
        name="exploiter",
        model=dataclasses.replace(recipe.model, init=""),
        train=dataclasses.replace(
            recipe.train,
            steps=0,
            minutes=0.0,
            agent_steps=steps,
            checkpoint_steps=0,
            checkpoint_minutes=0.0,
            seed=seed + 1,
        ),
        # Of a league too: one net that learns, and every match of it against the agent.
        opponents=dataclasses.replace(
            recipe.opponents,
            mode="openai-five",
            own=0.0,
            past=1.0,
            bots=0.0,
            exploiters=0.0,
            snapshot_steps=NEVER,
        ),
    )
    game = make_game(recipe.game.name, recipe.game.matches, **recipe.game.options)
    options = judged_options(game, recipe.game.options)
    with tempfile.TemporaryDirectory(prefix="exploiter-") as place:
        run = self_play(
            recipe,
            game,
            Path(place),
            past={0: dict(agent.policy.state_dict())},
        )
        for event in run:
            if isinstance(event, PlayProgress):
                report("training an exploiter", event.agent_steps, steps)
        last = newest_checkpoint(Path(place) / "checkpoints", lambda text: None)
        assert last is not None, "a run ends with a checkpoint"
        series, _ = play_series(
            lambda matches: make_game(recipe.game.name, matches, **options),
            AgentPlayer(load_agent(last.folder)),
            AgentPlayer(agent),
            names=("exploiter", model.label),
            n=n,
            seed=seed,
        )
    return share_of(series), steps


def operate(
    platform: Platform,
    label: str,
    name: str,
    *,
    game: str | None,
    like: Mapping[str, str],
    team: str = HOME,
    actor: str = "owner",
) -> tuple[Model, Converted]:
    """An agent that fits its game as it is now, or another one, as the next version of `name`.

    Args:
        game: which one it shall fit; its own by default, unless that is a module, which has to be named.

    Raises:
        Invalid: `name` cannot be one.
        NotFound, ModelKindWrong: no such agent.
        GameInvalid: its game is a module that nobody has named.
        AgentUnfit: something that it relies on is gone.
    """
    check_name(name)
    model = find_model(platform, label)
    check_plays(model)
    agent = load_agent(model.folder)
    own = not game or game == agent.game
    now = make_game(name_in_file(game or agent.game, game), 64, **(agent.about.get("options", {}) if own else {}))
    place = platform.settings.models / f".surgery-{name}.tmp"
    shutil.rmtree(place, ignore_errors=True)
    try:
        done = convert(agent, now, place, like=like)
        card = {**dataclasses.asdict(ModelCard(preset=now.name, parameters=0, context=0, vocab=0)), **model.card()}
        card["parameters"] = sum(p.numel() for p in load_agent(place).policy.parameters())
        known = {"game": now.name, "game_version": now.version, "version": now.version, "surgery_of": model.label}
        card["extra"] = {"agent_steps": card.get("extra", {}).get("agent_steps", 0)}
        _write_card(place, {**card, "preset": now.name})
        parent = model.label if model.registered else None
        made = register(platform, place, name, team=team, actor=actor, extra=known, parent=parent)
        platform.people.record(actor, "model.surgery", made.label, team, known)
        return made, done
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _write_card(folder: Path, card: dict[str, Any]) -> None:
    from cerulea.core.files import write_json
    from cerulea.flows.model_folders import CARD

    write_json(folder / CARD, card)


def _checkpoint_of(platform: Platform, model: Model) -> Path | None:
    """The checkpoint that a version came of, with its pool, where it still lies here."""
    extra = model.card().get("extra", {})
    run, step = extra.get("run"), extra.get("step")
    if not run or step is None:
        return None
    folder = platform.settings.runs / str(run) / "checkpoints" / f"step-{int(step):08d}"
    return folder if folder.is_dir() else None
