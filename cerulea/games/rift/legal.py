"""Which actions a hero may take now.

Kept:    what is offered has an effect, and the step refuses nothing of it: both ask the same questions (`combat`,
         `motion`). A hidden unit is neither offered nor shows itself by what is.
Not here: what an action does (`tick`), which unit a slot shows (`sight`).
"""

from __future__ import annotations

from numba import njit

from cerulea.games.rift import rules as r
from cerulea.games.rift.combat import aim_fits, cast_fits, castable, reach, vulnerable
from cerulea.games.rift.motion import can_walk, distance2, free, toward_zero
from cerulea.games.rift.world import ALIVE, KIND, OVER, SPEED, STUN, TAUNT, TAUNT_BY, TICK, X, Y, mirrored


@njit(cache=True, nogil=True)
def _ways(unit, h, turn, mask_N):
    """The directions in which hero h gets anywhere, if only along a wall."""
    x, y, speed = unit[X, h], unit[Y, h], unit[SPEED, h]
    for k in range(8):
        dx = toward_zero(r.DIRECTIONS[k, 0] * turn * speed, 256)
        dy = toward_zero(r.DIRECTIONS[k, 1] * turn * speed, 256)
        mask_N[r.MOVE0 + k] = free(x + dx, y + dy) or (dx != 0 and free(x + dx, y)) or (dy != 0 and free(x, y + dy))


@njit(cache=True, nogil=True)
def _targets(unit, hero, match, seen, slot_S, h, side, walks, mask_N):
    """What hero h can attack, and at whom it can cast."""
    tick, kind = match[TICK], hero[KIND, h]
    q, e = castable(unit, hero, h, 0, tick), castable(unit, hero, h, 1, tick)
    # Abilities without a target are cast at oneself, in slot 0.
    if q and r.Q_SELF[kind] == 1:
        mask_N[r.Q0] = cast_fits(unit, seen, hero, h, 0, h)
        q = False
    if e and r.W_SELF[kind] == 1:
        mask_N[r.W0] = cast_fits(unit, seen, hero, h, 1, h)
        e = False
    for s in range(r.SLOTS):
        u = slot_S[s]
        if u < 0 or unit[ALIVE, u] == 0 or seen[side, u] == 0:
            continue
        d2 = distance2(unit, h, u)
        if r.ENEMIES <= s < r.ALLY_CREEPS or r.ENEMY_BUILDINGS <= s < r.ALLY_BUILDINGS or s == r.BOSS_SLOT:
            far = max(reach(unit, h, u), r.APPROACH if walks else 0)
            mask_N[r.ATTACK0 + s] = d2 <= far * far and vulnerable(unit, match, u)
        if q:
            mask_N[r.Q0 + s] = aim_fits(kind, 0, side, u, d2)
        if e:
            mask_N[r.W0 + s] = aim_fits(kind, 1, side, u, d2)


@njit(cache=True, nogil=True)
def legal(unit, hero, match, seen, slot_S, h, mask_N):
    """Which of the 106 actions hero h may take now. To hold is always among them."""
    tick = match[TICK]
    mask_N[:] = False
    mask_N[r.HOLD] = True
    if match[OVER] or unit[ALIVE, h] == 0 or unit[STUN, h] > tick:
        return
    if unit[TAUNT, h] > tick and unit[ALIVE, unit[TAUNT_BY, h]]:
        return
    side = 0 if h < 5 else 1
    walks = can_walk(unit, h, tick)
    if walks:
        _ways(unit, h, 1 if side == 0 else -1, mask_N)
    _targets(unit, hero, match, seen, slot_S, h, side, walks, mask_N)
    home = mirrored(r.FOUNTAIN, side)
    dx, dy = unit[X, h] - home, unit[Y, h] - home
    mask_N[r.RECALL] = walks and dx * dx + dy * dy > r.FOUNTAIN_RADIUS * r.FOUNTAIN_RADIUS
