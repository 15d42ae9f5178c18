"""The README's commands work as they stand there."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks() -> list[str]:
    """Shell blocks of the README, in order."""
    return re.findall(r"```sh\n(.*?)```", README, flags=re.DOTALL)


@pytest.mark.slow
def test_the_commands_of_the_readme_work_one_after_the_other(tmp_path: Path):
    """A folder `my-text` of about fifty files and the repository's recipes are all that the commands need."""
    program = Path(sys.executable).parent / "cerulea"
    assert program.exists(), "the tests run in an environment in which Cerulea is installed"
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes")
    folder = tmp_path / "my-text"
    folder.mkdir()
    for number, path in enumerate(sorted((ROOT / "cerulea").rglob("*.py"))):
        shutil.copyfile(path, folder / f"{number:03d}.py")
    (folder / "preface.txt").write_text(README[:2000], encoding="utf-8")
    environment = {
        **os.environ,
        "HOME": str(tmp_path),
        "CERULEA_HOME": str(tmp_path / ".cerulea"),
        "PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
        "PYTHONWARNINGS": "",
    }

    for block in blocks():
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, f"{block}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"

    listed = subprocess.run(
        [program, "models", "--json"], env=environment, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    models = {(entry["model"], entry["version"]) for entry in map(json.loads, listed)}
    # `night` waits: these commands start no worker.
    assert models == {("mine", 1), ("mine", 2), ("other", 1), ("again", 1)}
    assert list((tmp_path / "mine-events").iterdir())


def test_every_cerulea_line_of_the_readme_stands_in_a_block_that_is_run():
    outside = re.sub(r"```sh\n.*?```", "", README, flags=re.DOTALL)

    assert not re.search(r"^ *(?:\$ )?(?:\.venv/bin/)?cerulea ", outside, flags=re.MULTILINE)
    assert sum(block.count("cerulea ") for block in blocks()) >= 8


def test_the_make_targets_of_the_readme_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    # A command is a line of its own or a span of code; elsewhere "make" is an English word.
    targets = set(re.findall(r"(?:^ {4}|`)make (\w+)", README, flags=re.MULTILINE))

    assert targets == {"quickstart", "test", "up"}
    assert all(re.search(rf"^{target}:", makefile, flags=re.MULTILINE) for target in targets)
