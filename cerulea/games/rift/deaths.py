"""The end of a tick: damage takes effect, the dead are counted, gold and experience are paid.

Kept:    all that is paid is decided by the state when the tick began; who died in it still gives and takes its share.
Not here: where the damage comes from (`combat`).
"""

from __future__ import annotations

from numba import njit

from cerulea.games.rift import rules as r
from cerulea.games.rift.motion import distance2
from cerulea.games.rift.world import (
    ALIVE,
    BACK,
    BOSS_AT,
    BUFF_A,
    GOLD,
    HP,
    INCOME,
    ITEMS,
    LEVEL,
    M_ASSISTS,
    M_BOSS,
    M_DEATHS,
    M_GOLD,
    M_KILLS,
    M_LAST_HITS,
    M_LEVEL,
    M_UNDER_TOWER,
    MANA,
    MAX_HP,
    MAX_MANA,
    OVER,
    PER_SIDE,
    RECALLING,
    ROOT,
    STUN,
    SUB,
    TAUNT,
    TICK,
    W_BEST,
    W_BY,
    W_DAMAGE,
    W_HEAL,
    W_LEVEL,
    W_X,
    W_Y,
    WINNER,
    WORTH,
    XP,
    X,
    Y,
    mirrored,
    set_stats,
    side_of,
)


@njit(cache=True, nogil=True)
def give_gold(w, m, h, amount):
    """Gold for hero h, in hundredths; what is earned is paid as reward too."""
    amount = amount * w.hero[m, INCOME, h] // 100
    w.hero[m, GOLD, h] += amount
    w.hero[m, WORTH, h] += amount
    w.meter[m, h, M_GOLD] += amount // r.G
    w.pay[m, h] += r.PAY_GOLD * amount / r.G


@njit(cache=True, nogil=True)
def _give_xp(w, m, h, amount):
    unit, hero = w.unit[m], w.hero[m]
    hero[XP, h] += amount
    w.pay[m, h] += r.PAY_XP * amount
    while hero[LEVEL, h] < r.LEVELS and hero[XP, h] >= r.LEVEL_XP[hero[LEVEL, h]]:
        hero[LEVEL, h] += 1
        w.meter[m, h, M_LEVEL] = hero[LEVEL, h]
        set_stats(unit, hero, h)


@njit(cache=True, nogil=True)
def _share_xp(w, m, side, u, amount):
    """Experience of unit u for the heroes of a side that are alive and near."""
    unit = w.unit[m]
    near = 0
    for h in range(5 * side, 5 * side + 5):
        if unit[ALIVE, h] and distance2(unit, h, u) <= r.XP_RADIUS * r.XP_RADIUS:
            near += 1
    if near:
        for h in range(5 * side, 5 * side + 5):
            if unit[ALIVE, h] and distance2(unit, h, u) <= r.XP_RADIUS * r.XP_RADIUS:
                _give_xp(w, m, h, amount // near)


@njit(cache=True, nogil=True)
def _under_tower(unit, h):
    """Whether hero h stands where an enemy building reaches."""
    side = side_of(h)
    far = r.BUILDING_RANGE
    for t in range(r.TOWER0 + 6 * (1 - side), r.TOWER0 + 6 * (1 - side) + 6):
        if unit[ALIVE, t] and distance2(unit, h, t) <= far * far:
            return True
    a = r.ANCIENT0 + 1 - side
    return distance2(unit, h, a) <= far * far


@njit(cache=True, nogil=True)
def _hero_died(w, m, h):
    hero, tick = w.hero[m], w.match[m, TICK]
    level = w.work[m, W_LEVEL, h]  # without what it has just earned by another death of this tick
    side = side_of(h)
    w.meter[m, h, M_DEATHS] += 1
    if _under_tower(w.unit[m], h):
        w.meter[m, h, M_UNDER_TOWER] += 1
    hero[BACK, h] = tick + r.RESPAWN + r.RESPAWN_LEVEL * level
    hero[RECALLING, h] = 0
    gold = r.KILL_GOLD + r.KILL_GOLD_LEVEL * level
    killer = w.work[m, W_BY, h] if w.work[m, W_BEST, h] > 0 else -1
    if killer >= 0:
        w.meter[m, killer, M_KILLS] += 1
        w.pay[m, killer] += r.PAY_KILL
        give_gold(w, m, killer, gold)
    helpers = 0
    for e in range(5 * (1 - side), 5 * (1 - side) + 5):
        if e != killer and tick - w.hurt[m, h, e] <= r.ASSIST_WITHIN:
            helpers += 1
    if helpers:
        for e in range(5 * (1 - side), 5 * (1 - side) + 5):
            if e != killer and tick - w.hurt[m, h, e] <= r.ASSIST_WITHIN:
                w.meter[m, e, M_ASSISTS] += 1
                give_gold(w, m, e, gold * r.ASSIST_SHARE // 100 // helpers)
    _share_xp(w, m, 1 - side, h, r.KILL_XP + r.KILL_XP_LEVEL * level)


@njit(cache=True, nogil=True)
def _creep_died(w, m, u):
    sub, side = w.unit[m, SUB, u], side_of(u)
    if w.work[m, W_BEST, u] > 0:
        killer = w.work[m, W_BY, u]
        w.meter[m, killer, M_LAST_HITS] += 1
        w.pay[m, killer] += r.PAY_LAST_HIT
        give_gold(w, m, killer, r.CREEP_GOLD[sub])
    _share_xp(w, m, 1 - side, u, r.CREEP_XP[sub])


@njit(cache=True, nogil=True)
def _pay_side(w, m, side, amount):
    for h in range(5 * side, 5 * side + w.match[m, PER_SIDE]):
        w.pay[m, h] += amount


@njit(cache=True, nogil=True)
def _building_hurt(w, m, u, before, after):
    """What a building's lost health pays to the other side, and what its fall pays."""
    side = 1 - side_of(u)
    share = (before - after) / w.unit[m, MAX_HP, u]
    if u >= r.ANCIENT0:
        _pay_side(w, m, side, r.PAY_ANCIENT * share)
        return
    whole = r.PAY_TOWER[0] if (u - r.TOWER0) % 2 == 0 else r.PAY_TOWER[1]
    _pay_side(w, m, side, whole * 2.0 / 3.0 * share)
    if after == 0:
        _pay_side(w, m, side, whole / 3.0)
        for h in range(5 * side, 5 * side + w.match[m, PER_SIDE]):
            give_gold(w, m, h, r.TOWER_GOLD)


@njit(cache=True, nogil=True)
def _boss_died(w, m):
    match, work = w.match[m], w.work[m]
    match[BOSS_AT] = match[TICK] + r.BOSS_EVERY
    # Who hurt it most in this tick has it; equal from both sides, nobody has.
    if work[W_BEST, r.BOSS] == 0 or work[W_BY, r.BOSS] < 0:
        return
    side = side_of(work[W_BY, r.BOSS])
    match[BUFF_A + side] = match[TICK] + r.BOSS_BUFF
    _pay_side(w, m, side, r.PAY_BOSS)
    for h in range(5 * side, 5 * side + match[PER_SIDE]):
        w.meter[m, h, M_BOSS] += 1
        give_gold(w, m, h, r.BOSS_GOLD)


@njit(cache=True, nogil=True)
def take_effect(w, m):
    """Damage, healing and steps of the tick, then the dead."""
    unit, match, work = w.unit[m], w.match[m], w.work[m]
    for u in range(r.UNITS):
        if unit[ALIVE, u] == 0:
            continue
        unit[X, u], unit[Y, u] = work[W_X, u], work[W_Y, u]
        lost, healed = work[W_DAMAGE, u], work[W_HEAL, u]
        if lost == 0 and healed == 0:
            continue
        before = unit[HP, u]
        after = before + healed - lost
        after = min(max(after, 0), unit[MAX_HP, u])
        unit[HP, u] = after
        if lost and u < 10:
            w.hero[m, RECALLING, u] = 0
        if u >= r.TOWER0 and u != r.BOSS and after != before:
            _building_hurt(w, m, u, before, after)
    # Everybody's place and health are new by now; who is alive is still as it was.
    for h in range(10):
        work[W_LEVEL, h] = w.hero[m, LEVEL, h]
        if unit[ALIVE, h] and unit[HP, h] == 0:
            w.pay[m, h] += r.PAY_DEATH
    for u in range(r.TOWER0):
        if unit[ALIVE, u] and unit[HP, u] == 0:
            if u < 10:
                _hero_died(w, m, u)
            else:
                _creep_died(w, m, u)
    if unit[ALIVE, r.BOSS] and unit[HP, r.BOSS] == 0:
        _boss_died(w, m)
    for u in range(r.UNITS):
        if unit[ALIVE, u] and unit[HP, u] == 0:
            unit[ALIVE, u] = 0
    fell_A, fell_B = unit[HP, r.ANCIENT0] == 0, unit[HP, r.ANCIENT0 + 1] == 0
    if fell_A or fell_B:
        match[OVER] = 1
        match[WINNER] = -1 if fell_A and fell_B else (1 if fell_A else 0)


@njit(cache=True, nogil=True)
def come_back(w, m):
    """The dead who return in this tick, and what time gives to all heroes: gold, health, mana, things bought."""
    unit, hero, match = w.unit[m], w.hero[m], w.match[m]
    tick = match[TICK]
    for side in range(2):
        home = mirrored(r.FOUNTAIN, side)
        for h in range(5 * side, 5 * side + match[PER_SIDE]):
            hero[GOLD, h] += r.PASSIVE_GOLD * hero[INCOME, h] // 100
            hero[WORTH, h] += r.PASSIVE_GOLD * hero[INCOME, h] // 100
            if unit[ALIVE, h] == 0 and hero[BACK, h] <= tick:
                unit[ALIVE, h] = 1
                unit[X, h] = unit[Y, h] = home
                unit[HP, h], hero[MANA, h] = unit[MAX_HP, h], hero[MAX_MANA, h]
                unit[STUN, h] = unit[ROOT, h] = unit[TAUNT, h] = 0
            dx, dy = unit[X, h] - home, unit[Y, h] - home
            at_home = unit[ALIVE, h] == 1 and dx * dx + dy * dy <= r.FOUNTAIN_RADIUS * r.FOUNTAIN_RADIUS
            if unit[ALIVE, h]:
                heal = r.HP_REGEN + (unit[MAX_HP, h] * r.FOUNTAIN_HEAL // 1000 if at_home else 0)
                unit[HP, h] = min(unit[MAX_HP, h], unit[HP, h] + heal)
                fill = r.MANA_REGEN + (hero[MAX_MANA, h] * r.FOUNTAIN_HEAL // 1000 if at_home else 0)
                hero[MANA, h] = min(hero[MAX_MANA, h], hero[MANA, h] + fill)
            if at_home or unit[ALIVE, h] == 0:
                while hero[ITEMS, h] < r.ITEMS and hero[GOLD, h] >= r.ITEM_COST[hero[ITEMS, h]]:
                    hero[GOLD, h] -= r.ITEM_COST[hero[ITEMS, h]]
                    hero[ITEMS, h] += 1
                    set_stats(unit, hero, h)
