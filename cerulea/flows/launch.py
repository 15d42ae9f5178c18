"""Start the other processes of a run on this machine, as torchrun would.

Kept:    rank 0 is the process that the person started; the others end with it, whatever ends it.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator

from cerulea.core.errors import Invalid
from cerulea.nn.precision import usable_cores


@contextlib.contextmanager
def together(processes: int) -> Iterator[bool]:
    """Run the body in `processes` processes; yields whether this one leads.

    A process that a launcher started (WORLD_SIZE is set) takes part in that launcher's team instead.
    """
    if processes < 1:
        raise Invalid(f"--processes is {processes}.", fix="Use 1 or more.")
    if "WORLD_SIZE" in os.environ:
        yield os.environ.get("RANK", "0") == "0"
        return
    if processes == 1:
        yield True
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    if "OMP_NUM_THREADS" not in os.environ:
        shared["OMP_NUM_THREADS"] = str(max(1, usable_cores() // processes))
    command = [sys.executable, "-m", "cerulea.cli.main", *sys.argv[1:]]
    others = [
        subprocess.Popen(
            command, env={**os.environ, **shared, "RANK": str(i), "LOCAL_RANK": str(i)}, stdout=subprocess.DEVNULL
        )
        for i in range(1, processes)
    ]
    os.environ.update(shared, RANK="0", LOCAL_RANK="0")
    try:
        yield True
        for other in others:
            other.wait(timeout=60)
    finally:
        for other in others:
            if other.poll() is None:
                other.kill()
        for name in (*shared, "RANK", "LOCAL_RANK"):
            os.environ.pop(name, None)
