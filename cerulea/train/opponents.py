"""Against whom a match is trained: oneself, one's past, scripted players; decided when a match begins, and only then.

In:      shares, quality scores, results.
Out:     an Opponent for each new match, a function of (seed, number of the match) and of what was known then.
Kept:    past selves are drawn by OpenAI Five's scores (arXiv 1912.06680, appendix N): p ~ exp(q); a new one begins at
         the largest q; one that was beaten loses 0.01 / (N p). With `pfsp` and `league` they are drawn by AlphaStar's
         f_hard, (1 - share won)^2; scripted players by what they teach (`teaches`). The pool forgets the member of the
         lowest quality, but never the newest. No more than `groups` members have matches in flight at one time.
Not here: weights of past selves (`selfplay`), how matches run (`rollout`).

A league has three nets that learn: the main one, its exploiter, who plays against it and its past, and the league's
exploiter, who plays against everybody's past. Which of them a match trains is decided when it begins.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, field

from cerulea.core.seeds import mixed

SELF, PAST, BOT, NOW = "self", "past", "bot", "now"
KINDS = (SELF, PAST, BOT, NOW)
MAIN, HUNTER, ROVER = 0, 1, 2  # the main net, its exploiter, the league's
LINE = 10**9  # a member's number is the step it was taken at, plus this for each net before the one it is of
RATE = 0.01  # of a quality score
RECENT = 0.98  # how much of the share won is kept at each result
EARLY = 0.1  # how often a scripted player is met while the next weaker one always wins, beside afterwards
SELDOM = 0.1  # how often who is outclassed is drawn, beside its like
HOPELESS = 0.2  # an exploiter that wins less against the main net learns from its past first (AlphaStar)


@dataclass(frozen=True, slots=True)
class Opponent:
    """Whom one match is played against; `side` is the side that learns, -1 both.

    `now` is the main net as it is, and not trained by this match.
    """

    kind: str
    member: int = -1  # of the pool, or of the game's bots
    side: int = -1
    learner: int = MAIN  # whom the match trains


@dataclass(slots=True)
class Pool:
    """Past selves by the step they were taken at, with their quality; and how often each opponent was beaten lately."""

    steps: list[int] = field(default_factory=list)
    quality: list[float] = field(default_factory=list)
    shares: dict[str, float] = field(default_factory=dict)  # by name: the share won, recent matches counting most
    played: dict[str, int] = field(default_factory=dict)
    active: list[int] = field(default_factory=list)  # members that new matches are played against, oldest choice first
    mode: str = "openai-five"
    won: dict[str, float] = field(default_factory=dict)  # share won by a net, "net:member"; "net:now" the main one

    def probabilities(self, learner: int = MAIN, only: Collection[int] | None = None) -> list[float]:
        """How likely each member is to be drawn by a net that learns, of all or of some."""
        if self.mode == "openai-five":
            top = max(self.quality, default=0.0)
            weights = [math.exp(q - top) for q in self.quality]
        else:
            weights = [0.03 + (1 - self.won.get(f"{learner}:{step}", 0.5)) ** 2 for step in self.steps]
        if only is not None:
            weights = [w if step in only else 0.0 for step, w in zip(self.steps, weights, strict=True)]
        return [w / (sum(weights) or 1.0) for w in weights]

    def add(self, step: int, most: int) -> int | None:
        """Take a new member in; the step of the one that had to leave, if any."""
        self.steps.append(step)
        self.quality.append(max(self.quality, default=0.0))
        if len(self.steps) <= most:
            return None
        worst = min(range(len(self.steps) - 1), key=lambda i: (self._worth(i), self.steps[i]))
        gone = self.steps.pop(worst)
        self.quality.pop(worst)
        self.active = [step for step in self.active if step != gone]
        self.won = {key: share for key, share in self.won.items() if not key.endswith(f":{gone}")}
        return gone

    def _worth(self, i: int) -> float:
        return self.quality[i] if self.mode == "openai-five" else -self.won.get(f"{MAIN}:{self.steps[i]}", 0.5)

    def choose_active(
        self, seed: int, number: int, groups: int, busy: Collection[int] = (), outclassed: Collection[int] = ()
    ) -> None:
        """Choose again the few members that the next matches are played against: a net is run for each.

        One is let go, and others are drawn in place of those whose last match has ended.

        Args:
            busy: members with matches in flight; those that were let go still need a net each.
            outclassed: members whose rating is far below the learner's; they are seldom drawn.
        """
        if len(self.active) >= groups and len(self.steps) > groups:
            self.active = self.active[1:]
        for draw in range(groups):
            held = {*self.active, *busy}
            worth = [
                p * (SELDOM if s in outclassed else 1.0) for s, p in zip(self.steps, self.probabilities(), strict=True)
            ]
            left = [(s, p) for s, p in zip(self.steps, worth, strict=True) if s not in held]
            if not left or (len(held) >= groups and self.active):
                break
            self.active.append(_drawn(left, mixed(seed, number, draw)))

    def beaten(self, step: int) -> None:
        """The learner beat this member."""
        if step in self.steps:
            i = self.steps.index(step)
            self.quality[i] -= RATE / (len(self.steps) * max(self.probabilities()[i], 1e-6))

    def count(self, name: str, won: float) -> None:
        """One result against an opponent of this name: 1 won, 0 not, 0.5 for a draw."""
        before = self.shares.get(name, 0.5)
        played = self.played.get(name, 0)
        keep = min(RECENT, played / (played + 1))
        self.shares[name] = keep * before + (1 - keep) * won
        self.played[name] = played + 1

    def note(self, opponent: Opponent, won: float) -> None:
        """One result against a past self, or of an exploiter against the main net."""
        key = f"{opponent.learner}:{'now' if opponent.kind == NOW else opponent.member}"
        self.won[key] = 0.95 * self.won.get(key, 0.5) + 0.05 * won
        if self.mode == "openai-five" and opponent.kind == PAST and won == 1.0:
            self.beaten(opponent.member)


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


def teaches(won: float, weaker: float = 1.0) -> float:
    """How often a scripted player is met against whom such a share is won, before all are made to add up to 1.

    Most is learned from those who are beaten now and then. One who always wins teaches little, one who never does
    nothing new; yet both are met sometimes: what is not met is forgotten, and who is not met is never beaten. A strong
    one waits until the next weaker one is beaten.

    Args:
        weaker: the share won against the next weaker player.
    """
    return (0.03 + won * (1.0 - won) + 0.1 * (1.0 - won)) * max(EARLY, weaker)


def choose(
    pool: Pool,
    bots: tuple[str, ...],
    shares: tuple[float, float, float],
    *,
    seed: int,
    number: int,
    sides: int,
    exploiters: float = 0.0,
) -> Opponent:
    """Whom match `number` is played against.

    Args:
        bots: names of the scripted players, weakest first.
        sides: of the game; with one there is nobody to play against.
        exploiters: share of matches that train one of a league's exploiters, and not its main net.
    """
    if sides == 1:
        return Opponent(SELF)
    at = mixed(seed, number, 104) / 2**64
    if at < exploiters:
        return _exploit(pool, HUNTER if at < exploiters / 2 else ROVER, seed, number, sides)
    own, past, scripted = shares
    kinds = [(0, own), (1, past if pool.active else 0.0), (2, scripted if bots else 0.0)]
    if not sum(weight for _, weight in kinds):
        kinds = [(0, 1.0)]
    kind = _drawn(kinds, mixed(seed, number, 101))
    side = mixed(seed, number, 102) % sides
    if kind == 1:
        # The few that are active were drawn by their worth, which would count twice if they were not met alike.
        return Opponent(PAST, _drawn([(member, 1.0) for member in pool.active], mixed(seed, number, 103)), side)
    if kind == 2:
        won = [pool.shares.get(name, 0.5) for name in bots]
        met = list(enumerate(map(teaches, won, [1.0, *won])))
        return Opponent(BOT, _drawn(met, mixed(seed, number, 103)), side)
    return Opponent(SELF)


def _exploit(pool: Pool, learner: int, seed: int, number: int, sides: int) -> Opponent:
    """Against the main net while that can be won; else, and for the league's exploiter, against somebody's past."""
    side = mixed(seed, number, 102) % sides
    among = [step for step in pool.active if learner == ROVER or step < LINE]
    hopeless = pool.won.get(f"{HUNTER}:now", 0.5) < HOPELESS
    against_now = 1.0 if not among else 0.0 if learner == ROVER else 0.5 if hopeless else 1.0
    if mixed(seed, number, 101) / 2**64 < against_now:
        return Opponent(NOW, side=side, learner=learner)
    worth = zip(pool.steps, pool.probabilities(learner, among), strict=True)
    return Opponent(PAST, _drawn(list(worth), mixed(seed, number, 103)), side, learner)
