"""The rules of `rift` in numbers: the one file in which its balance is edited.

Units:   positions and ranges in 1/64 of a map unit (`U`), hit points and mana in 1/16 (`H`), time in ticks of 0.2 s
(`S`
         ticks a second), gold in hundredths (`G`). All are whole numbers, so that a match is the same on every machine.
Kept:    a change here that may change a match changes VERSION.
Not here: what happens with the numbers (`motion`, `combat`, `waves`, `sight`).
"""

from __future__ import annotations

import numpy as np

VERSION = "4"

U, H, S, G = 64, 16, 5, 100
TICKS = 2  # of one decision
STEP_S = TICKS / S
LIMIT = 1_500  # decisions: ten minutes

# -- the map ---------------------------------------------------------------------------------------

SIZE = 96 * U
CELL = 4 * U  # of the grid that says where one can walk
FOUNTAIN = 6 * U  # both coordinates, of side A; B's is the mirror image (x, y) -> (SIZE - x, SIZE - y)
FOUNTAIN_RADIUS = 6 * U
BASE = 10 * U  # where waves begin
ANCIENT = 12 * U
PIT = (24 * U, 72 * U)  # where the boss stands; or the mirror image of it
# Towers of side A: for each lane (top, middle, bottom) the outer one and the inner one.
TOWERS = (((10, 56), (10, 30)), ((38, 38), (24, 24)), ((56, 10), (30, 10)))
# Points that a wave of side A walks to, for each lane.
WAYPOINTS = np.array(
    [[[10, 86], [86, 86]], [[48, 48], [86, 86]], [[86, 10], [86, 86]]],
    np.int32,
) * np.int32(U)
BLOCKS = ((16, 36, 12), (36, 16, 12), (68, 48, 12), (48, 68, 12))  # x, y, size: woods that nobody walks through
LANES = 3


def walkable() -> np.ndarray:
    """Cells of the map one can walk on, as a (24, 24) array of 0 and 1, by x then y."""
    cells = SIZE // CELL
    free = np.ones((cells, cells), np.uint8)
    for x, y, size in BLOCKS:
        free[x * U // CELL : (x + size) * U // CELL, y * U // CELL : (y + size) * U // CELL] = 0
    return free


WALKABLE = walkable()

# -- who there is ----------------------------------------------------------------------------------

HEROES = 5  # of one side, at most
PRESETS = {  # heroes of a side by their kinds, and lanes
    "duel": ((4,), (1,)),
    "skirmish": ((0, 2, 4), (1,)),
    "rift": ((0, 1, 2, 3, 4), (0, 1, 2)),
}
HERO_NAMES = ("Bulwark", "Raider", "Magus", "Mender", "Archer")
BULWARK, RAIDER, MAGUS, MENDER, ARCHER = range(5)

# Places of a match's units: heroes of A and B, creeps of A and B, towers of A and B, the ancients, the boss.
CREEPS = 24  # of one side, at most
HERO0, CREEP0, TOWER0 = 0, 10, 58
ANCIENT0, BOSS = 70, 72
UNITS = 73

# health, + for each level, mana, damage, + for each level (tenths), range, period, speed a tick
HERO_HP = np.array([1080, 720, 550, 650, 560], np.int32) * np.int32(H)
HERO_HP_LEVEL = np.array([110, 74, 52, 66, 52], np.int32) * np.int32(H)
HERO_MANA = np.array([300, 320, 480, 460, 300], np.int32) * np.int32(H)
HERO_DAMAGE = np.array([80, 62, 41, 52, 46], np.int32) * np.int32(H)
HERO_DAMAGE_LEVEL = np.array([9, 6, 3, 5, 4], np.int32) * np.int32(H)
HERO_RANGE = np.array([115, 115, 384, 352, 448], np.int32)
HERO_PERIOD = np.array([6, 5, 7, 7, 6], np.int32)  # ticks; the last is 5.5 rounded up
HERO_SPEED = np.array([41, 42, 37, 38, 38], np.int32)
LEVEL_XP = np.array([0, 120, 280, 480, 720, 1000, 1320, 1680, 2080, 2520], np.int32)
LEVELS = 10
RESPAWN, RESPAWN_LEVEL = 5 * S, 4 * S
HP_REGEN = 5  # of a hero each tick, in H: about 1.6 a second
MANA_REGEN = 7
FOUNTAIN_HEAL = 24  # thousandths of the whole each tick
RECALL_TICKS = 4 * S
PASSIVE_GOLD = 30  # hundredths each tick: 1.5 a second
START_GOLD = 0

ITEM_COST = np.array([400, 800, 1400], np.int32) * np.int32(G)
ITEM_HP = np.array([150, 300, 500], np.int32) * np.int32(H)
ITEM_DAMAGE = np.array([20, 36, 60], np.int32) * np.int32(H)
ITEMS = 3

# melee, ranged, siege
CREEP_HP = np.array([300, 180, 560], np.int32) * np.int32(H)
CREEP_DAMAGE = np.array([12, 16, 30], np.int32) * np.int32(H)
CREEP_RANGE = np.array([96, 320, 384], np.int32)
CREEP_GOLD = np.array([38, 44, 66], np.int32) * np.int32(G)
CREEP_XP = np.array([50, 60, 80], np.int32)
CREEP_SPEED = 35
CREEP_PERIOD = S
CREEP_GROWTH = 4  # per cent a minute
CREEP_SEES = 7 * U  # how far it looks for something to hit
WAVE_FIRST, WAVE_EVERY = 2 * S, 20 * S
SIEGE_WAVES = 3  # each third wave has a siege creep
BREACH = 50  # in one lane, per cent that a side's creeps are stronger for each tower of the enemy's that fell

TOWER_HP = np.array([1600, 2000], np.int32) * np.int32(H)
ONE_LANE = 33  # per cent of buildings' health where all heroes meet in one lane
TOWER_DAMAGE = np.array([110, 140], np.int32) * np.int32(H)
ANCIENT_HP, ANCIENT_DAMAGE = 3500 * H, 160 * H
BUILDING_RANGE = 480
BUILDING_PERIOD = S
BUILDING_RADIUS = U  # one stands this far from its middle
NEAR_CREEP = 8 * U  # without an attacker's creep so near, a building takes ALONE per cent
ALONE = 40
WEAR_FROM, WEAR = 150 * S, 150  # from then on buildings take so many per cent more with each minute
TOWER_GOLD = 150 * G
AGGRO = 2 * S  # a tower prefers who hurt a hero within this time

BOSS_HP, BOSS_DAMAGE, BOSS_RANGE = 2600 * H, 60 * H, 3 * U
BOSS_FIRST, BOSS_EVERY = 120 * S, 150 * S
BOSS_GOLD = 150 * G
BOSS_BUFF = 45 * S
BOSS_BONUS = 20  # per cent more damage to buildings
BOSS_RADIUS = U

KILL_GOLD, KILL_GOLD_LEVEL = 180 * G, 12 * G
ASSIST_SHARE = 50  # per cent of it, for those who helped, together
ASSIST_WITHIN = 5 * S
KILL_XP, KILL_XP_LEVEL = 80, 30
XP_RADIUS = 9 * U

SIGHT = (11 * U, 7 * U, 10 * U)  # of a hero, a creep, a building
APPROACH = 12 * U  # one may order an attack on what is so near

# -- abilities -------------------------------------------------------------------------------------

Q_MANA = np.array([90, 90, 110, 100, 80], np.int32) * np.int32(H)
W_MANA = np.array([80, 100, 90, 110, 60], np.int32) * np.int32(H)
Q_WAIT = np.array([12, 10, 7, 8, 8], np.int32) * np.int32(S)
W_WAIT = np.array([16, 14, 12, 14, 10], np.int32) * np.int32(S)
Q_RANGE = np.array([5, 8, 8, 7, 7], np.int32) * np.int32(U)
W_RANGE = np.array([0, 160, 448, 384, 0], np.int32)
Q_SELF = np.array([1, 0, 0, 0, 1], np.uint8)  # cast on oneself: slot 0
W_SELF = np.array([1, 0, 0, 0, 1], np.uint8)
Q_POWER = np.array([0, 95, 76, 120, 55], np.int32) * np.int32(H)
Q_POWER_LEVEL = np.array([0, 22, 13, 30, 10], np.int32) * np.int32(H)
W_POWER = np.array([0, 60, 60, 50, 0], np.int32) * np.int32(H)
W_POWER_LEVEL = np.array([0, 15, 0, 10, 0], np.int32) * np.int32(H)
TAUNT_TICKS = 10
BASTION_TICKS, BASTION_CUT = 4 * S, 50  # per cent less damage
EXECUTE = 45  # per cent of missing health
SPLASH = 128
ROOT_TICKS = 8
STUN_TICKS = 6
VOLLEY = 3  # targets
TUMBLE = 5 * U
BLINK_GAP = U  # a blink ends so far from its target

# -- what is done and seen -------------------------------------------------------------------------

SLOTS = 32
HOLD, MOVE0, ATTACK0, Q0, W0, RECALL = 0, 1, 9, 9 + SLOTS, 9 + 2 * SLOTS, 9 + 3 * SLOTS
ACTIONS = RECALL + 1
# Steps of the eight directions, in 1/256 of the speed, counted from "east" against the clock.
DIRECTIONS = np.array(
    [[256, 0], [181, 181], [0, 256], [-181, 181], [-256, 0], [-181, -181], [0, -256], [181, -181]], np.int32
)
ALLIES, ENEMIES, ENEMY_CREEPS, ALLY_CREEPS, ENEMY_BUILDINGS, ALLY_BUILDINGS, BOSS_SLOT = 0, 5, 10, 18, 22, 26, 30
FEATURES, SELF, CRITIC = 24, 56, 80

# -- what it pays ----------------------------------------------------------------------------------
# After OpenAI Five's table (arXiv 1912.06680, appendix G), with less for health and more for what is earned in lanes:
# with
# theirs, beginners learn within a million decisions that to meet anybody hurts, and hide.

PAY_WIN = 5.0  # to each hero of the winning side
PAY_ANCIENT = 5.0  # for the whole of the enemy's ancient, to each hero
PAY_TOWER = (2.25, 3.0)  # outer, inner: two thirds along its health, a third when it falls
PAY_BOSS = 1.5
PAY_DEATH, PAY_KILL = -0.5, 0.2  # beside what a kill brings in gold and experience
PAY_XP, PAY_GOLD = 0.005, 0.008
PAY_LAST_HIT = 0.0
PAY_HP = 1.0  # of (x + 1 - (1 - x)^4) / 2, x being the share of health
PAY_MANA = 0.3
FADE = 0.6  # what is not the win is worth this share after each four minutes
FADE_TICKS = 240 * S
