"""What each hero's player is shown: features of units, features of oneself, and what the critic may see.

Everything is scaled by known constants into about [-1, 1] and mirrored for side B, so that a hidden unit, or the side
one plays, cannot be told from it. `FEATURE_NAMES`, `SELF_NAMES` and `CRITIC_NAMES` say what stands where.
Not here: which unit a slot shows (`sight`), legal actions (`legal`).
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from cerulea.games.rift import rules as r
from cerulea.games.rift.combat import castable, reach, vulnerable
from cerulea.games.rift.legal import legal
from cerulea.games.rift.world import (
    ALIVE,
    BACK,
    BOSS_AT,
    DAMAGE,
    GOLD,
    HP,
    ITEMS,
    KIND,
    LANE,
    LAST,
    LEVEL,
    MANA,
    MAX_HP,
    MAX_MANA,
    PER_SIDE,
    Q_READY,
    RANGE,
    RECALLING,
    SEEN_AT,
    SEEN_X,
    SEEN_Y,
    SPEED,
    STUN,
    SUB,
    TARGET,
    TICK,
    W_READY,
    XP,
    X,
    Y,
    mirrored,
    side_of,
)

FEATURE_NAMES = (
    *("dx", "dy", "distance", "hp_share", "hp", "mana_share", "damage", "range", "speed", "level"),
    *("alive", "visible", "age", "disabled", "i_hit_it", "it_hits_me", "aims_at_me", "vulnerable", "team"),
    *("is_hero", "is_creep", "is_siege", "is_building", "is_boss"),
)
SELF_NAMES = (
    *(
        "x",
        "y",
        "hp_share",
        "mana_share",
        "gold",
        "next_item",
        "xp_share",
        "level",
        "q_wait",
        "w_wait",
        "q_ready",
        "w_ready",
    ),
    *("at_fountain", "recall", "bulwark", "raider", "magus", "mender", "archer"),
    *(f"ally_{i}_back" for i in range(5)),
    *(f"enemy_{i}_back" for i in range(5)),
    *(f"ally_tower_{lane}_{t}" for lane in ("top", "middle", "bottom") for t in ("outer", "inner")),
    *(f"enemy_tower_{lane}_{t}" for lane in ("top", "middle", "bottom") for t in ("outer", "inner")),
    *(f"front_{lane}" for lane in ("top", "middle", "bottom")),
    *("boss_wait", "clock", "wave_sin", "wave_cos"),
    *(f"last_{name}" for name in ("hold", "move", "attack", "q", "w", "recall")),
    *("ally_ancient", "enemy_ancient"),
)
CRITIC_NAMES = (
    *(
        f"{side}_{i}_{what}"
        for side in ("ally", "enemy")
        for i in range(5)
        for what in ("x", "y", "hp_share", "mana_share", "gold", "level", "alive")
    ),
    *("ally_towers", "enemy_towers", "ally_ancient", "enemy_ancient"),
    *(f"{side}_creeps_{lane}" for side in ("ally", "enemy") for lane in ("top", "middle", "bottom")),
)
WAVE_SIN = np.sin(2 * np.pi * np.arange(r.WAVE_EVERY) / r.WAVE_EVERY).astype(np.float32)
WAVE_COS = np.cos(2 * np.pi * np.arange(r.WAVE_EVERY) / r.WAVE_EVERY).astype(np.float32)


@njit(cache=True, nogil=True)
def _faces(unit, hero, match, face_UF):
    """Of every living unit, the features that do not depend on who looks; the team is as side A counts it."""
    tick = match[TICK]
    for u in range(r.UNITS):
        if unit[ALIVE, u] == 0:
            continue
        face_UF[u, :] = 0.0
        face_UF[u, 3] = unit[HP, u] / unit[MAX_HP, u]
        face_UF[u, 4] = unit[HP, u] / 32000.0
        face_UF[u, 6] = unit[DAMAGE, u] / 3200.0
        face_UF[u, 7] = unit[RANGE, u] / 512.0
        face_UF[u, 8] = unit[SPEED, u] / 51.2
        face_UF[u, 10], face_UF[u, 11] = 1.0, 1.0
        if unit[STUN, u] > tick:
            face_UF[u, 13] = (unit[STUN, u] - tick) / 10.0
        face_UF[u, 17] = 1.0 if vulnerable(unit, match, u) else 0.0
        if u < 10:
            face_UF[u, 5] = hero[MANA, u] / hero[MAX_MANA, u]
            face_UF[u, 9] = hero[LEVEL, u] / 10.0
            face_UF[u, 19] = 1.0
        elif u < r.TOWER0:
            face_UF[u, 21 if unit[SUB, u] == 2 else 20] = 1.0
        elif u < r.BOSS:
            face_UF[u, 22] = 1.0
        else:
            face_UF[u, 23] = 1.0
        side = side_of(u)
        face_UF[u, 18] = 1.0 if side == 0 else (-1.0 if side == 1 else 0.0)


@njit(cache=True, nogil=True)
def _where(dx, dy, d2, units_PUF, p, s):
    """Where a unit is, as seen from oneself."""
    units_PUF[p, s, 0], units_PUF[p, s, 1] = dx / 2048.0, dy / 2048.0
    units_PUF[p, s, 2] = min(1.0, math.sqrt(float(d2)) / 3072.0)


@njit(cache=True, nogil=True)
def _show_hidden(unit, hero, tick, h, turn, u, units_PUF, p, s):
    """An enemy hero that is not seen shows where it was last seen, and whether it is dead, which all are told."""
    units_PUF[p, s, 18], units_PUF[p, s, 19] = -1.0, 1.0
    if unit[ALIVE, u] == 0:
        return
    units_PUF[p, s, 10] = 1.0
    if hero[SEEN_AT, u] >= 0:
        dx, dy = (hero[SEEN_X, u] - unit[X, h]) * turn, (hero[SEEN_Y, u] - unit[Y, h]) * turn
        _where(dx, dy, dx * dx + dy * dy, units_PUF, p, s)
        units_PUF[p, s, 12] = min(1.0, (tick - hero[SEEN_AT, u]) / 150.0)


@njit(cache=True, nogil=True)
def _show_units(unit, hero, tick, seen_U, slot_S, face_UF, h, side, units_PUF, p):
    """The features of the units in the slots of hero h, who is player p."""
    turn = 1 if side == 0 else -1
    for s in range(r.SLOTS):
        u = slot_S[s]
        if u >= 0 and unit[ALIVE, u] and seen_U[u]:
            for f in range(r.FEATURES):
                units_PUF[p, s, f] = face_UF[u, f]
            dx, dy = (unit[X, u] - unit[X, h]) * turn, (unit[Y, u] - unit[Y, h]) * turn
            d2 = dx * dx + dy * dy
            _where(dx, dy, d2, units_PUF, p, s)
            team = face_UF[u, 18] if side == 0 else 0.0 - face_UF[u, 18]
            units_PUF[p, s, 18] = team
            if team < 1.0:
                far, its = reach(unit, h, u), reach(unit, u, h)
                units_PUF[p, s, 14] = 1.0 if d2 <= far * far else 0.0
                units_PUF[p, s, 15] = 1.0 if d2 <= its * its else 0.0
                units_PUF[p, s, 16] = 1.0 if unit[TARGET, u] == h else 0.0
            continue
        for f in range(r.FEATURES):
            units_PUF[p, s, f] = 0.0
        if u < 0:
            continue
        if u < 10 and u // 5 != side:
            _show_hidden(unit, hero, tick, h, turn, u, units_PUF, p, s)
        else:  # dead, of our own
            units_PUF[p, s, 18], units_PUF[p, s, 19] = 1.0, 1.0


@njit(cache=True, nogil=True)
def _front(unit, side, lane):
    """How far the side's foremost creep of a lane has come, as a share of the lane; 0 without one."""
    best = 0
    first = r.CREEP0 + r.CREEPS * side
    for c in range(first, first + r.CREEPS):
        if unit[ALIVE, c] and unit[LANE, c] == lane:
            best = max(best, mirrored(unit[X, c], side) + mirrored(unit[Y, c], side) - 2 * r.BASE)
    return best / (152.0 * r.U)


@njit(cache=True, nogil=True)
def _show_match(unit, hero, match, side, row_F):
    """The flat features that all heroes of a side share, and zeros for the others."""
    tick = match[TICK]
    row_F[:] = 0.0
    for k in range(2):
        of = side if k == 0 else 1 - side
        for i in range(match[PER_SIDE]):
            e = 5 * of + i
            if unit[ALIVE, e] == 0:
                row_F[19 + 5 * k + i] = max(0, hero[BACK, e] - tick) / 150.0
        for t in range(6):
            u = r.TOWER0 + 6 * of + t
            if unit[ALIVE, u]:
                row_F[29 + 6 * k + t] = unit[HP, u] / unit[MAX_HP, u]
        row_F[54 + k] = unit[HP, r.ANCIENT0 + of] / unit[MAX_HP, r.ANCIENT0 + of]
    for lane in range(3):
        row_F[41 + lane] = _front(unit, side, lane)
    # Whether the boss stands is known only to who sees it; when it may come next is known to all while it is gone.
    row_F[44] = max(0, match[BOSS_AT] - tick) / 750.0
    row_F[45] = tick / 3000.0
    phase = tick % r.WAVE_EVERY
    row_F[46], row_F[47] = WAVE_SIN[phase], WAVE_COS[phase]


@njit(cache=True, nogil=True)
def _show_self(unit, hero, tick, h, side, row_F):
    """The flat features of hero h itself, over those that it shares."""
    kind, level, items = hero[KIND, h], hero[LEVEL, h], hero[ITEMS, h]
    x, y = mirrored(unit[X, h], side), mirrored(unit[Y, h], side)
    row_F[0], row_F[1] = x / 3072.0 - 1.0, y / 3072.0 - 1.0
    row_F[2] = unit[HP, h] / unit[MAX_HP, h]
    row_F[3] = hero[MANA, h] / hero[MAX_MANA, h]
    row_F[4] = hero[GOLD, h] / (2000.0 * r.G)
    row_F[5] = min(1.0, hero[GOLD, h] / r.ITEM_COST[items]) if items < r.ITEMS else 1.0
    if level < r.LEVELS:
        below, above = r.LEVEL_XP[level - 1], r.LEVEL_XP[level]
        row_F[6] = (hero[XP, h] - below) / (above - below)
    else:
        row_F[6] = 1.0
    row_F[7] = level / 10.0
    row_F[8] = max(0, hero[Q_READY, h] - tick) / 100.0
    row_F[9] = max(0, hero[W_READY, h] - tick) / 100.0
    row_F[10] = 1.0 if castable(unit, hero, h, 0, tick) else 0.0
    row_F[11] = 1.0 if castable(unit, hero, h, 1, tick) else 0.0
    dx, dy = x - r.FOUNTAIN, y - r.FOUNTAIN
    row_F[12] = 1.0 if unit[ALIVE, h] and dx * dx + dy * dy <= r.FOUNTAIN_RADIUS * r.FOUNTAIN_RADIUS else 0.0
    row_F[13] = hero[RECALLING, h] / r.RECALL_TICKS
    row_F[14 + kind] = 1.0
    row_F[48 + hero[LAST, h]] = 1.0


@njit(cache=True, nogil=True)
def _show_critic(unit, hero, match, side, row_F):
    """Both sides without fog, for the value alone."""
    row_F[:] = 0.0
    for k in range(2):
        of = side if k == 0 else 1 - side
        for i in range(match[PER_SIDE]):
            h, at = 5 * of + i, 35 * k + 7 * i
            row_F[at] = mirrored(unit[X, h], side) / 3072.0 - 1.0
            row_F[at + 1] = mirrored(unit[Y, h], side) / 3072.0 - 1.0
            row_F[at + 2] = unit[HP, h] / unit[MAX_HP, h]
            row_F[at + 3] = hero[MANA, h] / hero[MAX_MANA, h]
            row_F[at + 4] = hero[GOLD, h] / (2000.0 * r.G)
            row_F[at + 5] = hero[LEVEL, h] / 10.0
            row_F[at + 6] = unit[ALIVE, h]
        for t in range(6):
            u = r.TOWER0 + 6 * of + t
            if unit[ALIVE, u]:
                row_F[70 + k] += unit[HP, u] / unit[MAX_HP, u] / 6.0
        row_F[72 + k] = unit[HP, r.ANCIENT0 + of] / unit[MAX_HP, r.ANCIENT0 + of]
        first = r.CREEP0 + r.CREEPS * of
        for c in range(first, first + r.CREEPS):
            if unit[ALIVE, c]:
                row_F[74 + 3 * k + unit[LANE, c]] += 0.1


@njit(cache=True, nogil=True)
def show(w, m, vector_PF, units_PUF, critic_PF, mask_PN):
    """Everything that the players of match m are shown."""
    unit, hero, match, seen, slot, face_UF = w.unit[m], w.hero[m], w.match[m], w.seen[m], w.slot[m], w.face[m]
    per_side, tick = match[PER_SIDE], match[TICK]
    _faces(unit, hero, match, face_UF)
    for side in range(2):
        first = per_side * side
        _show_match(unit, hero, match, side, vector_PF[first])
        _show_critic(unit, hero, match, side, critic_PF[first])
        for i in range(1, per_side):
            vector_PF[first + i, :] = vector_PF[first]
            critic_PF[first + i, :] = critic_PF[first]
        for i in range(per_side):
            h, p = 5 * side + i, first + i
            _show_self(unit, hero, tick, h, side, vector_PF[p])
            _show_units(unit, hero, tick, seen[side], slot[h], face_UF, h, side, units_PUF, p)
            legal(unit, hero, match, seen, slot[h], h, mask_PN[p])
