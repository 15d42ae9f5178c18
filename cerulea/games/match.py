"""Who plays, and matches played to their end.

In:      a game, a player for each side (or each place), seeds.
Out:     results with sides swapped by halves, and replays.
Kept:    a match is decided by its seed and its players; what stands beside it changes nothing. A match that is cut
         off by the limit of time counts as a timeout and not as a win, whoever was ahead.
Not here: agents (`train.agent`), files of replays (`replay`), ratings (`rating`).
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from cerulea.core.errors import GameBroken, GameInvalid, NotFound
from cerulea.core.seeds import mixed
from cerulea.games.game import (
    ActionArray,
    BoolArray,
    FloatArray,
    Game,
    Head,
    Observation,
    SeedArray,
    observation_buffers,
    tick_buffers,
)
from cerulea.games.replay import Replay, replay_of

RANDOM = "random"
MOST_TOGETHER = 256  # matches of a series that are played at once
MOST_STEPS = 1_000_000  # of a match; a game without a limit that goes on longer has no end


class Player(Protocol):
    """Somebody who plays any number of places in any number of matches of one game."""

    def begin(self, game: Game) -> None:
        """Matches of this game are about to begin, all of them.

        Raises:
            AgentUnfit, NotFound: it cannot play this game.
        """

    def act(self, observation: Observation, out: ActionArray, rows_MP: BoolArray, seed_M: SeedArray, step: int) -> None:
        """Write actions into the marked rows of `out`."""


def uniform_draws(seed_M: SeedArray, step: int, players: int, heads: int) -> FloatArray:
    """Numbers in [0, 1) as a function of (seed of the match, step, place, head): float32 (M, P, A)."""
    place = np.arange(players * heads, dtype=np.uint64).reshape(players, heads)
    with np.errstate(over="ignore"):
        z = seed_M[:, None, None] + np.uint64(mixed(step, 0x5EED)) + place * np.uint64(0xD1B54A32D192ED03)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    return np.asarray((z >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24), np.float32)


def random_actions(mask_MPN: BoolArray, heads: tuple[Head, ...], seed_M: SeedArray, step: int) -> ActionArray:
    """Legal actions, each as likely as any other: int32 (M, P, A)."""
    m, p, _ = mask_MPN.shape
    draw = uniform_draws(seed_M, step, p, len(heads))
    out = np.zeros((m, p, len(heads)), np.int32)
    first = 0
    for a, head in enumerate(heads):
        count = mask_MPN[..., first : first + head.size].cumsum(-1)
        wanted = np.minimum((draw[..., a] * count[..., -1]).astype(np.int64), count[..., -1] - 1)
        out[..., a] = (count <= wanted[..., None]).sum(-1)
        first += head.size
    return out


class BotPlayer:
    """A scripted player of the game, or the random one that every game has."""

    def __init__(self, name: str) -> None:
        self.name = name

    def begin(self, game: Game) -> None:
        """Look the name up."""
        self.game = game
        names = (RANDOM, *game.bots)
        if self.name not in names:
            near = difflib.get_close_matches(self.name, names, n=1, cutoff=0.4)
            raise NotFound(
                f"{game.name} has no bot {self.name!r}.",
                why=f"The nearest is {near[0]!r}." if near else "",
                fix=f"Use one of {', '.join(names)}.",
            )

    def act(self, observation: Observation, out: ActionArray, rows_MP: BoolArray, seed_M: SeedArray, step: int) -> None:
        """Write what the bot does."""
        if self.name == RANDOM:
            heads = self.game.schema.heads
            out[rows_MP] = random_actions(observation.mask_MPN, heads, seed_M, step)[rows_MP]
            return
        self.game.script(np.where(rows_MP, self.game.bots.index(self.name), -1).astype(np.int8), out)


def seats_of(game: Game, players: Sequence[str]) -> list[str]:
    """Who has each place, from one label for each team or for each place.

    Raises:
        GameInvalid: neither so many.
    """
    teams = max(game.teams) + 1
    if len(players) == game.players:
        return list(players)
    if len(players) != teams:
        raise GameInvalid(
            f"{game.name} is for {teams} sides of {game.players // teams}; {len(players)} players were named.",
            fix=f"Name {teams} players, or {game.players}: one for each place.",
        )
    return [players[team] for team in game.teams]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one match ended."""

    seed: int
    first: str  # who played team 0
    winner: int  # team, -1 for a draw
    timeout: bool
    steps: int


@dataclass(frozen=True, slots=True)
class Series:
    """Matches of A against B, sides swapped by halves."""

    a: str
    b: str
    outcomes: list[Outcome]

    @property
    def wins_a(self) -> int:
        """Matches that A won; timeouts are not wins."""
        return sum(not o.timeout and o.winner == (0 if o.first == "a" else 1) for o in self.outcomes)

    @property
    def wins_b(self) -> int:
        """Matches that B won."""
        return sum(not o.timeout and o.winner == (1 if o.first == "a" else 0) for o in self.outcomes)

    @property
    def timeouts(self) -> int:
        """Matches that were cut off."""
        return sum(o.timeout for o in self.outcomes)

    @property
    def n(self) -> int:
        """All matches."""
        return len(self.outcomes)

    @property
    def interval95(self) -> tuple[float, float]:
        """Where A's share of wins lies."""
        return wilson(self.wins_a, self.n)


def wilson(wins: int, n: int, z: float = 1.959964) -> tuple[float, float]:
    """A 95 % interval of a share (Wilson 1927)."""
    if n == 0:
        return 0.0, 1.0
    share = wins / n
    middle = share + z * z / (2 * n)
    wide = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, (middle - wide) / (1 + z * z / n)), min(1.0, (middle + wide) / (1 + z * z / n))


def play_match(game: Game, players: Sequence[Player], *, seed: int, labels: Sequence[str] = ()) -> Replay:
    """One match to its end.

    Args:
        game: of one match.
        players: one for each team, or for each place.
        labels: what the replay calls them; a bot's is `bot:NAME`.

    Raises:
        GameInvalid: neither so many players; GameBroken: the match has no end.
    """
    assert game.matches == 1
    names = list(labels) or [f"player {i}" for i in range(len(players))]
    seats = [int(place) for place in seats_of(game, [str(i) for i in range(len(players))])]
    played = _Table(game, players, np.array([seats]), np.array([seed], np.uint64))
    while not played.tick.ended_M[0]:
        played.step()
    cut = bool(played.cut_M[0])
    return replay_of(game, names, seed, played.actions[0], winner=int(played.tick.winner_M[0]), cut=cut)


class _Table:
    """Matches that are played side by side, each place by one of the players."""

    def __init__(self, game: Game, players: Sequence[Player], seat_MP: np.ndarray, seed_M: SeedArray) -> None:
        self.game, self.players, self.seed_M = game, players, seed_M
        self.rows = [seat_MP == i for i in range(len(players))]
        self.look = observation_buffers(game.schema, game.matches, game.players)
        self.tick = tick_buffers(game.matches, game.players)
        self.action_MPA: ActionArray = np.zeros((game.matches, game.players, len(game.schema.heads)), np.int32)
        self.cut_M = np.zeros(game.matches, np.bool_)
        self.steps_M = np.zeros(game.matches, np.int64)
        self.actions: list[list[ActionArray]] = [[] for _ in range(game.matches)]
        self.number = 0
        for player in players:
            player.begin(game)
        game.reset(seed_M)

    def step(self) -> None:
        over_M = self.tick.ended_M.copy()
        if self.number >= (self.game.limit or MOST_STEPS):
            raise GameBroken(
                f"{self.game.name} has not ended after {self.number:,} steps.",
                why="A match needs an end to be won.",
                fix="Give the game a limit of steps.",
            )
        self.game.observe(self.look)
        for player, rows_MP in zip(self.players, self.rows, strict=True):
            if rows_MP.any():
                player.act(self.look, self.action_MPA, rows_MP, self.seed_M, self.number)
        self.game.step(self.action_MPA, self.tick)
        for m in np.flatnonzero(~over_M):
            self.actions[m].append(self.action_MPA[m].copy())
        self.steps_M += ~over_M
        self.cut_M |= ~over_M & self.tick.truncated_MP.any(1)
        self.number += 1


def play_alone(
    make: Callable[[int], Game],
    player: Player,
    *,
    n: int,
    seed: int,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> list[float]:
    """Matches of a game of one side: what each paid, summed over its steps, the mean of its places.

    Raises:
        GameInvalid: a game of more sides; GameBroken: one whose matches have no end.
    """
    returns: list[float] = []
    while len(returns) < n:
        size = min(MOST_TOGETHER, n - len(returns))
        game = make(size)
        if max(game.teams):
            raise GameInvalid(f"{game.name} has more than one side.", fix="Let two play: cerulea match A B --game GAME")
        seed_M = np.array([mixed(seed, number) for number in range(len(returns), len(returns) + size)], np.uint64)
        table = _Table(game, (player,), np.zeros((size, game.players), np.int64), seed_M)
        return_M = np.zeros(size, np.float64)
        while not table.tick.ended_M.all():
            table.step()
            return_M += table.tick.reward_MP.mean(1)
            report(len(returns) + int(table.tick.ended_M.sum()), n)
        returns += return_M.tolist()
    return returns


def play_series(
    make: Callable[[int], Game],
    a: Player,
    b: Player,
    *,
    names: tuple[str, str],
    n: int,
    seed: int,
    keep: int = 0,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Series, list[Replay]]:
    """A against B, n matches, A on the first side in one half of them.

    Args:
        make: makes the game with so many matches.
        keep: how many replays to keep, of the first matches.
        report: told (done, total) while it goes on.

    Raises:
        GameInvalid: a game without two sides; GameBroken: one whose matches have no end.
    """
    outcomes: list[Outcome] = []
    replays: list[Replay] = []
    while len(outcomes) < n:
        size = min(MOST_TOGETHER, n - len(outcomes))
        game = make(size)
        if max(game.teams) != 1:
            raise GameInvalid(f"{game.name} has not two sides.", fix="Choose a game of two sides: cerulea games")
        number_M = np.arange(len(outcomes), len(outcomes) + size)
        swapped_M = number_M % 2 == 1
        # Both matches of a pair have one seed, and the sides swapped: luck of the draw is the same for both.
        seed_M = np.array([mixed(seed, number // 2) for number in number_M.tolist()], np.uint64)
        seat_MP = np.array(game.teams)[None, :] ^ swapped_M[:, None]
        table = _Table(game, (a, b), seat_MP, seed_M)
        done = -1
        while not table.tick.ended_M.all():
            table.step()
            if (now := int(table.tick.ended_M.sum())) != done:
                done = now
                report(len(outcomes) + done, n)
        for m in range(size):
            first = "b" if swapped_M[m] else "a"
            cut, winner = bool(table.cut_M[m]), int(table.tick.winner_M[m])
            outcomes.append(Outcome(int(seed_M[m]), first, winner, cut, int(table.steps_M[m])))
            if len(replays) < keep:
                labels = [names[1], names[0]] if swapped_M[m] else [names[0], names[1]]
                replays.append(
                    replay_of(game, labels, int(seed_M[m]), table.actions[m], winner=winner, cut=cut, match=m)
                )
    return Series(names[0], names[1], outcomes), replays
