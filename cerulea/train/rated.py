"""Online ratings of a run: its main net, which drifts, its past selves, which stay as they were, and scripted players.

Kept:    a state's ratings are plain numbers, so that a resumed run goes on with them.
Not here: reported ratings, over all results that were kept (`games.rating`).
"""

from __future__ import annotations

from cerulea.games.rating import Online

MYSELF = "learner"  # the main net
LEAST = 1.0  # its spread never falls below: it changes all the time
NEAR = 10.0  # points within which opponents are matched, as OpenAI Five's rating games were
Ratings = dict[str, list[float]]


def _opened(ratings: Ratings) -> Online:
    online = Online()
    online.known = {name: (mean, spread) for name, (mean, spread) in ratings.items()}
    return online


def noted(ratings: Ratings, other: str, won: float) -> Ratings:
    """Ratings after one result of the main net against `other`: 1 won, 0 not, 0.5 for a draw."""
    online = _opened(ratings)
    mean, spread = online.known.get(MYSELF, (0.0, 0.0))  # untrained it is the random player, who is 0
    online.known[MYSELF] = (mean, max(spread, LEAST))
    online.add(MYSELF, other, won, fixed=(other,) if other.startswith("past-") else ())
    return {name: list(known) for name, known in online.known.items()}


def taken_in(ratings: Ratings, member: int) -> Ratings:
    """Ratings with a new past self, as good as the main net is now."""
    return {**ratings, f"past-{member}": list(ratings.get(MYSELF, [0.0, LEAST]))}


def outclassed(ratings: Ratings, members: list[int]) -> list[int]:
    """Past selves that are rated so far below the main net that matches against them say little (1912.06680, J)."""
    own = ratings.get(MYSELF, [0.0])[0]
    return [member for member in members if ratings.get(f"past-{member}", [own])[0] < own - NEAR]


def without(ratings: Ratings, members: list[int]) -> Ratings:
    """Ratings of the past selves that are still there, and of everybody else."""
    alive = {f"past-{member}" for member in members}
    return {name: known for name, known in ratings.items() if not name.startswith("past-") or name in alive}
