"""How scripted heroes play a lane: the pusher, and the laner on whom the team's heroes build.

Not here: who plays how (`bots`), how a team goes together (`plans`).
"""

from __future__ import annotations

import numpy as np
from numba import njit

from cerulea.games.rift import rules as r
from cerulea.games.rift.aim import (
    a_dive,
    attack,
    back_off,
    building_to_hit,
    covering,
    enemy_near,
    go_to,
    home_action,
    invader,
    last_hit,
    nearest_enemy,
    odds,
    own_front,
    prey,
    rally,
    strike,
    tower_danger,
)
from cerulea.games.rift.motion import distance2
from cerulea.games.rift.world import (
    ALIVE,
    ALL_LANES,
    GOLD,
    HP,
    ITEMS,
    LANE_MASK,
    MAX_HP,
    RANGE,
    X,
    Y,
    drawn,
    mirrored,
)

FAR = 40 * r.U  # one does not walk further than this to an outer tower
PLACES = 7  # from which a team's heroes are called: the ancient, three inner towers, three outer ones
LOW, LOW_SPREAD = 28, 8  # per cent of health below which one goes home: from here on, by the match's draw


@njit(cache=True, nogil=True)
def lane_of(match, i):
    """The lane of hero i of a side: two on top, one in the middle, two below; or the only one."""
    if match[LANE_MASK] != ALL_LANES:
        return 1
    return 0 if i < 2 else (1 if i == 2 else 2)


@njit(cache=True, nogil=True)
def to_the_wave(w, m, h, side, lane, behind):
    """Walk to just behind the wave of a lane, or to where one waits for it."""
    x, y, found = own_front(w, m, side, lane)
    if not found:
        x, y = rally(w, m, side, lane)
    return go_to(w, m, h, side, x - behind, y - behind, r.U)


@njit(cache=True, nogil=True)
def pusher_action(w, m, h, side, lane):
    """Hit the nearest enemy; else walk to where the wave is."""
    u = nearest_enemy(w, m, h, side, 8 * r.U)
    if u >= 0:
        a = attack(w, m, h, u)
        if a >= 0:
            return a
    return to_the_wave(w, m, h, side, lane, 0)


@njit(cache=True, nogil=True)
def goes_home(w, m, h, side):
    """Whether a hero should be on its way home, or stay there."""
    unit, hero = w.unit[m], w.hero[m]
    share = 100 * unit[HP, h] // unit[MAX_HP, h]
    home = mirrored(r.FOUNTAIN, side)
    dx, dy = unit[X, h] - home, unit[Y, h] - home
    if dx * dx + dy * dy <= r.FOUNTAIN_RADIUS * r.FOUNTAIN_RADIUS:
        # Who can hit somebody from the fountain need not be whole.
        return share < 92 and not enemy_near(w, m, h, side, 10 * r.U)
    if share < LOW + int(drawn(w.seed[m], h, 60) % np.uint64(LOW_SPREAD)):
        return True
    # To buy, when one is hurt or rich, nobody is near and nothing is to be torn down.
    items = hero[ITEMS, h]
    if items == r.ITEMS or hero[GOLD, h] < r.ITEM_COST[items]:
        return False
    if share < 70 or hero[GOLD, h] >= 2 * r.ITEM_COST[items]:
        return not enemy_near(w, m, h, side, 12 * r.U) and building_to_hit(w, m, h, side) < 0
    return False


@njit(cache=True, nogil=True)
def answers(w, m, h, side, t, u):
    """Whether hero h is among those who go to building t because of invader u: one more than there are enemy heroes."""
    unit = w.unit[m]
    needed, nearer = 1, 0
    mine = distance2(unit, h, t)
    for i in range(5):
        e, a = 5 * (1 - side) + i, 5 * side + i
        if unit[ALIVE, e] and w.seen[m, side, e] and distance2(unit, e, u) <= 12 * r.U * 12 * r.U:
            needed += 1
        if unit[ALIVE, a] and a != h:
            d = distance2(unit, a, t)
            if d < mine or (d == mine and a < h):
                nearer += 1
    return nearer < needed


@njit(cache=True, nogil=True)
def called(w, m, h, side, places):
    """The invader of our ancient, or of a tower among the first `places`, whom h goes to meet; or -1."""
    unit = w.unit[m]
    for k in range(places):
        # The ancient, inner towers whose outer one fell, outer ones that are not too far.
        t = r.ANCIENT0 + side if k == 0 else r.TOWER0 + 6 * side + (2 * k - 1 if k < 4 else 2 * k - 8)
        if unit[ALIVE, t] == 0 or (k > 3 and distance2(unit, h, t) > FAR * FAR):
            continue
        if k == 0 or k > 3 or unit[ALIVE, t - 1] == 0:
            u = invader(w, m, side, t, r.BUILDING_RANGE + 2 * r.U if k else 14 * r.U)
            if u >= 0 and answers(w, m, h, side, t, u):
                return u
    return -1


@njit(cache=True, nogil=True)
def defends(w, m, h, side, lane, far):
    """Whom to meet at our towers of this lane, if that is not too far to walk; -1 without one."""
    unit = w.unit[m]
    for k in range(2):
        t = r.TOWER0 + 6 * side + 2 * lane + 1 - k
        if unit[ALIVE, t] and distance2(unit, h, t) <= far * far:
            u = invader(w, m, side, t, r.BUILDING_RANGE + 2 * r.U)
            if u >= 0:
                return u
    return -1


@njit(cache=True, nogil=True)
def laner_action(w, m, h, side, lane, plan):
    """Live, take last hits, hurt what can be hurt safely. With a plan: answer calls to other lanes."""
    unit = w.unit[m]
    if goes_home(w, m, h, side):
        return home_action(w, m, h, side)
    if tower_danger(w, m, h, side):
        return back_off(w, m, h, side)
    ours, theirs = odds(w, m, side, h, 10 * r.U)
    target = prey(w, m, h, side, unit[RANGE, h] + 2 * r.U)
    under = covering(w, m, 1 - side, h, r.BUILDING_RANGE) >= 0
    b = building_to_hit(w, m, h, side)
    if b >= 0 and ours * 10 >= theirs * 9:
        a = attack(w, m, h, b)
        if a >= 0:
            return a
    if target >= 0:
        # Creeps do not mind whom one hurts; towers do.
        if ours * 10 >= theirs * 9 and not under and not a_dive(w, m, h, side, target):
            a = attack(w, m, h, target)
            if a >= 0:
                return a
        if theirs * 10 > ours * 16:
            return back_off(w, m, h, side)
    u = last_hit(w, m, h, side)
    if u >= 0:
        a = attack(w, m, h, u)
        if a >= 0:
            return a
    u = nearest_enemy(w, m, h, side, unit[RANGE, h] + 3 * r.U)
    if u >= 0:
        a = attack(w, m, h, u)
        if a >= 0:
            return a
    u = defends(w, m, h, side, lane, 40 * r.U)
    if u < 0:
        u = called(w, m, h, side, PLACES if plan else 1)
    if u >= 0:
        return strike(w, m, h, side, u)
    return to_the_wave(w, m, h, side, lane, r.U)
