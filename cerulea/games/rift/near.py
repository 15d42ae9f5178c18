"""Who lives, in short lists, and who of a list is nearest.

Most of a match's 73 places are empty most of the time. What looks for neighbours goes over these lists instead; they
lie in `work`, so that to make them takes no memory.

Kept:    a list is in the order of places, so that of equals the first is the one with the lowest place, on both sides.
Not here: what is done about a neighbour (`waves`), who is seen (`sight`).
"""

from __future__ import annotations

from numba import njit

from cerulea.games.rift import rules as r
from cerulea.games.rift.combat import vulnerable
from cerulea.games.rift.world import ALIVE, N_ALL, N_CREEPS, N_HEROES, W_COUNT, W_LIST, W_LIST_X, W_LIST_Y, X, Y

BITS = 7  # of a place in a list, below the square of the distance


@njit(cache=True, nogil=True)
def _add(unit, work, side, n, u):
    work[W_LIST + side, n] = u
    work[W_LIST_X + side, n] = unit[X, u]
    work[W_LIST_Y + side, n] = unit[Y, u]


@njit(cache=True, nogil=True)
def gather(unit, match, work):
    """Make both sides' lists of what the other side may hit: creeps, heroes, buildings."""
    for side in range(2):
        n = 0
        first = r.CREEP0 + r.CREEPS * side
        for u in range(first, first + r.CREEPS):
            if unit[ALIVE, u]:
                _add(unit, work, side, n, u)
                n += 1
        work[W_COUNT + side, N_CREEPS] = n
        for u in range(5 * side, 5 * side + 5):
            if unit[ALIVE, u]:
                _add(unit, work, side, n, u)
                n += 1
        work[W_COUNT + side, N_HEROES] = n
        for u in range(r.TOWER0 + 6 * side, r.TOWER0 + 6 * side + 6):
            if unit[ALIVE, u] and vulnerable(unit, match, u):
                _add(unit, work, side, n, u)
                n += 1
        if vulnerable(unit, match, r.ANCIENT0 + side):
            _add(unit, work, side, n, r.ANCIENT0 + side)
            n += 1
        work[W_COUNT + side, N_ALL] = n


@njit(cache=True, nogil=True)
def nearest(work, side, first, last, x, y, far):
    """The nearest unit to a point among places first to last of a side's list; -1 where none is within `far`."""
    limit = (far * far + 1) << BITS
    best = limit
    for k in range(first, last):
        dx, dy = work[W_LIST_X + side, k] - x, work[W_LIST_Y + side, k] - y
        best = min(best, (dx * dx + dy * dy) << BITS | k)
    return work[W_LIST + side, best & ((1 << BITS) - 1)] if best < limit else -1


@njit(cache=True, nogil=True)
def any_near(work, side, first, last, x, y, far):
    """Whether any unit among places first to last of a side's list is within `far` of a point."""
    least = far * far + 1
    for k in range(first, last):
        dx, dy = work[W_LIST_X + side, k] - x, work[W_LIST_Y + side, k] - y
        least = min(least, dx * dx + dy * dy)
    return least <= far * far
