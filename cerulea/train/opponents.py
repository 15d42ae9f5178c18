"""Against whom a match is trained: oneself, one's past, scripted players; decided when a match begins, and only then.

In:      shares, quality scores, results.
Out:     an Opponent for each new match, a function of (seed, number of the match) and of what was known then.
Kept:    past selves are drawn by OpenAI Five's scores (arXiv 1912.06680, appendix N): p ~ exp(q); a new one begins at
         the largest q; one that was beaten loses 0.01 / (N p). Scripted players are drawn by (1 - share won)^2, as
         AlphaStar's f_hard. The pool forgets the member of the lowest quality, but never the newest.
Not here: weights of past selves (`selfplay`), how matches run (`rollout`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from cerulea.core.seeds import mixed

SELF, PAST, BOT = "self", "past", "bot"
RATE = 0.01  # of a quality score
RECENT = 0.98  # how much of the share won is kept at each result


@dataclass(frozen=True, slots=True)
class Opponent:
    """Whom one match is played against; `side` is the side that learns, -1 both."""

    kind: str
    member: int = -1  # of the pool, or of the game's bots
    side: int = -1


@dataclass(slots=True)
class Pool:
    """Past selves by the step they were taken at, with their quality; and how often each opponent was beaten lately."""

    steps: list[int] = field(default_factory=list)
    quality: list[float] = field(default_factory=list)
    shares: dict[str, float] = field(default_factory=dict)  # by name: the share won, recent matches counting most
    played: dict[str, int] = field(default_factory=dict)
    active: list[int] = field(default_factory=list)  # steps of the members that new matches are played against

    def probabilities(self) -> list[float]:
        """How likely each member is to be drawn."""
        top = max(self.quality, default=0.0)
        weights = [math.exp(q - top) for q in self.quality]
        return [w / sum(weights) for w in weights]

    def add(self, step: int, most: int) -> int | None:
        """Take a new member in; the step of the one that had to leave, if any."""
        self.steps.append(step)
        self.quality.append(max(self.quality, default=0.0))
        if len(self.steps) <= most:
            return None
        worst = min(range(len(self.steps) - 1), key=lambda i: (self.quality[i], self.steps[i]))
        gone = self.steps.pop(worst)
        self.quality.pop(worst)
        self.active = [step for step in self.active if step != gone]
        return gone

    def choose_active(self, seed: int, number: int, groups: int) -> None:
        """Draw the few members that the next matches are played against: a net for each is run."""
        chosen: list[int] = []
        for draw in range(min(groups, len(self.steps))):
            left = [(s, p) for s, p in zip(self.steps, self.probabilities(), strict=True) if s not in chosen]
            chosen.append(_drawn(left, mixed(seed, number, draw)))
        self.active = chosen

    def beaten(self, step: int) -> None:
        """The learner beat this member."""
        if step in self.steps:
            i = self.steps.index(step)
            self.quality[i] -= RATE / (len(self.steps) * self.probabilities()[i])

    def count(self, name: str, won: float) -> None:
        """One result against an opponent of this name: 1 won, 0 not, 0.5 for a draw."""
        before = self.shares.get(name, 0.5)
        played = self.played.get(name, 0)
        keep = min(RECENT, played / (played + 1))
        self.shares[name] = keep * before + (1 - keep) * won
        self.played[name] = played + 1


def _drawn(choices: list[tuple[int, float]], bits: int) -> int:
    """One of the values, by weight, from 64 random bits."""
    at = bits / 2**64 * sum(weight for _, weight in choices)
    for value, weight in choices:
        at -= weight
        if at < 0:
            return value
    return choices[-1][0]


def shares_now(own: float, past: float, bots: float, fraction: float) -> tuple[float, float, float]:
    """Shares of self, past and bots: scripted players teach the first half of a run and then give way."""
    if fraction < 0.5:
        return own, past, bots
    return own + bots * 0.75, past + bots * 0.25, 0.0


def choose(
    pool: Pool, bots: tuple[str, ...], shares: tuple[float, float, float], *, seed: int, number: int, sides: int
) -> Opponent:
    """Whom match `number` is played against.

    Args:
        bots: names of the scripted players.
        sides: of the game; with one there is nobody to play against.
    """
    if sides == 1:
        return Opponent(SELF)
    own, past, scripted = shares
    kinds = [(0, own), (1, past if pool.active else 0.0), (2, scripted if bots else 0.0)]
    if not sum(weight for _, weight in kinds):
        kinds = [(0, 1.0)]
    kind = _drawn(kinds, mixed(seed, number, 101))
    side = mixed(seed, number, 102) % sides
    if kind == 1:
        weights = dict(zip(pool.steps, pool.probabilities(), strict=True))
        member = _drawn([(step, weights[step]) for step in pool.active], mixed(seed, number, 103))
        return Opponent(PAST, member, side)
    if kind == 2:
        # Even one who never loses is met now and then: what is not met is forgotten.
        hard = [(i, 0.03 + (1 - pool.shares.get(name, 0.5)) ** 2) for i, name in enumerate(bots)]
        return Opponent(BOT, _drawn(hard, mixed(seed, number, 103)), side)
    return Opponent(SELF)
