"""What moves by itself: waves of creeps, towers, ancients, the boss.

Not here: heroes (`tick`), scripted heroes (`bots`).
"""

from __future__ import annotations

from numba import njit

from cerulea.games.rift import rules as r
from cerulea.games.rift.combat import deal, hit, in_reach
from cerulea.games.rift.motion import distance2, go_toward
from cerulea.games.rift.near import nearest
from cerulea.games.rift.world import (
    AGGRO,
    ALIVE,
    ALL_LANES,
    BOSS_AT,
    BOSS_COUNT,
    DAMAGE,
    HP,
    LANE,
    LANE_MASK,
    LEG,
    MAX_HP,
    N_ALL,
    N_CREEPS,
    N_HEROES,
    PERIOD,
    RANGE,
    ROOT,
    SPEED,
    STUN,
    SUB,
    TARGET,
    TAUNT,
    TAUNT_BY,
    TICK,
    W_COUNT,
    WAVES,
    X,
    Y,
    drawn,
    mirrored,
    side_of,
)


@njit(cache=True, nogil=True)
def _breach(unit, side, lane):
    """How many of the other side's towers fell in this lane of a side."""
    first = r.TOWER0 + 6 * (1 - side) + 2 * (2 - lane)
    return 2 - unit[ALIVE, first] - unit[ALIVE, first + 1]


@njit(cache=True, nogil=True)
def _make_creep(unit, side, lane, sub, back, strong):
    """A creep of so many per cent in the first free place of its side; none where there is no room."""
    first = r.CREEP0 + r.CREEPS * side
    for u in range(first, first + r.CREEPS):
        if unit[ALIVE, u]:
            continue
        at = mirrored(r.BASE - back, side)
        unit[:, u] = 0
        unit[X, u] = unit[Y, u] = at
        hp = r.CREEP_HP[sub] * strong // 100
        unit[HP, u] = unit[MAX_HP, u] = hp
        unit[DAMAGE, u] = r.CREEP_DAMAGE[sub] * strong // 100
        unit[RANGE, u], unit[SPEED, u], unit[PERIOD, u] = r.CREEP_RANGE[sub], r.CREEP_SPEED, r.CREEP_PERIOD
        unit[ALIVE, u], unit[SUB, u], unit[LANE, u], unit[TARGET, u] = 1, sub, lane, -1
        return


@njit(cache=True, nogil=True)
def appear(w, m):
    """Waves and the boss, when it is their time."""
    unit, match = w.unit[m], w.match[m]
    tick = match[TICK]
    if tick >= r.WAVE_FIRST and (tick - r.WAVE_FIRST) % r.WAVE_EVERY == 0:
        match[WAVES] += 1
        minutes = tick // (60 * r.S)
        size = 5 if match[WAVES] % r.SIEGE_WAVES == 0 else 4
        for side in range(2):
            for lane in range(r.LANES):
                if match[LANE_MASK] >> lane & 1:
                    strong = 100 + r.CREEP_GROWTH * minutes
                    if match[LANE_MASK] != ALL_LANES:
                        strong += r.BREACH * _breach(unit, side, lane)
                    for i in range(size):
                        _make_creep(unit, side, lane, 0 if i < 3 else i - 2, i * 24, strong)
    if unit[ALIVE, r.BOSS] == 0 and tick >= match[BOSS_AT]:
        turned = int(drawn(w.seed[m], match[BOSS_COUNT], 1) & 1)
        match[BOSS_COUNT] += 1
        unit[X, r.BOSS], unit[Y, r.BOSS] = mirrored(r.PIT[0], turned), mirrored(r.PIT[1], turned)
        unit[HP, r.BOSS] = unit[MAX_HP, r.BOSS] = r.BOSS_HP
        unit[ALIVE, r.BOSS], unit[RANGE, r.BOSS] = 1, r.BOSS_RANGE


@njit(cache=True, nogil=True)
def meet(w, m):
    """For training alone: a wave of each side stands near the middle when the match begins."""
    for side in range(2):
        for i in range(4):
            _make_creep(w.unit[m], side, 1, 0 if i < 3 else 1, i * 24 - 34 * r.U, 100)


@njit(cache=True, nogil=True)
def march(w, m):
    """All creeps: hit what is near, walk to it, or go on along the lane. The lists of `near` are of this tick."""
    unit, match, work = w.unit[m], w.match[m], w.work[m]
    tick = match[TICK]
    for u in range(r.CREEP0, r.TOWER0):
        if unit[ALIVE, u] == 0:
            continue
        unit[TARGET, u] = -1
        if unit[STUN, u] > tick:
            continue
        side = side_of(u)
        foe = -1
        if unit[TAUNT, u] > tick and unit[ALIVE, unit[TAUNT_BY, u]]:
            foe = unit[TAUNT_BY, u]
        else:
            n = work[W_COUNT + 1 - side, N_ALL]
            foe = nearest(work, 1 - side, 0, n, unit[X, u], unit[Y, u], r.CREEP_SEES)
        if foe >= 0:
            if in_reach(unit, u, foe):
                hit(w, m, u, foe)
            elif unit[ROOT, u] <= tick:
                go_toward(unit, work, u, unit[X, foe], unit[Y, foe], unit[SPEED, u])
            continue
        if unit[ROOT, u] > tick:
            continue
        lane, leg = unit[LANE, u], unit[LEG, u]
        x, y = mirrored(r.WAYPOINTS[lane, leg, 0], side), mirrored(r.WAYPOINTS[lane, leg, 1], side)
        if go_toward(unit, work, u, x, y, unit[SPEED, u]) and leg == 0:
            unit[LEG, u] = 1


@njit(cache=True, nogil=True)
def _tower_aim(w, m, t, side):
    """Who hurt one of ours in our reach; else the nearest creep; else the nearest hero."""
    unit, hero, work, tick = w.unit[m], w.hero[m], w.work[m], w.match[m, TICK]
    other = 1 - side
    best_d, best = r.BUILDING_RANGE * r.BUILDING_RANGE + 1, -1
    for e in range(5 * other, 5 * other + 5):
        if unit[ALIVE, e] and hero[AGGRO, e] > tick:
            d = distance2(unit, t, e)
            if d < best_d:
                near = False
                for h in range(5 * side, 5 * side + 5):
                    if tick - w.hurt[m, h, e] <= r.AGGRO and unit[ALIVE, h]:
                        near |= distance2(unit, t, h) <= r.BUILDING_RANGE * r.BUILDING_RANGE
                if near:
                    best_d, best = d, e
    if best >= 0:
        return best
    x, y, creeps, heroes = unit[X, t], unit[Y, t], work[W_COUNT + other, N_CREEPS], work[W_COUNT + other, N_HEROES]
    best = nearest(work, other, 0, creeps, x, y, r.BUILDING_RANGE)
    return best if best >= 0 else nearest(work, other, creeps, heroes, x, y, r.BUILDING_RANGE)


@njit(cache=True, nogil=True)
def guard(w, m):
    """All buildings and the boss hit what they may."""
    unit, tick = w.unit[m], w.match[m, TICK]
    for t in range(r.TOWER0, r.BOSS):
        if unit[ALIVE, t] == 0:
            continue
        foe = _tower_aim(w, m, t, side_of(t))
        unit[TARGET, t] = foe
        if foe >= 0:
            hit(w, m, t, foe)
    b = r.BOSS
    if unit[ALIVE, b] == 0:
        return
    someone = False
    for h in range(10):
        if unit[ALIVE, h]:
            d = distance2(unit, b, h)
            someone |= d <= r.NEAR_CREEP * r.NEAR_CREEP
            if d <= r.BOSS_RANGE * r.BOSS_RANGE and tick % r.S == 0:
                deal(w, m, b, h, r.BOSS_DAMAGE)
    if not someone:
        unit[HP, b] = min(r.BOSS_HP, unit[HP, b] + r.BOSS_HP // 100)
