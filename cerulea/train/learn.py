"""From a rollout to better weights: shaped rewards, their spread, and one pass over all decisions in minibatches.

In:      a filled Rollout, advantages. Out: changed weights, and what is told of the update.
Kept:    several processes take the same number of steps and sum their gradients before each, so that their weights stay
         equal to the bit.
Not here: who plays (`rollout`), the loss (`ppo`), the loop (`selfplay`).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from cerulea.core.seeds import mixed
from cerulea.nn import policy_fast
from cerulea.nn.policy import Policy
from cerulea.train.parallel import Team
from cerulea.train.play_recipe import LearnKeys
from cerulea.train.play_state import PlayState
from cerulea.train.ppo import fused_loss, ppo_loss
from cerulea.train.rollout import Rollout, Sides

FloatArray = NDArray[np.float32]
Summed = Callable[..., list[float]]
RETURNS_UPDATES = 50  # so many updates weigh in the spread of returns
TOLD = ("loss", "policy_loss", "value_loss", "entropy", "divergence", "clipped", "gradient_norm", "explained_variance")


def rate_at(keys: LearnKeys, fraction: float) -> float:
    """The learning rate as a share of its peak: a line."""
    return 1.0 + (keys.final_rate - 1.0) * fraction


def shaped(reward: FloatArray, sides: Sides, keys: LearnKeys, fraction: float) -> FloatArray:
    """Team spirit, and what the other side got taken off."""
    if sides.players == 1 and not (keys.zero_sum and sides.teams == 2):
        return reward
    by_side = reward.reshape(*reward.shape[:2], sides.sides, sides.players)
    mean = by_side.mean(-1, keepdims=True)
    first, middle, last = keys.team_spirit
    spirit = last if fraction >= 0.8 else first + (middle - first) * min(1.0, fraction / 0.6)
    shaped = (1 - spirit) * by_side + spirit * mean
    if keys.zero_sum and sides.sides == 2 and sides.teams == 2:
        shaped = shaped - mean[:, :, ::-1]
    return np.ascontiguousarray(shaped.reshape(reward.shape), np.float32)


def spread(state: PlayState) -> np.float32:
    """By what rewards are divided: the standard deviation of returns, as far as any have been noted; else 1."""
    deviation = math.sqrt(state.returns_m2 / state.returns_seen) if state.returns_seen > 1 else 1.0
    return np.float32(max(deviation, 1e-4))


def note_returns(state: PlayState, returns_N: FloatArray, summed: Summed) -> None:
    """Take the returns of an update's decisions, in the game's own units, into their spread, over all processes.

    These are what the value learns, so that what it learns has a spread of about 1, in games of turns and of rare pay
    too. Older updates count less and less: returns change with the player.
    """
    values = returns_N.astype(np.float64)
    count, total, squares = summed(float(len(values)), float(values.sum()), float((values**2).sum()))
    if not count:
        return
    if state.returns_seen > RETURNS_UPDATES * count:
        state.returns_m2 *= RETURNS_UPDATES * count / state.returns_seen
        state.returns_seen = RETURNS_UPDATES * count
    mean = total / count
    m2 = max(0.0, squares - count * mean * mean)
    both = state.returns_seen + count
    delta = mean - state.returns_mean
    state.returns_m2 += m2 + delta * delta * state.returns_seen * count / both
    state.returns_mean += delta * count / both
    state.returns_seen = both


class Learner:
    """A policy, its optimizer, and the processes that train it together."""

    def __init__(self, policy: Policy, keys: LearnKeys, team: Team) -> None:
        self.policy, self.keys, self.team = policy, keys, team
        self.optimizer = torch.optim.Adam(policy.parameters(), lr=keys.learning_rate, eps=1e-5, fused=True)
        self.fast, self.table = policy_fast.takes(policy), policy_fast.Table.of(policy.shape)

    def forget(self) -> None:
        """Begin again with the optimizer, as with new weights."""
        self.optimizer.state.clear()

    def summed(self, *values: float) -> list[float]:
        """Sums over all processes."""
        if self.team.ranks == 1:
            return list(values)
        return self.team.sum(torch.tensor(values, dtype=torch.float64, device=self.policy.device)).tolist()

    def total(self, value: float) -> float:
        """One sum over all processes."""
        return self.summed(value)[0]

    def largest(self, *values: float) -> list[float]:
        """The largest of all processes."""
        tensor = torch.tensor(values, dtype=torch.float64, device=self.policy.device)
        if self.team.ranks > 1:
            dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
        return tensor.tolist()

    def moments(self) -> dict[str, Tensor]:
        """The optimizer's state by the names of weights."""
        return {
            f"{name}.{key}": value
            for name, weight in self.policy.named_parameters()
            for key, value in self.optimizer.state.get(weight, {}).items()
        }

    def load_moments(self, tensors: dict[str, Tensor]) -> None:
        """What `moments` gave."""
        state = {}
        for index, (name, _) in enumerate(self.policy.named_parameters()):
            if f"{name}.exp_avg" in tensors:
                state[index] = {key: tensors[f"{name}.{key}"] for key in ("step", "exp_avg", "exp_avg_sq")}
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})

    def _mean_gradients(self, count: float) -> None:
        """Gradients of the mean over the decisions of all processes; this one's is a mean over `count` of its own."""
        weights = list(self.policy.parameters())
        parts = [(torch.zeros_like(w) if w.grad is None else w.grad).flatten() for w in weights]
        flat = torch.cat([*parts, torch.ones(1, device=self.policy.device)]).mul_(count)
        self.team.sum(flat)
        flat /= flat[-1].clamp_min(1.0)
        for weight, part in zip(weights, flat[:-1].split([w.numel() for w in weights]), strict=True):
            weight.grad = part.view_as(weight)

    def learn(
        self, r: Rollout, sides: Sides, advantage: FloatArray, *, step: int, fraction: float, number: int = 0
    ) -> dict[str, float]:
        """One pass, or more, over what net `number` decided in the rollout, in minibatches of whole sides."""
        keys, device = self.keys, self.policy.device
        weight = r.learns & (r.owner == number)
        returns = advantage + r.value
        chosen = advantage[weight]
        count, total, squares = self.summed(
            float(len(chosen)), float(chosen.sum(dtype=np.float64)), float((chosen.astype(np.float64) ** 2).sum())
        )
        mean = total / max(count, 1.0)
        deviation = math.sqrt(max(squares / max(count, 1.0) - mean * mean, 0.0))
        advantage = (advantage - np.float32(mean)) / np.float32(deviation + 1e-8)
        bonus = keys.entropy + (keys.final_entropy - keys.entropy) * fraction
        for group in self.optimizer.param_groups:
            group["lr"] = keys.learning_rate * rate_at(keys, fraction)

        columns_all = len(r.last) * sides.sides

        def grouped(array: np.ndarray) -> Tensor:
            there = torch.from_numpy(array).to(device, non_blocking=True)
            return there.reshape(len(array), columns_all, sides.players, *array.shape[3:])

        parts = [r.vector, r.critic, r.fresh, r.mask, r.units]
        seen = [grouped(part[:-1]) for part in parts]
        numbers = [grouped(part) for part in (r.action, r.log_p, advantage, returns, weight)]
        state = grouped(r.state[None])[0]
        columns = np.flatnonzero(weight.reshape(r.steps, columns_all, sides.players).any((0, 2)))
        size = max(1, keys.minibatch // self.team.ranks // (r.steps * sides.players))
        pieces = max(1, round(len(columns) / size))
        (pieces_f,) = self.largest(float(pieces))
        pieces = int(pieces_f)
        told_of: list[Tensor] = []  # fetched at last: until then a GPU need not be waited for
        for epoch in range(keys.epochs):
            draw = np.random.Generator(np.random.Philox(key=mixed(keys.seed, step, epoch, self.team.rank)))
            for piece in np.array_split(draw.permutation(columns), pieces):
                at = torch.from_numpy(piece).to(device)
                vector, critic, fresh, mask = (part[:, at] for part in seen[:4])
                rows = mask, *(part[:, at] for part in numbers)
                if self.fast:
                    units = policy_fast.take_parts(seen[4].numpy(), piece, r.steps, self.policy.shape)
                    decision, _ = policy_fast.unroll(self.policy, vector, units, critic, state[at], fresh)
                    losses = fused_loss(
                        decision,
                        self.table,
                        *(part.flatten(0, 2).numpy() for part in rows),
                        clip=keys.clip,
                        entropy_bonus=bonus,
                        value_weight=keys.value_weight,
                    )
                else:
                    logits, values, _ = self.policy.unroll(vector, seen[4][:, at], critic, state[at], fresh)
                    mask, action, log_p, adv, ret, counts = rows
                    losses = ppo_loss(
                        logits,
                        values,
                        mask,
                        action.long(),
                        log_p,
                        adv,
                        ret,
                        counts.float(),
                        heads=self.policy.shape.heads,
                        clip=keys.clip,
                        entropy_bonus=bonus,
                        value_weight=keys.value_weight,
                    )
                self.optimizer.zero_grad(set_to_none=True)
                losses.total.backward()
                if self.team.ranks > 1:
                    self._mean_gradients(float(rows[-1].sum()))
                norm = torch.nn.utils.clip_grad_norm_(self.policy.parameters(), keys.gradient_norm or math.inf)
                self.optimizer.step()
                each_loss = (
                    losses.total,
                    losses.policy,
                    losses.value,
                    losses.entropy,
                    losses.divergence,
                    losses.clipped,
                )
                told_of.append(torch.stack([each.detach().double() for each in (*each_loss, norm)]))
        sums = np.zeros(7)
        for each_told in told_of:
            sums += each_told.cpu().numpy()
        sums /= keys.epochs * pieces
        spread = returns[weight].var() if len(chosen) else 0.0
        explained = 1 - (returns - r.value)[weight].var() / spread if spread > 0 else 0.0
        told = [*(float(each) for each in sums), float(explained)]
        share = float(len(chosen)) / max(count, 1.0)  # of all processes' decisions, so that all tell the same
        return dict(zip(TOLD, self.summed(*(each * share for each in told)), strict=True))
