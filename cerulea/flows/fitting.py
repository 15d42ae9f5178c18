"""How a model is run so that it fits into memory; known before anything of it is read.

In:      a model's folder, how models are to be run, the bytes that there are.
Out:     Options that fit, and the bytes that the model needs with them.
Not here: what takes memory (`serve.memory`), making room for it (`flows.host`).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from cerulea.core.files import read_json
from cerulea.nn.families import read_shape
from cerulea.serve.memory import footprint
from cerulea.serve.process import Options

if TYPE_CHECKING:
    from cerulea.serve.linear import Format

SHORTEST = 1024  # tokens of a row; a model that does not fit with so few does not fit


def fitted(folder: Path, options: Options, most_bytes: int) -> tuple[Options, int]:
    """Options with which a model fits, and the bytes that it needs with them: first fewer cached prefixes, then fewer
    sequences at a time, then shorter ones. The last try is given back where none fits. vLLM sees to its
    own memory.

    Raises:
        Invalid, Failed: the folder is no model's.
    """
    if options.extra.get("engine") == "vllm":
        return options, 0
    shape = read_shape(dict(read_json(folder / "config.json")))
    weights = cast("Format", "fp32" if options.weights == "auto" else options.weights)
    length = min(options.max_len or shape.context, shape.context)
    tries = [options, replace(options, cached_rows=0), replace(options, cached_rows=0, most_running=4, spare_rows=0)]
    while length > SHORTEST:
        length = max(SHORTEST, length // 2)
        tries.append(replace(tries[-1], max_len=length))
    found, need = options, 0
    for found in tries:
        rows = found.most_running + found.spare_rows + found.cached_rows
        need = footprint(shape, weights=weights, rows=rows, max_len=found.max_len).peak
        if need <= most_bytes:
            break
    return found, need
