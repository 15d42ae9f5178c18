"""Players of a match by their labels: bots by name, agents from their folders.

In:      a game, labels, folders of agents.
Out:     players, one for each label (`games.match.Player`).
Kept:    an agent plays only a game that shows and allows what it was trained with.
Not here: where folders are (`flows`), bots (`games.match`).
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
    """A trained agent as a player; all matches of a game begin together."""

    def __init__(self, agent: Agent, *, greedy: bool = False) -> None:
        self.agent, self.greedy = agent, greedy

    def begin(self, game: Game) -> None:
        """Forget what was before.

        Raises:
            AgentUnfit: it was trained in a game that shows something else.
        """
        self.agent.check(game)
        self._memory = self.agent.begin(game.matches, game.players)

    def act(self, observation: Observation, out: ActionArray, rows_MP: BoolArray, seed_M: SeedArray, step: int) -> None:
        """Write what the agent does in the marked places."""
        action, self._memory = self.agent.act(
            observation, self._memory, seed_M, step, greedy=self.greedy, rows_MP=rows_MP
        )
        out[rows_MP] = action[rows_MP]


def open_players(game: Game, labels: Sequence[str], folders: Mapping[str, str]) -> list[Player]:
    """A player for each label, ready to play `game`.

    Raises:
        NotFound: no such bot.
        AgentUnfit: an agent of a game that shows something else.
    """
    players = [open_player(label, folders.get(label, "")) for label in labels]
    for player in players:
        player.begin(game)
    return players


def open_player(label: str, folder: str) -> Player:
    """A player by its label; torch is loaded for agents alone."""
    if label.startswith(BOT):
        return BotPlayer(label.removeprefix(BOT))
    from cerulea.train.agent import load_agent

    return AgentPlayer(load_agent(Path(folder)))
