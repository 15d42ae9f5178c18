"""How a scripted team fights: abilities by rule, the weakest enemy first, together, and never under a tower without a
wave.

Not here: laning and going home (`bots`), how wishes become actions (`aim`).
"""

from __future__ import annotations

from numba import njit

from cerulea.games.rift import rules as r
from cerulea.games.rift.aim import ability, attack, building_to_hit, go_to, own_front, tower_danger, wave_at
from cerulea.games.rift.motion import distance2
from cerulea.games.rift.world import (
    ALIVE,
    HP,
    KIND,
    LANE_MASK,
    MANA,
    MAX_HP,
    MAX_MANA,
    PER_SIDE,
    X,
    Y,
    mirrored,
)

JOIN = 30 * r.U  # who is so near goes with the team, and twice as far when the other side lacks somebody
FIGHT = 12 * r.U  # who is so near takes part in a fight


@njit(cache=True, nogil=True)
def count_near(w, m, h, side, far):
    """Heroes of one's own side and enemy heroes that are seen, so near; oneself included."""
    unit = w.unit[m]
    ours, theirs = 0, 0
    for i in range(w.match[m, PER_SIDE]):
        if unit[ALIVE, 5 * side + i] and distance2(unit, h, 5 * side + i) <= far * far:
            ours += 1
        e = 5 * (1 - side) + i
        if unit[ALIVE, e] and w.seen[m, side, e] and distance2(unit, h, e) <= far * far:
            theirs += 1
    return ours, theirs


@njit(cache=True, nogil=True)
def _strength(w, m, h, side, far):
    """Health of both sides' heroes so near, those of the enemy as far as they are seen."""
    unit = w.unit[m]
    ours, theirs = 0, 0
    for i in range(w.match[m, PER_SIDE]):
        a, e = 5 * side + i, 5 * (1 - side) + i
        if unit[ALIVE, a] and distance2(unit, h, a) <= far * far:
            ours += unit[HP, a]
        if unit[ALIVE, e] and w.seen[m, side, e] and distance2(unit, h, e) <= far * far:
            theirs += unit[HP, e]
    return ours, theirs


@njit(cache=True, nogil=True)
def use_abilities(w, m, h, side, target):
    """An ability against enemy hero `target`, or for an ally; -1 where none is worth it now."""
    unit, hero = w.unit[m], w.hero[m]
    kind = hero[KIND, h]
    d2 = distance2(unit, h, target)
    if kind == r.BULWARK:
        if d2 <= 4 * r.U * 4 * r.U:
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
def prey(w, m, h, side, far):
    """The enemy hero so near with the least health; -1 where none is seen."""
    unit = w.unit[m]
    best, least = -1, 1 << 60
    for i in range(w.match[m, PER_SIDE]):
        e = 5 * (1 - side) + i
        if unit[ALIVE, e] and w.seen[m, side, e] and distance2(unit, h, e) <= far * far and unit[HP, e] < least:
            best, least = e, unit[HP, e]
    return best


@njit(cache=True, nogil=True)
def team_lane(w, m, side):
    """The lane that the team goes to: the one with the least left of the enemy's towers, so that it seldom changes."""
    unit, match = w.unit[m], w.match[m]
    if match[LANE_MASK] != 7:
        return 1
    # The enemy's lane 2 - k is our lane k: the one with the least left of its towers, the middle one first.
    best, lane = 1 << 60, 1
    for n in range(3):
        k = (1, 0, 2)[n]
        left = 0
        for tier in range(2):
            t = r.TOWER0 + 6 * (1 - side) + 2 * (2 - k) + tier
            left += unit[HP, t]
        if left < best:
            best, lane = left, k
    return lane


@njit(cache=True, nogil=True)
def _man_up(w, m, side):
    """Whether more of ours are alive than of theirs."""
    lead = 0
    for i in range(5):
        lead += w.unit[m, ALIVE, 5 * side + i] - w.unit[m, ALIVE, 5 * (1 - side) + i]
    return lead > 0


@njit(cache=True, nogil=True)
def _at_the_gates(w, m, side):
    """The enemy creep or hero that is seen nearest to our ancient, where it is so near that all must come; else -1."""
    unit = w.unit[m]
    best, best_d = -1, 16 * r.U * 16 * r.U
    a = r.ANCIENT0 + side
    for k in range(5 + r.CREEPS):
        u = 5 * (1 - side) + k if k < 5 else r.CREEP0 + r.CREEPS * (1 - side) + k - 5
        if unit[ALIVE, u] and w.seen[m, side, u]:
            d = distance2(unit, a, u)
            if d < best_d:
                best, best_d = u, d
    return best


@njit(cache=True, nogil=True)
def team_action(w, m, h, side, lane, together):
    """Fight where it is worth it, stay together, push with waves; -1 leaves it to the laner."""
    unit = w.unit[m]
    danger = tower_danger(w, m, h, side)
    ours, theirs = _strength(w, m, h, side, FIGHT)
    target = prey(w, m, h, side, 9 * r.U)
    if unit[ALIVE, h] and w.hero[m, KIND, h] == r.MENDER:
        a = heal(w, m, h, side)
        if a >= 0:
            return a
    # Outnumbered: back, towards home.
    if theirs * 10 > ours * 13 and target >= 0:
        a = use_abilities(w, m, h, side, target) if distance2(unit, h, target) <= 5 * r.U * 5 * r.U else -1
        return a if a >= 0 else go_to(w, m, h, side, r.FOUNTAIN, r.FOUNTAIN, 0)
    if target >= 0 and not danger:
        # Not under a tower: only who stands outside of its reach is followed.
        covered = False
        for k in range(7):
            t = r.TOWER0 + 6 * (1 - side) + k if k < 6 else r.ANCIENT0 + 1 - side
            far = r.BUILDING_RANGE + unit[5, h] // 2
            if unit[ALIVE, t] and distance2(unit, target, t) <= far * far:
                covered |= wave_at(w, m, side, t, r.BUILDING_RANGE) == 0
        if not covered or distance2(unit, h, target) <= unit[5, h] * unit[5, h]:
            a = use_abilities(w, m, h, side, target)
            if a >= 0:
                return a
            a = attack(w, m, h, target)
            if a >= 0:
                return a
    if danger:
        return -1
    a = _splash(w, m, h, side)
    if a >= 0:
        return a
    b = building_to_hit(w, m, h, side)
    if b >= 0:
        a = attack(w, m, h, b)
        if a >= 0:
            return a
    if unit[ALIVE, r.BOSS] and w.seen[m, side, r.BOSS] and distance2(unit, h, r.BOSS) <= r.APPROACH * r.APPROACH:
        us, them = count_near(w, m, h, side, FIGHT)
        if us > them + 1:
            a = attack(w, m, h, r.BOSS)
            if a >= 0:
                return a
    c = _at_the_gates(w, m, side)
    if c >= 0:
        a = attack(w, m, h, c)
        return a if a >= 0 else go_to(w, m, h, side, mirrored(unit[X, c], side), mirrored(unit[Y, c], side), 0)
    if not together:
        return -1
    # Towards the lane that the team goes to; there, what a laner does.
    goal = team_lane(w, m, side)
    x, y, found = own_front(w, m, side, goal)
    if not found:
        return -1
    dx, dy = x - mirrored(unit[X, h], side), y - mirrored(unit[Y, h], side)
    d2 = dx * dx + dy * dy
    if 9 * r.U * 9 * r.U < d2 <= JOIN * JOIN or (
        d2 > JOIN * JOIN and _man_up(w, m, side) and unit[HP, h] * 2 > unit[MAX_HP, h] and d2 <= 4 * JOIN * JOIN
    ):
        return go_to(w, m, h, side, x - 2 * r.U, y - 2 * r.U, r.U)
    return -1
