"""One optimizer step: gradients summed over micro-batches and processes, checked, applied.

In:      micro-batches of token ids with their slot numbers, the optimizer, this step's rates.
Out:     the mean loss in nats per token and the gradient norm; parameters moved, or left alone with the reason.
Kept:    the loss of a step is the sum over all targets divided by their number, however rows are cut into
         micro-batches; dropout in a slot is a pure function of (seed, step, slot).
Not here: which rows (`text.order`), rates (`schedule`), when to stop (`text`).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from cerulea.core.errors import TrainingDiverged
from cerulea.core.seeds import mixed
from cerulea.nn.decoder import Decoder
from cerulea.nn.loss import IGNORE
from cerulea.train.parallel import Team

SPIKE_WINDOW = 128  # steps that mean and deviation are taken over
SPIKE_LEAST = 64  # steps before any is judged
SPIKES_IN_A_ROW = 5  # then the level has moved, and the step is taken
BROKEN_IN_A_ROW = 20  # non-finite steps before the run gives up


@dataclass(frozen=True, slots=True)
class Slot:
    """One micro-batch and its place in the step."""

    number: int
    token_BT: Tensor  # int64
    target_BT: Tensor  # int64, IGNORE where a position is not scored


def add_gradients(decoder: Decoder, slots: Iterable[Slot], targets: float, *, seed: int, step: int) -> Tensor:
    """Add the gradient of (summed loss / targets) over all slots; returns the summed loss, float64.

    Args:
        targets: scored targets of the whole step, over all processes.
    """
    total = torch.zeros((), dtype=torch.float64, device=decoder.embedding.weight.device)
    for slot in slots:
        if decoder.dropout:
            torch.manual_seed(mixed(seed, step, slot.number) >> 1)
        loss = decoder.loss(slot.token_BT, slot.target_BT)
        (loss / targets).backward()
        total += loss.detach().double()
    return total


def count_targets(slots: Iterable[Slot]) -> int:
    """Scored targets of some slots."""
    return sum(int((slot.target_BT != IGNORE).sum()) for slot in slots)


def gradient_norm(decoder: Decoder) -> float:
    """Euclidean norm over all gradients."""
    gradients = [weight.grad for weight in decoder.parameters() if weight.grad is not None]
    return float(torch.nn.utils.get_total_norm(gradients))


def clip(decoder: Decoder, norm: float, largest: float) -> None:
    """Scale all gradients so that their norm is at most `largest`; 0 leaves them."""
    if largest and norm > largest:
        for weight in decoder.parameters():
            if weight.grad is not None:
                weight.grad.mul_(largest / (norm + 1e-6))


@dataclass(slots=True)
class SpikeGuard:
    """Says which steps to leave out: non-finite ones, and those far above the recent level (llm.c's z-score).

    Its state is plain numbers and travels in checkpoints.
    """

    sigma: float
    losses: deque[float] = field(default_factory=lambda: deque(maxlen=SPIKE_WINDOW))
    norms: deque[float] = field(default_factory=lambda: deque(maxlen=SPIKE_WINDOW))
    spikes: int = 0  # in a row
    broken: int = 0  # in a row

    def reason_to_skip(self, loss: float, norm: float) -> str:
        """Why this step must not be applied, or nothing; call it once a step.

        Raises:
            TrainingDiverged: BROKEN_IN_A_ROW steps in a row were not finite.
        """
        if not (math.isfinite(loss) and math.isfinite(norm)):
            self.broken += 1
            if self.broken >= BROKEN_IN_A_ROW:
                raise TrainingDiverged(
                    f"{self.broken} steps in a row had no finite loss or gradient.",
                    why="The weights or the data no longer give numbers.",
                    fix="Lower train.learning_rate, or set train.precision to fp32, and resume or start anew.",
                )
            return f"not finite: loss {loss}, gradient norm {norm}"
        self.broken = 0
        z = max(_z_score(loss, self.losses), _z_score(norm, self.norms))
        if self.sigma and z > self.sigma and self.spikes < SPIKES_IN_A_ROW:
            self.spikes += 1
            return f"spike of {z:.1f} standard deviations: loss {loss:.4f}, gradient norm {norm:.4f}"
        self.spikes = 0
        self.losses.append(loss)
        self.norms.append(norm)
        return ""

    def state(self) -> dict[str, object]:
        """Plain values for a checkpoint."""
        return {"losses": list(self.losses), "norms": list(self.norms), "spikes": self.spikes, "broken": self.broken}

    def load(self, state: dict[str, object]) -> None:
        """Put back what `state` gave."""
        self.losses.extend(state["losses"])  # type: ignore[arg-type]
        self.norms.extend(state["norms"])  # type: ignore[arg-type]
        self.spikes, self.broken = int(state["spikes"]), int(state["broken"])  # type: ignore[call-overload]


def _z_score(value: float, window: deque[float]) -> float:
    if len(window) < SPIKE_LEAST:
        return 0.0
    mean = sum(window) / len(window)
    deviation = math.sqrt(sum((x - mean) ** 2 for x in window) / len(window))
    return (value - mean) / deviation if deviation > 0 else 0.0


def agree(team: Team, *values: float) -> list[float]:
    """Sums of some numbers over all processes, in one message."""
    if team.ranks == 1:
        return list(values)
    device = "cuda" if torch.cuda.is_available() and torch.distributed.get_backend() == "nccl" else "cpu"
    return [float(v) for v in team.sum(torch.tensor(values, dtype=torch.float64, device=device))]
