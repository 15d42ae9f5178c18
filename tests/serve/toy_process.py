"""An engine's process around the toy model, for tests of those who talk to one."""

from __future__ import annotations

import sys
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
    context = extra.get("context", 64)
    runner = ToyRunner(options.most_running, context)
    if extra.get("breaks"):
        runner.broken = RuntimeError("no memory")
    engine = Engine(runner, Likeliest(), most_running=options.most_running, most_waiting=options.most_waiting)
    return engine, {"context": context, "vocab": runner.vocab, "weights": "toy", "rows": runner.rows}


if __name__ == "__main__":
    sys.exit(main(make))
