"""The simulator: the same everywhere, the same for both sides, and nothing seen through fog."""

from __future__ import annotations

import numpy as np
import pytest
from numba import njit

from cerulea.core.errors import Invalid
from cerulea.games.conformance import check_game
from cerulea.games.game import observation_buffers
from cerulea.games.rift import rules as r
from cerulea.games.rift.env import Rift
from cerulea.games.rift.motion import free
from cerulea.games.rift.sight import look_around
from cerulea.games.rift.world import (
    ALIVE,
    BOSS_AT,
    BUFF_A,
    GOLD,
    HP,
    LANE,
    LEVEL,
    MAX_HP,
    ORDER_UNIT,
    SEEN_AT,
    SEEN_X,
    SEEN_Y,
    TARGET,
    TAUNT,
    TAUNT_BY,
    TICK,
    WINNER,
    X,
    Y,
)
from tests.games.playing import Played


@pytest.mark.parametrize("preset", ["duel", "skirmish", "rift"])
def test_rift_keeps_the_protocol(preset):
    check_game(lambda matches: Rift(preset, matches), steps=120)


def digests_of(game: Rift, steps: int, first: int = 0, tier: str = "") -> np.ndarray:
    played = Played(game, first=first)
    found = []
    for step in range(steps):
        if tier and step % 40 < 30:
            played.see()
            played.scripted(tier)
        else:
            played.random()
        found.append(game.digests())
    return np.array(found)


def test_threads_and_company_change_nothing():
    """State hashes are equal at every step across 1 and 2 threads, and in a match that is played alone."""
    one = digests_of(Rift("rift", 8), 150, tier="team")
    two = digests_of(Rift("rift", 8, threads=2), 150, tier="team")
    alone = digests_of(Rift("rift", 1), 150, first=5, tier="team")

    assert np.array_equal(one, two)
    assert np.array_equal(one[:, 5], alone[:, 0])


def swapped(game: Rift) -> Rift:
    """The same matches as the mirror image: A is B, and every place is turned about the middle."""
    other = Rift(game.name.removeprefix("rift-"), game.matches)
    state = game.state()
    unit, hero = state["unit"].copy(), state["hero"].copy()

    def places(count: int, first: int, size: int) -> list[int]:
        return [first + (i + size) % (2 * size) for i in range(count)]

    order = [
        *places(10, 0, 5),
        *places(2 * r.CREEPS, r.CREEP0, r.CREEPS),
        *places(12, r.TOWER0, 6),
        r.ANCIENT0 + 1,
        r.ANCIENT0,
        r.BOSS,
    ]
    turned = unit[:, :, order].copy()
    there = turned[:, MAX_HP] > 0
    for axis in (X, Y):
        turned[:, axis] = np.where(there | (turned[:, axis] != 0), r.SIZE - turned[:, axis], turned[:, axis])
    where = np.argsort(order)
    turned[:, TARGET] = np.where(turned[:, TARGET] >= 0, where[np.maximum(turned[:, TARGET], 0)], -1)
    taunted = turned[:, TAUNT_BY]
    turned[:, TAUNT_BY] = where[taunted]
    side = [*range(5, 10), *range(5)]
    hero = hero[:, :, side].copy()
    for axis in (SEEN_X, SEEN_Y):
        hero[:, axis] = np.where(hero[:, SEEN_AT] >= 0, r.SIZE - hero[:, axis], hero[:, axis])
    match = state["match"].copy()
    match[:, [BUFF_A, BUFF_A + 1]] = match[:, [BUFF_A + 1, BUFF_A]]
    match[:, WINNER] = np.where(match[:, WINNER] >= 0, 1 - match[:, WINNER], -1)
    other.restore(
        {
            **state,
            "unit": turned,
            "hero": hero,
            "match": match,
            "hurt": state["hurt"][:, side][:, :, side].copy(),
            "meter": state["meter"][:, side].copy(),
        }
    )
    for m in range(game.matches):
        look_around(other.world, m)
    return other


@pytest.mark.parametrize("preset", ["duel", "skirmish", "rift"])
def test_what_b_sees_of_the_mirror_image_is_what_a_sees_bit_for_bit(preset):
    played = Played(Rift(preset, 6))
    for step in range(400):
        played.see()
        played.scripted("team") if step % 50 < 40 else played.random()
        if step % 40 == 39:
            other = swapped(played.game)
            look = observation_buffers(other.schema, other.matches, other.players)
            played.see()
            other.observe(look)
            half = played.game.players // 2
            turned = [*range(half, 2 * half), *range(half)]
            for name in ("vector_MPF", "units_MPUF", "critic_MPF", "mask_MPN"):
                ours, theirs = getattr(played.look, name), getattr(look, name)[:, turned]
                assert np.array_equal(ours, theirs), (name, np.argwhere(ours != theirs)[:5])


def check_mirrored_steps(seed: int, steps: int, every: int) -> None:
    played = Played(Rift("rift", 6), seed=seed)
    played.game.world.match[:, BOSS_AT] = 10**6  # in which pit it stands is drawn, and a draw has no mirror image
    for step in range(steps):
        played.see()
        if step % every == every - 1:
            other = swapped(played.game)
            half = played.game.players // 2
            turned = [*range(half, 2 * half), *range(half)]
            before = played.game.state()
            for _ in range(5):
                played.random()
                mirror = _bound(other)
                mirror.step(played.actions[:, turned].copy())
                back = swapped(other)
                for name in ("unit", "hero", "match"):
                    ours, theirs = played.game.state()[name], back.state()[name]
                    if name == "hero":  # which unit an order is for is read anew in each decision
                        ours[:, ORDER_UNIT] = theirs[:, ORDER_UNIT] = 0
                    if name == "unit":  # who is not taunted is so by nobody, whatever is written there
                        for each in (ours, theirs):
                            each[:, TAUNT_BY] *= each[:, TAUNT] > 0
                    assert np.array_equal(ours, theirs), (name, step, np.argwhere(ours != theirs)[:4])
                assert np.array_equal(played.tick.reward_MP, mirror.tick.reward_MP[:, turned])
            played.game.restore(before)
            played.see()
        played.scripted("team") if step % 50 < 40 else played.random()


def test_the_mirror_image_of_a_step_is_the_step_of_the_mirror_image():
    """Random legal actions, mirrored with the heroes: after every step both worlds are still images of one another."""
    check_mirrored_steps(1, 300, 10)


@pytest.mark.deep
@pytest.mark.parametrize("seed", range(2, 22))
def test_the_mirror_image_of_a_step_is_that_in_whole_matches(seed):
    check_mirrored_steps(seed, 900, 5)


@njit
def _one_sided(x0: int, x1: int) -> int:
    """How many points one can stand at while one cannot at their mirror images."""
    count = 0
    for x in range(x0, x1):
        for y in range(-1, r.SIZE + 2):
            count += free(x, y) != free(r.SIZE - x, r.SIZE - y)
    return count


def test_every_point_of_the_map_is_free_exactly_where_its_mirror_image_is():
    assert _one_sided(-1, r.SIZE // 2 + 1) == 0


def _bound(game: Rift) -> Played:
    played = Played.__new__(Played)
    played.game, played.number = game, 0
    from cerulea.games.game import tick_buffers

    played.tick = tick_buffers(game.matches, game.players)
    return played


def test_units_in_the_fog_change_no_byte_of_what_is_seen():
    """Enemies that a side does not see are moved, hurt and made rich; its view stays as it was."""
    played = Played(Rift("rift", 8))
    draw = np.random.default_rng(3)
    moved = 0
    for step in range(600):
        played.see()
        played.scripted("team") if step % 50 < 40 else played.random()
        if step % 25 != 24:
            continue
        world, before = played.game.world, played.game.state()
        played.see()
        seen = {n: getattr(played.look, n)[:, :5].copy() for n in ("vector_MPF", "units_MPUF", "mask_MPN")}
        for m in range(played.game.matches):
            for u in [*range(5, 10), *range(r.CREEP0 + r.CREEPS, r.TOWER0)]:
                if world.unit[m, ALIVE, u] and not world.seen[m, 0, u]:
                    place = draw.integers(0, r.SIZE, 2)
                    # To where it still is not seen: far from everybody.
                    near = world.unit[m, :, :].astype(np.int64)
                    ours = [
                        *range(5),
                        *range(r.CREEP0, r.CREEP0 + r.CREEPS),
                        *range(r.TOWER0, r.TOWER0 + 6),
                        r.ANCIENT0,
                    ]
                    gap = (near[X, ours] - place[0]) ** 2 + (near[Y, ours] - place[1]) ** 2
                    if (gap[near[ALIVE, ours] > 0] > (12 * r.U) ** 2).all():
                        world.unit[m, X, u], world.unit[m, Y, u] = place
                        moved += 1
                    world.unit[m, HP, u] = max(1, world.unit[m, HP, u] // 2)
                    if u < 10:
                        world.hero[m, GOLD, u] += 777
                        world.hero[m, LEVEL, u] = 9
            look_around(world, m)
        played.see()
        for name, was in seen.items():
            assert np.array_equal(getattr(played.look, name)[:, :5], was), name
        played.game.restore(before)
    assert moved > 50


def test_every_legal_action_can_be_played_and_hold_is_always_legal():
    played = Played(Rift("rift", 4))
    for step in range(300):
        played.random() if step % 3 else played.scripted("laner")
        played.see()
        assert played.look.mask_MPN[..., r.HOLD].all()
        dead = played.game.world.unit[:, ALIVE, :10] == 0
        assert (played.look.mask_MPN.sum(-1)[dead] == 1).all()


def test_scripted_players_only_do_what_is_legal():
    for tier in ("pusher", "laner", "team", "team+"):
        played = Played(Rift("rift", 4))
        for _ in range(500):
            mask = played.see().mask_MPN.copy()
            alive = ~played.tick.ended_M
            played.scripted(tier)
            legal = np.take_along_axis(mask, played.actions.astype(np.int64), -1)[..., 0]
            assert legal[alive].all(), (tier, played.actions[~legal])


def test_a_match_that_goes_on_too_long_is_cut_off_and_nobody_is_paid_for_winning():
    game = Rift("duel", 1)
    played = Played(game)
    hold = np.zeros((1, 2, 1), np.int32)
    for _ in range(r.LIMIT):
        played.step(hold)
        if played.tick.ended_M[0]:
            break
    if played.number == r.LIMIT:
        assert played.tick.truncated_MP.all() and not played.tick.terminated_MP.any()
        assert (played.tick.reward_MP < r.PAY_WIN / 2).all()


def test_an_inner_tower_cannot_be_hurt_before_the_outer_one_fell():
    from cerulea.games.rift.combat import vulnerable

    game = Rift("rift", 1)
    unit, match = game.world.unit[0], game.world.match[0]
    outer, inner = r.TOWER0 + 2, r.TOWER0 + 3

    assert vulnerable(unit, match, outer) and not vulnerable(unit, match, inner)
    assert not vulnerable(unit, match, r.ANCIENT0)
    unit[ALIVE, outer] = 0
    assert vulnerable(unit, match, inner) and not vulnerable(unit, match, r.ANCIENT0)
    unit[ALIVE, inner] = 0
    assert vulnerable(unit, match, r.ANCIENT0)


def test_waves_come_every_twenty_seconds_with_a_siege_creep_in_each_third():
    game = Rift("rift", 1)
    played = Played(game)
    hold = np.zeros((1, 10, 1), np.int32)
    counts = []
    for step in range(1 + (r.WAVE_FIRST + 2 * r.WAVE_EVERY) // r.TICKS):
        before = int(game.world.match[0, 8])
        played.step(hold)
        if game.world.match[0, 8] != before:
            creeps = game.world.unit[0, :, r.CREEP0 : r.TOWER0]
            counts.append((step, int((creeps[ALIVE] & (creeps[LANE] == 1)).sum())))
    assert [step for step, _ in counts] == [(r.WAVE_FIRST + k * r.WAVE_EVERY) // r.TICKS for k in range(3)]
    assert counts[0][1] == 8
    assert game.world.match[0, TICK] == 2 * played.number


@pytest.mark.parametrize("scatter", ["x", -0.1, 1.1, 1e308, float("nan"), None])
def test_a_scatter_that_is_no_share_is_refused(scatter):
    with pytest.raises(Invalid, match="scatter"):
        Rift("duel", 1, scatter=scatter)
