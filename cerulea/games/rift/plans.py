"""How a scripted team fights: abilities by rule, the weakest enemy first, together, and never under a tower without a
wave.

Not here: laning and going home (`laning`), how wishes become actions (`aim`).
"""

from __future__ import annotations

from numba import njit

from cerulea.games.rift import rules as r
from cerulea.games.rift.aim import (
    a_dive,
    ability,
    attack,
    back_off,
    building_to_hit,
    can_finish,
    go_to,
    home_action,
    odds,
    own_front,
    prey,
    rally,
    strike,
    tower_danger,
)
from cerulea.games.rift.laning import PLACES, called, goes_home, laner_action
from cerulea.games.rift.motion import distance2
from cerulea.games.rift.world import (
    ALIVE,
    ALL_LANES,
    HP,
    KIND,
    LANE,
    LANE_MASK,
    MANA,
    MAX_HP,
    MAX_MANA,
    PER_SIDE,
    RANGE,
    TICK,
    X,
    Y,
    mirrored,
)

TOGETHER = 150 * r.S  # from then on a team goes together
HOLDER = 1  # with five heroes, four go together and this one holds a lane
JOIN = 45 * r.U  # who is further away keeps its lane, unless two more of ours are alive than of theirs
FINISH = 12 * r.U  # who is so near the enemy's ancient tears it down or defends it
FIGHT = 12 * r.U  # who is so near takes part in a fight
TEARS = 150  # about the damage that a team does to a building in a second
LAST_SHARE = 12  # per cent of health at which one leaves any fight
# Tenths of the other side's strength: from so much on one fights, and does not leave a fight because of one's own
# health; and where they have so much of ours, one goes back.
BOLD, STAY, TIMID = 6, 10, 22


@njit(cache=True, nogil=True)
def use_abilities(w, m, h, side, target):
    """An ability against enemy hero `target`, or for an ally; -1 where none is worth it now."""
    unit, hero = w.unit[m], w.hero[m]
    kind = hero[KIND, h]
    d2 = distance2(unit, h, target)
    if kind == r.BULWARK:
        if d2 <= r.Q_RANGE[r.BULWARK] * r.Q_RANGE[r.BULWARK]:
            a = ability(w, m, h, 0, h)
            if a >= 0:
                return a
        return ability(w, m, h, 1, h) if d2 <= 5 * r.U * 5 * r.U else -1
    if kind == r.RAIDER:
        if 100 * unit[HP, target] < 70 * unit[MAX_HP, target]:
            a = ability(w, m, h, 1, target)
            if a >= 0:
                return a
        return ability(w, m, h, 0, target)
    if kind == r.MAGUS:
        a = ability(w, m, h, 0, target)
        return a if a >= 0 else ability(w, m, h, 1, target)
    if kind == r.MENDER:
        a = heal(w, m, h, side)
        return a if a >= 0 else ability(w, m, h, 1, target)
    if d2 <= 3 * r.U * 3 * r.U and 2 * unit[HP, h] < unit[MAX_HP, h]:
        a = ability(w, m, h, 1, h)
        if a >= 0:
            return a
    return ability(w, m, h, 0, h)


@njit(cache=True, nogil=True)
def heal(w, m, h, side):
    """A Mender's healing for the ally near by who lacks most of its health."""
    unit = w.unit[m]
    best, least = -1, 65
    for i in range(w.match[m, PER_SIDE]):
        a = 5 * side + i
        if unit[ALIVE, a] and distance2(unit, h, a) <= 7 * r.U * 7 * r.U:
            share = 100 * unit[HP, a] // unit[MAX_HP, a]
            if share < least:
                best, least = a, share
    return ability(w, m, h, 0, best) if best >= 0 else -1


@njit(cache=True, nogil=True)
def _splash(w, m, h, side):
    """A Magus or an Archer clears a wave when there is mana to spare."""
    unit, hero = w.unit[m], w.hero[m]
    kind = hero[KIND, h]
    if 10 * hero[MANA, h] < 4 * hero[MAX_MANA, h] or (kind != r.MAGUS and kind != r.ARCHER):
        return -1
    near, nearest, best = 0, -1, 1 << 60
    for s in range(r.ENEMY_CREEPS, r.ALLY_CREEPS):
        u = w.slot[m, h, s]
        if u >= 0 and unit[ALIVE, u]:
            d = distance2(unit, h, u)
            if d <= 7 * r.U * 7 * r.U:
                near += 1
                if d < best:
                    best, nearest = d, u
    if near < 3:
        return -1
    return ability(w, m, h, 0, h if kind == r.ARCHER else nearest)


@njit(cache=True, nogil=True)
def team_lane(w, m, side):
    """The lane in which the team is soonest done, by seconds: to walk there, for the wave to arrive, to tear down.

    Who walks to a lane makes it the nearer one, so that the choice seldom changes on the way.
    """
    unit, match = w.unit[m], w.match[m]
    if match[LANE_MASK] != ALL_LANES:
        return 1
    best, lane = 1 << 60, 1
    for n in range(3):
        k = (1, 0, 2)[n]
        x, y, found = own_front(w, m, side, k)
        if not found:
            x, y = rally(w, m, side, k)
        # The enemy's lane 2 - k is our lane k.
        left, at = unit[HP, r.ANCIENT0 + 1 - side], r.ANCIENT0 + 1 - side
        for tier in range(1, -1, -1):
            t = r.TOWER0 + 6 * (1 - side) + 2 * (2 - k) + tier
            if unit[ALIVE, t]:
                left += unit[HP, t]
                at = t
        march = max(abs(mirrored(unit[X, at], side) - x), abs(mirrored(unit[Y, at], side) - y))
        walk = 0
        for h in range(5 * side, 5 * side + 5):
            if unit[ALIVE, h] and h % 5 != HOLDER:
                walk += max(abs(mirrored(unit[X, h], side) - x), abs(mirrored(unit[Y, h], side) - y))
        cost = left // (TEARS * r.H) + (march + walk // 4) // (3 * r.U)
        if cost < best:
            best, lane = cost, k
    return lane


@njit(cache=True, nogil=True)
def _lead(w, m, side):
    """How many more of ours are alive than of theirs; who is dead is known to all."""
    lead = 0
    for i in range(5):
        lead += w.unit[m, ALIVE, 5 * side + i] - w.unit[m, ALIVE, 5 * (1 - side) + i]
    return lead


@njit(cache=True, nogil=True)
def _threatened_lane(w, m, side, goal):
    """The lane beside the goal in which enemy creeps are seen nearest to our side; for who holds it."""
    unit = w.unit[m]
    best, lane = 1 << 60, 2 if goal == 0 else 0
    first = r.CREEP0 + r.CREEPS * (1 - side)
    for c in range(first, first + r.CREEPS):
        if unit[ALIVE, c] and w.seen[m, side, c] and 2 - unit[LANE, c] != goal:
            far = mirrored(unit[X, c], side) + mirrored(unit[Y, c], side)
            if far < best:
                best, lane = far, 2 - unit[LANE, c]
    return lane


@njit(cache=True, nogil=True)
def _fight(w, m, h, side, ours, theirs):
    """What to do about enemy heroes near by; -1 where nothing."""
    unit = w.unit[m]
    if w.hero[m, KIND, h] == r.MENDER:
        a = heal(w, m, h, side)
        if a >= 0:
            return a
    target = prey(w, m, h, side, max(unit[RANGE, h] + 2 * r.U, 8 * r.U))
    if target < 0:
        return -1
    if ours * 10 > theirs * BOLD and not a_dive(w, m, h, side, target):
        a = use_abilities(w, m, h, side, target)
        return a if a >= 0 else attack(w, m, h, target)
    if theirs * 10 > ours * TIMID:
        near = distance2(unit, h, target) <= 5 * r.U * 5 * r.U
        a = use_abilities(w, m, h, side, target) if near else -1
        return a if a >= 0 else back_off(w, m, h, side)
    return -1


@njit(cache=True, nogil=True)
def team_action(w, m, h, side, lane):
    """Live, fight where it is worth it, tear down what the wave is at, stay together."""
    unit, match = w.unit[m], w.match[m]
    ours, theirs = odds(w, m, side, h, FIGHT)
    if (
        distance2(unit, h, r.ANCIENT0 + 1 - side) <= r.APPROACH * r.APPROACH
        and match[TICK] >= TOGETHER
        and can_finish(w, m, side, FINISH)
    ):
        a = attack(w, m, h, r.ANCIENT0 + 1 - side)
        if a >= 0:
            return a
    # A fight that goes well is not left before one is nearly dead.
    winning = theirs > 0 and ours * 10 > theirs * STAY and 100 * unit[HP, h] > LAST_SHARE * unit[MAX_HP, h]
    if not winning and goes_home(w, m, h, side):
        return home_action(w, m, h, side)
    if tower_danger(w, m, h, side):
        return back_off(w, m, h, side)
    b = building_to_hit(w, m, h, side)
    # What falls stays fallen: once buildings wear, they come before heroes, and the ancient always does.
    if b >= r.ANCIENT0 or (b >= 0 and match[TICK] >= TOGETHER and ours * 10 > theirs * BOLD):
        a = attack(w, m, h, b)
        if a >= 0:
            return a
    a = _fight(w, m, h, side, ours, theirs)
    if a >= 0:
        return a
    if b >= 0 and ours * 10 >= theirs * 8:
        a = attack(w, m, h, b)
        if a >= 0:
            return a
    a = _splash(w, m, h, side)
    if a >= 0:
        return a
    if unit[ALIVE, r.BOSS] and w.seen[m, side, r.BOSS] and distance2(unit, h, r.BOSS) <= r.APPROACH * r.APPROACH:
        if _lead(w, m, side) > 0:
            a = attack(w, m, h, r.BOSS)
            if a >= 0:
                return a
    if match[TICK] < TOGETHER:
        return laner_action(w, m, h, side, lane, True)
    goal = team_lane(w, m, side)
    if match[PER_SIDE] == 5 and h % 5 == HOLDER:
        return laner_action(w, m, h, side, _threatened_lane(w, m, side, goal), True)
    u = called(w, m, h, side, PLACES)
    if u >= 0:
        return strike(w, m, h, side, u)
    x, y, found = own_front(w, m, side, goal)
    if not found:
        x, y = rally(w, m, side, goal)
    dx, dy = x - mirrored(unit[X, h], side), y - mirrored(unit[Y, h], side)
    d2 = dx * dx + dy * dy
    if match[LANE_MASK] == ALL_LANES and d2 > JOIN * JOIN and _lead(w, m, side) < 2:
        return laner_action(w, m, h, side, lane, True)
    if d2 > 9 * r.U * 9 * r.U:
        return go_to(w, m, h, side, x - 2 * r.U, y - 2 * r.U, r.U)
    return laner_action(w, m, h, side, goal, True)
