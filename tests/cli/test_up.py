"""`cerulea up` as a whole: jobs outlive whatever dies, and cost what they would have cost undisturbed.

Each test runs the real tree of processes on a free port; what is killed is killed with SIGKILL.
"""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from cerulea.core.settings import read_settings
from cerulea.flows.platform import open_platform
from cerulea.flows.runs import loss_curve
from cerulea.ledger.audit import audit
from tests.conftest import prose
from tests.running import Up, alive, descendants, kill

# Charged by tokens, so that the same work costs the same however long a busy machine takes over it.
PRICES = """
[[price]]
sku = "device_ms.cpu"
nanos = 0
per = 1
from = 2026-01-02
source = "the test's own"
[[price]]
sku = "trained_tokens"
nanos = 1_000_000  # 0.001 a token
per = 1
from = 2026-01-02
source = "the test's own"
"""
BATCH = 256
RECIPE: dict[str, Any] = {
    "kind": "text",
    "name": "tiny",
    "data": {"train": [], "valid_fraction": 0.2},
    "tokenizer": {"kind": "bytes"},
    "model": {"preset": "modern", "layers": 2, "width": 32, "heads": 2, "context": 32},
    "train": {
        "steps": 240,
        "batch_tokens": BATCH,
        "eval_steps": 0,
        "checkpoint_steps": 20,
        "seed": 1,
        "sample_tokens": 0,
        # Runs in homes of their own are compared: a probe on a busy machine may choose otherwise in each.
        "precision": "fp32",
        "compile": "off",
    },
}
STEPS = RECIPE["train"]["steps"]
PRICE = f"{STEPS * BATCH // 1000}.{STEPS * BATCH % 1000:03d}".rstrip("0")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    (folder / "prices.toml").write_text(PRICES, encoding="utf-8")
    return folder


@pytest.fixture
def recipe(corpus_folder: Path) -> dict[str, Any]:
    return {**RECIPE, "data": {**RECIPE["data"], "train": [str(corpus_folder)]}}


def losses(up: Up, job: str) -> list[tuple[int, float]]:
    """The loss column of the run that ended as this job."""
    return loss_curve(up.home / "runs" / up.job(job)["run"])


def weights(up: Up, job: str) -> str:
    """The digest of the model's weights, as the registry has it."""
    result = up.job(job)["result"]
    with open_platform(read_settings({}, home=up.home)) as platform:
        version = platform.registry.resolve(f"{result['model']}@{result['version']}")
    return version.manifest["model.safetensors"]["sha256"]


def submit(up: Up, recipe: dict[str, Any], **values: Any) -> str:
    return up.post("/jobs", {"recipe": recipe, **values})["id"]


def at_step(up: Up, job: str, step: int) -> None:
    up.wait_for(lambda: (up.job(job)["checkpoint_step"] or 0) >= step, f"step {step}")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the job is when nothing happens to it."""
    root = tmp_path_factory.mktemp("undisturbed")
    corpus, home = root / "corpus", root / "home"
    corpus.mkdir()
    home.mkdir()
    for i in range(40):
        (corpus / f"{i:02d}.txt").write_text(prose(i, 300), encoding="utf-8")
    (home / "prices.toml").write_text(PRICES, encoding="utf-8")
    with Up(home) as up:
        job = submit(up, {**RECIPE, "data": {**RECIPE["data"], "train": [str(corpus)]}})
        done = up.wait_until(job, "SUCCEEDED")
        return {"losses": losses(up, job), "weights": weights(up, job), "cost": done["cost"]}


def same(up: Up, job: str, undisturbed: dict[str, Any]) -> None:
    """The job ended as if nothing had happened."""
    found = up.job(job)
    assert losses(up, job) == undisturbed["losses"]
    assert weights(up, job) == undisturbed["weights"]
    assert found["cost"] == undisturbed["cost"]
    assert found["retries"] == 0
    with open_platform(read_settings({}, home=up.home)) as platform:
        assert audit(platform.database).problems == []


def test_a_job_runs_and_is_paid_for(undisturbed: dict[str, Any]):
    assert len(undisturbed["losses"]) == STEPS
    assert undisturbed["cost"] == PRICE


def test_the_server_is_killed_five_times(home: Path, recipe: dict[str, Any], undisturbed: dict[str, Any]):
    with Up(home) as up:
        job = submit(up, recipe)
        for number in range(5):
            at_step(up, job, 20 + 20 * number)
            kill(up.wait_for(lambda: up.child("server"), "the server"))
        up.wait_until(job, "SUCCEEDED")

        same(up, job, undisturbed)
        assert len(up.job(job)["attempts"]) == 1
        curve = up.get(f"/jobs/{job}/metrics", name="loss", points=2000)["buckets"]
        assert sum(bucket["points"] for bucket in curve) == STEPS


def test_the_job_and_then_the_agent_are_killed(home: Path, recipe: dict[str, Any], undisturbed: dict[str, Any]):
    with Up(home) as up:
        job = submit(up, recipe)
        at_step(up, job, 60)
        kill(up.child("job"))
        at_step(up, job, 120)
        kill(up.child("agent"))
        done = up.wait_until(job, "SUCCEEDED")

        same(up, job, undisturbed)
        assert [attempt["outcome"] for attempt in done["attempts"]] == ["lost", "lost", "done"]
        assert done["attempts"][1]["resumed_step"] >= 60


def test_the_whole_tree_is_killed_and_started_again(home: Path, recipe: dict[str, Any], undisturbed: dict[str, Any]):
    with Up(home) as up:
        job = submit(up, recipe)
        at_step(up, job, 60)
        up.kill()
        up.start()
        up.wait_until(job, "SUCCEEDED")

        same(up, job, undisturbed)


def test_sigterm_drains_and_the_job_goes_on_at_the_next_start(
    home: Path, recipe: dict[str, Any], undisturbed: dict[str, Any]
):
    with Up(home) as up:
        job = submit(up, recipe)
        at_step(up, job, 40)
        assert up.stop() == 0
        up.said.clear()
        up.start()
        done = up.wait_until(job, "SUCCEEDED")

        same(up, job, undisturbed)
        assert [attempt["outcome"] for attempt in done["attempts"]] == ["drain", "done"]


def test_nothing_of_a_zombie_is_accepted(home: Path, recipe: dict[str, Any], undisturbed: dict[str, Any]):
    """Agent and job are stopped past their lease; another worker takes over; then they wake up."""
    with Up(home) as up:
        job = submit(up, recipe)
        at_step(up, job, 60)
        agent, zombie = up.child("agent"), up.child("job")
        first = up.job(job)["attempt"]
        os.kill(zombie, signal.SIGSTOP)
        os.kill(agent, signal.SIGSTOP)
        try:
            up.wait_for(lambda: up.job(job)["status"] == "QUEUED", "the lease to run out")
            with Second(up):
                up.wait_until(job, "RUNNING")
                os.kill(agent, signal.SIGCONT)
                os.kill(zombie, signal.SIGCONT)
                up.wait_for(lambda: not alive(zombie), "the zombie to see that it is one")
                done = up.wait_until(job, "SUCCEEDED")
        finally:
            for pid in (agent, zombie):
                if alive(pid):
                    os.kill(pid, signal.SIGCONT)

        same(up, job, undisturbed)
        assert done["attempt"] == first + 1
        assert len(up.get("/models/tiny")["versions"]) == 1


def test_money_for_forty_percent_pauses_the_job_and_more_money_finishes_it(
    home: Path, recipe: dict[str, Any], undisturbed: dict[str, Any]
):
    whole = STEPS * BATCH / 1000
    with Up(home) as up:
        up.cli("fund", "create", "lab")
        up.cli("fund", "grant", "lab", f"{0.4 * whole:.3f}")
        up.cli("fund", "draw", "lab", "home", f"{0.4 * whole:.3f}")
        job = submit(up, recipe, fund="lab")

        paused = up.wait_until(job, "PAUSED")
        assert paused["reason"] == "budget"
        assert paused["checkpoint_step"] > 0.2 * STEPS
        assert float(up.get("/funds/lab/statement")["available"]) >= 0
        assert float(paused["cost"]) <= 0.4 * whole

        up.cli("fund", "grant", "lab", f"{whole:.3f}")
        up.cli("fund", "draw", "lab", "home", f"{whole:.3f}")
        up.wait_until(job, "SUCCEEDED")

        same(up, job, undisturbed)


def test_a_port_or_a_home_that_is_taken_is_a_conflict(home: Path, cerulea):
    with Up(home, workers=0) as up:
        taken = cerulea.run("up", "--port", up.port, code=5)
        second = cerulea.run("--home", up.home, "up", "--port", up.port + 1, code=5)

        assert "--port" in taken.stderr
        assert "--home" in second.stderr


def test_a_database_of_a_newer_version_is_not_started_on(cerulea):
    """It says so, and whatever the newer one wrote stays."""
    with open_platform(read_settings({}, home=cerulea.home)) as platform:
        platform.database.write(lambda tx: tx.run("UPDATE alembic_version SET version_num = '9999'"))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    for words in (("up", "--port", port), ("ps",), ("models",)):
        said = cerulea.run(*words, code=5).stderr
        assert "E-STORE-001" in said and "newer" in said and "9999" in said, said

    with sqlite3.connect(cerulea.home / "core.db") as connection:
        assert connection.execute("SELECT version_num FROM alembic_version").fetchall() == [("9999",)]
    connection.close()


def test_up_leaves_nothing_behind(home: Path):
    with Up(home) as up:
        assert up.process is not None
        children = descendants(up.process.pid)
        assert httpx.get(f"{up.url}/readyz", trust_env=False).status_code == 200
        assert up.stop() == 0

    assert not any(alive(pid) for pid in children)


class Second:
    """Another worker of the same platform, on the same machine."""

    def __init__(self, up: Up) -> None:
        key = up.cli("key", "create", "--name", "second", "--person", "worker", "--team", "home")[0]["key"]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "cerulea.cli.main", "--home", str(up.home), "worker", "--url", up.url],
            env={**up.environment, "CERULEA_KEY": key},
        )

    def __enter__(self) -> Second:
        return self

    def __exit__(self, *exception: object) -> None:
        self.process.terminate()
        self.process.wait(timeout=120)
