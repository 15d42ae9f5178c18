"""Rates: the peaks of a recipe, and how they change during a run, as pure functions.

In:      a recipe; step (0 for the first) and the share of the run that is done, in [0, 1].
Out:     peak rates; multipliers of them, momentum, rows of a batch.
Not here: how the fraction is found (`text.fraction_done`).
"""

from __future__ import annotations

import math

from cerulea.nn.optim import OptimizerSettings
from cerulea.nn.precision import DTYPES, Execution
from cerulea.train.recipe import TextRecipe

MOMENTUM_WARMUP_STEPS = 100  # modded-nanogpt and nanochat both raise Muon's momentum over the first steps
MOMENTUM_RISE = 0.10


def rate_scale(
    kind: str, step: int, fraction: float, *, warmup_steps: int, decay_fraction: float, final_rate: float
) -> float:
    """Multiplier of the peak rate, in [0, 1].

    wsd: constant, then a straight fall to `final_rate` over the last `decay_fraction` (Hu et al. 2024, MiniCPM);
    cosine: half a cosine from 1 to `final_rate` (Loshchilov and Hutter 2017); linear: a straight fall from the start.
    """
    warm = min(1.0, (step + 1) / warmup_steps) if warmup_steps else 1.0
    fraction = min(1.0, max(0.0, fraction))
    if kind == "cosine":
        shape = 0.5 * (1 + math.cos(math.pi * fraction))
    elif kind == "linear":
        shape = 1 - fraction
    else:
        shape = 1.0 if fraction <= 1 - decay_fraction else (1 - fraction) / decay_fraction
    return warm * (final_rate + (1 - final_rate) * shape)


def momentum_at(step: int, peak: float) -> float:
    """Muon's momentum: from MOMENTUM_RISE below the peak to the peak over the first steps."""
    return peak - MOMENTUM_RISE * (1 - min(1.0, step / MOMENTUM_WARMUP_STEPS))


def batch_rows(full_rows: int, ramp: list[list[float]], fraction: float) -> int:
    """Rows of this step's batch: the last share of the ramp that has begun, at least one row."""
    share = next((share for start, share in reversed(ramp) if fraction >= start), 1.0)
    return max(1, round(full_rows * share))


def optimizer_settings(recipe: TextRecipe, execution: Execution) -> OptimizerSettings:
    """Peak rates: the recipe's own, or the preset's rule.

    adamw: 6e-4 (nanoGPT). muon: matrices 0.02; embeddings 0.03, head 0.004, vectors 0.01 at width 384 and below
    the rule width^-0.5 (nanochat's rule; the constants were tuned at 8,192 tokens a step, see docs/log.md).
    """
    keys = recipe.train
    kind = keys.optimizer
    if kind == "auto":
        kind = "adamw" if recipe.model.preset == "gpt2" else "muon"
    narrow = (384 / recipe.shape(vocab=1).width) ** 0.5
    adamw = kind == "adamw"
    rate = keys.learning_rate or (6e-4 if adamw else 0.02)
    return OptimizerSettings(
        kind=kind,
        learning_rate=rate,
        embedding_rate=keys.embedding_rate or (rate if adamw else 0.03 * narrow),
        head_rate=keys.head_rate or (rate if adamw else 0.004 * narrow),
        vector_rate=keys.vector_rate or (rate if adamw else 0.01),
        weight_decay=keys.weight_decay,
        beta1=keys.beta1 or (0.9 if adamw else 0.8),
        beta2=keys.beta2,
        momentum=keys.momentum,
        orthogonal_dtype=DTYPES[execution.precision],
        orthogonal_steps=keys.orthogonal_steps,
    )
