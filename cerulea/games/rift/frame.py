"""One match of `rift` as a person sees it: plain values for a terminal, a browser or a replay."""

from __future__ import annotations

from typing import Any

from cerulea.games.rift import rules as r
from cerulea.games.rift.world import (
    ALIVE,
    BACK,
    CUT,
    GOLD,
    HP,
    ITEMS,
    KIND,
    LEVEL,
    M_ASSISTS,
    M_BOSS,
    M_DEATHS,
    M_KILLS,
    M_LAST_HITS,
    MANA,
    MAX_HP,
    MAX_MANA,
    OVER,
    PER_SIDE,
    SUB,
    TARGET,
    TICK,
    WINNER,
    WORTH,
    World,
    X,
    Y,
    side_of,
)


def _unit(world: World, m: int, u: int, kind: str) -> dict[str, Any]:
    unit = world.unit[m]
    return {
        "id": u,
        "kind": kind,
        "team": int(side_of(u)),
        "x": round(int(unit[X, u]) / r.U, 2),
        "y": round(int(unit[Y, u]) / r.U, 2),
        "hp": round(int(unit[HP, u]) / r.H),
        "max_hp": round(int(unit[MAX_HP, u]) / r.H),
        "alive": bool(unit[ALIVE, u]),
        "target": int(unit[TARGET, u]),
        "seen": [side for side in range(2) if world.seen[m, side, u]],  # by whom, now
    }


def frame_of(world: World, m: int) -> dict[str, Any]:
    """Clock, score, heroes with what they have, creeps, buildings, the boss; map units, seconds and gold."""
    unit, hero, match, meter = world.unit[m], world.hero[m], world.match[m], world.meter[m]
    per_side, tick = int(match[PER_SIDE]), int(match[TICK])
    heroes = []
    for side in range(2):
        for i in range(per_side):
            h = 5 * side + i
            heroes.append(
                {
                    **_unit(world, m, h, "hero"),
                    "player": per_side * side + i,
                    "name": r.HERO_NAMES[hero[KIND, h]],
                    "level": int(hero[LEVEL, h]),
                    "mana": round(int(hero[MANA, h]) / r.H),
                    "max_mana": round(int(hero[MAX_MANA, h]) / r.H),
                    "gold": int(hero[GOLD, h]) // r.G,
                    "worth": int(hero[WORTH, h]) // r.G,
                    "items": int(hero[ITEMS, h]),
                    "back_s": max(0.0, (int(hero[BACK, h]) - tick) / r.S) if not unit[ALIVE, h] else 0.0,
                    "kills": int(meter[h, M_KILLS]),
                    "deaths": int(meter[h, M_DEATHS]),
                    "assists": int(meter[h, M_ASSISTS]),
                    "last_hits": int(meter[h, M_LAST_HITS]),
                }
            )
    names = ("melee", "ranged", "siege")
    creeps = [_unit(world, m, u, names[unit[SUB, u]]) for u in range(r.CREEP0, r.TOWER0) if unit[ALIVE, u]]
    buildings = []
    for u in range(r.TOWER0, r.BOSS):
        if unit[MAX_HP, u]:
            at = (u - r.TOWER0) % 6
            kind = "ancient" if u >= r.ANCIENT0 else ("outer tower", "inner tower")[at % 2]
            lane = "" if u >= r.ANCIENT0 else ("top", "middle", "bottom")[at // 2]
            buildings.append({**_unit(world, m, u, kind), "lane": lane})
    sides = [heroes[:per_side], heroes[per_side:]]
    return {
        "clock_s": tick / r.S,
        "size": r.SIZE / r.U,
        "over": bool(match[OVER]),
        "timeout": bool(match[CUT]),
        "winner": int(match[WINNER]),
        "kills": [sum(hero["kills"] for hero in team) for team in sides],
        "worth": [sum(hero["worth"] for hero in team) for team in sides],
        "bosses": [int(meter[5 * side, M_BOSS]) for side in range(2)],
        "heroes": heroes,
        "creeps": creeps,
        "buildings": buildings,
        "boss": _unit(world, m, r.BOSS, "boss") if unit[ALIVE, r.BOSS] else None,
    }
