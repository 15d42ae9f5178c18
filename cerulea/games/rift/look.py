"""What each hero's player is shown: features of units, features of oneself, legal actions, and what the critic may see.

Everything is scaled by known constants into about [-1, 1] and mirrored for side B, so that a hidden unit, or the side
one plays, cannot be told from it. `FEATURE_NAMES`, `SELF_NAMES` and `CRITIC_NAMES` say what stands where.
Not here: which unit a slot shows (`sight`).
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from cerulea.games.rift import rules as r
from cerulea.games.rift.combat import cast_fits, castable, in_reach, vulnerable
from cerulea.games.rift.motion import can_walk, distance2, free, toward_zero
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
    OVER,
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
    TAUNT,
    TAUNT_BY,
    TICK,
    W_READY,
    XP,
    X,
    Y,
    mirrored,
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
def _show_unit(w, m, h, side, turn, u, row_F):
    """The features of unit u in a slot of hero h; an enemy hero that is not seen shows where it was last seen."""
    unit, hero, match = w.unit[m], w.hero[m], w.match[m]
    tick = match[TICK]
    row_F[:] = 0.0
    if u < 0:
        return
    x, y = unit[X, u], unit[Y, u]
    enemy = w.seen[m, side, u] == 0 or (u < 10 and u // 5 != side)
    if u < 10 and w.seen[m, side, u] == 0:
        if unit[ALIVE, u] == 0 or hero[SEEN_AT, u] < 0:
            row_F[10] = 1.0 if unit[ALIVE, u] else 0.0
            row_F[18], row_F[19] = -1.0, 1.0
            return
        dx, dy = (hero[SEEN_X, u] - unit[X, h]) * turn, (hero[SEEN_Y, u] - unit[Y, h]) * turn
        row_F[0], row_F[1] = dx / 2048.0, dy / 2048.0
        row_F[2] = min(1.0, math.sqrt(float(dx * dx + dy * dy)) / 3072.0)
        row_F[10] = 1.0
        row_F[12] = min(1.0, (tick - hero[SEEN_AT, u]) / 150.0)
        row_F[18], row_F[19] = -1.0, 1.0
        return
    if unit[ALIVE, u] == 0:
        row_F[18] = -1.0 if enemy else 1.0
        row_F[19] = 1.0
        return
    dx, dy = (x - unit[X, h]) * turn, (y - unit[Y, h]) * turn
    row_F[0], row_F[1] = dx / 2048.0, dy / 2048.0
    row_F[2] = min(1.0, math.sqrt(float(dx * dx + dy * dy)) / 3072.0)
    row_F[3] = unit[HP, u] / unit[MAX_HP, u]
    row_F[4] = unit[HP, u] / 32000.0
    row_F[6] = unit[DAMAGE, u] / 3200.0
    row_F[7] = unit[RANGE, u] / 512.0
    row_F[8] = unit[SPEED, u] / 51.2
    row_F[10], row_F[11] = 1.0, 1.0
    if unit[STUN, u] > tick:
        row_F[13] = (unit[STUN, u] - tick) / 10.0
    if u < 10:
        row_F[5] = hero[MANA, u] / hero[MAX_MANA, u]
        row_F[9] = hero[LEVEL, u] / 10.0
        row_F[18] = 1.0 if u // 5 == side else -1.0
        row_F[19] = 1.0
    elif u < r.TOWER0:
        row_F[18] = 1.0 if (u - r.CREEP0) // r.CREEPS == side else -1.0
        row_F[21 if unit[SUB, u] == 2 else 20] = 1.0
    elif u < r.BOSS:
        of = (u - r.TOWER0) // 6 if u < r.ANCIENT0 else u - r.ANCIENT0
        row_F[18] = 1.0 if of == side else -1.0
        row_F[22] = 1.0
    else:
        row_F[23] = 1.0
    if row_F[18] < 1.0:
        row_F[14] = 1.0 if in_reach(unit, h, u) else 0.0
        row_F[15] = 1.0 if in_reach(unit, u, h) else 0.0
        row_F[16] = 1.0 if unit[TARGET, u] == h else 0.0
    row_F[17] = 1.0 if vulnerable(unit, match, u) else 0.0


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
def _show_self(w, m, h, side, row_F):
    """The flat features of hero h."""
    unit, hero, match = w.unit[m], w.hero[m], w.match[m]
    tick = match[TICK]
    row_F[:] = 0.0
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
    for i in range(match[PER_SIDE]):
        for k in range(2):
            e = 5 * (side if k == 0 else 1 - side) + i
            if unit[ALIVE, e] == 0:
                row_F[19 + 5 * k + i] = max(0, hero[BACK, e] - tick) / 150.0
    for k in range(2):
        of = side if k == 0 else 1 - side
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
    row_F[48 + hero[LAST, h]] = 1.0


@njit(cache=True, nogil=True)
def _show_critic(w, m, side, row_F):
    """Both sides without fog, for the value alone."""
    unit, hero, match = w.unit[m], w.hero[m], w.match[m]
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
def legal(w, m, h, mask_N):
    """Which of the 106 actions hero h may take now. To hold is always among them."""
    unit, hero, match, seen = w.unit[m], w.hero[m], w.match[m], w.seen[m]
    tick = match[TICK]
    mask_N[:] = False
    mask_N[r.HOLD] = True
    if match[OVER] or unit[ALIVE, h] == 0 or unit[STUN, h] > tick:
        return
    if unit[TAUNT, h] > tick and unit[ALIVE, unit[TAUNT_BY, h]]:
        return
    side = 0 if h < 5 else 1
    turn = 1 if side == 0 else -1
    walks = can_walk(unit, h, tick)
    if walks:
        for k in range(8):
            dx = toward_zero(r.DIRECTIONS[k, 0] * turn * unit[SPEED, h], 256)
            dy = toward_zero(r.DIRECTIONS[k, 1] * turn * unit[SPEED, h], 256)
            x, y = unit[X, h], unit[Y, h]
            mask_N[r.MOVE0 + k] = free(x + dx, y + dy) or (dx != 0 and free(x + dx, y)) or (dy != 0 and free(x, y + dy))
    near = r.APPROACH * r.APPROACH
    q, e = castable(unit, hero, h, 0, tick), castable(unit, hero, h, 1, tick)
    slot_S = w.slot[m, h]
    for s in range(r.SLOTS):
        u = slot_S[s]
        if u < 0 or unit[ALIVE, u] == 0 or seen[side, u] == 0:
            continue
        if r.ENEMIES <= s < r.ALLY_CREEPS or r.ENEMY_BUILDINGS <= s < r.ALLY_BUILDINGS or s == r.BOSS_SLOT:
            if vulnerable(unit, match, u) and (in_reach(unit, h, u) or (walks and distance2(unit, h, u) <= near)):
                mask_N[r.ATTACK0 + s] = True
        if q and cast_fits(unit, seen, hero, h, 0, u):
            mask_N[r.Q0 + s] = True
        if e and cast_fits(unit, seen, hero, h, 1, u):
            mask_N[r.W0 + s] = True
    home = mirrored(r.FOUNTAIN, side)
    dx, dy = unit[X, h] - home, unit[Y, h] - home
    mask_N[r.RECALL] = walks and dx * dx + dy * dy > r.FOUNTAIN_RADIUS * r.FOUNTAIN_RADIUS


@njit(cache=True, nogil=True)
def show(w, m, vector_PF, units_PUF, critic_PF, mask_PN):
    """Everything that the players of match m are shown."""
    per_side = w.match[m, PER_SIDE]
    for side in range(2):
        turn = 1 if side == 0 else -1
        for i in range(per_side):
            h, p = 5 * side + i, per_side * side + i
            _show_self(w, m, h, side, vector_PF[p])
            for s in range(r.SLOTS):
                _show_unit(w, m, h, side, turn, w.slot[m, h, s], units_PUF[p, s])
            legal(w, m, h, mask_PN[p])
            if i == 0:
                _show_critic(w, m, side, critic_PF[p])
            else:
                critic_PF[p, :] = critic_PF[per_side * side]
