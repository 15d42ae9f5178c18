"""How strong the scripted tiers of `rift` are, one against the next, and whether its sides and heroes are even.

Each tier plays the one below, sides swapped by halves; a timeout is nobody's win. Then the strongest plays itself: the
share of decided matches that side A wins, and, with heroes drawn by lot, the share that each hero wins.

    python benchmarks/rift_tiers.py                           # 400 matches a pair, 2,000 of `team` against itself
    python benchmarks/rift_tiers.py --presets rift-duel --matches 100 --mirror 500
    python benchmarks/rift_tiers.py --cost                    # what the bots cost beside the simulator
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter, process_time

import numpy as np
from numpy.typing import NDArray

from cerulea.core.seeds import mixed
from cerulea.games.catalog import make_game
from cerulea.games.game import observation_buffers, tick_buffers
from cerulea.games.match import random_actions, wilson
from cerulea.games.rift import rules as r
from cerulea.games.rift.world import KIND

TIERS = ("random", "pusher", "laner", "team", "team+")
PRESETS = ("rift-duel", "rift-skirmish", "rift")
TOGETHER = 400  # matches at once


@dataclass(frozen=True, slots=True)
class Played:
    """Matches that ended: arrays of one value for each, in pairs of one seed with the sides swapped."""

    winner_M: NDArray[np.int8]  # side; -1 for a draw
    cut_M: NDArray[np.bool_]
    minutes_M: NDArray[np.float64]
    kind_MP: NDArray[np.int32]  # whose hero each player had
    meter_MPF: NDArray[np.float32]

    @property
    def decided(self) -> NDArray[np.bool_]:
        """Matches that somebody won within the time."""
        return ~self.cut_M & (self.winner_M >= 0)


def play(name: str, tier_A: str, tier_B: str, matches: int, seed: int, *, swapped: bool, **options: str) -> Played:
    """So many matches of two tiers. With `swapped`, in every second one they change sides and play the same seed."""
    parts = []
    for first in range(0, matches, TOGETHER):
        number_M = np.arange(first, min(first + TOGETHER, matches))
        seed_M = np.array([mixed(seed, n // 2 if swapped else n) for n in number_M.tolist()], np.uint64)
        parts.append(_play(name, (tier_A, tier_B), seed_M, (number_M % 2 == 1) & swapped, options))
    return Played(*(np.concatenate([getattr(p, f) for p in parts]) for f in Played.__dataclass_fields__))


def _play(
    name: str, tiers: Sequence[str], seed_M: NDArray[np.uint64], swapped_M: NDArray[np.bool_], options: dict[str, str]
) -> Played:
    game = make_game(name, len(seed_M), **options)
    side_MP = np.array(game.teams)[None] ^ swapped_M[:, None]  # 0 where the first tier plays
    names = ("random", *game.bots)
    bot_MP = np.where(side_MP == 0, names.index(tiers[0]), names.index(tiers[1])).astype(np.int8) - 1
    look = observation_buffers(game.schema, game.matches, game.players)
    tick = tick_buffers(game.matches, game.players)
    action_MPA = np.zeros((game.matches, game.players, 1), np.int32)
    cut_M = np.zeros(game.matches, np.bool_)
    steps_M = np.zeros(game.matches)
    game.reset(seed_M)
    kind_MP = game.world.hero[:, KIND, game.heroes].copy()
    step = 0
    while not tick.ended_M.all():
        if (bot_MP < 0).any():
            game.observe(look)
            random_MPA = random_actions(look.mask_MPN, game.schema.heads, seed_M, step)
            action_MPA[bot_MP < 0] = random_MPA[bot_MP < 0]
        steps_M += ~tick.ended_M
        game.script(bot_MP, action_MPA)
        game.step(action_MPA, tick)
        cut_M |= tick.truncated_MP.any(1)
        step += 1
    meter_MPF = np.zeros((game.matches, game.players, len(game.meters)), np.float32)
    game.read_meters(meter_MPF)
    # Winners as the first tier (0) or the second (1) rather than as sides, where sides were swapped.
    winner_M = np.where(tick.winner_M < 0, -1, tick.winner_M ^ swapped_M).astype(np.int8)
    return Played(winner_M, cut_M, steps_M * game.step_s / 60, kind_MP, meter_MPF)


def share(wins: int, n: int) -> str:
    """A share with its interval of 95 %."""
    low, high = wilson(wins, n)
    return f"{100 * wins / max(n, 1):.1f} % ({100 * low:.1f}-{100 * high:.1f})"


def print_ladder(presets: Sequence[str], matches: int, seed: int) -> None:
    """Each tier against the one below it."""
    print("| preset | tier | against | won (95 %) | lost | timeouts | median min | of 400, as A | as B |")
    print("|---|---|---|---|---:|---:|---:|---:|---:|")
    for name in presets:
        for weak, strong in itertools.pairwise(TIERS):
            played = play(name, strong, weak, matches, seed, swapped=True)
            won_M = played.decided & (played.winner_M == 0)
            lost = int((played.decided & (played.winner_M == 1)).sum())
            print(
                f"| {name} | {strong} | {weak} | {share(int(won_M.sum()), matches)} | {lost} "
                f"| {int(played.cut_M.sum())} "
                f"| {np.median(played.minutes_M):.1f} | {int(won_M[::2].sum())} | {int(won_M[1::2].sum())} |",
                flush=True,
            )


def print_mirror(presets: Sequence[str], matches: int, seed: int, tier: str) -> None:
    """A tier against itself: sides, lengths, timeouts."""
    print(
        "| preset | decided | side A won (95 %) | timeouts | minutes: 10 %, median, 90 % | deaths a hero | last hits |"
    )
    print("|---|---:|---|---:|---|---:|---:|")
    for name in presets:
        played = play(name, tier, tier, matches, seed, swapped=False)
        decided = int(played.decided.sum())
        won = int((played.decided & (played.winner_M == 0)).sum())
        low, middle, high = np.percentile(played.minutes_M, (10, 50, 90))
        mean_F = played.meter_MPF.mean((0, 1))
        print(
            f"| {name} | {decided} | {share(won, decided)} | {int(played.cut_M.sum())} "
            f"| {low:.1f}, {middle:.1f}, {high:.1f} | {mean_F[1]:.1f} | {mean_F[3]:.0f} |",
            flush=True,
        )


def hero_shares(played: Played) -> list[tuple[int, int]]:
    """(Won, decided) of each hero, over the matches where just one of the sides has it."""
    players = played.kind_MP.shape[1] // 2
    out = []
    for kind in range(len(r.HERO_NAMES)):
        in_A_M = (played.kind_MP[:, :players] == kind).any(1)
        in_B_M = (played.kind_MP[:, players:] == kind).any(1)
        told_M = played.decided & (in_A_M != in_B_M)
        won_M = told_M & (played.winner_M == np.where(in_A_M, 0, 1))
        out.append((int(won_M.sum()), int(told_M.sum())))
    return out


def print_heroes(presets: Sequence[str], matches: int, seed: int, tier: str) -> None:
    """A tier against itself with heroes drawn for each side: what each hero wins where only one side has it."""
    print("| preset | " + " | ".join(r.HERO_NAMES) + " |")
    print("|---|" + "---|" * len(r.HERO_NAMES))
    for name in presets:
        if len(r.PRESETS[name.removeprefix("rift-")][0]) == len(r.HERO_NAMES):
            continue  # both sides have all of them
        played = play(name, tier, tier, matches, seed, swapped=False, draft="mixed")
        print(f"| {name} | " + " | ".join(share(*pair) for pair in hero_shares(played)) + " |", flush=True)


def print_cost(presets: Sequence[str], matches: int = 64, steps: int = 600) -> None:
    """Microseconds of one match's decision, on one core: choosing actions, and stepping the simulator."""
    print("| preset | tier | script, us | step, us | step and observe, us |")
    print("|---|---|---:|---:|---:|")
    for name in presets:
        for tier in TIERS[1:]:
            game = make_game(name, matches)
            look = observation_buffers(game.schema, matches, game.players)
            tick = tick_buffers(matches, game.players)
            bot_MP = np.full((matches, game.players), game.bots.index(tier), np.int8)
            action_MPA = np.zeros((matches, game.players, 1), np.int32)
            spent = np.zeros(3)
            for step in range(steps + 5):
                if step == 5:
                    spent[:] = 0  # the kernels are there by now
                if tick.ended_M.any():
                    game.reset(np.arange(matches, dtype=np.uint64) + np.uint64(step * matches), tick.ended_M)
                began = perf_counter()
                game.script(bot_MP, action_MPA)
                chosen = perf_counter()
                game.step(action_MPA, tick)
                stepped = perf_counter()
                game.observe(look)
                spent += (chosen - began, stepped - chosen, perf_counter() - stepped)
            script, moved, shown = spent / steps / matches * 1e6
            print(f"| {name} | {tier} | {script:.1f} | {moved:.1f} | {moved + shown:.1f} |", flush=True)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", nargs="+", default=PRESETS, choices=PRESETS)
    parser.add_argument("--matches", type=int, default=400, help="of each pair of tiers; 0 for none")
    parser.add_argument("--mirror", type=int, default=2_000, help="of a tier against itself; 0 for none")
    parser.add_argument("--tier", default="team", choices=TIERS[1:], help="that plays itself")
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--cost", action="store_true", help="what the bots cost, and nothing else")
    args = parser.parse_args()
    began = process_time()
    if args.cost:
        print_cost(args.presets)
        return
    if args.matches:
        print_ladder(args.presets, args.matches, args.seed)
    if args.mirror:
        print()
        print_mirror(args.presets, args.mirror, args.seed, args.tier)
        print()
        print_heroes(args.presets, args.mirror, args.seed, args.tier)
    print(f"\n{process_time() - began:.0f} s of one core, version {r.VERSION}")


if __name__ == "__main__":
    main()
