"""Where units go: steps in whole numbers that are mirror images of one another on both sides.

Kept:    every step is an odd function of the direction, so that the mirror image of a walk is the walk of the mirror
         image.
Not here: who wants to go where (`orders`, `waves`).
"""

from __future__ import annotations

import math

from numba import njit

from cerulea.games.rift import rules as r
from cerulea.games.rift.world import ROOT, STUN, W_X, W_Y, X, Y


@njit(cache=True, nogil=True)
def toward_zero(a, b):
    """A / b without its fraction; b > 0. Python's own division rounds down, which is not the same on both sides."""
    return a // b if a >= 0 else -((-a) // b)


@njit(cache=True, nogil=True)
def distance2(unit, a, b):
    """The square of the distance between units."""
    dx = unit[X, a] - unit[X, b]
    dy = unit[Y, a] - unit[Y, b]
    return dx * dx + dy * dy


@njit(cache=True, nogil=True)
def free(x, y):
    """Whether one can stand there."""
    if x < 0 or y < 0 or x > r.SIZE or y > r.SIZE:
        return False
    # A border belongs to the cell towards the middle of the map, from both sides; the middle lines belong to the cells
    # on both of their sides, and one can stand on them where any of those is free.
    half, last = r.SIZE // 2, r.SIZE // r.CELL - 1
    cx = x // r.CELL if x < half else last - (r.SIZE - x) // r.CELL
    cy = y // r.CELL if y < half else last - (r.SIZE - y) // r.CELL
    if r.WALKABLE[cx, cy] == 1:
        return True
    if x == half and r.WALKABLE[last - cx, cy] == 1:
        return True
    if y == half and r.WALKABLE[cx, last - cy] == 1:
        return True
    return x == half and y == half and r.WALKABLE[last - cx, last - cy] == 1


@njit(cache=True, nogil=True)
def go(unit, work, u, dx, dy):
    """Move u by this much, or along one of both axes where something is in the way."""
    x, y = unit[X, u], unit[Y, u]
    if free(x + dx, y + dy):
        work[W_X, u], work[W_Y, u] = x + dx, y + dy
    elif dx != 0 and free(x + dx, y):
        work[W_X, u] = x + dx
    elif dy != 0 and free(x, y + dy):
        work[W_Y, u] = y + dy


@njit(cache=True, nogil=True)
def go_toward(unit, work, u, x, y, speed):
    """A step of `speed` towards a point; True where it is reached."""
    dx, dy = x - unit[X, u], y - unit[Y, u]
    d2 = dx * dx + dy * dy
    if d2 <= speed * speed:
        go(unit, work, u, dx, dy)
        return True
    d = int(math.sqrt(d2))
    go(unit, work, u, toward_zero(dx * speed, d), toward_zero(dy * speed, d))
    return False


@njit(cache=True, nogil=True)
def can_walk(unit, u, tick):
    """Neither stunned nor rooted."""
    return unit[STUN, u] <= tick and unit[ROOT, u] <= tick
