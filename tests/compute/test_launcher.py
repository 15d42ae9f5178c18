"""Processes of jobs: what they see, and that none outlives whoever started it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cerulea.compute.launcher import ALLOWED, ProcessLauncher, environment
from tests.running import alive

PATIENCE_S = 60.0


def until(look: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not look():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_job_sees_no_keys_and_no_books():
    own = {
        "PATH": "/bin",
        "CERULEA_HOME": "/h",
        "CERULEA_KEY": "ck_secret",
        "CERULEA_DATABASE_URL": "postgresql://x:secret@y/z",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AZURE_STORAGE_KEY": "secret",
        "SSH_AUTH_SOCK": "/tmp/x",
    }

    assert environment(own, MORE="1") == {"PATH": "/bin", "CERULEA_HOME": "/h", "MORE": "1"}
    assert not any("KEY" in name or "DATABASE" in name for name in ALLOWED)


def test_the_keys_of_the_blob_store_go_along_where_there_is_one():
    own = {"CERULEA_BLOBS_URL": "az://models", "AZURE_STORAGE_KEY": "k", "AWS_SECRET_ACCESS_KEY": "no"}

    assert environment(own) == {"CERULEA_BLOBS_URL": "az://models", "AZURE_STORAGE_KEY": "k"}


def test_a_child_reads_its_first_line_and_is_heard_to_the_last_word():
    program = "import sys, os; print(sys.stdin.readline().upper(), end=''); print(os.getsid(0) == os.getpid())"

    child = ProcessLauncher().start([sys.executable, "-c", program], "hello", environment())
    until(lambda: child.poll() is not None)

    assert child.lines() == ["HELLO", "True"]
    assert child.poll() == 0


def test_a_child_that_ends_at_once_is_no_error():
    child = ProcessLauncher().start([sys.executable, "-c", "raise SystemExit(7)"], "x" * 200_000, environment())
    until(lambda: child.poll() is not None)

    assert child.poll() == 7


def test_killing_a_child_kills_what_it_started():
    program = "import subprocess, sys; p = subprocess.Popen(['sleep', '1000']); print(p.pid, flush=True); p.wait()"
    child = ProcessLauncher().start([sys.executable, "-c", program], "", environment())
    said: list[str] = []
    until(lambda: said.extend(child.lines()) or said)

    child.kill()

    until(lambda: not alive(int(said[0])))
    assert child.poll() == -9


PARENT = """
import sys, json
from cerulea.compute.launcher import ProcessLauncher, environment
program = (
    "from cerulea.core.parent import die_with_parent; die_with_parent(); print('up', flush=True); "
    "import time; time.sleep(1000)"
)
child = ProcessLauncher().start([sys.executable, "-c", program], "", environment())
while "up" not in child.lines():
    pass
print(json.dumps(child.pid), flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the kernel's word for it is Linux's")
def test_a_child_dies_with_a_parent_that_is_killed():
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert parent.stdout is not None
    assert parent.stdin is not None
    pid = json.loads(parent.stdout.readline())
    assert alive(pid)

    parent.kill()
    parent.wait()

    until(lambda: not alive(pid))
    parent.stdin.close()
    parent.stdout.close()


def test_a_command_line_holds_no_secret():
    """Whoever looks at `ps` sees the module's name alone; the token came through standard input."""
    program = "import sys, time; sys.stdin.readline(); print('up', flush=True); time.sleep(1000)"
    child = ProcessLauncher().start([sys.executable, "-c", program], json.dumps({"token": "hidden"}), environment())
    until(lambda: child.lines() == ["up"])

    seen = Path(f"/proc/{child.pid}/cmdline").read_bytes() + Path(f"/proc/{child.pid}/environ").read_bytes()

    child.kill()
    assert b"hidden" not in seen
