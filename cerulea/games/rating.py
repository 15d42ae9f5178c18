"""How good players are: online while they are trained, and reported from all results that were kept.

Online:   Weng and Lin's Bradley-Terry update with whole pairings, through openskill; for choosing opponents.
Reported: maximum likelihood of a Bradley-Terry model with a term for the side, over all stored results, with 95 %
          intervals from the profile of the likelihood, which also hold for who has never lost. Random is 0, and 8.3
          points are 80 % of wins (arXiv 1912.06680, appendix J). A draw, and a match that was cut off, counts half for
          both.
Not here: where results are kept (`flows`).
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cerulea.core.errors import FileTrouble

Matrix = NDArray[np.float64]
POINTS = 8.3 / math.log(4.0)  # of one unit of log odds: 80 % are odds of 4
PRIOR = 0.1  # as if each pair that met had also drawn a tenth of a match: nobody is infinitely good
TIE = 1e-6  # weight towards 0 of every strength
Z95 = 1.959964
FAR = 60.0  # log odds: who has met nobody that ties them to the anchor may be anywhere


@dataclass(frozen=True, slots=True)
class Result:
    """Matches of two players with the same outcome."""

    first: str  # who had side 0
    second: str
    score: float  # of the first: 1, 0.5 or 0
    count: int = 1
    seeds: tuple[int, ...] = ()  # of the matches, which these players decide with them; () where nobody kept them


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
    lines = []
    for r in results:
        values: dict[str, object] = {"first": r.first, "second": r.second, "score": r.score, "count": r.count}
        lines.append(json.dumps({**values, "seeds": r.seeds} if r.seeds else values) + "\n")
    if not lines:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        size = os.fstat(descriptor).st_size
        if size and os.pread(descriptor, 1, size - 1) != b"\n":
            lines.insert(0, "\n")  # a crash cut the last line short; the next one is not to be lost with it
        os.write(descriptor, "".join(lines).encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_results(path: Path) -> list[Result]:
    """All results of a file, each match once; a line that a crash cut short is left out.

    Raises:
        FileTrouble: a line is whole and no result.
    """
    if not path.exists():
        return []
    found: list[Result] = []
    known: set[tuple[str, str, int]] = set()  # matches
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            values = json.loads(line)
        except json.JSONDecodeError:
            continue
        if not _is_result(values):
            raise FileTrouble(
                f"Line {number} of {path} is no result.",
                why="A result has first, second, score (1, 0.5 or 0), count, and seeds, which may be missing.",
                fix="Delete the line.",
            )
        result = Result(**{**values, "seeds": tuple(values.get("seeds", ()))})
        if result.seeds:  # the same players with the same seed have played the same match again
            new = [seed for seed in result.seeds if (result.first, result.second, seed) not in known]
            known.update((result.first, result.second, seed) for seed in new)
            if not new:
                continue
            result = replace(result, count=len(new), seeds=tuple(new))
        found.append(result)
    return found


def _is_result(values: object) -> bool:
    if not isinstance(values, dict) or set(values) - {"seeds"} != {"first", "second", "score", "count"}:
        return False
    seeds = values.get("seeds", [])
    if not isinstance(seeds, list) or not all(type(seed) is int for seed in seeds):
        return False
    if seeds and len(seeds) != values["count"]:
        return False
    names = isinstance(values["first"], str) and isinstance(values["second"], str)
    return names and values["score"] in (0, 0.5, 1) and isinstance(values["count"], int) and values["count"] > 0


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
    total = (played + played.T).sum(1)
    zero = index.get(anchor, int(np.argmin(_shares(points, played))))
    model = _Model(played, points, zero)
    best = model.fit(np.zeros(n + 1))
    ratings = []
    for name, i in index.items():
        low, high = (0.0, 0.0) if i == zero else model.interval(best, i)
        ratings.append(Rating(name, float(best[i]) * POINTS, low * POINTS, high * POINTS, int(total[i])))
    return sorted(ratings, key=lambda r: -r.rating)


def _shares(points: Matrix, played: Matrix) -> Matrix:
    """Each player's share of all points it could have."""
    won = points.sum(1) + (played - points).sum(0)
    return np.asarray(won / np.maximum(played.sum(1) + played.sum(0), 1))


class _Model:
    """Bradley-Terry: the first of a pair wins with the logistic of (its strength - the other's + the side's worth).

    Parameters are the strengths in log odds, then the side's worth; the anchor's stays 0.
    """

    def __init__(self, played: Matrix, points: Matrix, zero: int) -> None:
        met = played + played.T > 0
        self.played = played + np.where(met, PRIOR / 2, 0.0)
        self.points = points + np.where(met, PRIOR / 4, 0.0)
        self.n = len(played)
        self.free = [i for i in range(self.n + 1) if i != zero]

    def likelihood(self, theta: Matrix) -> float:
        """Its logarithm, with a little weight towards 0 (see `steps`)."""
        gap = self._gap(theta)
        # log of the logistic, without overflow; lost points are those of the second.
        log_win, log_loss = -np.logaddexp(0.0, -gap), -np.logaddexp(0.0, gap)
        terms = self.points * log_win + (self.played - self.points) * log_loss
        return float(terms.sum() - 0.5 * TIE * (theta**2).sum())

    def _gap(self, theta: Matrix) -> Matrix:
        return np.asarray(theta[: self.n, None] - theta[None, : self.n] + theta[self.n])

    def slopes(self, theta: Matrix) -> tuple[Matrix, Matrix]:
        """Gradient and information (the negative of the second derivatives).

        A little weight towards 0 keeps finite who is apart from all others, and a side that nobody has swapped.
        """
        n = self.n
        p = 1.0 / (1.0 + np.exp(-np.clip(self._gap(theta), -700, 700)))
        miss = self.points - self.played * p
        gradient = np.append(miss.sum(1) - miss.sum(0), miss.sum()) - TIE * theta
        curve = self.played * p * (1 - p)
        information = np.zeros((n + 1, n + 1))
        information[:n, :n] = -(curve + curve.T)
        information[:n, :n] += np.diag(curve.sum(1) + curve.sum(0))
        information[n, :n] = information[:n, n] = curve.sum(1) - curve.sum(0)
        information[n, n] = curve.sum()
        return gradient, information + TIE * np.eye(n + 1)

    def fit(self, theta: Matrix, fixed: int = -1) -> Matrix:
        """The most likely parameters, by Newton's method from `theta`; one of them may be held."""
        theta, free = theta.copy(), [i for i in self.free if i != fixed]
        for _ in range(200):
            gradient, information = self.slopes(theta)
            step = np.linalg.solve(information[np.ix_(free, free)], gradient[free])
            largest = float(np.abs(step).max(initial=0.0))
            theta[free] += step * min(1.0, 2.0 / max(largest, 1e-12))
            if largest < 1e-7:
                break
        return theta

    def interval(self, best: Matrix, i: int) -> tuple[float, float]:
        """Where a strength lies with 95 %: what is not too unlikely with everything else at its best (profile)."""
        most = self.likelihood(best)
        _, information = self.slopes(best)
        covariance = np.linalg.inv(information[np.ix_(self.free, self.free)])
        at = self.free.index(i)
        slope = np.zeros(self.n + 1)
        slope[self.free] = covariance[:, at] / covariance[at, at]  # how the others go along
        wide = Z95 * math.sqrt(covariance[at, at])

        def root(gap: float) -> float:
            fitted = self.fit(best + gap * slope, fixed=i)
            return math.sqrt(max(0.0, 2 * (most - self.likelihood(fitted)))) - Z95

        low, high = _crossing(lambda gap: root(-gap), wide), _crossing(root, wide)
        return float(best[i] - low), float(best[i] + high)


def _crossing(root: Callable[[float], float], guess: float) -> float:
    """Where an increasing function that is below 0 at 0 crosses it: false position (Illinois); at most FAR."""
    left, right = 0.0, min(guess, FAR)
    at_left, at_right = -Z95, root(right)
    while at_right < 0:
        if right >= FAR:
            return FAR
        left, at_left, right = right, at_right, min(2 * right, FAR)
        at_right = root(right)
    for _ in range(60):
        middle = right - at_right * (right - left) / (at_right - at_left)
        at_middle = root(middle)
        if abs(at_middle) < 1e-4:
            return middle
        if at_middle * at_right < 0:
            left, at_left = right, at_right
        else:
            at_left /= 2
        right, at_right = middle, at_middle
    return right


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
