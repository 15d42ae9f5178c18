"""Players of a match by their labels: bots by name, agents from their folders.

In:      a game, labels, folders of agents.
Out:     players, one for each label (`games.match.Player`).
Kept:    an agent plays only a game whose schema is the one it was trained with.
Not here: where folders are (`flows`), bots (`games`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cerulea.games.game import ActionArray, BoolArray, Game, Observation, SeedArray
from cerulea.games.match import BotPlayer, Player

if TYPE_CHECKING:
    from cerulea.train.agent import Agent

BOT = "bot:"


class AgentPlayer:
    """A trained agent as a player."""

    def __init__(self, agent: Agent, *, greedy: bool = False) -> None:
        self.agent, self.greedy = agent, greedy

    def begin(self, game: Game) -> None:
        """Matches are about to begin."""
        self.memory = self.agent.begin(game.matches, game.players)

    def act(self, observation: Observation, out: ActionArray, rows_MP: BoolArray, seed_M: SeedArray, step: int) -> None:
        """Write what the agent does in the marked rows."""
        action, self.memory = self.agent.act(
            observation, self.memory, seed_M, step, greedy=self.greedy, rows_MP=rows_MP
        )
        out[rows_MP] = action[rows_MP]


def open_players(game: Game, labels: Sequence[str], folders: Mapping[str, str]) -> list[Player]:
    """A player for each label.

    Raises:
        NotFound: no such bot.
        AgentUnfit: an agent of another schema.
    """
    return [_open(game, label, folders.get(label, "")) for label in labels]


def _open(game: Game, label: str, folder: str) -> Player:
    if label.startswith(BOT):
        return BotPlayer(label.removeprefix(BOT))
    from cerulea.train.agent import load_agent

    return AgentPlayer(load_agent(Path(folder)))
