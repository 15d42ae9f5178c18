"""Who can hit whom, what it does, and what abilities do.

Damage is gathered in `work` during a tick and takes effect at its end, all at once, so that no side goes first.
Not here: deaths and what they pay (`deaths`), whose turn it is (`tick`).
"""

from __future__ import annotations

import math

from numba import njit

from cerulea.games.rift import rules as r
from cerulea.games.rift.motion import distance2, free, toward_zero
from cerulea.games.rift.world import (
    AGGRO,
    ALIVE,
    ALL_LANES,
    BASTION,
    BUFF_A,
    DAMAGE,
    HP,
    KIND,
    LANE_MASK,
    LEVEL,
    M_BUILDING_DAMAGE,
    M_CASTS,
    M_HERO_DAMAGE,
    M_WITH_WAVE,
    MANA,
    MAX_HP,
    PERIOD,
    Q_READY,
    RANGE,
    READY,
    ROOT,
    STUN,
    SUB,
    TARGET,
    TAUNT,
    TAUNT_BY,
    TICK,
    W_BEST,
    W_BY,
    W_CREEP_NEAR,
    W_DAMAGE,
    W_HEAL,
    W_READY,
    W_X,
    W_Y,
    X,
    Y,
    mirrored,
    side_of,
)


@njit(cache=True, nogil=True)
def vulnerable(unit, match, u):
    """Whether it can be hurt: an inner tower once its outer one fell, an ancient once any inner tower did."""
    if u < r.TOWER0 or u == r.BOSS:
        return True
    if u < r.ANCIENT0:
        return (u - r.TOWER0) % 2 == 0 or unit[ALIVE, u - 1] == 0
    first = r.TOWER0 + 6 * (u - r.ANCIENT0)
    for lane in range(r.LANES):
        inner = first + 2 * lane + 1
        if unit[MAX_HP, inner] > 0 and unit[ALIVE, inner] == 0:
            return True
    return False


@njit(cache=True, nogil=True)
def reach(unit, a, b):
    """How far unit a hits unit b."""
    return unit[RANGE, a] + (r.BUILDING_RADIUS if b >= r.TOWER0 else 0)


@njit(cache=True, nogil=True)
def in_reach(unit, a, b):
    """Whether a hits b from where it stands."""
    far = reach(unit, a, b)
    return distance2(unit, a, b) <= far * far


@njit(cache=True, nogil=True)
def worn(amount, match):
    """What a blow at a building comes to by now."""
    tick = match[TICK]
    if tick <= r.WEAR_FROM:
        return amount
    minute, wear = 60 * r.S * 100, r.WEAR[int(match[LANE_MASK] == ALL_LANES)]
    return amount * (minute + wear * (tick - r.WEAR_FROM)) // minute


@njit(cache=True, nogil=True)
def deal(w, m, a, b, amount):
    """Unit a hurts unit b by so much before what softens it."""
    hero, match, work = w.hero[m], w.match[m], w.work[m]
    tick = match[TICK]
    if b >= r.TOWER0 and b != r.BOSS:
        if work[W_CREEP_NEAR, b] == 0:
            amount = amount * r.ALONE // 100
        if b >= r.ANCIENT0 and 10 <= a < r.TOWER0 and match[LANE_MASK] == ALL_LANES:
            amount = amount * r.ANCIENT_CREEPS // 100
        amount = worn(amount, match)
        if a < r.TOWER0 and match[BUFF_A + side_of(a)] > tick:
            amount = amount * (100 + r.BOSS_BONUS) // 100
    if b < 10 and hero[BASTION, b] > tick:
        amount = amount * (100 - r.BASTION_CUT) // 100
    work[W_DAMAGE, b] += amount
    if a < 10:
        # A hero's damage of this tick; the largest one is the killer's, and the lower place decides a draw: all who
        # hurt a unit are of one side, so both sides are treated alike. At the boss a draw between sides is nobody's.
        if amount > work[W_BEST, b]:
            work[W_BEST, b], work[W_BY, b] = amount, a
        elif b == r.BOSS and amount == work[W_BEST, b] and work[W_BY, b] >= 0 and side_of(work[W_BY, b]) != side_of(a):
            work[W_BY, b] = -1
        if b < 10:
            hero[AGGRO, a] = tick + r.AGGRO
            w.hurt[m, b, a] = tick
            w.meter[m, a, M_HERO_DAMAGE] += amount // r.H
        elif b >= r.TOWER0 and b != r.BOSS:
            w.meter[m, a, M_BUILDING_DAMAGE] += amount // r.H
            if work[W_CREEP_NEAR, b]:
                w.meter[m, a, M_WITH_WAVE] += amount // r.H


@njit(cache=True, nogil=True)
def hit(w, m, a, b):
    """Unit a hits unit b if it is ready."""
    unit, tick = w.unit[m], w.match[m, TICK]
    unit[TARGET, a] = b
    if unit[READY, a] > tick:
        return
    unit[READY, a] = tick + unit[PERIOD, a]
    amount = unit[DAMAGE, a]
    if r.CREEP0 <= a < r.TOWER0 and unit[SUB, a] == 2 and b >= r.TOWER0:
        amount *= 2
    deal(w, m, a, b, amount)


@njit(cache=True, nogil=True)
def castable(unit, hero, h, w_key, tick):
    """Whether hero h has the mana and the time for its Q (0) or W (1)."""
    kind = hero[KIND, h]
    if w_key:
        return hero[W_READY, h] <= tick and hero[MANA, h] >= r.W_MANA[kind]
    return hero[Q_READY, h] <= tick and hero[MANA, h] >= r.Q_MANA[kind]


@njit(cache=True, nogil=True)
def aim_fits(kind, w_key, side, u, d2):
    """Whether an ability that has a target can be aimed at unit u, the square of whose distance is d2."""
    far = r.W_RANGE[kind] if w_key else r.Q_RANGE[kind]
    if d2 > far * far:
        return False
    if kind == r.MENDER and not w_key:
        return u < 10 and side_of(u) == side
    return u < r.TOWER0 and side_of(u) != side


@njit(cache=True, nogil=True)
def cast_fits(unit, seen, hero, h, w_key, u):
    """Whether the ability can be aimed at unit u, which is alive and seen; u is h itself for those without a target."""
    kind = hero[KIND, h]
    side = side_of(h)
    far = r.W_RANGE[kind] if w_key else r.Q_RANGE[kind]
    if (r.W_SELF[kind] if w_key else r.Q_SELF[kind]) == 1:
        if u != h:
            return False
        if w_key:
            return True
        # A taunt or a volley needs somebody to reach.
        for e in range(10):
            if side_of(e) != side and unit[ALIVE, e] and seen[side, e] and distance2(unit, h, e) <= far * far:
                return True
        first = r.CREEP0 + r.CREEPS * (1 - side)
        for e in range(first, first + r.CREEPS):
            if unit[ALIVE, e] and seen[side, e] and distance2(unit, h, e) <= far * far:
                return True
        return False
    return aim_fits(kind, w_key, side, u, distance2(unit, h, u))


@njit(cache=True, nogil=True)
def stun(unit, u, tick, ticks, field):
    """Lengthen a state of unit u."""
    if unit[field, u] < tick + ticks:
        unit[field, u] = tick + ticks


@njit(cache=True, nogil=True)
def _volley(w, m, h, amount, far):
    """Hit the nearest few that are seen, heroes and creeps alike."""
    unit, seen = w.unit[m], w.seen[m]
    side = side_of(h)
    last_d, last_u = -1, -1
    for _ in range(r.VOLLEY):
        best_d, best_u = far * far + 1, -1
        for k in range(5 + r.CREEPS):
            u = 5 * (1 - side) + k if k < 5 else r.CREEP0 + r.CREEPS * (1 - side) + k - 5
            if unit[ALIVE, u] == 0 or seen[side, u] == 0:
                continue
            d = distance2(unit, h, u)
            # The next one after the last in the order of (distance, place).
            if (d > last_d or (d == last_d and u > last_u)) and d < best_d:
                best_d, best_u = d, u
        if best_u < 0:
            return
        deal(w, m, h, best_u, amount)
        last_d, last_u = best_d, best_u


@njit(cache=True, nogil=True)
def _away(unit, work, seen, h):
    """Tumble: away from the nearest enemy hero that is seen, or home."""
    side = side_of(h)
    best_d, best_u = 1 << 60, -1
    for e in range(5 * (1 - side), 5 * (1 - side) + 5):
        if unit[ALIVE, e] and seen[side, e]:
            d = distance2(unit, h, e)
            if d < best_d:
                best_d, best_u = d, e
    if best_u >= 0 and best_d > 0:
        dx, dy = unit[X, h] - unit[X, best_u], unit[Y, h] - unit[Y, best_u]
    else:
        home = mirrored(r.FOUNTAIN, side)
        dx, dy = home - unit[X, h], home - unit[Y, h]
    d = int(math.sqrt(dx * dx + dy * dy))
    if d == 0:
        return
    # As far as one gets, in fifths.
    for fifth in range(5, 0, -1):
        far = r.TUMBLE * fifth // 5
        x, y = unit[X, h] + toward_zero(dx * far, d), unit[Y, h] + toward_zero(dy * far, d)
        if free(x, y):
            work[W_X, h], work[W_Y, h] = x, y
            return


@njit(cache=True, nogil=True)
def _blink(unit, work, h, u):
    """Next to unit u, on the line to it."""
    dx, dy = unit[X, h] - unit[X, u], unit[Y, h] - unit[Y, u]
    d = int(math.sqrt(dx * dx + dy * dy))
    x, y = unit[X, u], unit[Y, u]
    if d > r.BLINK_GAP:
        x += toward_zero(dx * r.BLINK_GAP, d)
        y += toward_zero(dy * r.BLINK_GAP, d)
    elif d > 0:
        return
    if not free(x, y):
        x, y = unit[X, u], unit[Y, u]
    work[W_X, h], work[W_Y, h] = x, y


@njit(cache=True, nogil=True)
def cast(w, m, h, w_key, u):
    """Hero h casts its Q or W at unit u; the caller has seen to it that it may."""
    unit, hero, work, seen = w.unit[m], w.hero[m], w.work[m], w.seen[m]
    tick = w.match[m, TICK]
    kind, level, side = hero[KIND, h], hero[LEVEL, h] - 1, side_of(h)
    w.meter[m, h, M_CASTS] += 1
    if w_key:
        hero[MANA, h] -= r.W_MANA[kind]
        hero[W_READY, h] = tick + r.W_WAIT[kind]
        power = r.W_POWER[kind] + level * r.W_POWER_LEVEL[kind]
        if kind == r.BULWARK:
            hero[BASTION, h] = tick + r.BASTION_TICKS
        elif kind == r.RAIDER:
            deal(w, m, h, u, power + (unit[MAX_HP, u] - unit[HP, u]) * r.EXECUTE // 100)
        elif kind == r.MAGUS:
            deal(w, m, h, u, power)
            stun(unit, u, tick, r.ROOT_TICKS + 1, ROOT)
        elif kind == r.MENDER:
            deal(w, m, h, u, power)
            stun(unit, u, tick, r.STUN_TICKS + 1, STUN)
        else:
            _away(unit, work, seen, h)
        return
    hero[MANA, h] -= r.Q_MANA[kind]
    hero[Q_READY, h] = tick + r.Q_WAIT[kind]
    power = r.Q_POWER[kind] + level * r.Q_POWER_LEVEL[kind]
    far = r.Q_RANGE[kind]
    if kind == r.BULWARK:
        for k in range(5 + r.CREEPS):
            e = 5 * (1 - side) + k if k < 5 else r.CREEP0 + r.CREEPS * (1 - side) + k - 5
            if unit[ALIVE, e] and distance2(unit, h, e) <= far * far:
                stun(unit, e, tick, r.TAUNT_TICKS + 1, TAUNT)
                unit[TAUNT_BY, e] = h
    elif kind == r.RAIDER:
        deal(w, m, h, u, power)
        _blink(unit, work, h, u)
    elif kind == r.MAGUS:
        for k in range(5 + r.CREEPS):
            e = 5 * (1 - side) + k if k < 5 else r.CREEP0 + r.CREEPS * (1 - side) + k - 5
            if e == u or (unit[ALIVE, e] and distance2(unit, u, e) <= r.SPLASH * r.SPLASH):
                deal(w, m, h, e, power)
    elif kind == r.MENDER:
        work[W_HEAL, u] += power
    else:
        _volley(w, m, h, power, far)
