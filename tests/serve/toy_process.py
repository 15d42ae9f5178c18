"""An engine's process around the toy model, for tests of those who talk to one."""

from __future__ import annotations

import atexit
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from cerulea.core.errors import WeightsInvalid
from cerulea.serve.engine import Engine
from cerulea.serve.process import Options, main
from tests.serve.toys import Likeliest, ToyRunner


def make(options: Options) -> tuple[Engine, dict[str, Any]]:
    """A toy engine; `extra` says what shall go wrong."""
    print("a library prints something")
    extra = dict(options.extra)
    if extra.get("fails"):
        raise WeightsInvalid("A tensor is missing.", fix="Restore the file.")
    if extra.get("dies"):
        sys.exit(3)
    if extra.get("hangs"):
        Path(extra["hangs"]).write_text(str(os.getpid()), encoding="utf-8")
        signal.pause()
    if extra.get("lingers"):
        atexit.register(linger, Path(extra["lingers"]))
    context = extra.get("context", 64)
    runner = ToyRunner(options.most_running, context)
    if extra.get("breaks"):
        runner.broken = RuntimeError("no memory")
    engine = Engine(runner, Likeliest(), most_running=options.most_running, most_waiting=options.most_waiting)
    return engine, {"context": context, "vocab": runner.vocab, "weights": "toy", "rows": runner.rows}


def linger(until: Path) -> None:
    """Keep the process, and its memory, until this file is there."""
    while not until.exists():
        time.sleep(0.005)


if __name__ == "__main__":
    sys.exit(main(make))
