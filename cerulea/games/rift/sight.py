"""Who sees whom, and which unit each slot of a hero's view shows.

Kept:    what a side does not see changes nothing of what its heroes are shown. Buildings are always seen; dead heroes
         are known to be dead. Slots of creeps and buildings hold the nearest, ties by place; slots of heroes are roles.
"""

from __future__ import annotations

from numba import njit

from cerulea.games.rift import rules as r
from cerulea.games.rift.motion import distance2
from cerulea.games.rift.near import any_near, gather
from cerulea.games.rift.world import (
    ALIVE,
    N_CREEPS,
    N_HEROES,
    PER_SIDE,
    SEEN_AT,
    SEEN_X,
    SEEN_Y,
    TICK,
    W_COUNT,
    W_LIST,
    W_NEAR,
    X,
    Y,
)

SHOWN_BUILDINGS = 4
ENEMY_CREEPS_SHOWN, ALLY_CREEPS_SHOWN = r.ALLY_CREEPS - r.ENEMY_CREEPS, r.ENEMY_BUILDINGS - r.ALLY_CREEPS


@njit(cache=True, nogil=True)
def _is_seen(unit, work, side, u):
    """Whether a unit of the other side, or the boss, is in sight of any of this side's units."""
    x, y = unit[X, u], unit[Y, u]
    creeps, heroes = work[W_COUNT + side, N_CREEPS], work[W_COUNT + side, N_HEROES]
    if any_near(work, side, creeps, heroes, x, y, r.SIGHT[0]) or any_near(work, side, 0, creeps, x, y, r.SIGHT[1]):
        return True
    far = r.SIGHT[2] * r.SIGHT[2]
    for t in range(r.TOWER0 + 6 * side, r.TOWER0 + 6 * side + 6):
        if unit[ALIVE, t] and distance2(unit, t, u) <= far:
            return True
    return distance2(unit, r.ANCIENT0 + side, u) <= far


@njit(cache=True, nogil=True)
def _put(work, slot_S, at, most, filled, d, u):
    """Put u into a small sorted list in the slots from `at` on; the last falls out when a nearer one comes."""
    k = filled
    if filled < most:
        filled += 1
    else:
        k = most - 1
        if work[W_NEAR, k] <= d:
            return filled
    while k > 0 and work[W_NEAR, k - 1] > d:
        work[W_NEAR, k] = work[W_NEAR, k - 1]
        slot_S[at + k] = slot_S[at + k - 1]
        k -= 1
    work[W_NEAR, k] = d
    slot_S[at + k] = u
    return filled


@njit(cache=True, nogil=True)
def _creeps(unit, work, seen_U, h, of, slot_S, at, most):
    """The nearest creeps of a side that are seen."""
    filled = 0
    for k in range(work[W_COUNT + of, N_CREEPS]):
        u = work[W_LIST + of, k]
        if seen_U[u]:
            filled = _put(work, slot_S, at, most, filled, distance2(unit, h, u), u)


@njit(cache=True, nogil=True)
def _buildings(unit, work, h, of, slot_S, at):
    """The nearest buildings of a side that stand."""
    filled = 0
    for k in range(7):
        u = r.TOWER0 + 6 * of + k if k < 6 else r.ANCIENT0 + of
        if unit[ALIVE, u]:
            filled = _put(work, slot_S, at, SHOWN_BUILDINGS, filled, distance2(unit, h, u), u)


@njit(cache=True, nogil=True)
def _see(unit, work, seen_U, side):
    """Mark the units that a side sees."""
    other = 1 - side
    seen_U[: r.TOWER0] = 0
    seen_U[r.TOWER0 : r.BOSS] = 1
    seen_U[5 * side : 5 * side + 5] = 1
    first = r.CREEP0 + r.CREEPS * side
    seen_U[first : first + r.CREEPS] = 1
    for k in range(work[W_COUNT + other, N_HEROES]):
        u = work[W_LIST + other, k]
        seen_U[u] = _is_seen(unit, work, side, u)
    seen_U[r.BOSS] = unit[ALIVE, r.BOSS] != 0 and _is_seen(unit, work, side, r.BOSS)


@njit(cache=True, nogil=True)
def _fill(unit, work, seen_U, h, side, per_side, slot_S):
    """Which unit each slot of hero h shows."""
    other = 1 - side
    slot_S[:] = -1
    slot_S[0] = h
    k = 1
    for j in range(per_side):
        if 5 * side + j != h:
            slot_S[k] = 5 * side + j
            k += 1
        slot_S[r.ENEMIES + j] = 5 * other + j
    _creeps(unit, work, seen_U, h, other, slot_S, r.ENEMY_CREEPS, ENEMY_CREEPS_SHOWN)
    _creeps(unit, work, seen_U, h, side, slot_S, r.ALLY_CREEPS, ALLY_CREEPS_SHOWN)
    _buildings(unit, work, h, other, slot_S, r.ENEMY_BUILDINGS)
    _buildings(unit, work, h, side, slot_S, r.ALLY_BUILDINGS)
    if seen_U[r.BOSS]:
        slot_S[r.BOSS_SLOT] = r.BOSS


@njit(cache=True, nogil=True)
def look_around(w, m):
    """Bring `seen`, what is remembered of enemy heroes, and all slots up to date."""
    unit, hero, match, seen, work, slot = w.unit[m], w.hero[m], w.match[m], w.seen[m], w.work[m], w.slot[m]
    per_side = match[PER_SIDE]
    gather(unit, match, work)
    for side in range(2):
        _see(unit, work, seen[side], side)
        for e in range(5 * (1 - side), 5 * (1 - side) + per_side):
            if seen[side, e]:
                hero[SEEN_X, e], hero[SEEN_Y, e], hero[SEEN_AT, e] = unit[X, e], unit[Y, e], match[TICK]
    for side in range(2):
        for h in range(5 * side, 5 * side + per_side):
            _fill(unit, work, seen[side], h, side, per_side, slot[h])
