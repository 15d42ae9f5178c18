"""What changes during a run, as pure functions of the step and of the share of the run that is done.

In:      step (0 for the first), fraction in [0, 1].
Out:     multipliers of the peak learning rate, momentum, rows of a batch.
Not here: how the fraction is found (`text.fraction_done`).
"""

from __future__ import annotations

import math

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
