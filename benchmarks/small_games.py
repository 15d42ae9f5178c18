"""Steps per second of the small games and of what goes through adapters, with random legal actions, one thread.

    NUMBA_NUM_THREADS=1 OMP_NUM_THREADS=1 python benchmarks/small_games.py

Prints agent-steps (a decision of a player, also of who waits for its turn) per second of this process's CPU time: the
median of ROUNDS rounds, in which the games take turns, so that a slow minute is slow for all. The scripted player of
Connect Four by itself, in ms for 256 matches.
"""

from __future__ import annotations

from statistics import median
from time import process_time

import numpy as np

from cerulea.games.catalog import make_game
from cerulea.games.game import Game, observation_buffers, tick_buffers
from cerulea.games.match import random_actions

ROUNDS, SECONDS = 7, 0.7
PURSUIT = {"n_pursuers": 4, "n_evaders": 8, "x_size": 8, "y_size": 8, "surround": False, "max_cycles": 60}
GAMES = {
    "cartpole": (64, {}),
    "gymnasium:CartPole-v1": (64, {}),
    "connect-four": (256, {}),
    "pettingzoo:classic.connect_four_v3": (32, {}),
    "pettingzoo:sisl.pursuit_v5": (8, PURSUIT),
}


def steps_per_s(game: Game, seconds: float) -> float:
    """Agent-steps per second of CPU in one block, resets included."""
    look, tick = observation_buffers(game.schema, game.matches, game.players), tick_buffers(game.matches, game.players)
    seeds = np.arange(game.matches).astype(np.uint64)
    game.reset(seeds)
    start, steps = process_time(), 0
    while (now := process_time() - start) < seconds:
        game.observe(look)
        game.step(random_actions(look.mask_MPN, game.schema.heads, seeds, steps), tick)
        steps += 1
        if tick.ended_M.any():
            game.reset(seeds + np.uint64(steps), tick.ended_M.copy())
    return steps * game.matches * game.players / now


def taker_ms() -> float:
    """One call of Connect Four's scripted player, for 256 matches in their middle."""
    game = make_game("connect-four", 256)
    steps_per_s(game, 0.01)
    out = np.zeros((256, 2, 1), np.int32)
    start = process_time()
    for _ in range(20):
        game.script(np.zeros((256, 2), np.int8), out)
    return (process_time() - start) / 20 * 1e3


def main() -> None:
    """Print the figures."""
    games = {name: make_game(name, matches, **options) for name, (matches, options) in GAMES.items()}
    for game in games.values():
        steps_per_s(game, 0.2)
    rounds = [{name: steps_per_s(game, SECONDS) for name, game in games.items()} for _ in range(ROUNDS)]
    for name in games:
        print(f"{name:40s} {median(each[name] for each in rounds):12,.0f} agent-steps/s")
    print(f"{'bot taker, 256 matches':40s} {median(taker_ms() for _ in range(ROUNDS)):12.2f} ms")


if __name__ == "__main__":
    main()
