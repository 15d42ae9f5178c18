"""What the platform costs: start-up times, the time to a job's first step, and training under it against training bare.

    python benchmarks/overhead.py [--rounds N]

Prints one line for each figure. Under the platform and bare are run in turn, in one process, on the same shards; the
ratio is of medians of tokens per second, without the first steps. Starts are timed from outside, as a user meets them.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "2")

import httpx

from cerulea.core.settings import read_settings
from cerulea.core.values import Progress
from cerulea.flows.here import train_here
from cerulea.flows.train import train
from cerulea.train.recipe import recipe_from

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests.running import Up

WARM = 20  # steps at the beginning that are not counted
RECIPE: dict[str, Any] = {
    "kind": "text",
    "name": "measured",
    "data": {"train": ["stdlib"], "valid_fraction": 0.02},
    "tokenizer": {"kind": "bytes"},
    "model": {"preset": "modern", "layers": 4, "width": 128, "heads": 4, "context": 128},
    "train": {
        "steps": 220,
        "batch_tokens": 1024,
        "eval_steps": 0,
        "checkpoint_steps": 100,
        "sample_tokens": 0,
        "seed": 1,
    },
}


def seconds(command: list[str], rounds: int) -> list[float]:
    """Wall-clock times of a command."""
    took = []
    for _ in range(rounds):
        began = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        took.append(time.perf_counter() - began)
    return sorted(took)


def pace(events: Iterator[Any]) -> float:
    """Seconds of a step, over all steps but the first ones: checkpoints and reports between them included."""
    stamps = [time.perf_counter() for event in events if isinstance(event, Progress)]
    return (stamps[-1] - stamps[WARM]) / (len(stamps) - 1 - WARM)


def overhead(rounds: int) -> tuple[float, list[float]]:
    """Median ratio of a step's time, under the platform over bare, and all ratios."""
    ratios = []
    with tempfile.TemporaryDirectory() as folder:
        settings = read_settings(home=Path(folder))
        recipe = recipe_from(RECIPE)
        pace(train(settings, recipe))  # packs, warms caches; not counted
        for number in range(rounds):
            pair = {}
            for under in (True, False) if number % 2 else (False, True):
                run = train_here(settings, recipe) if under else train(settings, recipe)
                pair[under] = pace(run)
            ratios.append(pair[True] / pair[False])
    return median(ratios), ratios


def starts(rounds: int) -> dict[str, list[float]]:
    """From `cerulea up` to an answer; from a submission to a running job; from a step to its metric over SSE."""
    took: dict[str, list[float]] = {"up": [], "start": [], "metric": []}
    with tempfile.TemporaryDirectory() as folder:
        up = Up(Path(folder))
        for _ in range(rounds):
            began = time.perf_counter()
            up.start()
            took["up"].append(time.perf_counter() - began)
            began = time.perf_counter()
            job = up.post("/jobs", {"recipe": RECIPE})["id"]
            up.wait_until(job, "RUNNING", "SUCCEEDED")
            took["start"].append(time.perf_counter() - began)
            took["metric"] += _metric_delays(up, job)
            up.post(f"/jobs/{job}/cancel", {})
            up.wait_until(job, "CANCELLED")
            up.stop()
            up.said.clear()
    return took


def _metric_delays(up: Up, job: str, count: int = 20) -> list[float]:
    """Seconds between the moment that a step's metrics were noted and their arrival over SSE."""
    delays: list[float] = []
    headers = {"Authorization": f"Bearer {up.key}", "Accept": "text/event-stream"}
    with httpx.stream("GET", f"{up.url}/api/jobs/{job}/stream", headers=headers, timeout=60, trust_env=False) as answer:
        for line in answer.iter_lines():
            if not line.startswith("data:") or '"progress"' not in line:
                continue
            delays.append(time.time() - datetime.fromisoformat(json.loads(line[5:])["at"]).timestamp())
            if len(delays) == count:
                break
    return delays


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pairs", type=int, default=15, help="of runs under the platform and bare")
    words = parser.parse_args()
    rounds = words.rounds
    help_s = seconds([str(Path(sys.executable).with_name("cerulea")), "--help"], 4 * rounds)
    print(f"cerulea --help                 median {median(help_s) * 1000:.0f} ms, fastest {help_s[0] * 1000:.0f} ms")
    took = starts(rounds)
    print(f"cerulea up answers after       median {median(took['up']):.2f} s, slowest {max(took['up']):.2f} s")
    print(f"a job runs after submitting    median {median(took['start']):.2f} s, slowest {max(took['start']):.2f} s")
    print(f"a metric is there over SSE     median {median(took['metric']):.2f} s, slowest {max(took['metric']):.2f} s")
    middle, ratios = overhead(words.pairs)
    print(f"a step under the platform      {middle:.4f} of a bare one (ratios {', '.join(f'{r:.3f}' for r in ratios)})")


if __name__ == "__main__":
    main()
