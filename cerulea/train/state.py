"""What a run knows besides tensors: plain values that travel in a checkpoint's state.json.

Kept:    everything else that a step needs is a function of these, the recipe and the shards.
Not here: the spike guard's window (`loop`), what a checkpoint is bound to (`binding`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field


@dataclass(slots=True)
class RunState:
    """Counters, scores and the reason of the stop."""

    step: int = 0
    samples: int = 0  # rows read, of one context each
    tokens: int = 0
    elapsed_s: float = 0.0  # since the command began, earlier sessions included
    stepping_s: float = 0.0  # since the first step began, earlier sessions included: what `minutes` limits
    evaluate_s: float = 0.0  # what one evaluation takes
    best: float = math.inf  # bits per byte
    best_step: int = 0
    bad_evaluations: int = 0  # in a row
    scores: dict[str, float] = field(default_factory=dict)  # bits per byte by step
    evaluated: dict[str, float] = field(default_factory=dict)  # the last evaluation
    stop_reason: str = ""
