"""What Numba compiles of a policy: everything between its matrix products.

In:      C-contiguous float32 arrays. Out: arrays that the caller owns.
Kept:    each is a loop over rows in one fixed order; none allocates in its inner loops. Whether a policy runs these or
         torch's operations changes its numbers by rounding alone (tests compare both).
Not here: matrix products and gradients of weights (`policy_fast`), what a policy is (`policy`).

Letters: R rows (players at steps) · C slots of one class of units · E width of an embedding · H width of the memory.
"""

from __future__ import annotations

import numpy as np
from numba import njit

BOUND = np.float32(7.90531110763549805)  # beyond it tanh is 1 in float32
# error_model="numpy": where a division is checked for 0, no vector instructions come of the loop.


@njit(cache=True, nogil=True, inline="always", error_model="numpy")
def _tanh(x):
    """The hyperbolic tangent as a ratio of polynomials, to 4e-7; the library's is no vector instruction."""
    x = BOUND if x > BOUND else x
    x = -BOUND if x < -BOUND else x
    s = x * x
    p = s * np.float32(-2.76076847742355e-16) + np.float32(2.00018790482477e-13)
    p = s * p + np.float32(-8.60467152213735e-11)
    p = s * p + np.float32(5.12229709037114e-08)
    p = s * p + np.float32(1.48572235717979e-05)
    p = s * p + np.float32(6.37261928875436e-04)
    p = s * p + np.float32(4.89352455891786e-03)
    q = s * np.float32(1.19825839466702e-06) + np.float32(1.18534705686654e-04)
    q = s * q + np.float32(2.26843463243900e-03)
    q = s * q + np.float32(4.89352518554385e-03)
    return x * p / q


@njit(cache=True, nogil=True)
def take_units(units_TSKX, at, first, out_TSKX):
    """Copy numbers from `first` on, of one class of units of the chosen sides, so that they lie together."""
    steps, sides, players, count = out_TSKX.shape
    for t in range(steps):
        for s in range(sides):
            for k in range(players):
                row, out = units_TSKX[t, at[s], k, first : first + count], out_TSKX[t, s, k]
                for x in range(count):
                    out[x] = row[x]


@njit(cache=True, nogil=True)
def pool_units(embedded_RCE, place_CE, placed, seen_RF, at):
    """Add places, cut at 0, and write the largest and the mean over the slots of a class.

    embedded_RCE  products with the weights, biases included; becomes the embeddings
    place_CE      what is added for each slot; read only where `placed`
    seen_RF       gets the largest at column `at`, the means behind them
    """
    rows, count, width = embedded_RCE.shape
    share, zero = np.float32(1.0) / np.float32(count), np.float32(0.0)
    for r in range(rows):
        # Slices, and not sums of numbers as indices: those might be negative, and no vector instructions come of them.
        top, mean = seen_RF[r, at : at + width], seen_RF[r, at + width : at + 2 * width]
        for e in range(width):
            top[e] = zero
            mean[e] = zero
        for u in range(count):
            row = embedded_RCE[r, u]
            if placed:
                place = place_CE[u]
                for e in range(width):
                    row[e] += place[e]
            for e in range(width):
                x = row[e]
                x = x if x > zero else zero
                row[e] = x
                mean[e] += x
                top[e] = x if x > top[e] else top[e]
        for e in range(width):
            mean[e] *= share


@njit(cache=True, nogil=True)
def pool_units_back(embedded_RCE, seen_RF, dseen_RF, at, dembedded_RCE):
    """Gradients before the cut at 0, in place of those of the embeddings; the first of equals was the largest."""
    rows, count, width = embedded_RCE.shape
    share, zero = np.float32(1.0) / np.float32(count), np.float32(0.0)
    left = np.empty(width, np.float32)
    for r in range(rows):
        top = seen_RF[r, at : at + width]
        dtop, dmean = dseen_RF[r, at : at + width], dseen_RF[r, at + width : at + 2 * width]
        for e in range(width):
            left[e] = dtop[e]
        for u in range(count):
            row, d = embedded_RCE[r, u], dembedded_RCE[r, u]
            for e in range(width):
                x = d[e] + dmean[e] * share + (left[e] if row[e] == top[e] else zero)
                d[e] = x if row[e] > zero else zero
            for e in range(width):
                left[e] = zero if row[e] == top[e] else left[e]


@njit(cache=True, nogil=True, error_model="numpy")
def lstm_cell(gate_RG, c_RH, keep_R, next_c_RH, tanh_RH, h_RH):
    """One step of an LSTM from its sums: gates in the order input, forget, new, output, which become what they are.

    c_RH is the memory before; where keep is 0 it is forgotten. h_RH, next_c_RH and tanh_RH (of next_c) are written.
    """
    rows, width = c_RH.shape
    half = np.float32(0.5)
    for r in range(rows):
        keep, before, after, tanh, h = keep_R[r], c_RH[r], next_c_RH[r], tanh_RH[r], h_RH[r]
        i, f = gate_RG[r, :width], gate_RG[r, width : 2 * width]
        g, o = gate_RG[r, 2 * width : 3 * width], gate_RG[r, 3 * width :]
        for j in range(width):
            i[j] = half + half * _tanh(half * i[j])
        for j in range(width):
            f[j] = half + half * _tanh(half * f[j])
        for j in range(width):
            g[j] = _tanh(g[j])
        for j in range(width):
            o[j] = half + half * _tanh(half * o[j])
        for j in range(width):
            after[j] = f[j] * (before[j] * keep) + i[j] * g[j]
        for j in range(width):
            tanh[j] = _tanh(after[j])
        for j in range(width):
            h[j] = o[j] * tanh[j]


@njit(cache=True, nogil=True)
def lstm_cell_back(gate_RG, c_RH, keep_R, tanh_RH, dh_RH, dc_RH, dgate_RG):
    """Gradients of the sums; dc_RH becomes the gradient of the memory before."""
    rows, width = c_RH.shape
    one = np.float32(1.0)
    for r in range(rows):
        keep, before, tanh, dh, dc = keep_R[r], c_RH[r], tanh_RH[r], dh_RH[r], dc_RH[r]
        i, f = gate_RG[r, :width], gate_RG[r, width : 2 * width]
        g, o = gate_RG[r, 2 * width : 3 * width], gate_RG[r, 3 * width :]
        di, df = dgate_RG[r, :width], dgate_RG[r, width : 2 * width]
        dg, do = dgate_RG[r, 2 * width : 3 * width], dgate_RG[r, 3 * width :]
        for j in range(width):
            dc[j] += dh[j] * o[j] * (one - tanh[j] * tanh[j])
        for j in range(width):
            do[j] = dh[j] * tanh[j] * o[j] * (one - o[j])
        for j in range(width):
            di[j] = dc[j] * g[j] * i[j] * (one - i[j])
        for j in range(width):
            dg[j] = dc[j] * i[j] * (one - g[j] * g[j])
        for j in range(width):
            df[j] = dc[j] * (before[j] * keep) * f[j] * (one - f[j])
        for j in range(width):
            dc[j] *= f[j] * keep


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def weigh(mask_RN, plain_RN, query_RQ, embedded, source_N, slot_N, first_N, count_N, width, r, n0, n1, legal, logit):
    """The logits of a row's legal actions from n0 to n1: how many there are; `legal` and `logit` get them.

    Actions that are not legal are not looked at: pointers to units are mostly not, and cost nothing.

    embedded      all classes one behind the other, each (R, C, E)
    source_N      an action's column in plain_RN, or of its first query in query_RQ where slot_N >= 0
    slot_N        the slot within its class; -1 for a plain action. first_N, count_N: slots before its class, and in it
    """
    rows = mask_RN.shape[0]
    scale = np.float32(1.0 / np.sqrt(np.float64(width)))
    found = 0
    for n in range(n0, n1):
        if not mask_RN[r, n]:
            continue
        if slot_N[n] < 0:
            x = plain_RN[r, source_N[n]]
        else:
            at = (first_N[n] * rows + r * count_N[n] + slot_N[n]) * width
            query, unit = query_RQ[r, source_N[n] : source_N[n] + width], embedded[at : at + width]
            x = np.float32(0.0)
            for e in range(width):
                x += query[e] * unit[e]
            x *= scale
        legal[found] = n
        logit[found] = x
        found += 1
    return found


@njit(cache=True, nogil=True)
def soften(logit, found):
    """Turn logits into log probabilities, in place."""
    top = logit[0]
    for i in range(1, found):
        top = max(top, logit[i])
    total = np.float32(0.0)
    for i in range(found):
        total += np.exp(logit[i] - top)
    shift = top + np.log(total)
    for i in range(found):
        logit[i] -= shift


@njit(cache=True, nogil=True)
def draw_rows(
    mask_RN,
    plain_RN,
    query_RQ,
    embedded,
    source_N,
    slot_N,
    first_N,
    count_N,
    width,
    head_A,
    uniform_RA,
    action_RA,
    log_R,
):
    """Draw an action for each head of each row, by its probability.

    head_A      where heads begin among all actions, and where the last one ends
    uniform_RA  in [0, 1)
    action_RA   int32, within its head. log_R: log probability of them together
    """
    actions = mask_RN.shape[1]
    legal, logit = np.empty(actions, np.int64), np.empty(actions, np.float32)
    for r in range(mask_RN.shape[0]):
        log_R[r] = np.float32(0.0)
        for a in range(len(head_A) - 1):
            found = weigh(
                mask_RN, plain_RN, query_RQ, embedded, source_N, slot_N, first_N, count_N, width,
                r, head_A[a], head_A[a + 1], legal, logit,
            )  # fmt: skip
            if found == 0:  # who does not act may have nothing to choose from
                action_RA[r, a] = 0
                continue
            soften(logit, found)
            left = uniform_RA[r, a]
            chosen = found - 1
            for i in range(found - 1):
                left -= np.exp(logit[i])
                if left < 0:
                    chosen = i
                    break
            action_RA[r, a] = legal[chosen] - head_A[a]
            log_R[r] += logit[chosen]
