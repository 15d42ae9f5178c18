"""Proximal policy optimisation (Schulman et al. 2017): advantages, the loss, nothing else.

Advantages are generalised (Schulman et al. 2016), counted over a player's own decisions: what is paid while others
move belongs to the decision before. A match that ended is worth nothing more; one that was cut off is worth what was
estimated.
Not here: who plays (`opponents`), when weights change (`selfplay`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cerulea.nn.policy import log_probabilities
from cerulea.nn.policy_fast import Decision, Table
from cerulea.train.ppo_kernels import ppo_rows

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]


def advantages(
    reward_TMP: FloatArray,
    value_TMP: FloatArray,
    acting_TMP: BoolArray,
    terminated_TMP: BoolArray,
    truncated_TMP: BoolArray,
    after_TMP: FloatArray,
    last_MP: FloatArray,
    *,
    discount: float,
    trace: float,
    told_TMP: BoolArray | None = None,
) -> FloatArray:
    """Advantages of every decision; returns are advantage + value.

    Args:
        reward_TMP: paid by step t.
        value_TMP: estimated before step t.
        acting_TMP: whether the player's action counted at step t; other places get 0.
        terminated_TMP, truncated_TMP: whether the player's match ended with step t, and how.
        after_TMP: the value of what follows a truncated step; read only there.
        last_MP: the value after the last step.
        discount: gamma, for each decision of one's own. trace: lambda.
        told_TMP: decisions of which it is known what followed (`told_decisions`); others get 0, as if all had come
            as it was estimated. All are, where nothing is given.
    """
    steps = len(reward_TMP)
    found = np.zeros_like(reward_TMP)
    paid = np.zeros_like(last_MP)
    following, carried = last_MP.copy(), np.zeros_like(last_MP)
    for t in range(steps - 1, -1, -1):
        over = terminated_TMP[t] | truncated_TMP[t]
        following = np.where(over, np.where(terminated_TMP[t], 0.0, after_TMP[t]), following)
        carried = np.where(over, 0.0, carried)
        paid = np.where(over, 0.0, paid) + reward_TMP[t]
        acting = acting_TMP[t]
        delta = paid + discount * following - value_TMP[t]
        advantage = delta + discount * trace * carried
        if told_TMP is not None:
            advantage = np.where(told_TMP[t], advantage, 0.0)
        found[t] = np.where(acting, advantage, 0.0)
        following = np.where(acting, value_TMP[t], following)
        carried = np.where(acting, advantage, carried)
        paid = np.where(acting, 0.0, paid)
    return found


def told_decisions(acting_TMP: BoolArray, over_TMP: BoolArray) -> BoolArray:
    """Decisions after which the same player decides again, or its match ends, before the rollout does.

    Where players take turns, somebody's last decision is not: what it is worth while others move, nobody estimates.

    Args:
        acting_TMP: of T + 1 looks. over_TMP: whether the player's match ended with step t.
    """
    known = acting_TMP[-1].copy()
    told = np.zeros_like(over_TMP)
    for t in range(len(over_TMP) - 1, -1, -1):
        known |= over_TMP[t]
        told[t] = acting_TMP[t] & known
        known |= acting_TMP[t]
    return told


@dataclass(frozen=True, slots=True)
class Losses:
    """What one minibatch gave; tensors without gradients but `total`."""

    total: Tensor
    policy: Tensor
    value: Tensor
    entropy: Tensor
    divergence: Tensor
    clipped: Tensor


def ppo_loss(
    logits: Tensor,
    values: Tensor,
    mask: Tensor,
    actions: Tensor,
    old_log_p: Tensor,
    advantage: Tensor,
    returns: Tensor,
    weight: Tensor,
    *,
    heads: tuple[int, ...],
    clip: float,
    entropy_bonus: float,
    value_weight: float,
) -> Losses:
    """The clipped loss, averaged over rows by their weight.

    Args:
        logits: (..., N) before the mask. values, advantage, returns, old_log_p, weight: (...).
        mask: bool (..., N). actions: int64 (..., A), each within its head.
        weight: 1 for decisions that count, 0 for those that were not ours to learn from.

    Where a player had no choice, the ratio is 1 whatever the weights are: such rows teach the value alone.
    """
    each = log_probabilities(logits, mask, heads)
    log_p = torch.zeros_like(old_log_p)
    entropy = torch.zeros_like(old_log_p)
    for number, part in enumerate(each):
        log_p = log_p + part.gather(-1, actions[..., number : number + 1]).squeeze(-1)
        # 0 log 0 = 0: what is not legal has probability exactly 0 and a finite logarithm.
        entropy = entropy - (part.exp() * part).sum(-1)
    count = weight.sum().clamp_min(1.0)
    difference = (log_p - old_log_p) * weight
    ratio = difference.exp()
    gain = torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)
    policy = -(gain * weight).sum() / count
    value = 0.5 * ((values.float() - returns).square() * weight).sum() / count
    mean_entropy = (entropy * weight).sum() / count
    total = policy + value_weight * value - entropy_bonus * mean_entropy
    with torch.no_grad():
        # Schulman's third estimate of the divergence: r - 1 - log r, never negative.
        divergence = ((ratio - 1 - difference) * weight).sum() / count
        clipped = (((ratio - 1).abs() > clip) * weight).sum() / count
    return Losses(total, policy.detach(), value.detach(), mean_entropy.detach(), divergence, clipped)


def fused_loss(
    decision: Decision,
    table: Table,
    mask_RN: BoolArray,
    action_RA: NDArray[np.int32],
    old_log_R: FloatArray,
    advantage_R: FloatArray,
    return_R: FloatArray,
    counts_R: BoolArray,
    *,
    clip: float,
    entropy_bonus: float,
    value_weight: float,
) -> Losses:
    """`ppo_loss` from what logits are made of, for R rows, in one pass that finds its gradients too."""
    count = max(1, int(counts_R.sum()))
    rows = (mask_RN, action_RA, old_log_R, advantage_R, return_R, counts_R)
    made = (decision.plain, decision.query, decision.embedded, decision.value)
    total, sums = _Fused.apply(*made, table, rows, count, (clip, entropy_bonus, value_weight))  # type: ignore[no-untyped-call]
    policy, value, entropy, divergence, clipped = sums / count
    return Losses(total, policy, value, entropy, divergence, clipped)


class _Fused(torch.autograd.Function):
    """The loss; its gradients are found with it."""

    @staticmethod
    def forward(
        ctx: Any,
        plain: Tensor,
        query: Tensor,
        embedded: Tensor,
        value: Tensor,
        table: Table,
        rows: tuple[Any, ...],
        count: int,
        knobs: tuple[float, float, float],
    ) -> tuple[Tensor, Tensor]:
        made = (plain, query, embedded, value)
        gradients = [torch.zeros_like(each) for each in made]
        sums = np.zeros(5)
        mask, *others = rows
        ppo_rows(
            mask,
            *(each.numpy() for each in made),
            *table.columns(),
            *others,
            count,
            *knobs,
            *(each.numpy() for each in gradients),
            sums,
        )
        ctx.gradients = gradients
        _, bonus, weight = knobs
        told = torch.from_numpy(sums)
        ctx.mark_non_differentiable(told)
        return torch.tensor((sums[0] + weight * sums[1] - bonus * sums[2]) / count, dtype=torch.float32), told

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor | None, ...]:
        gradients = ctx.gradients
        if float(outputs[0]) != 1.0:
            gradients = [each * outputs[0] for each in gradients]
        return (*gradients, None, None, None, None)
