"""What scripted heroes look at and how their wishes become actions.

Coordinates of places to go are a side's own (B counts from its own corner). Actions are those of `rules`; -1 means that
a wish is not legal now.
Not here: what is wished for (`bots`, `plans`).
"""

from __future__ import annotations

from numba import njit

from cerulea.games.rift import rules as r
from cerulea.games.rift.combat import cast_fits, castable, in_reach, vulnerable, worn
from cerulea.games.rift.motion import can_walk, distance2, free, toward_zero
from cerulea.games.rift.world import (
    ALIVE,
    DAMAGE,
    HP,
    LANE,
    PER_SIDE,
    PERIOD,
    RANGE,
    SPEED,
    TARGET,
    TICK,
    X,
    Y,
    mirrored,
)


@njit(cache=True, nogil=True)
def slot_of(w, m, h, u):
    """The slot in which hero h sees unit u, or -1."""
    slot_S = w.slot[m, h]
    for s in range(r.SLOTS):
        if slot_S[s] == u:
            return s
    return -1


@njit(cache=True, nogil=True)
def attack(w, m, h, u):
    """The order to attack unit u."""
    unit, tick = w.unit[m], w.match[m, TICK]
    side = 0 if h < 5 else 1
    if unit[ALIVE, u] == 0 or w.seen[m, side, u] == 0 or not vulnerable(unit, w.match[m], u):
        return -1
    if not in_reach(unit, h, u):
        if not can_walk(unit, h, tick) or distance2(unit, h, u) > r.APPROACH * r.APPROACH:
            return -1
    s = slot_of(w, m, h, u)
    return -1 if s < 0 else r.ATTACK0 + s


@njit(cache=True, nogil=True)
def ability(w, m, h, key, u):
    """The order to cast Q (0) or W (1) at unit u."""
    unit, hero = w.unit[m], w.hero[m]
    side = 0 if h < 5 else 1
    if not castable(unit, hero, h, key, w.match[m, TICK]):
        return -1
    if unit[ALIVE, u] == 0 or w.seen[m, side, u] == 0 or not cast_fits(unit, w.seen[m], hero, h, key, u):
        return -1
    s = slot_of(w, m, h, u)
    return -1 if s < 0 else (r.W0 if key else r.Q0) + s


@njit(cache=True, nogil=True)
def walks(unit, h, side, k):
    """Whether a step in direction k goes anywhere."""
    turn = 1 if side == 0 else -1
    dx = toward_zero(r.DIRECTIONS[k, 0] * turn * unit[SPEED, h], 256)
    dy = toward_zero(r.DIRECTIONS[k, 1] * turn * unit[SPEED, h], 256)
    return free(unit[X, h] + dx, unit[Y, h] + dy)


@njit(cache=True, nogil=True)
def go_to(w, m, h, side, x, y, near):
    """A step towards (x, y); to hold where one is as near as asked, or cannot walk."""
    unit = w.unit[m]
    if not can_walk(unit, h, w.match[m, TICK]):
        return r.HOLD
    dx, dy = x - mirrored(unit[X, h], side), y - mirrored(unit[Y, h], side)
    if dx * dx + dy * dy <= max(near, unit[SPEED, h]) * max(near, unit[SPEED, h]):
        return r.HOLD
    # The direction that is nearest; 5/12 is the tangent of half an eighth of a turn.
    ax, ay = abs(dx), abs(dy)
    if 12 * ay <= 5 * ax:
        k = 0 if dx > 0 else 4
    elif 12 * ax <= 5 * ay:
        k = 2 if dy > 0 else 6
    elif dx > 0:
        k = 1 if dy > 0 else 7
    else:
        k = 3 if dy > 0 else 5
    for turn in (0, 1, -1, 2, -2):
        if walks(unit, h, side, (k + turn) % 8):
            return r.MOVE0 + (k + turn) % 8
    return r.HOLD


@njit(cache=True, nogil=True)
def enemy_near(w, m, h, side, far):
    """Whether an enemy hero is seen so near."""
    unit = w.unit[m]
    for e in range(5 * (1 - side), 5 * (1 - side) + 5):
        if unit[ALIVE, e] and w.seen[m, side, e] and distance2(unit, h, e) <= far * far:
            return True
    return False


@njit(cache=True, nogil=True)
def home_action(w, m, h, side):
    """Home: by recall where nobody is near, else on foot; there, to hold."""
    unit, tick = w.unit[m], w.match[m, TICK]
    home = mirrored(r.FOUNTAIN, side)
    dx, dy = unit[X, h] - home, unit[Y, h] - home
    d2 = dx * dx + dy * dy
    if d2 <= r.FOUNTAIN_RADIUS * r.FOUNTAIN_RADIUS:
        return r.HOLD
    safe = can_walk(unit, h, tick) and not enemy_near(w, m, h, side, 11 * r.U) and d2 > 20 * r.U * 20 * r.U
    if safe:
        for k in range(r.CREEPS):
            c = r.CREEP0 + r.CREEPS * (1 - side) + k
            safe &= not (unit[ALIVE, c] and w.seen[m, side, c] and distance2(unit, h, c) <= 7 * r.U * 7 * r.U)
        for t in range(r.TOWER0 + 6 * (1 - side), r.TOWER0 + 6 * (1 - side) + 6):
            safe &= not (unit[ALIVE, t] and distance2(unit, h, t) <= 9 * r.U * 9 * r.U)
        if safe:
            return r.RECALL
    return go_to(w, m, h, side, r.FOUNTAIN, r.FOUNTAIN, 0)


@njit(cache=True, nogil=True)
def nearest_enemy(w, m, h, side, far):
    """The nearest enemy that is seen and can be hurt: creeps, heroes, buildings with our wave at them; else -1."""
    unit, match = w.unit[m], w.match[m]
    best_d, best = far * far + 1, -1
    for s in range(r.ENEMIES, r.ALLY_BUILDINGS):
        if r.ALLY_CREEPS <= s < r.ENEMY_BUILDINGS:
            continue
        u = w.slot[m, h, s]
        if u < 0 or unit[ALIVE, u] == 0 or w.seen[m, side, u] == 0:
            continue
        d = distance2(unit, h, u)
        if d < best_d and vulnerable(unit, match, u):
            if u < r.TOWER0 or wave_at(w, m, side, side, u, r.NEAR_CREEP) > 0:
                best_d, best = d, u
    return best


@njit(cache=True, nogil=True)
def last_hit(w, m, h, side):
    """An enemy creep near enough that the next hit kills it; the one that dies first of them."""
    unit = w.unit[m]
    far = unit[RANGE, h] + 2 * r.U
    best, best_hp = -1, unit[DAMAGE, h] + 1
    for s in range(r.ENEMY_CREEPS, r.ALLY_CREEPS):
        u = w.slot[m, h, s]
        if u >= 0 and unit[ALIVE, u] and unit[HP, u] < best_hp and distance2(unit, h, u) <= far * far:
            best, best_hp = u, unit[HP, u]
    return best


@njit(cache=True, nogil=True)
def wave_at(w, m, side, of, t, far):
    """How many creeps of side `of` are so near to building t, as far as `side` sees them."""
    unit = w.unit[m]
    count = 0
    first = r.CREEP0 + r.CREEPS * of
    for c in range(first, first + r.CREEPS):
        if unit[ALIVE, c] and w.seen[m, side, c] and distance2(unit, t, c) <= far * far:
            count += 1
    return count


@njit(cache=True, nogil=True)
def covering(w, m, side, u, far):
    """A building of this side that stands and has unit u within so far of it; -1 without one."""
    unit = w.unit[m]
    for k in range(7):
        t = r.TOWER0 + 6 * side + k if k < 6 else r.ANCIENT0 + side
        if unit[ALIVE, t] and distance2(unit, u, t) <= far * far:
            return t
    return -1


@njit(cache=True, nogil=True)
def tower_danger(w, m, h, side):
    """Whether hero h stands in reach of an enemy building that aims at it, or that no creep of its side keeps busy."""
    t = covering(w, m, 1 - side, h, r.BUILDING_RANGE + r.U)
    return t >= 0 and (w.unit[m, TARGET, t] == h or wave_at(w, m, side, side, t, r.BUILDING_RANGE) == 0)


@njit(cache=True, nogil=True)
def own_front(w, m, side, lane):
    """Where the side's foremost creep of a lane is, in its own coordinates: x, y, whether there is one."""
    unit = w.unit[m]
    best, bx, by = -1, 0, 0
    first = r.CREEP0 + r.CREEPS * side
    for c in range(first, first + r.CREEPS):
        if unit[ALIVE, c] and unit[LANE, c] == lane:
            x, y = mirrored(unit[X, c], side), mirrored(unit[Y, c], side)
            if x + y > best:
                best, bx, by = x + y, x, y
    return bx, by, best >= 0


@njit(cache=True, nogil=True)
def rally(w, m, side, lane):
    """Where one waits for a wave: at the side's foremost building of a lane; its own coordinates."""
    unit = w.unit[m]
    for tier in range(2):
        t = r.TOWER0 + 6 * side + 2 * lane + tier
        if unit[ALIVE, t]:
            return mirrored(unit[X, t], side), mirrored(unit[Y, t], side)
    return r.ANCIENT + 2 * r.U, r.ANCIENT + 2 * r.U


@njit(cache=True, nogil=True)
def building_to_hit(w, m, h, side):
    """The nearest enemy building within a walk that can be hurt and has our wave at it; -1 without one."""
    unit = w.unit[m]
    best, best_d = -1, r.APPROACH * r.APPROACH + 1
    for s in range(r.ENEMY_BUILDINGS, r.ALLY_BUILDINGS):
        u = w.slot[m, h, s]
        if u >= 0 and unit[ALIVE, u] and vulnerable(unit, w.match[m], u):
            d = distance2(unit, h, u)
            if d < best_d and wave_at(w, m, side, side, u, r.NEAR_CREEP) > 0:
                best, best_d = u, d
    return best


@njit(cache=True, nogil=True)
def odds(w, m, side, at, far):
    """How a fight around unit `at` stands, ours and theirs: health times damage a tick, of who is seen so near.

    Creeps near by and buildings in reach hit with them, but are not counted for their health.
    """
    unit = w.unit[m]
    ours, theirs = 0, 0
    for k in range(2):
        of = side if k == 0 else 1 - side
        hp, damage = 0, 0
        for h in range(5 * of, 5 * of + w.match[m, PER_SIDE]):
            if unit[ALIVE, h] and w.seen[m, side, h] and distance2(unit, at, h) <= far * far:
                hp += unit[HP, h]
                damage += unit[DAMAGE, h] // unit[PERIOD, h]
        if hp > 0:
            t = covering(w, m, of, at, r.BUILDING_RANGE + r.U)
            if t >= 0:
                # A building that a wave keeps busy hits heroes seldom.
                busy = wave_at(w, m, side, 1 - of, t, r.BUILDING_RANGE) > 0
                damage += unit[DAMAGE, t] // unit[PERIOD, t] // (3 if busy else 1)
            first = r.CREEP0 + r.CREEPS * of
            for c in range(first, first + r.CREEPS):
                if unit[ALIVE, c] and w.seen[m, side, c] and distance2(unit, at, c) <= 5 * r.U * 5 * r.U:
                    damage += unit[DAMAGE, c] // unit[PERIOD, c] // 2
        if k == 0:
            ours = hp * damage
        else:
            theirs = hp * damage
    return ours, theirs


@njit(cache=True, nogil=True)
def prey(w, m, h, side, far):
    """The enemy hero so near with the least health; -1 where none is seen."""
    unit = w.unit[m]
    best, least = -1, 1 << 60
    for e in range(5 * (1 - side), 5 * (1 - side) + w.match[m, PER_SIDE]):
        if unit[ALIVE, e] and w.seen[m, side, e] and distance2(unit, h, e) <= far * far and unit[HP, e] < least:
            best, least = e, unit[HP, e]
    return best


@njit(cache=True, nogil=True)
def nearest_hero(w, m, h, side, far):
    """The nearest enemy hero that is seen so near; -1 where none is."""
    unit = w.unit[m]
    best, best_d = -1, far * far + 1
    for e in range(5 * (1 - side), 5 * (1 - side) + w.match[m, PER_SIDE]):
        if unit[ALIVE, e] and w.seen[m, side, e]:
            d = distance2(unit, h, e)
            if d < best_d:
                best, best_d = e, d
    return best


@njit(cache=True, nogil=True)
def can_finish(w, m, side, far):
    """Whether those of ours who are so near the enemy's ancient would outlive it, wave or none."""
    unit, tick = w.unit[m], w.match[m, TICK]
    t = r.ANCIENT0 + 1 - side
    if not vulnerable(unit, w.match[m], t):
        return False
    hp, ours, theirs = 0, 0, unit[DAMAGE, t] // unit[PERIOD, t]
    for i in range(w.match[m, PER_SIDE]):
        a, e = 5 * side + i, 5 * (1 - side) + i
        if unit[ALIVE, a] and distance2(unit, a, t) <= far * far:
            hp += unit[HP, a]
            ours += unit[DAMAGE, a] // unit[PERIOD, a]
        if unit[ALIVE, e] and w.seen[m, side, e] and distance2(unit, e, t) <= far * far:
            theirs += unit[DAMAGE, e] // unit[PERIOD, e]
    ours = worn(ours, tick)
    if wave_at(w, m, side, side, t, r.NEAR_CREEP) == 0:
        ours = ours * r.ALONE // 100
    # Ticks to tear it down, and to come to where one can.
    return ours > 0 and 2 * hp > 3 * theirs * (unit[HP, t] // ours + 3 * r.S)


@njit(cache=True, nogil=True)
def a_dive(w, m, h, side, target):
    """Whether to go for `target` leads under an enemy building that none of our creeps keeps busy."""
    unit = w.unit[m]
    t = covering(w, m, 1 - side, target, r.BUILDING_RANGE + unit[RANGE, h])
    if t < 0 or wave_at(w, m, side, side, t, r.BUILDING_RANGE) > 0:
        return False
    # From where one stands it may be hit, if that is outside.
    far = r.BUILDING_RANGE + r.U // 2
    return distance2(unit, h, t) <= far * far or distance2(unit, h, target) > unit[RANGE, h] * unit[RANGE, h]


@njit(cache=True, nogil=True)
def invader(w, m, side, t, far):
    """The enemy hero or creep that is seen nearest to our building t, so near; -1 without one."""
    unit = w.unit[m]
    best, best_d = -1, far * far + 1
    for k in range(5 + r.CREEPS):
        u = 5 * (1 - side) + k if k < 5 else r.CREEP0 + r.CREEPS * (1 - side) + k - 5
        if unit[ALIVE, u] and w.seen[m, side, u]:
            d = distance2(unit, t, u)
            if d < best_d:
                best, best_d = u, d
    return best


@njit(cache=True, nogil=True)
def strike(w, m, h, side, u):
    """Attack unit u, or walk to where it is."""
    a = attack(w, m, h, u)
    unit = w.unit[m]
    return a if a >= 0 else go_to(w, m, h, side, mirrored(unit[X, u], side), mirrored(unit[Y, u], side), 0)


@njit(cache=True, nogil=True)
def back_off(w, m, h, side):
    """A step towards home."""
    return go_to(w, m, h, side, r.FOUNTAIN, r.FOUNTAIN, 0)
