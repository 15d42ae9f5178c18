"""The state of many matches of `rift`: what arrays there are, and how a match begins.

One match is one row of every array, and everything of it lies together, so that a step works in the first cache.

    unit    int32  (M, fields of a unit, 73)  heroes 0-9 (A's five, B's five), creeps 10-57 (24 and 24), towers 58-69
                                              (6 and 6: lane, then outer and inner), ancients 70 71, boss 72
    hero    int32  (M, fields of a hero, 10)
    match   int32  (M, fields of a match)
    seed    uint64 (M)
    slot    int16  (M, 10, 32)  which unit each of a hero's slots shows, -1 for none
    seen    uint8  (M, 2, 73)   whether a side sees a unit
    hurt    int32  (M, 10, 10)  tick at which hero i was last hurt by hero j
    meter   int32  (M, 10, meters)
    pay     float64 (M, 10)     what the running decision has paid so far
    work    int32  (M, fields of work, 73)    scratch of one tick; nothing is kept there
    face    float32 (M, 73, 24) scratch of one look: what of a unit's features does not depend on who looks

A lane is counted from its side's own point of view: B's lane k is the mirror image of A's, so the lane opposite k is
2 - k. Not here: what the numbers are (`rules`), what happens in a tick (`tick`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit

from cerulea.games.rift import rules as r

# fields of a unit
X, Y, HP, MAX_HP, DAMAGE, RANGE, SPEED, PERIOD, READY, TARGET, ALIVE, SUB, LANE, LEG, STUN, ROOT, TAUNT, TAUNT_BY = (
    range(18)
)
UNIT_FIELDS = 18
# fields of a hero
(
    KIND,
    LEVEL,
    XP,
    GOLD,
    WORTH,
    MANA,
    MAX_MANA,
    Q_READY,
    W_READY,
    BACK,
    RECALLING,
    ITEMS,
    BASTION,
    AGGRO,
    SEEN_X,
    SEEN_Y,
    SEEN_AT,
    LAST,
    INCOME,
    ORDER,
    ORDER_UNIT,
    CAST,
) = range(22)
HERO_FIELDS = 22
# fields of a match
TICK, OVER, WINNER, CUT, BOSS_AT, BOSS_COUNT, BUFF_A, BUFF_B, WAVES, PER_SIDE, LANE_MASK, DECISIONS = range(12)
MATCH_FIELDS = 12
ALL_LANES = 0b111  # LANE_MASK where three lanes are played
# fields of work: damage, healing, the most damage of one hero and which hero, new places, whether an attacker's
# creep is near a building, what a hero may do in this tick, health when the decision began; then lists, one for
# each side: its living creeps, heroes and vulnerable buildings in this order, with their places and how many there
# are of each; distances of the units in a hero's slots, while these are filled; levels before the dead are paid for
W_DAMAGE, W_HEAL, W_BEST, W_BY, W_X, W_Y, W_CREEP_NEAR, W_MAY, W_OLD_HP = range(9)
W_LIST, W_LIST_X, W_LIST_Y, W_COUNT, W_NEAR, W_LEVEL = 9, 11, 13, 15, 17, 18
WORK_FIELDS = 19
N_CREEPS, N_HEROES, N_ALL = range(3)  # places in W_COUNT; heroes and all are counted with what stands before them
MAY_ACT, MAY_WALK, MAY_CHOOSE = 1, 2, 4  # bits of W_MAY, as they were when the tick began

METERS = (
    "kills",
    "deaths",
    "assists",
    "last_hits",
    "gold",
    "hero_damage",
    "building_damage",
    "building_damage_with_wave",
    "deaths_under_tower",
    "low_and_outnumbered",
    "retreats",
    "apart",
    "apart_samples",
    "level",
    "boss_kills",
    "casts",
)
(
    M_KILLS,
    M_DEATHS,
    M_ASSISTS,
    M_LAST_HITS,
    M_GOLD,
    M_HERO_DAMAGE,
    M_BUILDING_DAMAGE,
    M_WITH_WAVE,
    M_UNDER_TOWER,
    M_LOW,
    M_RETREATS,
    M_APART,
    M_APART_N,
    M_LEVEL,
    M_BOSS,
    M_CASTS,
) = range(16)


class World(NamedTuple):
    """All arrays of all matches."""

    unit: Any
    hero: Any
    match: Any
    seed: Any
    slot: Any
    seen: Any
    hurt: Any
    meter: Any
    pay: Any
    work: Any
    face: Any


def make_world(matches: int) -> World:
    """Arrays filled with zeros."""
    return World(
        unit=np.zeros((matches, UNIT_FIELDS, r.UNITS), np.int32),
        hero=np.zeros((matches, HERO_FIELDS, 10), np.int32),
        match=np.zeros((matches, MATCH_FIELDS), np.int32),
        seed=np.zeros(matches, np.uint64),
        slot=np.full((matches, 10, r.SLOTS), -1, np.int16),
        seen=np.zeros((matches, 2, r.UNITS), np.uint8),
        hurt=np.zeros((matches, 10, 10), np.int32),
        meter=np.zeros((matches, 10, len(METERS)), np.int32),
        pay=np.zeros((matches, 10), np.float64),
        work=np.zeros((matches, WORK_FIELDS, r.UNITS), np.int32),
        face=np.zeros((matches, r.UNITS, r.FEATURES), np.float32),
    )


@njit(cache=True, nogil=True)
def drawn(seed, tick, stream):
    """64 random bits of (match seed, tick, stream): splitmix64's finaliser over a sum with odd constants."""
    z = seed + np.uint64(tick) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(stream) * np.uint64(0xD1B54A32D192ED03)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@njit(cache=True, nogil=True)
def side_of(unit):
    """0 for A's units, 1 for B's, 2 for the boss."""
    if unit < 10:
        return 0 if unit < 5 else 1
    if unit < r.TOWER0:
        return 0 if unit < r.CREEP0 + r.CREEPS else 1
    if unit < r.ANCIENT0:
        return 0 if unit < r.TOWER0 + 6 else 1
    return unit - r.ANCIENT0


@njit(cache=True, nogil=True)
def mirrored(value, side):
    """A coordinate as side `side` counts it; its own inverse."""
    return value if side == 0 else r.SIZE - value


@njit(cache=True, nogil=True)
def set_stats(unit, hero, h):
    """Health and damage of hero h by kind, level and items; what is gained in whole health is gained at once."""
    kind, level, items = hero[KIND, h], hero[LEVEL, h] - 1, hero[ITEMS, h]
    whole = r.HERO_HP[kind] + level * r.HERO_HP_LEVEL[kind]
    damage = r.HERO_DAMAGE[kind] + level * r.HERO_DAMAGE_LEVEL[kind]
    for i in range(items):
        whole += r.ITEM_HP[i]
        damage += r.ITEM_DAMAGE[i]
    if unit[HP, h] > 0:
        unit[HP, h] += whole - unit[MAX_HP, h]
    unit[MAX_HP, h] = whole
    unit[DAMAGE, h] = damage


@njit(cache=True, nogil=True)
def place_building(unit, u, x, y, hp, damage):
    """A building with all its health."""
    unit[X, u], unit[Y, u] = x, y
    unit[HP, u] = unit[MAX_HP, u] = hp
    unit[DAMAGE, u], unit[RANGE, u], unit[PERIOD, u] = damage, r.BUILDING_RANGE, r.BUILDING_PERIOD
    unit[ALIVE, u] = 1


@njit(cache=True, nogil=True)
def begin(w, m, seed, kinds_A, kinds_B, lane_mask):
    """Begin match m: heroes of these kinds at their fountains, the lanes of the mask with their towers."""
    unit, hero, match = w.unit[m], w.hero[m], w.match[m]
    unit[:] = 0
    hero[:] = 0
    match[:] = 0
    w.hurt[m][:] = -1_000_000
    w.meter[m][:] = 0
    w.pay[m][:] = 0.0
    w.slot[m][:] = -1
    w.seen[m][:] = 0
    w.seed[m] = seed
    match[WINNER] = -1
    match[BOSS_AT] = r.BOSS_FIRST
    match[PER_SIDE], match[LANE_MASK] = len(kinds_A), lane_mask
    unit[TARGET, :] = -1
    strong = 100 if lane_mask == ALL_LANES else r.ONE_LANE
    for side in range(2):
        for i in range(len(kinds_A)):
            h = 5 * side + i
            kind = kinds_A[i] if side == 0 else kinds_B[i]
            hero[KIND, h], hero[LEVEL, h], hero[INCOME, h] = kind, 1, 100
            hero[GOLD, h] = r.START_GOLD
            hero[MANA, h] = hero[MAX_MANA, h] = r.HERO_MANA[kind]
            hero[SEEN_AT, h] = -1
            unit[RANGE, h], unit[PERIOD, h] = r.HERO_RANGE[kind], r.HERO_PERIOD[kind]
            unit[SPEED, h] = r.HERO_SPEED[kind]
            set_stats(unit, hero, h)
            unit[ALIVE, h], unit[HP, h] = 1, unit[MAX_HP, h]
            unit[X, h] = unit[Y, h] = mirrored(r.FOUNTAIN, side)
        for lane in range(3):
            for tier in range(2):
                if lane_mask >> lane & 1:
                    x, y = r.TOWERS[lane][tier]
                    t = r.TOWER0 + 6 * side + 2 * lane + tier
                    x, y = mirrored(x * r.U, side), mirrored(y * r.U, side)
                    place_building(unit, t, x, y, r.TOWER_HP[tier] * strong // 100, r.TOWER_DAMAGE[tier])
        at = mirrored(r.ANCIENT, side)
        place_building(unit, r.ANCIENT0 + side, at, at, r.ANCIENT_HP[int(lane_mask == ALL_LANES)], r.ANCIENT_DAMAGE)


@njit(cache=True, nogil=True)
def scatter(w, m):
    """For training alone: heroes begin somewhere on the way to the middle, with some levels, and not all of their
    health.

    A beginner who walks at random from the fountain meets nobody for minutes, and learns as little.
    """
    unit, hero, match = w.unit[m], w.hero[m], w.match[m]
    for side in range(2):
        for i in range(match[PER_SIDE]):
            h = 5 * side + i
            bits = drawn(w.seed[m], h, 30)
            far = np.int64(bits & np.uint64(1023)) * (42 * r.U) // 1024
            x = r.FOUNTAIN + far + np.int64((bits >> np.uint64(10)) & np.uint64(511)) - 256
            y = r.FOUNTAIN + far + np.int64((bits >> np.uint64(20)) & np.uint64(511)) - 256
            if match[LANE_MASK] == ALL_LANES and i != 2:
                # Along the sides: first one way, then the other.
                x, y = np.int64(r.BASE), min(r.BASE + 2 * far, np.int64(86 * r.U))
                if i > 2:
                    x, y = y, x
            unit[X, h], unit[Y, h] = mirrored(max(x, 0), side), mirrored(max(y, 0), side)
            hero[LEVEL, h] = 1 + np.int64((bits >> np.uint64(30)) & np.uint64(3))
            hero[XP, h] = r.LEVEL_XP[hero[LEVEL, h] - 1]
            set_stats(unit, hero, h)
            unit[HP, h] = unit[MAX_HP, h] * (50 + np.int64((bits >> np.uint64(40)) & np.uint64(63))) // 113
