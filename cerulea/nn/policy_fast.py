"""A policy on CPU cores, in few passes over memory: torch's matrix products, and between them compiled loops.

In:      a Policy, and what players see.
Out:     the parts that logits are made of, with gradients written by hand; or actions that were drawn at once.
Kept:    it computes what `Policy.unroll` does, to rounding. Logits of actions that are not legal are never computed.
Not here: the loops (`policy_kernels`), what is learned (`train.ppo`), accelerators: there `Policy.unroll` runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from cerulea.nn import policy_kernels as kernels
from cerulea.nn.policy import Policy, PolicyShape

IntArray = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Table:
    """Where each action's logit comes from, as the kernels read it (`policy_kernels.weigh`)."""

    source_N: IntArray
    slot_N: IntArray
    first_N: IntArray
    count_N: IntArray
    embed: int
    head_A: IntArray

    @classmethod
    def of(cls, shape: PolicyShape) -> Table:
        """The table of a shape."""
        source, slot, first, count = (np.full(shape.actions, -1, np.int64) for _ in range(4))
        for number, (begin, actions) in enumerate(shape.pointers):
            for k in range(actions):
                n = begin + k
                at, many = next((f, c) for f, c, _ in shape.unit_classes if f <= k < f + c)
                source[n], slot[n], first[n], count[n] = number * shape.embed, k - at, at, many
        plain = np.flatnonzero(slot < 0)
        source[plain] = np.arange(len(plain))
        return cls(source, slot, first, count, shape.embed, np.cumsum([0, *shape.heads]))

    def columns(self) -> tuple[Any, ...]:
        """In the order in which the kernels take them."""
        return self.source_N, self.slot_N, self.first_N, self.count_N, self.embed, self.head_A


@dataclass(frozen=True, slots=True)
class Decision:
    """What logits are made of, for R rows, and values."""

    plain: Tensor  # (R, actions that point to nothing)
    query: Tensor  # (R, pointers x E)
    embedded: Tensor  # all classes one behind the other, each (R, C, E), flat
    value: Tensor  # (R,)


def takes(policy: Policy) -> bool:
    """Whether this way of computing is for such a policy where it lies."""
    return policy.device.type == "cpu" and policy.mix.weight.dtype == torch.float32


def parts_of(units: Tensor, shape: PolicyShape) -> list[Tensor]:
    """Each class's units by themselves: (..., U, F) to (rows, C, F)."""
    return [units[..., first : first + count, :].flatten(0, -3).contiguous() for first, count, _ in shape.unit_classes]


def take_parts(units: NDArray[np.float32], sides: IntArray, steps: int, shape: PolicyShape) -> list[Tensor]:
    """Each class's units of the chosen sides: of (T, S, K, U, F) the first `steps`, as (T x sides x K, C, F)."""
    parts, width = [], shape.unit_features
    flat = units.reshape(*units.shape[:3], -1)
    for first, count, _ in shape.unit_classes:
        out = np.empty((steps, len(sides), units.shape[2], count * width), np.float32)
        kernels.take_units(flat, sides, first * width, out)
        parts.append(torch.from_numpy(out).view(out.size // (count * width), count, width))
    return parts


def unroll(
    policy: Policy, vector: Tensor, parts: list[Tensor], critic: Tensor, state: Tensor, fresh: Tensor
) -> tuple[Decision, Tensor]:
    """As `Policy.unroll`, up to the logits.

    Args:
        vector: (T, S, K, F). parts: of units, from `parts_of` or `take_parts`. critic: (T, S, K, F).
        state: (S, K, state). fresh: bool (T, S, K).
    """
    s = policy.shape
    steps, sides, players = vector.shape[:3]
    rows = steps * sides * players
    seen = F.relu(policy.vector(vector.reshape(rows, s.vector)))
    embedded = seen.new_zeros(0)
    if parts:
        pooled, embedded = _Units.apply(  # type: ignore[no-untyped-call]
            s, parts, *(each.weight for each in policy.units), *(each.bias for each in policy.units), *policy.places
        )
        seen = torch.cat([seen, pooled], dim=-1)
    mixed = F.relu(policy.mix(seen))
    read = policy._together(mixed.view(steps, sides, players, s.width)).reshape(
        steps, sides * players, s.width + s.share
    )
    if s.core == "lstm":
        given = policy.core_in(read)
        keep = 1.0 - fresh.reshape(steps, sides * players).float()
        core, after = _Lstm.apply(given, policy.core_state.weight, state.reshape(sides * players, s.state), keep)  # type: ignore[no-untyped-call]
    else:
        core, after = policy._remember(read, state.reshape(sides * players, s.state), fresh.flatten(1, 2))
    core = core.reshape(rows, s.memory)
    plain = policy.plain(core)
    query = policy.query(core) if policy.query is not None else core.new_zeros(rows, 0)
    known = core
    if policy.critic is not None:
        known = torch.cat([core, F.relu(policy.critic(critic.reshape(rows, s.critic)))], dim=-1)
    value = policy.value(known).squeeze(-1)
    return Decision(plain, query, embedded, value), after.view(sides, players, s.state)


def act(
    policy: Policy,
    table: Table,
    seen: Sequence[Tensor],
    mask: NDArray[np.bool_],
    uniform: NDArray[np.float32],
) -> tuple[NDArray[np.int32], NDArray[np.float32], Tensor, Tensor]:
    """One step of (S, K) players: actions (R, A), their log probabilities (R,), values (R,), memory (S, K, state).

    Args:
        seen: vector, units, critic, state, fresh, as `Policy.step` takes them.
        mask: (R, N). uniform: in [0, 1), (R, A).
    """
    vector, units, critic, state, fresh = seen
    parts = parts_of(units, policy.shape)
    decision, after = unroll(policy, vector[None], parts, critic[None], state, fresh[None])
    action = np.empty((len(mask), len(policy.shape.heads)), np.int32)
    log_p = np.empty(len(mask), np.float32)
    kernels.draw_rows(
        mask,
        decision.plain.numpy(),
        decision.query.numpy(),
        decision.embedded.numpy(),
        *table.columns(),
        uniform,
        action,
        log_p,
    )
    return action, log_p, decision.value, after


def logits_of(decision: Decision, shape: PolicyShape) -> Tensor:
    """All logits, before a mask: slow, for tests."""
    table = Table.of(shape)
    rows = len(decision.plain)
    columns = []
    for n in range(shape.actions):
        if table.slot_N[n] < 0:
            columns.append(decision.plain[:, table.source_N[n]])
            continue
        first, count = int(table.first_N[n]), int(table.count_N[n])
        block = decision.embedded[first * rows * shape.embed : (first + count) * rows * shape.embed]
        unit = block.view(rows, count, shape.embed)[:, int(table.slot_N[n])]
        query = decision.query[:, table.source_N[n] : table.source_N[n] + shape.embed]
        columns.append((query * unit).sum(-1) * shape.embed**-0.5)
    return torch.stack(columns, dim=-1)


class _Units(torch.autograd.Function):
    """Embeddings of all units, and the largest and the mean of each class."""

    @staticmethod
    def forward(ctx: Any, shape: PolicyShape, parts: list[Tensor], *weights: Tensor) -> tuple[Tensor, Tensor]:
        classes, width = len(parts), shape.embed
        rows = len(parts[0])
        matrices, biases, places = weights[:classes], weights[classes : 2 * classes], weights[2 * classes :]
        pooled = torch.empty(rows, 2 * classes * width)
        embedded = torch.empty(rows * shape_units(shape) * width)
        place = 0
        for c, (first, count, ordered) in enumerate(shape.unit_classes):
            out = embedded[first * rows * width : (first + count) * rows * width].view(rows * count, width)
            torch.addmm(biases[c], parts[c].view(rows * count, shape.unit_features), matrices[c].t(), out=out)
            at = places[place] if ordered else biases[c][None]
            place += ordered
            block = out.view(rows, count, width).numpy()
            kernels.pool_units(block, at.detach().numpy(), ordered, pooled.numpy(), 2 * c * width)
        ctx.shape, ctx.parts = shape, parts
        ctx.save_for_backward(pooled, embedded)
        return pooled, embedded

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor | None, ...]:
        dpooled, dembedded = (each.contiguous() for each in outputs)
        shape, parts = ctx.shape, ctx.parts
        pooled, embedded = ctx.saved_tensors
        rows, width = len(parts[0]), shape.embed
        matrices, biases, places = [], [], []
        for c, (first, count, ordered) in enumerate(shape.unit_classes):
            begin, end = first * rows * width, (first + count) * rows * width
            block = dembedded[begin:end].view(rows, count, width)
            kernels.pool_units_back(
                embedded[begin:end].view(rows, count, width).numpy(),
                pooled.numpy(),
                dpooled.numpy(),
                2 * c * width,
                block.numpy(),
            )
            flat = block.view(rows * count, width)
            matrices.append(flat.t() @ parts[c].view(rows * count, shape.unit_features))
            by_slot = block.sum(0)
            biases.append(by_slot.sum(0))
            if ordered:
                places.append(by_slot)
        return (None, None, *matrices, *biases, *places)


def shape_units(shape: PolicyShape) -> int:
    """Unit slots of all classes."""
    return sum(count for _, count, _ in shape.unit_classes)


class _Lstm(torch.autograd.Function):
    """An LSTM over T steps whose memory is emptied where keep is 0; what it is given is already multiplied."""

    @staticmethod
    def forward(ctx: Any, given: Tensor, weight: Tensor, state: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
        steps, rows, width = given.shape[0], given.shape[1], weight.shape[1]
        gates = torch.empty(steps, rows, 4 * width)
        before_h, core = torch.empty(steps, rows, width), torch.empty(steps, rows, width)
        c, tanh = torch.empty(steps + 1, rows, width), torch.empty(steps, rows, width)
        h = state[:, :width]
        c[0] = state[:, width:]
        gates_n, c_n, tanh_n, core_n, keep_n = (x.numpy() for x in (gates, c, tanh, core, keep))
        turned = weight.t()
        for t in range(steps):
            torch.mul(h, keep[t, :, None], out=before_h[t])
            torch.addmm(given[t], before_h[t], turned, out=gates[t])
            kernels.lstm_cell(gates_n[t], c_n[t], keep_n[t], c_n[t + 1], tanh_n[t], core_n[t])
            h = core[t]
        ctx.save_for_backward(weight, gates, before_h, c, tanh, keep)
        after = torch.cat([core[-1], c[-1]], dim=-1)
        ctx.mark_non_differentiable(after)
        return core, after

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor | None, ...]:
        dcore = outputs[0]
        weight, gates, before_h, c, tanh, keep = ctx.saved_tensors
        steps, rows, width = dcore.shape
        dgates = torch.empty_like(gates)
        dc = np.zeros((rows, width), np.float32)
        gates_n, c_n, tanh_n, keep_n, dgates_n = (x.numpy() for x in (gates, c, tanh, keep, dgates))
        dh = dcore[steps - 1].contiguous()
        for t in range(steps - 1, -1, -1):
            kernels.lstm_cell_back(gates_n[t], c_n[t], keep_n[t], tanh_n[t], dh.numpy(), dc, dgates_n[t])
            if t:
                back = (dgates[t] @ weight).mul_(keep[t, :, None])
                dh = back.add_(dcore[t - 1])
        flat = dgates.view(steps * rows, 4 * width)
        return dgates, flat.t() @ before_h.view(steps * rows, width), None, None
