"""What was tried on this machine is not decided anew by a busy moment."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from cerulea.core.settings import Settings
from cerulea.flows.machine import EXECUTIONS, know_execution
from cerulea.nn.precision import Execution

FIRST = Execution(device="cpu", precision="bf16", compile=False, threads=1, peak_flops=1e9, why="it was faster")


def test_a_shape_is_computed_as_it_was_before(tmp_path: Path):
    settings = Settings(home=tmp_path)

    assert know_execution(settings, ("shape", 1), lambda: FIRST) == FIRST
    assert know_execution(settings, ("shape", 1), lambda: replace(FIRST, precision="fp32")) == FIRST
    assert know_execution(settings, ("shape", 2), lambda: replace(FIRST, precision="fp32")).precision == "fp32"


def test_a_record_of_another_version_is_chosen_anew(tmp_path: Path):
    settings = Settings(home=tmp_path)
    for content in ("[", '{"x": {"y": 1}}', "[]"):
        (tmp_path / EXECUTIONS).write_text(content)
        assert know_execution(settings, "shape", lambda: FIRST) == FIRST
        assert know_execution(settings, "shape", lambda: replace(FIRST, compile=True)) == FIRST
