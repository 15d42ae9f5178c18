"""Scripted heroes in four tiers, by what their side sees and with the actions that players have.

    pusher   walks with its wave and hits what is nearest
    laner    waits behind its wave for the last hit, keeps out of towers' reach, goes home when it is low or can buy
    team     a laner for two and a half minutes; then all go together, by a common plan, and use their abilities
    team+    the same with a quarter more gold

Kept:    a bot reads nothing that its mask and its side's sight would not show. The same state gives the same action,
         but for a few draws by the match's seed; the mirror image of a state gives the mirror image of the action.
Not here: the plan of a team (`plans`).
"""

from __future__ import annotations

import numpy as np
from numba import njit

from cerulea.games.rift import rules as r
from cerulea.games.rift.aim import (
    attack,
    building_to_hit,
    enemy_near,
    go_to,
    home_action,
    last_hit,
    nearest_enemy,
    own_front,
    tower_danger,
)
from cerulea.games.rift.motion import distance2
from cerulea.games.rift.plans import team_action
from cerulea.games.rift.world import (
    ALIVE,
    DECISIONS,
    GOLD,
    HP,
    INCOME,
    ITEMS,
    LANE_MASK,
    MAX_HP,
    OVER,
    PER_SIDE,
    STUN,
    TAUNT,
    TAUNT_BY,
    TICK,
    X,
    Y,
    drawn,
    mirrored,
)

PUSHER, LANER, TEAM, TEAM_PLUS = range(4)
TOGETHER = 150 * r.S  # from then on a team goes together
PLUS_INCOME = 125
HOLDER = 1  # with five heroes, four go together and this one holds a lane
INATTENTION = 12  # a bot lets one decision in so many pass


@njit(cache=True, nogil=True)
def lane_of(match, i, side):
    """The lane of hero i of a side: two on top, one in the middle, two below; or the only one."""
    if match[LANE_MASK] != 7:
        return 1
    return 0 if i < 2 else (1 if i == 2 else 2)


@njit(cache=True, nogil=True)
def pusher_action(w, m, h, side, lane):
    """Hit the nearest enemy; else walk to where the wave is."""
    u = nearest_enemy(w, m, h, side, 8 * r.U)
    if u >= 0:
        a = attack(w, m, h, u)
        if a >= 0:
            return a
    x, y, found = own_front(w, m, side, lane)
    if not found:
        x, y = 30 * r.U, 30 * r.U
        if lane != 1:
            x, y = (10 * r.U, 34 * r.U) if lane == 0 else (34 * r.U, 10 * r.U)
    return go_to(w, m, h, side, x, y, r.U)


@njit(cache=True, nogil=True)
def goes_home(w, m, h, side):
    """Whether a hero should be on its way home, or stay there."""
    unit, hero = w.unit[m], w.hero[m]
    share = 100 * unit[HP, h] // unit[MAX_HP, h]
    home = mirrored(r.FOUNTAIN, side)
    dx, dy = unit[X, h] - home, unit[Y, h] - home
    at_home = dx * dx + dy * dy <= r.FOUNTAIN_RADIUS * r.FOUNTAIN_RADIUS
    if at_home:
        return share < 92
    # Each hero of each match has a threshold of its own, from 25 to 35 per cent.
    if share < 25 + int(drawn(w.seed[m], h, 60) % np.uint64(11)):
        return True
    # To buy, when nobody is near.
    items = hero[ITEMS, h]
    if (
        items < r.ITEMS
        and hero[GOLD, h] >= r.ITEM_COST[items]
        and (share < 80 or hero[GOLD, h] >= 2 * r.ITEM_COST[items])
    ):
        return not enemy_near(w, m, h, side, 12 * r.U) and building_to_hit(w, m, h, side) < 0
    return False


@njit(cache=True, nogil=True)
def laner_action(w, m, h, side, lane):
    """Live, take last hits, hurt what can be hurt safely."""
    unit = w.unit[m]
    if goes_home(w, m, h, side):
        return home_action(w, m, h, side)
    if tower_danger(w, m, h, side):
        return go_to(w, m, h, side, r.FOUNTAIN, r.FOUNTAIN, 0)
    b = building_to_hit(w, m, h, side)
    if b >= 0 and not enemy_near(w, m, h, side, 9 * r.U):
        a = attack(w, m, h, b)
        if a >= 0:
            return a
    u = last_hit(w, m, h, side)
    if u >= 0:
        a = attack(w, m, h, u)
        if a >= 0:
            return a
    # An enemy hero that comes into reach is hurt, as long as one is not much weaker.
    far = unit[5, h] + r.U
    best, best_hp = -1, 1 << 60
    for e in range(5 * (1 - side), 5 * (1 - side) + 5):
        if unit[ALIVE, e] and w.seen[m, side, e] and distance2(unit, h, e) <= far * far and unit[HP, e] < best_hp:
            best, best_hp = e, unit[HP, e]
    if best >= 0 and unit[HP, h] * 10 > unit[HP, best] * 7:
        a = attack(w, m, h, best)
        if a >= 0:
            return a
    u = nearest_enemy(w, m, h, side, far + 2 * r.U)
    if u >= 0:
        a = attack(w, m, h, u)
        if a >= 0:
            return a
    x, y, found = own_front(w, m, side, lane)
    if not found:
        x, y = 30 * r.U, 30 * r.U
        if lane != 1:
            x, y = (10 * r.U, 34 * r.U) if lane == 0 else (34 * r.U, 10 * r.U)
    return go_to(w, m, h, side, x - r.U, y - r.U, r.U)


@njit(cache=True, nogil=True)
def bot_action(w, m, h, tier):
    """The action of hero h as a bot of this tier plays it."""
    unit, match = w.unit[m], w.match[m]
    tick = match[TICK]
    if match[OVER] or unit[ALIVE, h] == 0 or unit[STUN, h] > tick:
        return r.HOLD
    if unit[TAUNT, h] > tick and unit[ALIVE, unit[TAUNT_BY, h]]:
        return r.HOLD
    # Nobody attends all the time; without it all matches between bots would be one and the same.
    if drawn(w.seed[m], match[DECISIONS], 50 + h) % np.uint64(INATTENTION) == 0:
        return r.HOLD
    side = 0 if h < 5 else 1
    lane = lane_of(match, h - 5 * side, side)
    if tier == PUSHER:
        return pusher_action(w, m, h, side, lane)
    if tier == TEAM_PLUS:
        w.hero[m, INCOME, h] = PLUS_INCOME
    if tier >= TEAM:
        if goes_home(w, m, h, side):
            return home_action(w, m, h, side)
        a = team_action(w, m, h, side, lane, tick >= TOGETHER and (match[PER_SIDE] < 5 or h % 5 != HOLDER))
        if a >= 0:
            return a
    return laner_action(w, m, h, side, lane)


@njit(cache=True, nogil=True)
def script_all(w, bot_MP, out_MPA):
    """Actions of all scripted players; rows with -1 stay as they are."""
    for m in range(bot_MP.shape[0]):
        per_side = w.match[m, PER_SIDE]
        for p in range(bot_MP.shape[1]):
            if bot_MP[m, p] >= 0:
                h = p if p < per_side else 5 + p - per_side
                out_MPA[m, p, 0] = bot_action(w, m, h, bot_MP[m, p])
