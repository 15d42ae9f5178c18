"""One decision of one match: orders are read, two ticks pass, rewards are added up.

In:      the world, one action for each player (`Discrete(106)`: hold, 8 directions, attack, Q and W at 32 slots,
         recall).
Kept:    within a tick everybody decides by what was there when it began; what they do takes effect together at its end.
Not here: what players see (`sight`, `look`).
"""

from __future__ import annotations

from numba import njit

from cerulea.games.rift import rules as r
from cerulea.games.rift.combat import cast, cast_fits, castable, hit, in_reach, vulnerable
from cerulea.games.rift.deaths import come_back, take_effect
from cerulea.games.rift.motion import can_walk, distance2, go, go_toward, toward_zero
from cerulea.games.rift.near import any_near, gather
from cerulea.games.rift.sight import look_around
from cerulea.games.rift.waves import appear, guard, march
from cerulea.games.rift.world import (
    ALIVE,
    CAST,
    CUT,
    DECISIONS,
    HP,
    KIND,
    LAST,
    M_APART,
    M_APART_N,
    M_LOW,
    M_RETREATS,
    MANA,
    MAX_HP,
    MAX_MANA,
    MAY_ACT,
    MAY_CHOOSE,
    MAY_WALK,
    N_CREEPS,
    ORDER,
    ORDER_UNIT,
    OVER,
    PER_SIDE,
    RECALLING,
    SPEED,
    STUN,
    TARGET,
    TAUNT,
    TAUNT_BY,
    TICK,
    W_COUNT,
    W_CREEP_NEAR,
    W_DAMAGE,
    W_MAY,
    W_OLD_HP,
    W_X,
    WINNER,
    WORTH,
    X,
    Y,
    mirrored,
    side_of,
)


@njit(cache=True, nogil=True)
def order_class(action):
    """0 hold, 1 move, 2 attack, 3 Q, 4 W, 5 recall."""
    if action == r.HOLD:
        return 0
    if action < r.ATTACK0:
        return 1
    if action < r.Q0:
        return 2
    if action < r.W0:
        return 3
    return 4 if action < r.RECALL else 5


@njit(cache=True, nogil=True)
def _read_orders(w, m, action_P):
    """Actions of players to orders of heroes; a slot becomes the unit that it shows."""
    hero, per_side = w.hero[m], w.match[m, PER_SIDE]
    for p in range(2 * per_side):
        h = p if p < per_side else 5 + p - per_side
        action = action_P[p]
        kind = order_class(action)
        hero[LAST, h] = kind
        hero[CAST, h] = 0
        hero[ORDER, h], hero[ORDER_UNIT, h] = kind, -1
        if kind == 1:
            hero[ORDER_UNIT, h] = action - r.MOVE0
        elif 2 <= kind <= 4:
            slot = (action - r.ATTACK0) % r.SLOTS
            u = w.slot[m, h, slot]
            hero[ORDER_UNIT, h] = u
            if u < 0:
                hero[ORDER, h] = 0


@njit(cache=True, nogil=True)
def _begin_tick(w, m):
    """Clear what one tick gathers, and note who may do what."""
    unit, match, work = w.unit[m], w.match[m], w.work[m]
    tick = match[TICK]
    work[W_DAMAGE:W_X, :] = 0
    for u in range(r.UNITS):
        work[W_X, u], work[W_X + 1, u] = unit[X, u], unit[Y, u]
    for h in range(10):
        may = 0
        if unit[ALIVE, h] and unit[STUN, h] <= tick:
            may = MAY_ACT
            if can_walk(unit, h, tick):
                may |= MAY_WALK
            if unit[TAUNT, h] <= tick or unit[ALIVE, unit[TAUNT_BY, h]] == 0:
                may |= MAY_CHOOSE
        work[W_MAY, h] = may
    gather(unit, match, work)
    for t in range(r.TOWER0, r.BOSS):
        near = False
        if unit[ALIVE, t]:
            other = 1 - side_of(t)
            creeps = work[W_COUNT + other, N_CREEPS]
            near = any_near(work, other, 0, creeps, unit[X, t], unit[Y, t], r.NEAR_CREEP)
        work[W_CREEP_NEAR, t] = near


@njit(cache=True, nogil=True)
def _act(w, m, h, first_pass):
    """What hero h does in this tick. The first pass is for what softens damage: it must stand before any is dealt."""
    unit, hero, work = w.unit[m], w.hero[m], w.work[m]
    may, order, u = work[W_MAY, h], hero[ORDER, h], hero[ORDER_UNIT, h]
    shield = order == 4 and hero[KIND, h] == r.BULWARK and may & MAY_CHOOSE
    if first_pass:
        if shield and hero[CAST, h] == 0 and castable(unit, hero, h, 1, w.match[m, TICK]):
            hero[CAST, h] = 1
            cast(w, m, h, 1, h)
        return
    unit[TARGET, h] = -1
    if order != 5 or may & MAY_CHOOSE == 0:
        hero[RECALLING, h] = 0
    if may & MAY_ACT == 0:
        return
    if may & MAY_CHOOSE == 0:
        order, u = 2, unit[TAUNT_BY, h]
    if order == 1:
        if may & MAY_WALK:
            turn = 1 if h < 5 else -1
            dx, dy = r.DIRECTIONS[u, 0] * turn, r.DIRECTIONS[u, 1] * turn
            go(unit, work, h, toward_zero(dx * unit[SPEED, h], 256), toward_zero(dy * unit[SPEED, h], 256))
    elif order == 2:
        if unit[ALIVE, u] and (u < r.TOWER0 or vulnerable(unit, w.match[m], u)):
            if in_reach(unit, h, u):
                hit(w, m, h, u)
            elif may & MAY_WALK:
                go_toward(unit, work, h, unit[X, u], unit[Y, u], unit[SPEED, h])
    elif order == 5:
        hero[RECALLING, h] += 1
        if hero[RECALLING, h] >= r.RECALL_TICKS:
            hero[RECALLING, h] = 0
            home = mirrored(r.FOUNTAIN, side_of(h))
            work[W_X, h] = work[W_X + 1, h] = home
    elif (order == 3 or order == 4) and hero[CAST, h] == 0 and unit[ALIVE, u]:
        key = order - 3
        tick = w.match[m, TICK]
        if castable(unit, hero, h, key, tick) and cast_fits(unit, w.seen[m], hero, h, key, u):
            hero[CAST, h] = 1
            cast(w, m, h, key, u)


@njit(cache=True, nogil=True)
def _tick(w, m):
    per_side = w.match[m, PER_SIDE]
    come_back(w, m)
    appear(w, m)
    _begin_tick(w, m)
    for side in range(2):
        for h in range(5 * side, 5 * side + per_side):
            _act(w, m, h, True)
    for side in range(2):
        for h in range(5 * side, 5 * side + per_side):
            _act(w, m, h, False)
    march(w, m)
    guard(w, m)
    take_effect(w, m)
    w.match[m, TICK] += 1


@njit(cache=True, nogil=True)
def _health_worth(x):
    """How much a share of health is worth: the first half of it more than the second."""
    y = 1.0 - x
    return (x + 1.0 - y * y * y * y) / 2.0


@njit(cache=True, nogil=True)
def _time_up(w, m):
    """The limit of time: by the ancients' health, then towers, then what heroes are worth."""
    unit, hero, match = w.unit[m], w.hero[m], w.match[m]
    lead = unit[HP, r.ANCIENT0] - unit[HP, r.ANCIENT0 + 1]
    if lead == 0:
        for t in range(6):
            lead += unit[ALIVE, r.TOWER0 + t] - unit[ALIVE, r.TOWER0 + 6 + t]
    if lead == 0:
        for h in range(5):
            lead += hero[WORTH, h] - hero[WORTH, 5 + h]
    match[OVER], match[CUT] = 1, 1
    match[WINNER] = -1 if lead == 0 else (0 if lead > 0 else 1)


@njit(cache=True, nogil=True)
def _count_behaviour(w, m):
    """Meters of how heroes behave: retreats, and how far a side's heroes are from one another."""
    unit, hero, per_side = w.unit[m], w.hero[m], w.match[m, PER_SIDE]
    near = r.SIGHT[0] * r.SIGHT[0]
    for side in range(2):
        for h in range(5 * side, 5 * side + per_side):
            if unit[ALIVE, h] == 0:
                continue
            if 10 * unit[HP, h] < 3 * unit[MAX_HP, h]:
                ours, theirs = 0, 0
                for k in range(5):
                    if unit[ALIVE, 5 * side + k] and distance2(unit, h, 5 * side + k) <= near:
                        ours += 1
                    if unit[ALIVE, 5 * (1 - side) + k] and distance2(unit, h, 5 * (1 - side) + k) <= near:
                        theirs += 1
                if theirs > ours:
                    w.meter[m, h, M_LOW] += 1
                    home = mirrored(r.FOUNTAIN, side)
                    work = w.work[m]
                    was = abs(work[W_OLD_HP, 10 + h] - home) + abs(work[W_OLD_HP, 20 + h] - home)
                    now = abs(unit[X, h] - home) + abs(unit[Y, h] - home)
                    if now < was or hero[ORDER, h] == 5:
                        w.meter[m, h, M_RETREATS] += 1
            for k in range(h + 1, 5 * side + per_side):
                if unit[ALIVE, k]:
                    d = abs(unit[X, h] - unit[X, k]) + abs(unit[Y, h] - unit[Y, k])
                    w.meter[m, h, M_APART] += d // r.U
                    w.meter[m, h, M_APART_N] += 1


@njit(cache=True, nogil=True)
def decide(w, m, action_P, reward_P):
    """One decision of match m. reward_P (players) gets what it paid, before team spirit and before zero-sum."""
    match, unit, hero, work = w.match[m], w.unit[m], w.hero[m], w.work[m]
    per_side = match[PER_SIDE]
    if match[OVER]:
        reward_P[: 2 * per_side] = 0.0
        return
    pay = w.pay[m]
    for h in range(10):
        pay[h] = 0.0
        if unit[MAX_HP, h] > 0:
            work[W_OLD_HP, h] = unit[HP, h] * 10_000 // unit[MAX_HP, h]
            work[W_OLD_HP, 10 + h], work[W_OLD_HP, 20 + h] = unit[X, h], unit[Y, h]
            work[W_OLD_HP, 30 + h] = hero[MANA, h]
    began = match[TICK]
    _read_orders(w, m, action_P)
    for _ in range(r.TICKS):
        if match[OVER] == 0:
            _tick(w, m)
    _count_behaviour(w, m)
    fade = r.FADE ** (began / r.FADE_TICKS)
    for p in range(2 * per_side):
        h = p if p < per_side else 5 + p - per_side
        before = _health_worth(work[W_OLD_HP, h] / 10_000.0)
        now = _health_worth(unit[HP, h] / unit[MAX_HP, h])
        earned = pay[h] + r.PAY_HP * (now - before)
        earned += r.PAY_MANA * (hero[MANA, h] - work[W_OLD_HP, 30 + h]) / hero[MAX_MANA, h]
        earned *= fade
        if match[OVER] and match[WINNER] == side_of(h):
            earned += r.PAY_WIN
        reward_P[p] = earned
    match[DECISIONS] += 1
    if match[OVER] == 0 and match[DECISIONS] >= r.LIMIT:
        _time_up(w, m)
    look_around(w, m)
