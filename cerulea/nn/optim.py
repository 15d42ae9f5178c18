"""Optimizers: fused AdamW for vectors and embeddings, Muon for matrices.

In:      gradients on the decoder's parameters, and this step's rates as plain numbers.
Out:     updated parameters; the state as named tensors, for checkpoints.
Kept:    the state names parameters, never positions, so that any layout of groups can read it back.
Sources: Muon, Jordan et al. 2024; Polar Express, Amsel et al. 2025 (2505.16932); cautious weight
         decay, Chen et al. 2025 (2510.12402), as used by nanochat.
Not here: schedules (`train.schedule`), clipping and skipping (`train.loop`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cerulea.nn.decoder import Decoder

# Quintic polynomials that drive singular values to 1, best for five steps from [1e-3, 1], made safe
# against rounding by 2 % (Polar Express, algorithm 1).
POLAR_STEPS = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerSettings:
    """Peak rates per kind of parameter; the schedule multiplies all of them."""

    kind: str  # adamw or muon
    learning_rate: float  # of matrices; of everything under adamw
    embedding_rate: float
    head_rate: float
    vector_rate: float  # norm weights, biases, scalars, gates, learned positions
    weight_decay: float
    beta1: float
    beta2: float
    momentum: float  # Muon's
    orthogonal_dtype: torch.dtype = torch.float32
    orthogonal_steps: int = 5  # of Muon's orthogonalisation


def orthogonalise(g_NRC: Tensor, dtype: torch.dtype = torch.float32, steps: int = 5) -> Tensor:
    """The nearest matrices with all singular values about 1, for a stack of N matrices at once.

    Args:
        g_NRC: stacked matrices with rows R ≤ columns C, any float dtype.
        dtype: of the products; bfloat16 is enough where it is fast.
        steps: polynomials applied, 1 to 5; fewer leave small singular values below 1.
    """
    x = g_NRC.to(dtype)
    x = x / (x.norm(dim=(-2, -1), keepdim=True) * 1.02 + 1e-6)
    for a, b, c in POLAR_STEPS[:steps]:
        s = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(s, s, s, beta=b, alpha=c), x, beta=a)
    return x


@dataclass(frozen=True, slots=True)
class Piece:
    """Rows [start, stop) of one matrix parameter, orthogonalised as a matrix of its own."""

    name: str
    weight: nn.Parameter
    start: int
    stop: int


class Muon:
    """Momentum orthogonalised, with matrices of one shape stacked into one batched product."""

    def __init__(self, pieces: Iterable[Piece], settings: OptimizerSettings) -> None:
        self.settings = settings
        self.stacks: dict[tuple[int, int], list[Piece]] = {}
        for piece in pieces:
            self.stacks.setdefault((piece.stop - piece.start, piece.weight.shape[1]), []).append(piece)
        self.momentum = {
            key: torch.zeros(len(stack), *key, device=stack[0].weight.device) for key, stack in self.stacks.items()
        }

    @torch.no_grad()
    def step(self, rate: float, momentum: float, decay: float) -> None:
        """Move every matrix by `rate`; `decay` is the weight decay of this step before the rate."""
        for (rows, columns), stack in self.stacks.items():
            gradient = torch.stack([p.weight.grad[p.start : p.stop] for p in stack])  # type: ignore[index]
            kept = self.momentum[rows, columns]
            kept.lerp_(gradient, 1 - momentum)
            update = gradient.lerp_(kept, momentum)
            wide = update if rows <= columns else update.mT
            update = orthogonalise(wide, self.settings.orthogonal_dtype, self.settings.orthogonal_steps).to(kept.dtype)
            if rows > columns:
                update = update.mT
            # A matrix with more rows than columns may move further: its update has the larger norm per input.
            update = update * (rate * max(1.0, rows / columns) ** 0.5)
            weight = torch.stack([p.weight[p.start : p.stop] for p in stack])
            if decay:
                # Cautious: only where the update pulls the same way as the decay.
                weight -= rate * decay * weight * (update * weight > 0)
            weight -= update
            for i, piece in enumerate(stack):
                piece.weight[piece.start : piece.stop] = weight[i]

    def tensors(self) -> dict[str, Tensor]:
        """Momentum of every matrix, under its parameter's name."""
        whole: dict[str, Tensor] = {}
        for key, stack in self.stacks.items():
            for i, piece in enumerate(stack):
                whole.setdefault(f"momentum.{piece.name}", torch.empty_like(piece.weight))
                whole[f"momentum.{piece.name}"][piece.start : piece.stop] = self.momentum[key][i]
        return {name: tensor.detach() for name, tensor in whole.items()}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Put back what `tensors` gave."""
        for key, stack in self.stacks.items():
            for i, piece in enumerate(stack):
                self.momentum[key][i] = tensors[f"momentum.{piece.name}"][piece.start : piece.stop]


class Optimizer:
    """All parameters of one decoder, each kind with the method and rate that suits it."""

    def __init__(self, decoder: Decoder, settings: OptimizerSettings) -> None:
        self.settings = settings
        self.names = {id(weight): name for name, weight in decoder.named_parameters()}
        kinds: dict[str, list[nn.Parameter]] = {}
        for name, weight in decoder.named_parameters():
            kinds.setdefault(kind_of(name, weight, settings.kind), []).append(weight)
        matrices = kinds.pop("matrix", [])
        self.muon = Muon(
            (piece for weight in matrices for piece in pieces_of(self.names[id(weight)], weight, decoder)), settings
        )
        self.rates = {
            "decayed": settings.learning_rate,
            "undecayed": settings.learning_rate,
            "embedding": settings.embedding_rate,
            "value_embedding": settings.embedding_rate / 2,
            "head": settings.head_rate,
            "vector": settings.vector_rate,
        }
        groups = [{"params": weights, "kind": kind, "weight_decay": 0.0} for kind, weights in kinds.items()]
        eps = 1e-8 if settings.kind == "adamw" else 1e-10
        self.adam = torch.optim.AdamW(groups, lr=0.0, betas=(settings.beta1, settings.beta2), eps=eps, fused=True)

    def step(self, *, rate_scale: float, momentum: float, decay_scale: float) -> None:
        """One update from the gradients on the parameters.

        Args:
            rate_scale: the schedule's multiplier of every peak rate.
            momentum: Muon's momentum of this step.
            decay_scale: multiplier of the weight decay.
        """
        for group in self.adam.param_groups:
            group["lr"] = self.rates[group["kind"]] * rate_scale
            if group["kind"] == "decayed":
                group["weight_decay"] = self.settings.weight_decay * decay_scale
        self.adam.step()
        self.muon.step(self.settings.learning_rate * rate_scale, momentum, self.settings.weight_decay * decay_scale)

    def tensors(self) -> dict[str, Tensor]:
        """The whole state as named tensors (live, not copies)."""
        state = dict(self.muon.tensors())
        for weight, values in self.adam.state.items():
            for key, value in values.items():
                state[f"{key}.{self.names[id(weight)]}"] = value
        return state

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Put back what `tensors` gave; a state without AdamW entries is one before the first step."""
        self.muon.load(tensors)
        for group in self.adam.param_groups:
            for weight in group["params"]:
                name = self.names[id(weight)]
                if f"step.{name}" in tensors:
                    self.adam.state[weight] = {
                        key: tensors[f"{key}.{name}"].clone() for key in ("step", "exp_avg", "exp_avg_sq")
                    }


def kind_of(name: str, weight: nn.Parameter, method: str) -> str:
    """The group of a parameter. AdamW alone decays what has two dimensions or more, as nanoGPT does."""
    if method == "adamw":
        return "decayed" if weight.ndim >= 2 else "undecayed"
    if name.startswith("embedding."):
        return "embedding"
    if name.startswith("value_embeddings."):
        return "value_embedding"
    if name.startswith("head."):
        return "head"
    if weight.ndim == 2 and not name.startswith("positions.") and "value_gate" not in name:
        return "matrix"
    return "vector"


def pieces_of(name: str, weight: nn.Parameter, decoder: Decoder) -> list[Piece]:
    """Cut a fused matrix where its parts begin: queries, keys, values; SwiGLU's gate and input."""
    shape = decoder.shape
    cuts = [weight.shape[0]]
    if name.endswith("attention.qkv.weight"):
        query, kv = shape.heads * shape.head_size, shape.kv_heads * shape.head_size
        cuts = [query, query + kv, query + 2 * kv]
    elif name.endswith("mlp.up.weight") and shape.activation == "swiglu":
        cuts = [shape.hidden, 2 * shape.hidden]
    starts = [0, *cuts[:-1]]
    return [Piece(name, weight, start, stop) for start, stop in zip(starts, cuts, strict=True)]
