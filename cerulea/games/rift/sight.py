"""Who sees whom, and which unit each slot of a hero's view shows.

Kept:    what a side does not see changes nothing of what its heroes are shown. Buildings are always seen; dead heroes
         are known to be dead. Slots of creeps and buildings hold the nearest, ties by place; slots of heroes are roles.
"""

from __future__ import annotations

from numba import njit

from cerulea.games.rift import rules as r
from cerulea.games.rift.motion import distance2
from cerulea.games.rift.world import ALIVE, PER_SIDE, SEEN_AT, SEEN_X, SEEN_Y, TICK, X, Y


@njit(cache=True, nogil=True)
def _is_seen(unit, side, u):
    """Whether a unit of the other side, or the boss, is in sight of any of this side's units."""
    far = r.SIGHT[0] * r.SIGHT[0]
    for h in range(5 * side, 5 * side + 5):
        if unit[ALIVE, h] and distance2(unit, h, u) <= far:
            return True
    far = r.SIGHT[2] * r.SIGHT[2]
    for t in range(r.TOWER0 + 6 * side, r.TOWER0 + 6 * side + 6):
        if unit[ALIVE, t] and distance2(unit, t, u) <= far:
            return True
    if distance2(unit, r.ANCIENT0 + side, u) <= far:
        return True
    far = r.SIGHT[1] * r.SIGHT[1]
    first = r.CREEP0 + r.CREEPS * side
    for c in range(first, first + r.CREEPS):
        if unit[ALIVE, c] and distance2(unit, c, u) <= far:
            return True
    return False


@njit(cache=True, nogil=True)
def _nearest(unit, seen_U, h, first, count, slot_S, at, most):
    """Write the nearest `most` units of a range that are alive and seen into slots from `at` on."""
    # A small sorted list: the last one falls out when a nearer one comes.
    filled = 0
    for u in range(first, first + count):
        if unit[ALIVE, u] == 0 or seen_U[u] == 0:
            continue
        d = distance2(unit, h, u)
        k = filled
        if filled < most:
            filled += 1
        else:
            k = most - 1
            if distance2(unit, h, slot_S[at + k]) <= d:
                continue
        while k > 0 and distance2(unit, h, slot_S[at + k - 1]) > d:
            slot_S[at + k] = slot_S[at + k - 1]
            k -= 1
        slot_S[at + k] = u
    for k in range(filled, most):
        slot_S[at + k] = -1


@njit(cache=True, nogil=True)
def _buildings(unit, h, side, slot_S, at):
    """The nearest four buildings of a side that stand."""
    filled = 0
    for k in range(7):
        u = r.TOWER0 + 6 * side + k if k < 6 else r.ANCIENT0 + side
        if unit[ALIVE, u] == 0:
            continue
        d = distance2(unit, h, u)
        j = filled
        if filled < 4:
            filled += 1
        else:
            j = 3
            if distance2(unit, h, slot_S[at + 3]) <= d:
                continue
        while j > 0 and distance2(unit, h, slot_S[at + j - 1]) > d:
            slot_S[at + j] = slot_S[at + j - 1]
            j -= 1
        slot_S[at + j] = u
    for k in range(filled, 4):
        slot_S[at + k] = -1


@njit(cache=True, nogil=True)
def look_around(w, m):
    """Bring `seen`, what is remembered of enemy heroes, and all slots up to date."""
    unit, hero, match, seen = w.unit[m], w.hero[m], w.match[m], w.seen[m]
    per_side = match[PER_SIDE]
    for side in range(2):
        for u in range(r.UNITS):
            own = (u < 10 and u // 5 == side) or (r.CREEP0 <= u < r.TOWER0 and (u - r.CREEP0) // r.CREEPS == side)
            if own or r.TOWER0 <= u < r.BOSS:
                seen[side, u] = 1
            else:
                seen[side, u] = 1 if unit[ALIVE, u] and _is_seen(unit, side, u) else 0
        for e in range(5 * (1 - side), 5 * (1 - side) + per_side):
            if seen[side, e]:
                hero[SEEN_X, e], hero[SEEN_Y, e], hero[SEEN_AT, e] = unit[X, e], unit[Y, e], match[TICK]
    for side in range(2):
        other = 1 - side
        for i in range(per_side):
            h = 5 * side + i
            slot_S = w.slot[m, h]
            slot_S[:] = -1
            slot_S[0] = h
            k = 1
            for j in range(per_side):
                if j != i:
                    slot_S[k] = 5 * side + j
                    k += 1
            for j in range(per_side):
                slot_S[r.ENEMIES + j] = 5 * other + j
            _nearest(unit, seen[side], h, r.CREEP0 + r.CREEPS * other, r.CREEPS, slot_S, r.ENEMY_CREEPS, 8)
            _nearest(unit, seen[side], h, r.CREEP0 + r.CREEPS * side, r.CREEPS, slot_S, r.ALLY_CREEPS, 4)
            _buildings(unit, h, other, slot_S, r.ENEMY_BUILDINGS)
            _buildings(unit, h, side, slot_S, r.ALLY_BUILDINGS)
            if unit[ALIVE, r.BOSS] and seen[side, r.BOSS]:
                slot_S[r.BOSS_SLOT] = r.BOSS
