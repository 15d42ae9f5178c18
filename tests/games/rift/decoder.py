"""What is visible in a match of `rift`, twice: read back from an observation, and worked out from the state.

Plain Python with numbers of its own, so that a mistake of the kernels is not made here too. Nothing of the simulator is
used but the names of features and the order of fields; numbers that balance changes are read from `rules`.
"""

from __future__ import annotations

from typing import Any

from cerulea.games.rift import rules as r
from cerulea.games.rift import world as f

SIZE = 96 * 64
Facts = dict[str, Any]


def _whole(value: float, scale: float) -> int:
    found = round(float(value) * scale)
    assert abs(float(value) * scale - found) < 0.02, (value, scale)
    return found


# -- from an observation -------------------------------------------------------------------------------


def decode(names: tuple[tuple[str, ...], tuple[str, ...]], vector_F: Any, units_UF: Any, side: int) -> Facts:
    """Oneself and all slots, in the state's own numbers and places."""
    own = dict(zip(names[0], vector_F.tolist(), strict=True))
    me = (_whole(own["x"] + 1, 3072), _whole(own["y"] + 1, 3072))
    slots = [_decode_unit(dict(zip(names[1], row, strict=True)), me, side) for row in units_UF.tolist()]
    return {"self": _decode_self(own, me, side), "slots": slots}


def _decode_unit(row: dict[str, float], me: tuple[int, int], side: int) -> Facts | None:
    if not any(row.values()):
        return None
    kinds = [k for k in ("hero", "creep", "siege", "building", "boss") if row[f"is_{k}"]]
    assert len(kinds) == 1, row
    facts: Facts = {"kind": kinds[0], "team": {1.0: side, -1.0: 1 - side, 0.0: 2}[row["team"]]}
    if not row["alive"]:
        assert sum(map(abs, row.values())) == 2, row  # the team and the kind: nothing else is said of the dead
        return facts | {"alive": False}
    facts |= {"alive": True, "visible": bool(row["visible"])}
    dx, dy = _whole(row["dx"], 2048), _whole(row["dy"], 2048)
    x, y = me[0] + dx, me[1] + dy
    facts["place"] = (x, y) if side == 0 else (SIZE - x, SIZE - y)
    assert abs(row["distance"] - min(1.0, (dx * dx + dy * dy) ** 0.5 / 3072)) < 1e-6
    if not row["visible"]:
        facts["age"] = _whole(row["age"], 150)
        if not (dx or dy or row["age"]):
            facts["place"] = None  # never seen
        return facts
    hp = _whole(row["hp"], 32000)
    facts |= {"hp": hp, "max_hp": round(hp / row["hp_share"]), "damage": _whole(row["damage"], 3200)}
    facts |= {"range": _whole(row["range"], 512), "speed": _whole(row["speed"], 51.2)}
    facts |= {"stunned": _whole(row["disabled"], 10), "level": _whole(row["level"], 10)}
    facts["mana_share"] = round(row["mana_share"], 5)
    for name in ("i_hit_it", "it_hits_me", "aims_at_me", "vulnerable"):
        facts[name] = bool(row[name])
    return facts


def _decode_self(own: dict[str, float], me: tuple[int, int], side: int) -> Facts:
    kinds = ("bulwark", "raider", "magus", "mender", "archer")
    lanes = [f"{lane}_{t}" for lane in ("top", "middle", "bottom") for t in ("outer", "inner")]
    orders = ("hold", "move", "attack", "q", "w", "recall")
    return {
        "place": me if side == 0 else (SIZE - me[0], SIZE - me[1]),
        "kind": [own[k] for k in kinds].index(1.0),
        "hp_share": round(own["hp_share"], 5),
        "mana_share": round(own["mana_share"], 5),
        "gold": _whole(own["gold"], 200_000),
        "next_item": round(own["next_item"], 5),
        "xp_share": round(own["xp_share"], 5),
        "level": _whole(own["level"], 10),
        "waits": (_whole(own["q_wait"], 100), _whole(own["w_wait"], 100)),
        "ready": (bool(own["q_ready"]), bool(own["w_ready"])),
        "at_fountain": bool(own["at_fountain"]),
        "recall": _whole(own["recall"], 20),
        "back": [[_whole(own[f"{who}_{i}_back"], 150) for i in range(5)] for who in ("ally", "enemy")],
        "towers": [[round(own[f"{who}_tower_{t}"], 5) for t in lanes] for who in ("ally", "enemy")],
        "ancients": [round(own[f"{who}_ancient"], 5) for who in ("ally", "enemy")],
        "fronts": [_whole(own[f"front_{lane}"], 152 * 64) for lane in ("top", "middle", "bottom")],
        "boss_wait": _whole(own["boss_wait"], 750),
        "tick": _whole(own["clock"], 3000),
        "last": [own[f"last_{o}"] for o in orders].index(1.0),
    }


# -- from the state ------------------------------------------------------------------------------------


def _of(first: int, size: int, side: int) -> range:
    return range(first + size * side, first + size * (side + 1))


def side_of(u: int) -> int:
    for side in range(2):
        if u in _of(0, 5, side) or u in _of(10, 24, side) or u in _of(58, 6, side) or u == 70 + side:
            return side
    return 2


class Truth:
    """One match, with the memory of where each side last saw the other's heroes."""

    def __init__(self) -> None:
        self.memory: dict[tuple[int, int], tuple[int, int, int]] = {}

    def look(self, unit: Any, hero: Any, match: Any) -> None:
        """Take the state in as it is after a decision: lists of whole numbers."""
        self.unit, self.hero, self.match = unit.tolist(), hero.tolist(), match.tolist()
        self.seen = [{u for u in range(73) if self._sees(side, u)} for side in range(2)]
        for side in range(2):
            for e in _of(0, 5, 1 - side):
                if e in self.seen[side]:
                    self.memory[side, e] = (self.unit[f.X][e], self.unit[f.Y][e], self.match[f.TICK])

    def _d2(self, a: int, b: int) -> int:
        x, y = self.unit[f.X], self.unit[f.Y]
        return (x[a] - x[b]) ** 2 + (y[a] - y[b]) ** 2

    def _sees(self, side: int, u: int) -> bool:
        alive = self.unit[f.ALIVE]
        if not alive[u]:
            return False
        if side_of(u) == side or 58 <= u < 72:
            return True
        eyes = [(h, 11) for h in _of(0, 5, side)] + [(c, 7) for c in _of(10, 24, side)]
        eyes += [(t, 10) for t in [*_of(58, 6, side), 70 + side]]
        return any(alive[e] and self._d2(e, u) <= (far * 64) ** 2 for e, far in eyes)

    def _vulnerable(self, u: int) -> bool:
        alive, whole = self.unit[f.ALIVE], self.unit[f.MAX_HP]
        if 58 <= u < 70 and u % 2 == 1:
            return not alive[u - 1]
        if u in (70, 71):
            inner = [59 + 6 * (u - 70) + 2 * lane for lane in range(3)]
            return any(whole[t] > 0 and not alive[t] for t in inner)
        return True

    def _hits(self, a: int, b: int) -> bool:
        far = self.unit[f.RANGE][a] + (64 if b >= 58 else 0)
        return self._d2(a, b) <= far * far

    def visible(self, h: int) -> Facts:
        """What hero h must be shown."""
        side, per_side = h // 5, self.match[f.PER_SIDE]
        alive = self.unit[f.ALIVE]
        ours, theirs = (list(_of(0, 5, s))[:per_side] for s in (side, 1 - side))

        def near(units: Any, most: int) -> list[int | None]:
            found = sorted((u for u in units if u in self.seen[side]), key=lambda u: (self._d2(h, u), u))[:most]
            return found + [None] * (most - len(found))

        places: list[int | None] = [h, *(a for a in ours if a != h), *[None] * (5 - per_side)]
        places += [*theirs, *[None] * (5 - per_side)]
        places += near(_of(10, 24, 1 - side), 8) + near(_of(10, 24, side), 4)
        for of in (1 - side, side):
            places += near([t for t in [*_of(58, 6, of), 70 + of] if alive[t]], 4)
        places += [72 if 72 in self.seen[side] else None, None]
        return {"self": self._self(h, side), "slots": [None if u is None else self._unit(h, side, u) for u in places]}

    def _unit(self, h: int, side: int, u: int) -> Facts:
        unit, tick = self.unit, self.match[f.TICK]
        siege = 10 <= u < 58 and unit[f.SUB][u] == 2
        kind = "hero" if u < 10 else "siege" if siege else "creep" if u < 58 else "building" if u < 72 else "boss"
        facts: Facts = {"kind": kind, "team": side_of(u), "alive": bool(unit[f.ALIVE][u])}
        if not facts["alive"]:
            return facts
        facts["visible"] = u in self.seen[side]
        if not facts["visible"]:
            *place, at = self.memory.get((side, u), (None, None, tick))
            facts |= {"place": None if place[0] is None else tuple(place), "age": min(150, tick - at)}
            return facts
        facts |= {"place": (unit[f.X][u], unit[f.Y][u]), "hp": unit[f.HP][u], "max_hp": unit[f.MAX_HP][u]}
        facts |= {"damage": unit[f.DAMAGE][u], "range": unit[f.RANGE][u], "speed": unit[f.SPEED][u]}
        facts["stunned"] = max(0, unit[f.STUN][u] - tick)
        facts["level"] = self.hero[f.LEVEL][u] if u < 10 else 0
        facts["mana_share"] = round(self.hero[f.MANA][u] / self.hero[f.MAX_MANA][u], 5) if u < 10 else 0.0
        foe = side_of(u) != side
        facts |= {"i_hit_it": foe and self._hits(h, u), "it_hits_me": foe and self._hits(u, h)}
        facts |= {"aims_at_me": foe and unit[f.TARGET][u] == h, "vulnerable": self._vulnerable(u)}
        return facts

    def _self(self, h: int, side: int) -> Facts:
        unit, hero, tick, per_side = self.unit, self.hero, self.match[f.TICK], self.match[f.PER_SIDE]
        kind, level, items, gold = (hero[n][h] for n in (f.KIND, f.LEVEL, f.ITEMS, f.GOLD))
        x, y = unit[f.X][h], unit[f.Y][h]
        home = 6 * 64 if side == 0 else SIZE - 6 * 64
        steps = r.LEVEL_XP.tolist()

        def share(u: int) -> float:
            return round(unit[f.HP][u] / unit[f.MAX_HP][u], 5) if unit[f.ALIVE][u] else 0.0

        def front(lane: int) -> int:
            creeps = [c for c in _of(10, 24, side) if unit[f.ALIVE][c] and unit[f.LANE][c] == lane]
            gone = [unit[f.X][c] + unit[f.Y][c] for c in creeps]
            gone = [g if side == 0 else 2 * SIZE - g for g in gone]
            return max([0, *(g - 2 * 10 * 64 for g in gone)])

        sides = (side, 1 - side)
        costs = r.ITEM_COST.tolist()
        waits = (max(0, hero[f.Q_READY][h] - tick), max(0, hero[f.W_READY][h] - tick))
        mana = (r.Q_MANA[kind], r.W_MANA[kind])
        back = [
            [
                max(0, hero[f.BACK][5 * s + i] - tick) if i < per_side and not unit[f.ALIVE][5 * s + i] else 0
                for i in range(5)
            ]
            for s in sides
        ]
        return {
            "place": (x, y),
            "kind": kind,
            "hp_share": round(unit[f.HP][h] / unit[f.MAX_HP][h], 5),
            "mana_share": round(hero[f.MANA][h] / hero[f.MAX_MANA][h], 5),
            "gold": gold,
            "next_item": round(min(1.0, gold / costs[items]), 5) if items < 3 else 1.0,
            "xp_share": round((hero[f.XP][h] - steps[level - 1]) / (steps[level] - steps[level - 1]), 5)
            if level < 10
            else 1.0,
            "level": level,
            "waits": waits,
            "ready": tuple(waits[k] == 0 and hero[f.MANA][h] >= mana[k] for k in range(2)),
            "at_fountain": bool(unit[f.ALIVE][h]) and (x - home) ** 2 + (y - home) ** 2 <= (6 * 64) ** 2,
            "recall": hero[f.RECALLING][h],
            "back": back,
            "towers": [[share(t) for t in _of(58, 6, s)] for s in sides],
            "ancients": [round(unit[f.HP][70 + s] / unit[f.MAX_HP][70 + s], 5) for s in sides],
            "fronts": [front(lane) for lane in range(3)],
            "boss_wait": max(0, self.match[f.BOSS_AT] - tick),
            "tick": tick,
            "last": hero[f.LAST][h],
        }
