"""How good an agent is: against scripted players, against its own past, and how it behaves.

In:      an agent's folder, its game; for its past a checkpoint's pool.
Out:     a Judgement: shares won with intervals, the forgetting meter, behaviour in plain ratios.
Kept:    every match is between fixed players, sides swapped by halves; a timeout is no win.
Not here: ratings over everything that was played (`games.rating`), training (`selfplay`), an exploiter's training
         (`flows.judge`, which runs one as any run).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load_file

from cerulea.core.files import read_json
from cerulea.games.game import Game
from cerulea.games.match import RANDOM, BotPlayer, Player, Series, play_alone, play_series
from cerulea.nn.policy import Policy
from cerulea.train.agent import Agent, load_agent
from cerulea.train.players import AgentPlayer

POOL = "pool.safetensors"
PAST_AT = (0.25, 0.5, 0.75)  # of the run: where the forgetting meter looks
Report = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """A share of matches won."""

    opponent: str
    share: float
    low: float  # of the 95 % interval
    high: float
    n: int
    timeouts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What was measured."""

    shares: list[Share]
    past: list[Share] = field(default_factory=list)  # against itself at PAST_AT, where that is known
    behaviour: dict[str, float] = field(default_factory=dict)  # plain ratios; of a game of one side mean returns
    series: list[Series] = field(default_factory=list)  # everything that was played

    @property
    def forgetting(self) -> float | None:
        """The lowest share against its past; below a half it has lost what it knew."""
        return min((share.share for share in self.past), default=None)

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "against": [asdict(share) for share in self.shares],
            "past": [asdict(share) for share in self.past],
            "forgetting": self.forgetting,
            "behaviour": self.behaviour,
        }


def judge(
    make: Callable[[int], Game],
    folder: Path,
    *,
    name: str,
    opponents: Sequence[str],
    n: int,
    seed: int,
    past: Path | None = None,
    report: Report = lambda what, done, total: None,
) -> Judgement:
    """Let an agent play; in a game of one side it is told what a match pays, to the agent and to the random player.

    Args:
        opponents: names of bots; nobody is met in a game of one side.
        n: matches against each.
        past: a checkpoint's folder with a pool; its members at PAST_AT are met too.
    """
    agent = AgentPlayer(load_agent(folder))
    if not max(make(1).teams):
        paid = {
            key: play_alone(make, player, n=n, seed=seed, report=partial(report, label))
            for key, label, player in (
                ("episode_return", "by itself", agent),
                ("episode_return_of_random", f"bot:{RANDOM} by itself", BotPlayer(RANDOM)),
            )
        }
        return Judgement(shares=[], behaviour={key: round(float(np.mean(found)), 4) for key, found in paid.items()})
    games: list[Game] = []

    def kept(matches: int) -> Game:
        games.append(make(matches))
        return games[-1]

    def meet(other: Player, label: str) -> Series:
        return play_series(
            kept,
            agent,
            other,
            names=(name, label),
            n=n,
            seed=seed,
            report=lambda done, total: report(label, done, total),
        )[0]

    series = [meet(BotPlayer(bot), f"bot:{bot}") for bot in opponents]
    behaviour = behaviour_of(games)
    selves = [(label, AgentPlayer(self)) for label, self in past_selves(agent.agent, past)] if past else []
    before = [meet(other, label) for label, other in selves]
    return Judgement(
        shares=[share_of(one) for one in series],
        past=[share_of(one) for one in before],
        behaviour=behaviour,
        series=series,
    )


def share_of(series: Series) -> Share:
    """A's share of a series."""
    low, high = series.interval95
    share = series.wins_a / series.n if series.n else 0.0
    return Share(opponent=series.b, share=share, low=low, high=high, n=series.n, timeouts=series.timeouts)


def past_selves(agent: Agent, checkpoint: Path) -> list[tuple[str, Agent]]:
    """The agent as it was at PAST_AT of its run, the nearest that its pool has kept."""
    if not (checkpoint / POOL).exists():
        return []
    weights: dict[int, dict[str, Any]] = {}
    for key, tensor in load_file(checkpoint / POOL).items():
        step, _, name = key.partition(":")
        weights.setdefault(int(step), {})[name] = tensor
    last = int(read_json(checkpoint / "state.json")["step"])
    found: list[tuple[str, Agent]] = []
    for share in PAST_AT:
        step = min(weights, key=lambda known: abs(known - share * last), default=None)
        if step is None or (taken := f"itself at step {step:,}") in {label for label, _ in found}:
            continue
        policy = Policy(agent.policy.shape)
        policy.load_state_dict(weights[step])
        found.append((taken, Agent(policy.eval(), agent.schema, agent.game, agent.version, agent.about)))
    return found


def behaviour_of(games: Sequence[Game]) -> dict[str, float]:
    """Ratios that tell how A plays, from the counters of matches that have ended; {} where a game has none for it."""
    totals: dict[str, float] = {}
    matches = 0
    for game in games:
        if not game.meters:
            return {}
        meter_MPF = np.zeros((game.matches, game.players, len(game.meters)), np.float32)
        game.read_meters(meter_MPF)
        side_M = np.arange(game.matches) % 2  # sides are swapped match by match
        ours_MP = np.array(game.teams)[None, :] == side_M[:, None]
        for i, name in enumerate(game.meters):
            totals[name] = totals.get(name, 0.0) + float(meter_MPF[..., i][ours_MP].sum())
        matches += game.matches
    if not matches:
        return {}
    found = {}
    for ratio, (above, below) in RATIOS.items():
        if above in totals and (below in totals or not below):
            found[ratio] = (
                round(totals[above] / (totals[below] if below else matches), 4) if _some(totals, below) else 0.0
            )
    return found


# What is told, as one counter over another, or for each match where there is no other.
RATIOS = {
    "buildings_hit_with_a_wave": ("building_damage_with_wave", "building_damage"),
    "retreats_when_low_and_outnumbered": ("retreats", "low_and_outnumbered"),
    "deaths_under_towers": ("deaths_under_tower", ""),
    "deaths": ("deaths", ""),
    "kills": ("kills", ""),
    "last_hits": ("last_hits", ""),
    "apart": ("apart", "apart_samples"),
    "casts": ("casts", ""),
}


def _some(totals: dict[str, float], below: str) -> bool:
    return not below or totals[below] > 0
