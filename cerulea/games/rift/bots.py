"""Scripted heroes in four tiers, by what their side sees and with the actions that players have.

    pusher   walks with its wave and hits what is nearest
    laner    takes last hits, fights where it is stronger, defends its towers, goes home when low or to buy
    team     a laner with abilities for two and a half minutes; then all go together, by a common plan
    team+    the same with a quarter more gold

Kept:    a bot reads nothing that its mask and its side's sight would not show. The same state gives the same action,
         but for a few draws by the match's seed; the mirror image of a state gives the mirror image of the action.
Not here: lanes (`laning`), the plan of a team (`plans`), how wishes become actions (`aim`).
"""

from __future__ import annotations

import numpy as np
from numba import njit

from cerulea.games.rift import rules as r
from cerulea.games.rift.laning import lane_of, laner_action, pusher_action
from cerulea.games.rift.plans import team_action
from cerulea.games.rift.world import ALIVE, DECISIONS, INCOME, OVER, PER_SIDE, STUN, TAUNT, TAUNT_BY, TICK, drawn

PUSHER, LANER, TEAM, TEAM_PLUS = range(4)
PLUS_INCOME = 125
INATTENTION = 12  # a bot lets one decision in so many pass


@njit(cache=True, nogil=True)
def bot_action(w, m, h, tier):
    """The action of hero h as a bot of this tier plays it."""
    unit, match = w.unit[m], w.match[m]
    tick = match[TICK]
    if match[OVER] or unit[ALIVE, h] == 0 or unit[STUN, h] > tick:
        return r.HOLD
    if unit[TAUNT, h] > tick and unit[ALIVE, unit[TAUNT_BY, h]]:
        return r.HOLD
    # Nobody attends all the time; without it all matches between bots would be one and the same.
    if drawn(w.seed[m], match[DECISIONS], 50 + h) % np.uint64(INATTENTION) == 0:
        return r.HOLD
    side = 0 if h < 5 else 1
    lane = lane_of(match, h - 5 * side)
    if tier == PUSHER:
        return pusher_action(w, m, h, side, lane)
    if tier == LANER:
        return laner_action(w, m, h, side, lane, False)
    if tier == TEAM_PLUS:
        w.hero[m, INCOME, h] = PLUS_INCOME
    return team_action(w, m, h, side, lane)


@njit(cache=True, nogil=True)
def script_all(w, bot_MP, out_MPA):
    """Actions of all scripted players; rows with -1 stay as they are."""
    for m in range(bot_MP.shape[0]):
        per_side = w.match[m, PER_SIDE]
        for p in range(bot_MP.shape[1]):
            if bot_MP[m, p] >= 0:
                h = p if p < per_side else 5 + p - per_side
                out_MPA[m, p, 0] = bot_action(w, m, h, bot_MP[m, p])
