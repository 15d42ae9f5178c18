"""Our own trainer on `rift` skirmish against `laner`: processor time until it wins 60 %, as the peers here are asked.

    python benchmarks/peers/our_skirmish.py [--recipe recipes/rift-skirmish.toml] [--set train.epochs=3]

One process with one thread. Prints a JSON line for each evaluation: seconds of processor time spent on training (but
for the first update, in which kernels may be compiled), decisions of learning heroes, the share of 100 matches won from
the fountains, timeouts not won. Schedules follow the count of decisions, which neither evaluations nor other programs
change.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from cerulea.core.values import PlayProgress
from cerulea.games.catalog import make_game
from cerulea.games.match import BotPlayer, play_series
from cerulea.train.agent import Agent
from cerulea.train.parallel import Team
from cerulea.train.players import AgentPlayer
from cerulea.train.play_recipe import PlayRecipe
from cerulea.train.recipe import read_recipe
from cerulea.train.selfplay import Run


def share_won(run: Run, opponent: str, n: int) -> float:
    """What the policy as it is wins from the fountains."""
    agent = Agent(run.policy, run.game.schema, run.game.name, run.game.version, {})
    name = run.recipe.game.name
    player, other = AgentPlayer(agent), BotPlayer(opponent)
    series, _ = play_series(lambda m: make_game(name, m), player, other, names=("ours", opponent), n=n, seed=10_000)
    return series.wins_a / series.n


def main() -> None:
    """Train until it wins so much, or the time is up."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", type=Path, default=Path("recipes/rift-skirmish.toml"))
    parser.add_argument("--set", action="append", default=[], metavar="PART.KEY=VALUE")
    parser.add_argument("--decisions", type=float, default=8e6, help="at most; they end the schedules too")
    parser.add_argument("--every", type=float, default=60.0, help="training seconds between evaluations")
    parser.add_argument("--until", type=float, default=0.6)
    parser.add_argument("--opponent", default="laner")
    parser.add_argument("--matches", type=int, default=100)
    words = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    ends = ["train.minutes=0", f"train.agent_steps={int(words.decisions)}"]
    recipe = read_recipe(words.recipe, changes=[*words.set, *ends])
    assert isinstance(recipe, PlayRecipe)
    game = make_game(recipe.game.name, recipe.game.matches, **recipe.game.options)
    with tempfile.TemporaryDirectory() as folder:
        run = Run(recipe, [game], Path(folder), Team(), time.monotonic(), 0)
        run.start(False, None, print, None, {})
        trained, due, since = 0.0, words.every, time.process_time()
        for event in run.updates(lambda: ""):
            if not isinstance(event, PlayProgress):
                continue
            if event.step == 1:
                since = time.process_time()
            spent = trained + time.process_time() - since
            if spent < due and event.agent_steps < words.decisions:
                continue
            trained, won = spent, share_won(run, words.opponent, words.matches)
            told = {
                "trained_s": round(trained, 1),
                "agent_steps": event.agent_steps,
                "won": won,
                "training_shares": event.win_shares,
                "entropy": round(event.entropy, 3),
                "divergence": round(event.divergence, 4),
                "clipped": round(event.clipped, 3),
                "value_loss": round(event.value_loss, 3),
                "explained": round(event.explained_variance, 2),
                "episode_steps": round(event.episode_steps),
            }
            print(json.dumps(told), flush=True)
            if won >= words.until:
                break
            due, since = trained + words.every, time.process_time()
        run.close()


if __name__ == "__main__":
    main()
