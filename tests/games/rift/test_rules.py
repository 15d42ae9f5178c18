"""The rules, one by one, in matches that are set up by hand."""

from __future__ import annotations

import numpy as np
import pytest

from cerulea.games.rift import rules as r
from cerulea.games.rift.env import Rift
from cerulea.games.rift.sight import look_around
from cerulea.games.rift.world import (
    ALIVE,
    BACK,
    BOSS_AT,
    BUFF_A,
    DAMAGE,
    DECISIONS,
    GOLD,
    HP,
    ITEMS,
    KIND,
    LEVEL,
    MANA,
    MAX_HP,
    MAX_MANA,
    METERS,
    PERIOD,
    RANGE,
    READY,
    RECALLING,
    SPEED,
    SUB,
    TARGET,
    TICK,
    WORTH,
    XP,
    X,
    Y,
)
from tests.games.playing import Played

LIFE = 1_000  # of units that should neither die nor kill, in whole points
B_HERO = 5
B_CREEP = r.CREEP0 + r.CREEPS
TOWER_A, TOWER_B = r.TOWER0 + 2, r.TOWER0 + 6 + 2  # the middle lane's outer ones


class Set:
    """A match of which only what a test puts there acts: heroes far apart, no waves, no boss."""

    def __init__(self, preset: str = "rift") -> None:
        self.played = Played(Rift(preset, 1))
        self.game = self.played.game
        self.unit, self.hero, self.match = (getattr(self.game.world, n)[0] for n in ("unit", "hero", "match"))
        self.match[BOSS_AT] = 10**6
        self.match[TICK] = r.WAVE_FIRST + 1

    def put(self, u: int, x: float, y: float, hp: float = LIFE, damage: float = 0) -> int:
        """A unit at this place, in map units and whole points."""
        self.unit[ALIVE, u] = 1
        self.unit[X, u], self.unit[Y, u] = int(x * r.U), int(y * r.U)
        self.unit[HP, u] = hp * r.H
        self.unit[MAX_HP, u] = max(self.unit[MAX_HP, u], self.unit[HP, u])
        self.unit[DAMAGE, u], self.unit[READY, u], self.unit[TARGET, u] = damage * r.H, 0, -1
        if u >= r.CREEP0:
            self.unit[PERIOD, u] = r.S
        return u

    def creep(self, u: int, x: float, y: float, hp: float = LIFE, damage: float = 0, sub: int = 0) -> int:
        self.put(u, x, y, hp, damage)
        self.unit[RANGE, u], self.unit[SPEED, u], self.unit[SUB, u] = r.CREEP_RANGE[sub], 0, sub
        return u

    def attack(self, attacks: dict[int, int], decisions: int = 1) -> None:
        """Heroes attack units by their places; the others hold."""
        for _ in range(decisions):
            look_around(self.game.world, 0)
            per_side = self.game.players // 2
            actions = np.zeros((1, self.game.players, 1), np.int32)
            for h, u in attacks.items():
                slots = np.flatnonzero(self.game.world.slot[0, h] == u)
                assert len(slots) == 1, "not shown"
                actions[0, h if h < 5 else h - 5 + per_side, 0] = r.ATTACK0 + slots[0]
            self.played.step(actions)

    def act(self, h: int, action: int) -> None:
        actions = np.zeros((1, self.game.players, 1), np.int32)
        actions[0, h if h < 5 else h - 5 + self.game.players // 2, 0] = action
        self.played.step(actions)

    def hold(self, decisions: int = 1) -> None:
        self.attack({}, decisions)

    def meter(self, h: int, name: str) -> int:
        return int(self.game.world.meter[0, h, METERS.index(name)])


PASSIVE = r.PASSIVE_GOLD * r.TICKS  # of one decision


def test_gold_comes_with_time_to_all_alike():
    match = Set()
    match.hold(50)
    assert (match.hero[GOLD] == 50 * PASSIVE).all()


def test_a_last_hit_pays_the_killer_alone_and_experience_those_who_are_near():
    match = Set()
    creep = match.creep(B_CREEP, 48, 48, hp=10)
    for h, x in ((0, 47), (1, 45), (2, 30)):  # the third is too far away
        match.put(h, x, 48, damage=50)
    match.attack({0: creep})

    assert match.unit[ALIVE, creep] == 0
    assert match.hero[GOLD, :3].tolist() == [PASSIVE + r.CREEP_GOLD[0], PASSIVE, PASSIVE]
    assert match.hero[XP, :3].tolist() == [r.CREEP_XP[0] // 2, r.CREEP_XP[0] // 2, 0]
    assert [match.meter(h, "last_hits") for h in range(3)] == [1, 0, 0]


def test_a_creep_that_creeps_kill_pays_nobody_gold():
    match = Set()
    match.creep(r.CREEP0, 48, 48, damage=50)
    match.creep(B_CREEP, 49, 48, hp=10)
    match.put(0, 46, 48)
    match.hold()
    assert match.unit[ALIVE, B_CREEP] == 0
    assert match.hero[GOLD, 0] == PASSIVE and match.hero[XP, 0] == r.CREEP_XP[0]


def test_a_kill_pays_the_killer_and_half_of_it_those_who_helped():
    match = Set()
    match.put(B_HERO, 48, 48, hp=60)
    match.hero[LEVEL, B_HERO] = 3
    match.put(0, 47, 48, damage=1)
    match.put(1, 47, 47, damage=1)
    match.attack({0: B_HERO, 1: B_HERO})
    match.put(0, 47, 48, damage=500)
    before = match.hero[GOLD, :2].copy()
    match.attack({0: B_HERO})

    gold = r.KILL_GOLD + 3 * r.KILL_GOLD_LEVEL
    assert match.unit[ALIVE, B_HERO] == 0
    assert (match.hero[GOLD, :2] - before).tolist() == [PASSIVE + gold, PASSIVE + gold // 2]
    assert [match.meter(0, "kills"), match.meter(1, "assists"), match.meter(B_HERO, "deaths")] == [1, 1, 1]


def test_two_who_kill_one_another_are_worth_what_they_were_before():
    """Either death brings experience enough for a level; neither makes the other death dearer."""
    match = Set()
    for h, x in ((0, 48), (B_HERO, 49)):
        match.put(h, x, 48, hp=1, damage=500)
        match.hero[XP, h] = r.LEVEL_XP[1] - 1
    match.attack({0: B_HERO, B_HERO: 0})

    assert match.unit[ALIVE, [0, B_HERO]].tolist() == [0, 0] and match.hero[LEVEL, [0, B_HERO]].tolist() == [2, 2]
    for field in (GOLD, XP, BACK):
        assert match.hero[field, 0] == match.hero[field, B_HERO]
    assert match.hero[GOLD, 0] == PASSIVE + r.KILL_GOLD + r.KILL_GOLD_LEVEL
    assert match.played.tick.reward_MP[0, 0] == match.played.tick.reward_MP[0, 5]


def test_the_dead_come_back_at_their_fountain_after_a_time_that_grows_with_the_level():
    for level in (1, 6):
        match = Set()
        match.put(B_HERO, 48, 48, hp=1)
        match.hero[LEVEL, B_HERO] = level
        match.put(0, 47, 48, damage=500)
        match.attack({0: B_HERO})
        died = match.hero[BACK, B_HERO] - r.RESPAWN - level * r.RESPAWN_LEVEL
        assert match.match[TICK] - r.TICKS <= died < match.match[TICK]
        while match.match[TICK] <= match.hero[BACK, B_HERO]:
            assert match.unit[ALIVE, B_HERO] == 0
            match.hold()
        assert match.unit[ALIVE, B_HERO] == 1 and match.unit[HP, B_HERO] == match.unit[MAX_HP, B_HERO]
        assert match.unit[X, B_HERO] == match.unit[Y, B_HERO] == r.SIZE - r.FOUNTAIN


@pytest.mark.parametrize("side", [0, 1])
def test_in_one_lane_waves_are_stronger_for_each_tower_that_fell_before_them(side):
    lost = r.TOWER0 + 6 * (1 - side) + 2
    for preset, each in (("skirmish", r.BREACH), ("rift", 0)):
        for fallen in range(3):
            match = Set(preset)
            match.unit[ALIVE, lost : lost + fallen] = 0
            match.match[TICK] = r.WAVE_FIRST
            match.hold()
            for of, more in ((side, fallen * each), (1 - side, 0)):
                creep = r.CREEP0 + r.CREEPS * of + (4 if preset == "rift" else 0)
                assert match.unit[MAX_HP, creep] == r.CREEP_HP[0] * (100 + more) // 100
                assert match.unit[DAMAGE, creep] == r.CREEP_DAMAGE[0] * (100 + more) // 100


def test_levels_come_with_experience_and_bring_health_and_damage():
    match = Set()
    match.put(0, 47, 48, hp=900, damage=5_000)
    match.hero[XP, 0] = r.LEVEL_XP[1] - 1
    health = match.unit[HP, 0]
    match.attack({0: match.creep(B_CREEP, 48, 48, hp=1)})
    kind = match.hero[KIND, 0]
    assert match.hero[LEVEL, 0] == 2
    assert match.unit[MAX_HP, 0] == r.HERO_HP[kind] + r.HERO_HP_LEVEL[kind]
    assert match.unit[DAMAGE, 0] == r.HERO_DAMAGE[kind] + r.HERO_DAMAGE_LEVEL[kind]
    assert match.unit[HP, 0] >= health + r.HERO_HP_LEVEL[kind]


def test_a_building_takes_less_where_no_creep_of_the_attacker_is_near():
    lost = []
    for with_creep in (False, True):
        match = Set()
        x, y = match.unit[X, TOWER_B] / r.U, match.unit[Y, TOWER_B] / r.U
        match.put(0, x - 2, y, damage=100)
        match.unit[DAMAGE, TOWER_B] = 0
        if with_creep:
            match.creep(r.CREEP0, x - 6, y)
        before = match.unit[HP, TOWER_B]
        match.attack({0: TOWER_B})
        lost.append(int(before - match.unit[HP, TOWER_B]))
        told = [match.meter(0, n) for n in ("building_damage", "building_damage_with_wave")]
        assert told == ([100, 100] if with_creep else [r.ALONE, 0])
    assert lost == [100 * r.H * r.ALONE // 100, 100 * r.H]


def test_a_tower_turns_from_creeps_to_a_hero_that_hurts_one_of_ours():
    match = Set()
    x, y = match.unit[X, TOWER_B] / r.U, match.unit[Y, TOWER_B] / r.U
    creep = match.creep(r.CREEP0, x - 3, y)
    match.put(0, x - 6, y)
    match.put(B_HERO, x - 5, y)
    match.hold()
    assert match.unit[TARGET, TOWER_B] == creep
    match.attack({0: B_HERO})
    assert match.unit[TARGET, TOWER_B] == 0


def test_a_tower_that_falls_pays_all_of_the_other_side():
    match = Set()
    x, y = match.unit[X, TOWER_B] / r.U, match.unit[Y, TOWER_B] / r.U
    match.put(0, x - 2, y, damage=500)
    match.creep(r.CREEP0, x - 3, y)
    match.unit[HP, TOWER_B] = 1
    match.unit[DAMAGE, TOWER_B] = 0
    match.attack({0: TOWER_B})
    assert match.unit[ALIVE, TOWER_B] == 0
    assert (match.hero[GOLD, :5] == PASSIVE + r.TOWER_GOLD).all() and (match.hero[GOLD, 5:] == PASSIVE).all()
    assert (match.played.tick.reward_MP[0, :5] > r.PAY_TOWER[0] / 3).all()


@pytest.mark.parametrize("winner", [0, 1, -1])
def test_who_loses_the_ancient_loses_and_both_at_once_are_nobodys_win(winner):
    match = Set()
    attacks = {}
    for side in (0, 1) if winner < 0 else (winner,):
        ancient, h = r.ANCIENT0 + 1 - side, 5 * side
        match.unit[ALIVE, r.TOWER0 + 6 * (1 - side) + 2 : r.TOWER0 + 6 * (1 - side) + 4] = 0
        match.unit[HP, ancient], match.unit[DAMAGE, ancient] = 1, 0
        step = 2 if side else -2
        match.put(h, match.unit[X, ancient] / r.U + step, match.unit[Y, ancient] / r.U, damage=100)
        attacks[h] = ancient
    match.attack(attacks)
    tick = match.played.tick
    assert tick.ended_M[0] and tick.winner_M[0] == winner
    assert tick.terminated_MP.all() and not tick.truncated_MP.any()
    won = tick.reward_MP[0].reshape(2, 5) > r.PAY_WIN
    assert won.all(1).tolist() == [winner == 0, winner == 1] and won.any(1).tolist() == [winner == 0, winner == 1]


@pytest.mark.parametrize(
    ("ahead", "winner"),
    [({}, -1), ({"worth": 0}, 0), ({"worth": 0, "towers": 1}, 1), ({"worth": 1, "towers": 1, "ancient": 0}, 0)],
)
def test_after_the_limit_ancients_decide_then_towers_then_worth(ahead, winner):
    match = Set()
    match.match[DECISIONS] = r.LIMIT - 1
    if "worth" in ahead:
        match.hero[WORTH, 5 * ahead["worth"]] += 1
    if "towers" in ahead:
        match.unit[ALIVE, r.TOWER0 + 6 * (1 - ahead["towers"])] = 0
    if "ancient" in ahead:
        match.unit[HP, r.ANCIENT0 + 1 - ahead["ancient"]] -= 1
    match.hold()
    tick = match.played.tick
    assert tick.ended_M[0] and tick.winner_M[0] == winner
    assert tick.truncated_MP.all() and not tick.terminated_MP.any()
    assert (tick.reward_MP < 1).all()  # to be ahead is not to win


def test_a_match_that_ended_stands_still_and_pays_nothing():
    match = Set()
    match.match[DECISIONS] = r.LIMIT - 1
    match.hold()
    before = match.game.digests()
    match.hold(3)
    assert np.array_equal(match.game.digests(), before)
    tick = match.played.tick
    assert not tick.reward_MP.any() and not tick.truncated_MP.any() and tick.ended_M.all()


def test_things_are_bought_at_the_fountain_or_by_the_dead_alone():
    match = Set()
    match.put(0, 48, 48)
    match.hero[GOLD, :3] = r.ITEM_COST[0]
    match.unit[ALIVE, 2], match.unit[HP, 2], match.hero[BACK, 2] = 0, 0, 10**6
    match.hold()
    assert match.hero[ITEMS, :3].tolist() == [0, 1, 1]
    assert match.hero[GOLD, 0] == r.ITEM_COST[0] + PASSIVE and match.hero[GOLD, 1] == PASSIVE
    assert match.unit[MAX_HP, 1] == r.HERO_HP[match.hero[KIND, 1]] + r.ITEM_HP[0]


def test_a_recall_takes_four_seconds_and_damage_breaks_it_off():
    match = Set()
    match.put(0, 48, 48)
    for _ in range(r.RECALL_TICKS // r.TICKS):
        assert match.unit[X, 0] == 48 * r.U
        match.act(0, r.RECALL)
    assert match.unit[X, 0] == match.unit[Y, 0] == r.FOUNTAIN

    match.put(0, 48, 48)
    match.act(0, r.RECALL)
    assert match.hero[RECALLING, 0] == r.TICKS
    match.creep(B_CREEP, 48.5, 48, damage=10)
    match.act(0, r.RECALL)
    assert match.hero[RECALLING, 0] < 2 * r.TICKS


def test_the_boss_pays_all_of_the_side_that_kills_it_and_strengthens_them_against_buildings():
    match = Set()
    match.match[BOSS_AT] = match.match[TICK]
    match.hold()
    assert match.unit[ALIVE, r.BOSS] == 1
    x, y = match.unit[X, r.BOSS] / r.U, match.unit[Y, r.BOSS] / r.U
    match.put(0, x + 1.5, y, damage=100)
    match.unit[HP, r.BOSS] = 1
    before = match.hero[GOLD].copy()
    match.attack({0: r.BOSS})
    assert match.unit[ALIVE, r.BOSS] == 0
    assert (match.hero[GOLD] - before).tolist() == [PASSIVE + r.BOSS_GOLD] * 5 + [PASSIVE] * 5
    assert match.match[BOSS_AT] > match.match[TICK] + r.BOSS_EVERY - 2 * r.TICKS
    assert match.match[BUFF_A] > match.match[TICK] and match.match[BUFF_A + 1] == 0


def test_the_fountain_heals_faster_than_the_field():
    match = Set()
    match.put(1, 48, 48)
    for h in (0, 1):
        match.unit[HP, h] = match.unit[MAX_HP, h] // 2
        match.hero[MANA, h] = match.hero[MAX_MANA, h] // 2
    before = match.unit[HP, :2].copy()
    match.hold()
    gained = match.unit[HP, :2] - before
    whole = match.unit[MAX_HP, 0] * r.FOUNTAIN_HEAL // 1000
    assert gained.tolist() == [r.TICKS * (r.HP_REGEN + whole), r.TICKS * r.HP_REGEN]


def test_what_is_not_the_win_is_worth_less_as_time_goes_by():
    paid = []
    for minutes in (0, 4):
        match = Set()
        match.match[TICK] = r.WAVE_FIRST + 1 + minutes * 60 * r.S
        match.put(0, 47, 48, damage=500)
        match.unit[MAX_HP, 0] = match.unit[HP, 0]
        match.attack({0: match.creep(B_CREEP, 48, 48, hp=1)})
        paid.append(float(match.played.tick.reward_MP[0, 0]))
    start = (r.WAVE_FIRST + 1) / r.FADE_TICKS
    earned = r.PAY_GOLD * r.CREEP_GOLD[0] / r.G + r.PAY_XP * r.CREEP_XP[0] + r.PAY_LAST_HIT
    assert paid == pytest.approx([earned * r.FADE**start, earned * r.FADE ** (start + 1)], rel=1e-3)
