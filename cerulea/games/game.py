"""What a game is, to whoever plays it or learns it: many matches at once, arrays in and arrays out.

In:      seeds, one for each match, and actions, one row for each player.
Out:     observations, masks, rewards and ends, written into buffers that the caller owns.
Kept:    seed + actions decide all: two games of one version with the same seeds and actions are in the same state after
         every step, however many matches stand beside and however many threads run.
Not here: games themselves (`rift`, `adapters`), who plays (`match`), how one learns (`train.selfplay`).

Letters of the shapes: M matches · P players of a match · U unit slots · F features · A heads of an action · N
actions of all heads together.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]
SeedArray = NDArray[np.uint64]
ActionArray = NDArray[np.int32]


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitClass:
    """A run of unit slots that one small net reads, such as the enemy's heroes."""

    name: str
    first: int  # slot
    count: int
    ordered: bool = False  # whether a slot's place means something, as a role does; else the slots are a set


@dataclass(frozen=True, slots=True, kw_only=True)
class Pointer:
    """A run of a head's actions that choose a unit: action `first + k` points to unit slot k."""

    name: str
    first: int
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """One discrete choice of an action; most games have a single one."""

    name: str
    actions: tuple[str, ...]  # each action's name, in order
    pointers: tuple[Pointer, ...] = ()

    @property
    def size(self) -> int:
        """How many actions there are to choose from."""
        return len(self.actions)


@dataclass(frozen=True, slots=True, kw_only=True)
class Schema:
    """What a player sees and may do, by name: an agent fits a game exactly where their schemas are equal."""

    heads: tuple[Head, ...]
    vector: tuple[str, ...]  # names of the flat features
    unit_features: tuple[str, ...] = ()  # names of what is known of each unit; empty in a game without units
    unit_classes: tuple[UnitClass, ...] = ()  # they cover the slots from 0 on, without gaps
    critic: tuple[str, ...] = ()  # features that the value alone may see, while it is trained

    @property
    def units(self) -> int:
        """Unit slots."""
        return sum(c.count for c in self.unit_classes)

    @property
    def actions(self) -> int:
        """Actions of all heads together: the length of a mask."""
        return sum(h.size for h in self.heads)

    def as_json(self) -> dict[str, Any]:
        """Plain values, as an agent's folder keeps them."""
        return asdict(self)

    def digest(self) -> str:
        """16 hexadecimal digits that are equal where the schemas are."""
        return hashlib.sha256(json.dumps(self.as_json(), sort_keys=True).encode()).hexdigest()[:16]


def schema_from(values: dict[str, Any]) -> Schema:
    """A schema from what `as_json` gave."""
    return Schema(
        heads=tuple(
            Head(
                name=h["name"],
                actions=tuple(h["actions"]),
                pointers=tuple(Pointer(**p) for p in h["pointers"]),
            )
            for h in values["heads"]
        ),
        vector=tuple(values["vector"]),
        unit_features=tuple(values["unit_features"]),
        unit_classes=tuple(UnitClass(**c) for c in values["unit_classes"]),
        critic=tuple(values["critic"]),
    )


@dataclass(slots=True, kw_only=True)
class Observation:
    """Buffers of one look at all matches."""

    vector_MPF: FloatArray  # flat features, within about [-1, 1] in a game of ours
    units_MPUF: FloatArray  # features of units; U is 0 in a game without units
    critic_MPF: FloatArray  # features for the value alone; F is 0 where there are none
    mask_MPN: BoolArray  # which actions are legal; at least one of each head, also for who does not act
    acting_MP: BoolArray  # whose action counts in the next step: not the other side's turn, not a match that ended


@dataclass(slots=True, kw_only=True)
class Tick:
    """Buffers of what one step brought."""

    reward_MP: FloatArray
    terminated_MP: BoolArray  # this player's match came to its end: nothing follows that is worth anything
    truncated_MP: BoolArray  # cut off, by a limit of time: what would have followed is estimated
    ended_M: BoolArray  # the match is over for all, by either way; it stands still until it is reset
    winner_M: NDArray[np.int8]  # the team that won a match that has ended, -1 for a draw; by points after a cut


def observation_buffers(schema: Schema, matches: int, players: int) -> Observation:
    """Buffers for one look, filled with zeros."""
    return Observation(
        vector_MPF=np.zeros((matches, players, len(schema.vector)), np.float32),
        units_MPUF=np.zeros((matches, players, schema.units, len(schema.unit_features)), np.float32),
        critic_MPF=np.zeros((matches, players, len(schema.critic)), np.float32),
        mask_MPN=np.zeros((matches, players, schema.actions), np.bool_),
        acting_MP=np.zeros((matches, players), np.bool_),
    )


def tick_buffers(matches: int, players: int) -> Tick:
    """Buffers for one step, filled with zeros; nobody has won."""
    return Tick(
        reward_MP=np.zeros((matches, players), np.float32),
        terminated_MP=np.zeros((matches, players), np.bool_),
        truncated_MP=np.zeros((matches, players), np.bool_),
        ended_M=np.zeros(matches, np.bool_),
        winner_M=np.full(matches, -1, np.int8),
    )


def judged_options(game: Game, options: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """A game's options (or these) without those that are for training alone: what matches that count are made with.

    A game whose matches may begin otherwise while one learns names such options in `training_options`, a tuple.
    """
    own = game.options if options is None else options
    return {name: value for name, value in own.items() if name not in getattr(game, "training_options", ())}


class Game(Protocol):
    """Many matches of one game, stepped together.

    The order of calls: `reset`, then again and again `observe` (as often as one likes; it changes nothing) and `step`.
    A match that has ended stands still, acts for nobody and pays nothing until `reset` begins it anew.
    """

    name: str  # as `cerulea games` lists it
    version: str  # changes when the same seed and actions may lead elsewhere, and only then
    options: dict[str, Any]  # what `catalog.make_game` was given beside the name: plain values
    schema: Schema
    matches: int
    players: int  # of one match
    teams: tuple[int, ...]  # each player's team, from 0; players of one team share their fate
    bots: tuple[str, ...]  # scripted players by name, weakest first; "random" is everywhere and not among them
    meters: tuple[str, ...]  # what `read_meters` counts, for each player
    step_s: float  # seconds of the game's own time in one step; 0 where it has none
    limit: int  # most steps of a match; 0 where nothing limits it

    def reset(self, seed_M: SeedArray, where_M: BoolArray | None = None) -> None:
        """Begin matches anew, all of them or those marked, each from its own seed."""

    def observe(self, out: Observation) -> None:
        """Write what every player sees now."""

    def step(self, action_MPA: ActionArray, out: Tick) -> None:
        """Let every player act once; rows of players that do not act are ignored.

        An action that the mask forbids is the caller's bug and may do anything except break other matches.
        """

    def script(self, bot_MP: NDArray[np.int8], out: ActionArray) -> None:
        """Write what scripted players do: place p of match m plays `bots[bot_MP[m, p]]`; -1 leaves the row as it is."""

    def read_meters(self, out_MPF: FloatArray) -> None:
        """Write each player's counters since its match began, in the order of `meters`."""

    def state(self) -> dict[str, NDArray[Any]]:
        """A copy of everything that decides what follows, by name."""

    def restore(self, state: dict[str, NDArray[Any]]) -> None:
        """Go on from what `state` gave, to the bit."""

    def digests(self) -> NDArray[np.uint64]:
        """A 64-bit hash of each match's state: equal where the states are."""

    def frame(self, match: int) -> dict[str, Any]:
        """What a person watching sees of one match, as plain values for JSON; nothing is hidden from them."""
