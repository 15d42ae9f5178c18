"""Recipes of kind `selfplay`: a game, a policy, how it learns, against whom.

In:      plain values of a TOML file (`recipe.read_recipe` reads it).
Out:     a PlayRecipe whose every value is checked; what depends on the game is checked when the game is made.
Not here: torch, games.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import Any, ClassVar

from cerulea.core.errors import RecipeInvalid
from cerulea.core.names import NAME_RULE, is_name
from cerulea.train.keys import key


@dataclass(frozen=True, slots=True, kw_only=True)
class GameKeys:
    """What is played."""

    name: str = key(
        "rift-skirmish", "A game that `cerulea games` lists, `gymnasium:ID`, `pettingzoo:MODULE` or `python:MODULE`."
    )
    matches: int = key(128, "Matches that are played at once, over all processes.")
    options: dict[str, Any] = key({}, "What the game is made with, beside its name.")


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyKeys:
    """The policy's sizes; what the game shows decides the rest."""

    embed: int = key(16, "Width of a unit's embedding.")
    vector_width: int = key(64, "Width of the layer that reads flat features.")
    width: int = key(128, "Width of the layer before the memory.")
    core: str = key("lstm", "Memory: `lstm`, `mingru` (cheaper, looks back less), or `none`.")
    memory: int = key(64, "Width of the memory.")
    share: float = key(0.25, "Share of the width that players of a side pool with one another.")
    init: str = key("", "An agent to begin with, as a folder; `cerulea train` takes a model's name too.", path=True)
    critic: bool = key(True, "Let the value see what the game shows to nobody but the critic.")


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnKeys:
    """How long, how fast and how carefully."""

    steps: int = key(0, "Stop after so many updates. At least one of steps, agent_steps, minutes is needed.")
    agent_steps: int = key(0, "Stop after so many decisions of learning players.")
    minutes: float = key(0.0, "Stop so many wall-clock minutes after the first update began.")
    target_return: float = key(0.0, "Stop when the mean return of the last 100 matches is so high; 0 never.")
    rollout: int = key(32, "Steps of every match in one update; gradients go back through all of them.")
    minibatch: int = key(8192, "Decisions of one optimizer step.")
    epochs: int = key(1, "How often each decision is trained on; more than once slows self-play down.")
    learning_rate: float = key(7e-4, "Adam's peak rate.")
    final_rate: float = key(0.1, "Rate at the end, as a share of the peak; it falls in a line.")
    clip: float = key(0.2, "How far a ratio of probabilities may move.")
    discount: float = key(0.9967, "Gamma, for each decision.")
    trace: float = key(0.95, "Lambda of the advantages.")
    entropy: float = key(0.01, "Bonus for entropy at first.")
    final_entropy: float = key(0.001, "Bonus for entropy at the end; it falls in a line.")
    value_weight: float = key(1.0, "Weight of the value's loss.")
    gradient_norm: float = key(1.0, "Largest gradient norm; 0 does not clip.")
    team_spirit: list[float] = key(
        [0.3, 0.8, 1.0], "Share of a side's mean in each player's reward: at first, at 60 %, from 80 % of the run on."
    )
    zero_sum: bool = key(True, "Take the other side's mean reward off, where there are two sides.")
    seed: int = key(1, "Decides initial weights, matches and every draw.")
    checkpoint_steps: int = key(0, "Save every so many updates.")
    checkpoint_minutes: float = key(5.0, "Save when so many minutes have passed since the last time; 0 never.")
    keep_last: int = key(2, "Newest checkpoints that are kept.")


@dataclass(frozen=True, slots=True, kw_only=True)
class OpponentKeys:
    """Against whom matches are played."""

    mode: str = key(
        "openai-five",
        "Who of the past is met: `openai-five` by quality scores, `pfsp` who is hard to beat, `league` as `pfsp` and "
        "with two more nets that learn to exploit the main one.",
    )
    own: float = key(0.65, "Share of matches against oneself; both sides learn.")
    past: float = key(0.2, "Share against past selves.")
    bots: float = key(0.15, "Share against the game's scripted players, in the first half of a run.")
    always_bots: bool = key(False, "Go on against scripted players in the second half.")
    names: list[str] = key(
        [],
        "Scripted players to meet, each more often once the next weaker one is beaten; all of the game's where empty. "
        "`random` is known in every game, and met where it is named.",
    )
    snapshot_steps: int = key(10, "Take a past self every so many updates.")
    pool: int = key(64, "Most past selves that are kept.")
    groups: int = key(4, "Past selves that are met at one time.")
    exploiters: float = key(0.3, "In a league: share of matches that train an exploiter instead of the main net.")
    reset_at: float = key(0.7, "In a league: the main net's exploiter begins again when it wins such a share.")


@dataclass(frozen=True, slots=True, kw_only=True)
class PlayRecipe:
    """A self-play run from nothing to an agent."""

    # The key of [train] that ends a run, by the reason that the run gives.
    ends: ClassVar[dict[str, str]] = {
        **{key: key for key in ("steps", "agent_steps", "minutes")},
        "target": "target_return",
    }

    kind: str = key("selfplay", "What is trained; `selfplay` is a player of a game.")
    name: str = key("player", "The agent's name among your models.")
    game: GameKeys = dataclasses.field(default_factory=GameKeys)
    model: PolicyKeys = dataclasses.field(default_factory=PolicyKeys)
    train: LearnKeys = dataclasses.field(default_factory=LearnKeys)
    opponents: OpponentKeys = dataclasses.field(default_factory=OpponentKeys)

    def __post_init__(self) -> None:
        _check(self)

    def as_json(self) -> dict[str, Any]:
        """All keys with their values, defaults included."""
        return dataclasses.asdict(self)

    def digest(self) -> str:
        """sha256 over all values."""
        return hashlib.sha256(json.dumps(self.as_json(), sort_keys=True).encode()).hexdigest()


def _check(recipe: PlayRecipe) -> None:
    g, m, t, o = recipe.game, recipe.model, recipe.train, recipe.opponents

    def need(right: bool, what: str, fix: str) -> None:
        if not right:
            raise RecipeInvalid(what, fix=fix)

    need(is_name(recipe.name), f"name is {recipe.name!r}.", NAME_RULE)
    need(g.matches >= 1, f"game.matches is {g.matches}.", "Play at least one match.")
    for name in ("embed", "vector_width", "width", "memory"):
        need(getattr(m, name) >= 1, f"model.{name} is {getattr(m, name)}.", "Use 1 or more.")
    need(m.core in ("lstm", "mingru", "none"), f"model.core is {m.core!r}.", "Use one of lstm, mingru, none.")
    need(0 <= m.share <= 1, f"model.share is {m.share}.", "Use a share from 0 to 1.")
    need(
        t.steps > 0 or t.agent_steps > 0 or t.minutes > 0,
        "The recipe never stops.",
        "Set at least one of train.steps, agent_steps or minutes; it also ends the schedules.",
    )
    need(min(t.steps, t.agent_steps, t.minutes) >= 0, "A stop rule is negative.", "Use 0 for no such rule.")
    for name in ("rollout", "minibatch", "epochs", "keep_last"):
        need(getattr(t, name) >= 1, f"train.{name} is {getattr(t, name)}.", "Use 1 or more.")
    for name in ("final_rate", "clip", "trace"):
        need(0 <= getattr(t, name) <= 1, f"train.{name} is {getattr(t, name)}.", "Use a share from 0 to 1.")
    need(0 <= t.discount < 1, f"train.discount is {t.discount}.", "Use a share below 1.")
    for name in ("learning_rate", "entropy", "final_entropy", "value_weight", "gradient_norm"):
        need(getattr(t, name) >= 0, f"train.{name} is {getattr(t, name)}.", "Use 0 or more.")
    need(
        len(t.team_spirit) == 3 and all(0 <= share <= 1 for share in t.team_spirit),
        f"train.team_spirit is {t.team_spirit}.",
        "Write three shares: [0.3, 0.8, 1.0].",
    )
    need(min(t.checkpoint_steps, t.checkpoint_minutes) >= 0, "An interval in [train] is negative.", "Use 0 for never.")
    need(0 <= t.seed < 2**63, f"train.seed is {t.seed}.", "Use a whole number from 0 to 2^63 - 1.")
    need(
        min(o.own, o.past, o.bots) >= 0 and o.own + o.past + o.bots > 0,
        "The shares of opponents add up to nothing.",
        "Set opponents.own, past or bots above 0.",
    )
    modes = ("openai-five", "pfsp", "league")
    need(o.mode in modes, f"opponents.mode is {o.mode!r}.", f"Use one of {', '.join(modes)}.")
    for name in ("exploiters", "reset_at"):
        need(0 <= getattr(o, name) <= 1, f"opponents.{name} is {getattr(o, name)}.", "Use a share from 0 to 1.")
    need(min(o.snapshot_steps, o.pool, o.groups) >= 1, "A number in [opponents] is below 1.", "Use 1 or more.")
