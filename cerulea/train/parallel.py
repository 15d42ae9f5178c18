"""Several processes that train one model: who takes part, and sums over all of them.

In:      RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT from the launcher (`--processes`, or torchrun).
Out:     a Team with sums and a shared decision to stop; a team of one does nothing.
Kept:    gradients are summed in float32, the same on every rank bit for bit; all ranks leave a run together.
Not here: which rows a rank reads (`text`).
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Team:
    """This process's place among those that train together."""

    rank: int = 0
    ranks: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process writes files and tells of progress."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """Sum over all ranks, in place."""
        if self.ranks > 1:
            dist.all_reduce(values)
        return values

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Sum every gradient over all ranks, as one message; a missing gradient counts as zero."""
        if self.ranks == 1:
            return
        weights = list(parameters)
        flat = torch.cat([(torch.zeros_like(w) if w.grad is None else w.grad).flatten().float() for w in weights])
        dist.all_reduce(flat)
        for weight, part in zip(weights, flat.split([w.numel() for w in weights]), strict=True):
            weight.grad = part.view_as(weight)

    def meet(self) -> None:
        """Wait until all ranks are here."""
        if self.ranks > 1:
            dist.barrier()

    def leaders(self, value: Any) -> Any:
        """What the leader has; every other process waits for it."""
        box = [value]
        if self.ranks > 1:
            dist.broadcast_object_list(box)
        return box[0]


def join_team(device: torch.device) -> Team:
    """Join the processes that the environment names; a team of one where it names none.

    Uses NCCL between GPUs and gloo between CPUs.
    """
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    if ranks == 1:
        return Team()
    if not dist.is_initialized():
        # The others wait while the leader packs a corpus, however large; a dead process is noticed otherwise.
        patience = datetime.timedelta(days=7)
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=patience)
    return Team(dist.get_rank(), ranks)


def leave_team() -> None:
    """Leave cleanly, so that the other ranks do not wait."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
