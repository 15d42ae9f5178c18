"""How fast the simulator of `rift` is, with observations and masks, on one thread and on more.

One round is `observe` and `step` of all matches. Actions are random legal ones, or those of a scripted tier; to
choose them is timed by itself and is not part of the rate, nor is the beginning of new matches in place of ended
ones. Rounds of different thread counts take turns on copies of the same matches, so that all of them meet the same
noise; the figures are medians over blocks of rounds. Per second of wall clock, and per second of processor time,
which says more on a machine that others use too.

    python benchmarks/rift.py                           # 256 matches of each preset, 1 and 2 threads
    python benchmarks/rift.py --presets rift --play team --threads 1
    python benchmarks/rift.py --start                   # seconds until the first decision, kernels compiled or kept
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from statistics import median
from time import perf_counter, process_time

import numpy as np
from numba import njit

from cerulea.games.game import observation_buffers, tick_buffers
from cerulea.games.rift.env import BOTS, Rift
from cerulea.games.rift.world import drawn

PRESETS = ("rift", "skirmish", "duel")


@njit(cache=True, nogil=True)
def choose(mask_MPN, step, action_MPA):
    """A legal action for everybody, each with the same chance."""
    for m in range(mask_MPN.shape[0]):
        for p in range(mask_MPN.shape[1]):
            legal = 0
            for n in range(mask_MPN.shape[2]):
                legal += mask_MPN[m, p, n]
            k = int(drawn(np.uint64(m), step, p) % np.uint64(legal))
            for n in range(mask_MPN.shape[2]):
                if mask_MPN[m, p, n]:
                    if k == 0:
                        action_MPA[m, p, 0] = n
                        break
                    k -= 1


class Bench:
    """Matches with their buffers, and the time that each part of their rounds took."""

    def __init__(self, preset: str, matches: int, threads: int, play: str) -> None:
        self.game = Rift(preset, matches, threads=threads)
        self.look = observation_buffers(self.game.schema, matches, self.game.players)
        self.tick = tick_buffers(matches, self.game.players)
        self.action_MPA = np.zeros((matches, self.game.players, 1), np.int32)
        tier = BOTS.index(play) if play in BOTS else -1
        self.bot_MP = np.full((matches, self.game.players), tier, np.int8)
        self.number = 0
        self.game.reset(np.arange(matches, dtype=np.uint64))

    def block(self, rounds: int) -> tuple[float, float, float, float]:
        """So many rounds: seconds of observing, of stepping, of processor time of both, and of choosing."""
        observed = stepped = worked = chosen = 0.0
        for _ in range(rounds):
            if self.tick.ended_M.any():
                self.game.reset(
                    np.arange(len(self.tick.ended_M), dtype=np.uint64) + np.uint64(self.number), self.tick.ended_M
                )
                self.tick.ended_M[:] = False
            at, cpu = perf_counter(), process_time()
            self.game.observe(self.look)
            seen, cpu_seen = perf_counter(), process_time()
            if self.bot_MP[0, 0] < 0:
                choose(self.look.mask_MPN, self.number, self.action_MPA)
            else:
                self.game.script(self.bot_MP, self.action_MPA)
            ready, cpu_ready = perf_counter(), process_time()
            self.game.step(self.action_MPA, self.tick)
            done, cpu_done = perf_counter(), process_time()
            observed, stepped, chosen = observed + seen - at, stepped + done - ready, chosen + ready - seen
            worked += cpu_seen - cpu + cpu_done - cpu_ready
            self.number += 1
        return observed, stepped, worked, chosen


def print_speed(
    presets: Sequence[str], play: str, matches: int, threads: Sequence[int], blocks: int, rounds: int
) -> None:
    """Hero-decisions per second for every preset and thread count."""
    print(f"{play} actions, {matches} matches, medians of {blocks} blocks of {rounds} rounds")
    print("| preset | threads | hero-decisions/s | per processor-s | best block | observe us | step us | choose us |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    for preset in presets:
        benches = [Bench(preset, matches, n, play) for n in threads]
        for bench in benches:
            bench.block(150)  # matches are under way, kernels are there
        took: list[list[tuple[float, float, float, float]]] = [[] for _ in benches]
        for _ in range(blocks):
            for bench, times in zip(benches, took, strict=True):
                times.append(bench.block(rounds))
        for bench, times in zip(benches, took, strict=True):
            work = rounds * matches * bench.game.players
            each = 1e6 / rounds / matches  # seconds of a block to microseconds of one match's decision
            rate = median(work / (t[0] + t[1]) for t in times)
            cpu = median(work / t[2] for t in times)
            best = max(work / (t[0] + t[1]) for t in times)
            looked, stepped, chosen = (each * median(t[k] for t in times) for k in (0, 1, 3))
            print(
                f"| {preset} | {bench.game.threads} | {rate:,.0f} | {cpu:,.0f} | {best:,.0f} "
                f"| {looked:.1f} | {stepped:.1f} | {chosen:.1f} |",
                flush=True,
            )


FIRST = """
from time import perf_counter, process_time
began = perf_counter()
import numpy as np
from cerulea.games.rift.env import Rift
from cerulea.games.game import observation_buffers, tick_buffers
game = Rift("rift", 2, threads={threads})
look, tick = observation_buffers(game.schema, 2, 10), tick_buffers(2, 10)
game.observe(look)
game.step(np.zeros((2, 10, 1), np.int32), tick)
print(f"{{perf_counter() - began:.1f}} s, {{process_time():.1f}} s of processor time")
"""


def print_start(threads: Sequence[int]) -> None:
    """Seconds from the start of Python to the first decision, with an empty folder of kernels and with a full one."""
    for n in threads:
        with tempfile.TemporaryDirectory() as folder:
            for kept in ("nothing kept", "kernels kept"):
                line = subprocess.run(
                    [sys.executable, "-c", FIRST.format(threads=n)],
                    env={**os.environ, "NUMBA_CACHE_DIR": folder},
                    check=True,
                    capture_output=True,
                    text=True,
                ).stdout.strip()
                print(f"{n} thread(s), {kept}: {line}", flush=True)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", nargs="+", default=PRESETS, choices=PRESETS)
    parser.add_argument("--matches", type=int, default=256)
    parser.add_argument("--threads", nargs="+", type=int, default=(1, 2))
    parser.add_argument("--play", default="random", choices=("random", *BOTS))
    parser.add_argument("--blocks", type=int, default=9)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--start", action="store_true", help="seconds until the first decision, and nothing else")
    args = parser.parse_args()
    if args.start:
        print_start(args.threads)
        return
    load = os.getloadavg()[0]
    print(f"{platform.machine()}, {os.cpu_count()} cores, load {load:.1f} when it began\n")
    print_speed(args.presets, args.play, args.matches, args.threads, args.blocks, args.rounds)


if __name__ == "__main__":
    main()
