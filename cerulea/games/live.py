"""One match that goes on while people watch it, take places in it and leave them.

In:      a game of one match, a player for every place, what people order.
Out:     what is to be seen after each step; which actions were taken, for the replay.
Kept:    the game alone decides: an order is checked against the mask of the very step that it is for, and one that is
         late or forbidden changes nothing. Whoever was in a place before a person took it goes on in it afterwards.
Not here: clocks and processes (`train.live`), who a person is (`flows.play`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cerulea.core.errors import ActionIllegal, ActionLate, SeatTaken, UnknownSeat
from cerulea.games.game import ActionArray, Game, observation_buffers, tick_buffers
from cerulea.games.match import Player

PERSON = "person"  # a person's label in replays, which name nobody


@dataclass(slots=True)
class Seat:
    """One place of a match."""

    player: int  # index of who plays it when no person does
    person: str = ""  # who has taken it
    by_people: int = 0  # steps in which somebody had taken it
    order: NDArray[np.int32] | None = None  # what that person wants, for the next step


class LiveMatch:
    """A match of `game`, which has one match only.

    Args:
        players: who plays; the same player may have several places.
        seat_players: for each place, the index of its player.
    """

    def __init__(self, game: Game, players: Sequence[Player], seat_players: Sequence[int], seed: int) -> None:
        self.game, self.players, self.seed = game, list(players), seed
        self.number = 0  # steps taken
        self.actions: list[NDArray[np.int32]] = []
        self.seats = [Seat(player=index) for index in seat_players]
        self._seed_M = np.array([seed], np.uint64)
        self._observation = observation_buffers(game.schema, 1, game.players)
        self._tick = tick_buffers(1, game.players)
        self._action_MPA: ActionArray = np.zeros((1, game.players, len(game.schema.heads)), np.int32)
        self._rows = [np.array([[own == i for own in seat_players]], np.bool_) for i in range(len(self.players))]
        self._first = np.cumsum([0, *(head.size for head in game.schema.heads)])
        for player in self.players:
            player.begin(game)
        game.reset(self._seed_M)
        game.observe(self._observation)

    # -- people --------------------------------------------------------------------------------------

    def take(self, seat: int, person: str) -> None:
        """Let a person play a place from the next step on.

        Raises:
            UnknownSeat, SeatTaken.
        """
        place = self._seat(seat)
        if place.person not in ("", person):
            raise SeatTaken(
                f"Somebody else plays place {seat}.", fix=f"Take another one: {', '.join(map(str, self._free()))}."
            )
        place.person, place.order = person, None

    def leave(self, seat: int, person: str) -> None:
        """Give a place back to whoever had it.

        Raises:
            UnknownSeat.
        """
        place = self._seat(seat)
        if place.person == person:
            place.person, place.order = "", None

    def order(self, seat: int, person: str, step: int, action: list[int]) -> None:
        """Play this in the next step; the last order of a step counts.

        Raises:
            UnknownSeat: no such place, or the person does not play it.
            ActionLate: the step is over, or has not come.
            ActionIllegal: the game forbids it now.
        """
        place = self._seat(seat)
        if place.person != person:
            raise UnknownSeat(f"You do not play place {seat}.", fix='Take it first: {"type": "take", "seat": ...}.')
        if step != self.number:
            raise ActionLate(
                f"The action is for step {step:,}; the match is at step {self.number:,}.",
                why="An action counts for the step that it was chosen for.",
                fix="Answer the newest frame.",
            )
        place.order = self._checked(seat, action)

    def legal(self, seat: int) -> list[list[int]]:
        """For each head, the actions that a place may take now; all empty where it does not act."""
        if not self._observation.acting_MP[0, seat]:
            return [[] for _ in self.game.schema.heads]
        mask = self._observation.mask_MPN[0, seat]
        return [np.flatnonzero(mask[a:b]).tolist() for a, b in zip(self._first[:-1], self._first[1:], strict=True)]

    @property
    def waits(self) -> bool:
        """Whether somebody who acts now is a person that has not said what to do."""
        acting = self._observation.acting_MP[0]
        return any(bool(acting[i]) and s.person and s.order is None for i, s in enumerate(self.seats))

    # -- the match -----------------------------------------------------------------------------------

    def step(self) -> bool:
        """Take one step; returns whether the match is over."""
        observation, action = self._observation, self._action_MPA
        for player, rows in zip(self.players, self._rows, strict=True):
            # Also for places that people have: a player's memory stays that of the whole match.
            player.act(observation, action, rows, self._seed_M, self.number)
        for i, seat in enumerate(self.seats):
            if not seat.person:
                continue
            seat.by_people += 1
            if seat.order is not None:
                action[0, i] = seat.order
            elif self.game.step_s:  # time does not wait for whoever says nothing: the first action that is allowed
                action[0, i] = [legal[0] if legal else 0 for legal in self.legal(i)]
            seat.order = None
        self.actions.append(action[0].copy())
        self.game.step(action, self._tick)
        self.number += 1
        self.game.observe(observation)
        return bool(self._tick.ended_M[0])

    def played_by(self, labels: Sequence[str]) -> list[str]:
        """Who has played each place: its label, `person`, or `person+LABEL` where a person had it for a part."""
        shares = [seat.by_people / max(1, self.number) for seat in self.seats]
        who = {0.0: "{}", 1.0: PERSON}
        return [who.get(share, PERSON + "+{}").format(label) for share, label in zip(shares, labels, strict=True)]

    @property
    def winner(self) -> int:
        """The team that has won; -1 for a draw, or while it goes on."""
        return int(self._tick.winner_M[0]) if self._tick.ended_M[0] else -1

    @property
    def cut(self) -> bool:
        """Whether a limit of time ended it."""
        return bool(self._tick.truncated_MP[0].any())

    def frame(self) -> dict[str, Any]:
        """What is to be seen now."""
        return self.game.frame(0)

    def _seat(self, seat: int) -> Seat:
        if not 0 <= seat < len(self.seats):
            raise UnknownSeat(
                f"There is no place {seat}.", fix=f"Places are 0 to {len(self.seats) - 1}, team after team."
            )
        return self.seats[seat]

    def _free(self) -> list[int]:
        return [i for i, seat in enumerate(self.seats) if not seat.person]

    def _checked(self, seat: int, action: list[int]) -> NDArray[np.int32]:
        heads, legal = self.game.schema.heads, self.legal(seat)
        if len(action) != len(heads):
            raise ActionIllegal(
                f"An action of this game has {len(heads)} parts, not {len(action)}.",
                fix=f"Send one number for each of: {', '.join(head.name for head in heads)}.",
            )
        for head, allowed, chosen in zip(heads, legal, action, strict=True):
            if chosen not in allowed:
                name = head.actions[chosen] if 0 <= chosen < head.size else str(chosen)
                raise ActionIllegal(
                    f"{head.name} cannot be {name!r} at step {self.number:,}.",
                    why=_allowed([head.actions[a] for a in allowed]),
                    fix="Choose one of the actions that came with the frame.",
                )
        return np.array(action, np.int32)


def _allowed(names: list[str]) -> str:
    if not names:
        return "This place does not act now."
    return f"Allowed now: {', '.join(names[:12])}{', and more' if len(names) > 12 else ''}."
