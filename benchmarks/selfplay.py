"""Decisions a second of a whole self-play run, and where the time goes: simulate, infer, learn.

    python -m benchmarks.selfplay --game rift --matches 64 --updates 10

Each line is one way to use the cores: processes x threads of torch. The ways take turns, ROUNDS times, and the median
of each is told; everything is compiled and warm before it is timed. The start to the first update is told apart.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROUNDS = 3
WARM = 3


def one(game_name: str, matches: int, updates: int, minibatch: int, threads: int, mode: str) -> None:
    """A process of a team: prints what it measured as JSON."""
    began = time.perf_counter()
    import torch

    from cerulea.core.values import PlayProgress
    from cerulea.games.catalog import make_game
    from cerulea.train.parallel import join_team, leave_team
    from cerulea.train.recipe import recipe_from
    from cerulea.train.selfplay import Run

    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    team = join_team(torch.device("cpu"))
    recipe = recipe_from(
        {
            "kind": "selfplay",
            "name": "bench",
            "game": {"name": game_name, "matches": matches},
            "train": {"steps": 10_000, "minibatch": minibatch, "checkpoint_minutes": 0.0},
            "opponents": {"mode": mode},
        }
    )
    game = make_game(game_name, matches // team.ranks)
    with tempfile.TemporaryDirectory() as folder:
        run = Run(recipe, [game], Path(folder), team, time.monotonic(), 0)
        run.start(False, None, print, None, {})
        parts = {"simulate": 0.0, "infer": 0.0, "learn": 0.0}
        number, start_s, timed = 0, 0.0, 0.0
        for event in run.updates(lambda: ""):
            if not isinstance(event, PlayProgress):
                continue
            number += 1
            if number == 1:
                start_s = time.perf_counter() - began
            if number == WARM:
                timed = time.perf_counter()
            elif number > WARM:
                parts["simulate"] += run.players[0].simulate_s
                parts["infer"] += run.players[0].infer_s
                parts["learn"] += run.learn_s
            if number == WARM + updates:
                break
        seconds = time.perf_counter() - timed
        if team.leads:
            steps = updates * recipe.train.rollout * matches * game.players
            print(
                json.dumps({"rate": steps / seconds, "start_s": start_s, **{k: v / seconds for k, v in parts.items()}})
            )
        run.close()
    leave_team()


def measured(words: list[str], processes: int, threads: int) -> dict[str, float]:
    """One run of a way."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "benchmarks.selfplay", *words, "--threads", str(threads)]
    base = {**os.environ, "OMP_NUM_THREADS": str(threads), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    team = [
        subprocess.Popen(
            command, env={**base, "RANK": str(rank), "WORLD_SIZE": str(processes)}, stdout=subprocess.PIPE, text=True
        )
        for rank in range(processes)
    ]
    told = team[0].communicate()[0]
    for other in team[1:]:
        other.communicate()
    return json.loads(told.strip().splitlines()[-1])


def main() -> None:
    """Measure every way, in turns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--game", default="rift")
    parser.add_argument("--matches", type=int, default=64)
    parser.add_argument("--updates", type=int, default=10)
    parser.add_argument("--minibatch", type=int, default=2048)
    parser.add_argument("--mode", default="openai-five")
    parser.add_argument("--ways", default="1x1,1x2,2x1", help="processes x threads")
    parser.add_argument("--threads", type=int, default=0, help="(inner) one process of a way")
    given = parser.parse_args()
    if given.threads:
        one(given.game, given.matches, given.updates, given.minibatch, given.threads, given.mode)
        return
    words = ["--game", given.game, "--matches", str(given.matches), "--updates", str(given.updates)]
    words += ["--minibatch", str(given.minibatch), "--mode", given.mode]
    ways = [tuple(int(n) for n in way.split("x")) for way in given.ways.split(",")]
    found: dict[tuple[int, ...], list[dict[str, float]]] = {way: [] for way in ways}
    for _ in range(ROUNDS):
        for way in ways:
            found[way].append(measured(words, *way))
    print(f"{given.game}, {given.matches} matches, minibatch {given.minibatch}, {given.updates} updates, {given.mode}")
    print("processes x threads   decisions/s   best   simulate  infer  learn   start s")
    for way, runs in found.items():
        middle = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        print(
            f"{way[0]} x {way[1]:<17} {middle['rate']:11,.0f} {max(run['rate'] for run in runs):9,.0f}"
            f" {middle['simulate']:8.0%} {middle['infer']:6.0%} {middle['learn']:6.0%} {middle['start_s']:8.1f}"
        )


if __name__ == "__main__":
    main()
