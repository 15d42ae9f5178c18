"""Start the process of a job on this machine, and end it.

In:      what to run, and a line that it reads first (its assignment; secrets travel there, not in the environment
         or the command line, where others could read them).
Out:     a Child: alive or not, how it ended, its output line by line.
Kept:    each child has a process group of its own and dies with the process that started it, whatever ends that; it
         sees only ALLOWED of the environment.
Not here: what a child does (`flows.perform`), other machines (a Launcher of their own).
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from typing import Protocol

from cerulea.core.parent import PARENT

# What a job may know of its surroundings. No CERULEA_KEY, no CERULEA_DATABASE_URL: it has neither keys nor books.
ALLOWED = (
    *("PATH", "HOME", "USER", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "VIRTUAL_ENV", "PYTHONPATH"),
    *("LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "CUDA_HOME", "NVIDIA_VISIBLE_DEVICES"),
    *("OMP_NUM_THREADS", "MKL_NUM_THREADS", "PYTHONWARNINGS"),
    *("CERULEA_HOME", "CERULEA_THREADS", "CERULEA_DEVICE", "CERULEA_BLOBS_URL", "CERULEA_DATA_ROOTS"),
)


def environment(own: Mapping[str, str] = os.environ, **more: str) -> dict[str, str]:
    """The part of the environment that a job sees, and `more`."""
    blobs = own.get("CERULEA_BLOBS_URL", "")
    cloud = {"az": "AZURE_", "s3": "AWS_"}.get(blobs.partition(":")[0])
    kept = {k: v for k, v in own.items() if k in ALLOWED or (cloud is not None and k.startswith(cloud))}
    return {**kept, **more}


class Child(Protocol):
    """A started process."""

    @property
    def pid(self) -> int: ...

    def poll(self) -> int | None:
        """The exit code; negative for a signal; None while it runs."""
        ...

    def lines(self) -> list[str]:
        """What it has said since the last call."""
        ...

    def stop(self) -> None:
        """Ask it to save and end (SIGTERM)."""
        ...

    def kill(self) -> None:
        """End it and all that it started, now."""
        ...


class Launcher(Protocol):
    """What starts the processes of jobs."""

    def start(self, command: Sequence[str], first_line: str, env: Mapping[str, str]) -> Child: ...


class ProcessLauncher:
    """Processes on this machine."""

    def start(self, command: Sequence[str], first_line: str, env: Mapping[str, str]) -> Child:
        """Start `command` and give it `first_line`. Call it from a thread that lives as long as the child may:
        the kernel watches the thread, not the process.
        """
        process = subprocess.Popen(
            command,
            env={**env, PARENT: str(os.getpid())},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        give(process, first_line)
        return _Process(process)


def give(process: subprocess.Popen[bytes], line: str) -> None:
    """Write a child's first line; one that has ended already tells why by its exit code."""
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(line.encode() + b"\n")
    with contextlib.suppress(BrokenPipeError):
        process.stdin.close()


class _Process:
    """One started process and the thread that reads what it says."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._said: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def poll(self) -> int | None:
        return self._process.poll()

    def lines(self) -> list[str]:
        if self._process.poll() is not None:
            self._reader.join(timeout=2)  # its last words
        said = []
        with contextlib.suppress(queue.Empty):
            while True:
                said.append(self._said.get_nowait())
        return said

    def stop(self) -> None:
        self._signal(signal.SIGTERM, group=False)

    def kill(self) -> None:
        self._signal(signal.SIGKILL, group=True)
        self._process.wait()

    def _signal(self, number: int, *, group: bool) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number) if group else os.kill(self._process.pid, number)

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as said:
            for line in said:
                self._said.put(line.decode("utf-8", "replace").rstrip("\r\n"))
