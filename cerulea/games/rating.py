"""How good players are: online while they are trained, and reported from all results that were kept.

Online:   Weng and Lin's Bradley-Terry update with whole pairings, through openskill; for choosing opponents.
Reported: maximum likelihood of a Bradley-Terry model with a term for the side, over all stored results, with 95 %
          intervals from the likelihood's curvature. Random is 0, and 8.3 points are 80 % of wins (arXiv 1912.06680,
          appendix J). A draw, and a match that was cut off, counts half for both.
Not here: where results are kept (`flows`).
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

POINTS = 8.3 / math.log(4.0)  # of one unit of log odds: 80 % are odds of 4
PRIOR = 0.1  # as if each pair that met had also drawn a tenth of a match: nobody is infinitely good


@dataclass(frozen=True, slots=True)
class Result:
    """Matches of two players with the same outcome."""

    first: str  # who had side 0
    second: str
    score: float  # of the first: 1, 0.5 or 0
    count: int = 1


@dataclass(frozen=True, slots=True)
class Rating:
    """One player's rating in points, and between which it lies with 95 %."""

    player: str
    rating: float
    low: float
    high: float
    games: int


def add_results(path: Path, results: Iterable[Result]) -> None:
    """Append results to a file of JSON lines, durably and in one write."""
    lines = [
        json.dumps({"first": r.first, "second": r.second, "score": r.score, "count": r.count}) + "\n" for r in results
    ]
    if not lines:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, "".join(lines).encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_results(path: Path) -> list[Result]:
    """All results of a file; a last line that a crash cut short is left out."""
    if not path.exists():
        return []
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            found.append(Result(**json.loads(line)))
        except (json.JSONDecodeError, TypeError):
            continue
    return found


def rate(results: Sequence[Result], anchor: str = "random") -> list[Rating]:
    """Ratings of all players of the results, best first.

    Args:
        anchor: who is 0; the weakest where nobody of this name has played.
    """
    names = sorted({name for r in results for name in (r.first, r.second)})
    if not names:
        return []
    index = {name: i for i, name in enumerate(names)}
    n = len(names)
    # Counts of matches and points by (first, second).
    played, points = np.zeros((n, n)), np.zeros((n, n))
    for r in results:
        i, j = index[r.first], index[r.second]
        if i != j:
            played[i, j] += r.count
            points[i, j] += r.count * r.score
    total = played + played.T
    met = total > 0
    played_with = played + np.where(met, PRIOR / 2, 0.0)
    points_with = points + np.where(met, PRIOR / 4, 0.0)
    theta = np.zeros(n + 1)  # strengths, then the side's worth
    zero = index.get(anchor, int(np.argmin(_shares(points, played))))
    free = np.array([i for i in range(n + 1) if i != zero])
    information = np.eye(n + 1)
    for _ in range(200):
        gap = theta[:n, None] - theta[None, :n] + theta[n]
        p = 1.0 / (1.0 + np.exp(-gap))
        miss = points_with - played_with * p
        gradient = np.append(miss.sum(1) - miss.sum(0), miss.sum())
        curve = played_with * p * (1 - p)
        information = np.zeros((n + 1, n + 1))
        information[:n, :n] = -(curve + curve.T)
        np.fill_diagonal(information[:n, :n], curve.sum(1) + curve.sum(0))
        side = curve.sum(1) - curve.sum(0)
        information[n, :n] = information[:n, n] = side
        information[n, n] = curve.sum()
        # A little weight towards 0 keeps players apart from all others, and a side nobody has swapped, finite.
        step = np.linalg.solve(
            information[np.ix_(free, free)] + 1e-6 * np.eye(len(free)), gradient[free] - 1e-6 * theta[free]
        )
        step *= min(1.0, 2.0 / max(np.abs(step).max(), 1e-12))
        theta[free] += step
        if np.abs(step).max() < 1e-10:
            break
    covariance = np.zeros((n + 1, n + 1))
    covariance[np.ix_(free, free)] = np.linalg.inv(information[np.ix_(free, free)] + 1e-6 * np.eye(len(free)))
    ratings = []
    for name, i in index.items():
        wide = 1.959964 * math.sqrt(max(covariance[i, i], 0.0)) * POINTS
        value = theta[i] * POINTS
        ratings.append(Rating(name, value, value - wide, value + wide, int(total[i].sum())))
    return sorted(ratings, key=lambda r: -r.rating)


def _shares(points: np.ndarray, played: np.ndarray) -> np.ndarray:
    """Each player's share of all points it could have."""
    won = points.sum(1) + (played - points).sum(0)
    return np.asarray(won / np.maximum(played.sum(1) + played.sum(0), 1))


class Online:
    """Running ratings by name: mean and spread in points."""

    def __init__(self) -> None:
        from openskill.models import BradleyTerryFull

        self._model = BradleyTerryFull(mu=0.0, sigma=25.0 / 3, beta=25.0 / 6, tau=0.0)
        self.known: dict[str, tuple[float, float]] = {}

    def rating(self, name: str) -> tuple[float, float]:
        """Mean and spread."""
        return self.known.get(name, (0.0, 25.0 / 3))

    def add(self, first: str, second: str, score: float, fixed: Sequence[str] = ()) -> None:
        """One result: 1, 0.5 or 0 for the first; players in `fixed` stay as they are."""
        sides = []
        for name in (first, second):
            mean, spread = self.rating(name)
            sides.append([self._model.rating(mu=mean, sigma=spread, name=name)])
        ranks = [1.0, 1.0] if score == 0.5 else [0.0, 1.0] if score > 0.5 else [1.0, 0.0]
        for name, (after,) in zip((first, second), self._model.rate(sides, ranks=ranks), strict=True):
            if name not in fixed:
                self.known[name] = (float(after.mu), float(after.sigma))
