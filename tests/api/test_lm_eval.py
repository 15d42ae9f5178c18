"""lm-eval judges the log probabilities that the API reports."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from cerulea.core.settings import Settings
from cerulea.flows.models import import_model
from cerulea.flows.platform import open_platform
from tests.conftest import ROOT
from tests.running import Up, is_loaded
from tests.serve.test_parity import SMALL, folder_of_gpt2


@pytest.mark.slow
def test_lm_eval_gets_the_scores_of_its_own_model(tmp_path: Path):
    """200 items, eight requests at a time, four items in each."""
    folder = folder_of_gpt2(tmp_path / "gpt2", SMALL)
    with open_platform(Settings(home=tmp_path / "home")) as platform:
        import_model(platform, folder, "judged")
        platform.registry.alias("judged", "served", 1, "owner")

    with Up(tmp_path / "home", workers=0, environment={"CERULEA_SERVE_WEIGHTS": "fp32"}) as up:
        up.wait_for(lambda: is_loaded(up), "the model to be loaded")
        words = [sys.executable, "-W", "ignore", ROOT / "tests/api/lm_eval_judge.py", up.url, up.key, "judged", folder]
        done = subprocess.run(list(map(str, words)), capture_output=True, text=True, timeout=300)

    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["items"] == found["greedy_equal"] == 200
    assert found["largest_difference"] < 1e-3
