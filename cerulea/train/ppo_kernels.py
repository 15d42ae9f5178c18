"""The clipped loss and its gradients in one pass over rows, as Numba compiles it.

In:      what logits are made of (`nn.policy_fast.Decision`), what was done and what came of it.
Out:     gradients of the sums' mean, and the sums themselves.
Kept:    rows that do not count are not looked at, nor are actions that are not legal. `ppo.ppo_loss` is its twin in
         torch's operations (tests compare both).
Not here: who calls it (`ppo`).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numba import njit

from cerulea.core.kernels import forget_other_sources
from cerulea.nn import policy_kernels
from cerulea.nn.policy_kernels import soften, weigh


@njit(cache=True)
def _probe():
    """Never compiled: it is here to be asked in which folder Numba keeps the kernels of this one."""


# Functions of that file are compiled into the one below.
forget_other_sources([Path(policy_kernels.__file__), Path(__file__)], Path(_probe.stats.cache_path))


@njit(cache=True, nogil=True)
def ppo_rows(
    mask_RN, plain_RN, query_RQ, embedded, value_R,
    source_N, slot_N, first_N, count_N, width, head_A,
    action_RA, old_log_R, advantage_R, return_R, counts_R,
    total, clip, bonus, value_weight,
    dplain_RN, dquery_RQ, dembedded, dvalue_R, sums,
):  # fmt: skip
    """Write gradients (their buffers hold zeros) and add to sums.

    total    rows that count, by which all is divided
    sums     float64: -gain, squared errors, entropy, divergence, clipped; sums over rows that count
    """
    rows, actions = mask_RN.shape
    heads = len(head_A) - 1
    legal, log_p = np.empty(actions, np.int64), np.empty(actions, np.float32)
    found_A, entropy_A = np.empty(heads, np.int64), np.empty(heads, np.float32)
    scale = np.float32(1.0 / np.sqrt(np.float64(width)))
    share = np.float32(1.0 / total)
    low, high = np.float32(1.0 - clip), np.float32(1.0 + clip)
    bonus_share, value_share = np.float32(bonus / total), np.float32(value_weight / total)
    for r in range(rows):
        if not counts_R[r]:
            continue
        log_of_action, entropy = np.float32(0.0), np.float32(0.0)
        for a in range(heads):
            n0, n1 = head_A[a], head_A[a + 1]
            found = weigh(
                mask_RN, plain_RN, query_RQ, embedded, source_N, slot_N, first_N, count_N, width,
                r, n0, n1, legal[n0:n1], log_p[n0:n1],
            )  # fmt: skip
            soften(log_p[n0:n1], found)
            found_A[a] = found
            entropy_A[a] = np.float32(0.0)
            for i in range(n0, n0 + found):
                entropy_A[a] -= np.exp(log_p[i]) * log_p[i]
                if legal[i] == n0 + action_RA[r, a]:
                    log_of_action += log_p[i]
            entropy += entropy_A[a]
        difference = log_of_action - old_log_R[r]
        ratio = np.exp(difference)
        advantage = advantage_R[r]
        inside = min(max(ratio, low), high)
        free = ratio * advantage <= inside * advantage
        gain = ratio * advantage if free else inside * advantage
        error = value_R[r] - return_R[r]
        sums[0] -= gain
        sums[1] += 0.5 * np.float64(error) * error
        sums[2] += entropy
        sums[3] += ratio - 1 - difference
        sums[4] += 1.0 if abs(ratio - 1) > clip else 0.0
        dvalue_R[r] = value_share * error
        pull = -ratio * advantage * share if free else np.float32(0.0)
        for a in range(heads):
            n0 = head_A[a]
            for i in range(n0, n0 + found_A[a]):
                n, p = legal[i], np.exp(log_p[i])
                d = -pull * p + bonus_share * p * (log_p[i] + entropy_A[a])
                if n == n0 + action_RA[r, a]:
                    d += pull
                at = source_N[n]
                if slot_N[n] < 0:
                    dplain_RN[r, at] += d
                    continue
                d *= scale
                begin = (first_N[n] * rows + r * count_N[n] + slot_N[n]) * width
                unit, dunit = embedded[begin : begin + width], dembedded[begin : begin + width]
                query, dquery = query_RQ[r, at : at + width], dquery_RQ[r, at : at + width]
                for e in range(width):
                    dquery[e] += d * unit[e]
                for e in range(width):
                    dunit[e] += d * query[e]


def are_compiled() -> bool:
    """Whether Numba keeps `ppo_rows` of these sources, which a learner's first update compiles otherwise."""
    written_at = Path(__file__).stat().st_mtime
    kept = Path(ppo_rows.stats.cache_path).glob("ppo_kernels.ppo_rows-*.nbi")
    return any(path.stat().st_mtime >= written_at for path in kept)
