"""Self-play under the platform: killed, paused for money and resumed, it ends as if nothing had happened."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cerulea.core.settings import read_settings
from cerulea.flows.platform import open_platform
from cerulea.flows.replays import find_replay
from cerulea.ledger.audit import audit
from cerulea.train.record import read_metrics
from tests.running import Up, kill
from tests.toy_games import PLAY

from .test_up import at_step, submit, weights

STEPS = 120
RECIPE = {**PLAY, "train": {**PLAY["train"], "steps": STEPS, "checkpoint_steps": 10}}
PRICES = """
[[price]]
sku = "device_ms.cpu"
nanos = 0
per = 1
from = 2026-01-02
source = "the test's own"
[[price]]
sku = "agent_steps"
nanos = 1_000_000  # 0.001 a decision
per = 1
from = 2026-01-02
source = "the test's own"
"""

pytestmark = pytest.mark.slow


def up_in(home: Path) -> Up:
    home.mkdir(exist_ok=True)
    (home / "prices.toml").write_text(PRICES, encoding="utf-8")
    return Up(home)


def ratings(up: Up, job: str) -> list[tuple[Any, ...]]:
    """What every step of the run told that the clock has no part in."""
    lines = read_metrics(up.home / "runs" / up.job(job)["run"] / "metrics.jsonl")
    names = ("step", "agent_steps", "matches", "loss", "entropy", "rating")
    return [tuple(line[name] for name in names) for line in lines if line["event"] == "progress"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the job is when nothing happens to it."""
    with up_in(tmp_path_factory.mktemp("undisturbed") / "home") as up:
        job = submit(up, RECIPE)
        done = up.wait_until(job, "SUCCEEDED")
        told = ratings(up, job)
        assert done["usage"]["agent_steps"] == told[-1][1] and done["usage"]["trained_tokens"] == 0
        assert float(done["cost"]) == pytest.approx(told[-1][1] / 1000)
        assert done["result"]["low"] <= done["result"]["rating"] <= done["result"]["high"]
        return {"told": told, "weights": weights(up, job), "cost": done["cost"]}


def same(up: Up, job: str, undisturbed: dict[str, Any]) -> None:
    assert ratings(up, job) == undisturbed["told"]
    assert weights(up, job) == undisturbed["weights"]
    assert up.job(job)["cost"] == undisturbed["cost"]
    with open_platform(read_settings({}, home=up.home)) as platform:
        assert audit(platform.database).problems == []


def test_the_script_of_the_docs_plays_a_match(tmp_path: Path):
    text = (Path(__file__).resolve().parents[2] / "docs" / "games.md").read_text(encoding="utf-8")
    (script,) = re.findall(r"```python\n(import json.*?)```", text, flags=re.DOTALL)
    with Up(tmp_path / "home", workers=0) as up:
        script = script.replace("127.0.0.1:7777", up.url.removeprefix("http://"))
        environment = {**os.environ, "CERULEA_KEY": up.key}
        done = subprocess.run(
            [sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=120
        )

        assert done.returncode == 0, done.stderr
        replay = done.stdout.removeprefix("replay: ").strip()
        kept = find_replay(read_settings({}, home=up.home), replay)
        assert kept.game == "connect-four" and kept.winner in (-1, 0, 1)


def test_the_worker_of_a_run_is_killed(tmp_path: Path, undisturbed: dict[str, Any]):
    with up_in(tmp_path / "home") as up:
        job = submit(up, RECIPE)
        at_step(up, job, 30)
        kill(up.child("job"))
        done = up.wait_until(job, "SUCCEEDED")

        same(up, job, undisturbed)
        assert [attempt["outcome"] for attempt in done["attempts"]] == ["lost", "done"]
        assert done["attempts"][1]["resumed_step"] >= 30


def test_money_for_a_part_pauses_a_run_and_more_finishes_it(tmp_path: Path, undisturbed: dict[str, Any]):
    whole = float(undisturbed["cost"])
    with up_in(tmp_path / "home") as up:
        up.cli("fund", "create", "lab")
        up.cli("fund", "grant", "lab", f"{2 * whole:.3f}")
        up.cli("fund", "draw", "lab", "home", f"{0.4 * whole:.3f}")
        job = submit(up, RECIPE, fund="lab")
        paused = up.wait_until(job, "PAUSED")
        assert paused["reason"] == "budget" and float(paused["cost"]) <= 0.4 * whole

        up.cli("fund", "draw", "lab", "home", f"{whole:.3f}")
        up.wait_until(job, "SUCCEEDED")

        same(up, job, undisturbed)
        estimate = up.post("/estimate", {"recipe": {**RECIPE, "train": {**RECIPE["train"], "agent_steps": 9_000}}})
        assert (estimate["agent_steps"], estimate["parameters"], estimate["tokens"]) == (9_000, None, None)
