"""Ratings from results: how much better one player is than another, with what is not known about it.

In:      results of matches between named players (a log of JSON lines).
Out:     for each player points above the random one, and their 95 % interval.
Kept:    points are those of OpenAI Five (arXiv 1912.06680, appendix J): random is 0, 8.3 points are 80 % of the wins.
         The maximum of the likelihood (Bradley and Terry 1952) over all results at once, with a term for the side that
         begins; a draw or a timeout is half a win for each.
Not here: matchmaking while training (`train.opponents`), playing (`match`).
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cerulea.core.files import json_line
from cerulea.games.match import Series

POINTS = 8.3 / math.log(4.0)  # points for one nat: 80 % are odds of 4
PRIOR = 0.5  # matches that each pair of players is assumed to have drawn, so that who always wins has a number
Z95 = 1.959963984540054
STEPS = 100  # of Newton's method; ten do


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """Results between two players while A played one side: wins of A, of B, and neither's."""

    a: str
    b: str
    side_a: int
    wins_a: int
    wins_b: int
    neither: int

    @property
    def n(self) -> int:
        """Matches."""
        return self.wins_a + self.wins_b + self.neither


@dataclass(frozen=True, slots=True, kw_only=True)
class Rating:
    """What is known of one player."""

    player: str
    rating: float  # points above the anchor
    low: float  # of the 95 % interval
    high: float
    games: int


def fit(tallies: Iterable[Tally], anchor: str) -> list[Rating]:
    """Ratings of everybody who is linked to `anchor` by results, the best first; the anchor is 0."""
    linked = _linked(list(tallies), anchor)
    names = sorted({name for t in linked for name in (t.a, t.b)} | {anchor})
    others = [name for name in names if name != anchor]
    column = {name: i for i, name in enumerate(others)}  # the anchor has none: it is 0
    size = len(others) + 1  # the last one is what the first side is worth
    rows, wins, counts = [], [], []
    for t in linked:
        row = np.zeros(size)
        for name, sign in ((t.a, 1.0), (t.b, -1.0)):
            if name in column:
                row[column[name]] += sign
        row[-1] = 0.5 if t.side_a == 0 else -0.5
        rows.append(row)
        wins.append(t.wins_a + 0.5 * t.neither)
        counts.append(float(t.n))
    for a, b in sorted({(min(t.a, t.b), max(t.a, t.b)) for t in linked if t.a != t.b}):
        row = np.zeros(size)
        for name, sign in ((a, 1.0), (b, -1.0)):
            if name in column:
                row[column[name]] += sign
        rows.append(row)
        wins.append(PRIOR / 2)
        counts.append(PRIOR)
    theta, covariance = _newton(np.array(rows).reshape(-1, size), np.array(wins), np.array(counts))
    games = dict.fromkeys(names, 0)
    for t in linked:
        games[t.a] += t.n
        games[t.b] += t.n if t.b != t.a else 0
    found = []
    for name in names:
        at = column.get(name)
        value = 0.0 if at is None else float(theta[at])
        error = 0.0 if at is None else math.sqrt(max(0.0, float(covariance[at, at])))
        found.append(
            Rating(
                player=name,
                rating=POINTS * value,
                low=POINTS * (value - Z95 * error),
                high=POINTS * (value + Z95 * error),
                games=games[name],
            )
        )
    return sorted(found, key=lambda r: -r.rating)


def _newton(rows: np.ndarray, wins: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The maximum of the likelihood, and the inverse of its curvature there."""
    size = rows.shape[1]
    theta = np.zeros(size)
    ridge = np.eye(size) * 1e-6
    ridge[-1, -1] = 1.0  # a side is worth about nothing until results say otherwise
    curvature = ridge
    for _ in range(STEPS):
        p = 1 / (1 + np.exp(-rows @ theta))
        curvature = (rows * (counts * p * (1 - p))[:, None]).T @ rows + ridge
        step = np.linalg.solve(curvature, rows.T @ (wins - counts * p) - ridge @ theta)
        theta = theta + np.clip(step, -2.0, 2.0)
        if np.abs(step).max() < 1e-9:
            break
    return theta, np.linalg.inv(curvature)


def _linked(tallies: list[Tally], anchor: str) -> list[Tally]:
    """Results of players that some chain of matches links to the anchor."""
    known = {anchor}
    while True:
        more = {n for t in tallies for n in (t.a, t.b) if t.n and (t.a in known or t.b in known)} - known
        if not more:
            return [t for t in tallies if t.n and t.a in known and t.b in known]
        known |= more


def tallies_of(series: Series) -> list[Tally]:
    """A series as results, side by side."""
    found = []
    for side, first in ((0, "a"), (1, "b")):
        own = [o for o in series.outcomes if o.first == first]
        wins_a = sum(not o.timeout and o.winner == side for o in own)
        wins_b = sum(not o.timeout and o.winner == 1 - side for o in own)
        found.append(
            Tally(a=series.a, b=series.b, side_a=side, wins_a=wins_a, wins_b=wins_b, neither=len(own) - wins_a - wins_b)
        )
    return found


# -- the log --------------------------------------------------------------------------------------------


def append_results(path: Path, game: str, version: str, tallies: Iterable[Tally], *, at: str) -> None:
    """Add results to the log, durably; several programs may do so at once."""
    lines = [
        json_line(
            {
                "at": at,
                "game": game,
                "version": version,
                "a": t.a,
                "b": t.b,
                "side_a": t.side_a,
                "wins_a": t.wins_a,
                "wins_b": t.wins_b,
                "neither": t.neither,
            }
        )
        + "\n"
        for t in tallies
        if t.n
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    # One write to a file opened for appending is one piece.
    with path.open("ab", buffering=0) as file:
        file.write("".join(lines).encode())
        os.fsync(file.fileno())


def read_results(path: Path, game: str, version: str) -> Iterator[Tally]:
    """The results of one version of a game; a last line that was cut short is left out."""
    if not path.exists():
        return
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            values = json.loads(line)
        except json.JSONDecodeError:
            continue
        if (values.get("game"), values.get("version")) == (game, version):
            yield Tally(**{name: values[name] for name in ("a", "b", "side_a", "wins_a", "wins_b", "neither")})
