"""A policy for players that see units and choose among masked actions, with memory and a value.

In:      features of what each player sees, and its memory.
Out:     masked logits of every head, a value, the new memory.
Kept:    players of one side share all weights and, through a pooled part of a layer, what they have in mind. Who acts
         and who learns compute the same numbers: `step` is `unroll` with one step.
Not here: what the features mean (`games`), how it is trained (`train.ppo`).

Letters: T steps · S sides (rows of players that share their fate) · K players of a side · U unit slots · F features · E
width of a unit's embedding · N actions of all heads together · D width of the memory.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NEVER = -1e9  # the logit of an action that is not legal; its probability is exactly 0 in float32


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyShape:
    """What fixes the parameters: plain numbers."""

    vector: int  # flat features
    unit_features: int = 0
    unit_classes: tuple[tuple[int, int, bool], ...] = ()  # first slot, slots, whether their order means something
    critic: int = 0  # features that the value alone sees
    heads: tuple[int, ...] = ()  # actions of each head
    pointers: tuple[tuple[int, int], ...] = ()  # first action (of all heads together), actions: one for each unit slot
    embed: int = 16
    vector_width: int = 64
    width: int = 128
    core: str = "lstm"  # "lstm", "mingru", or "none"
    memory: int = 64
    share: int = 32  # channels that are pooled over a side; 0 where players are alone

    @property
    def actions(self) -> int:
        """Actions of all heads together."""
        return sum(self.heads)

    @property
    def state(self) -> int:
        """Numbers of one player's memory."""
        return {"lstm": 2, "mingru": 1, "none": 0}[self.core] * self.memory

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def policy_shape_from(values: dict[str, Any]) -> PolicyShape:
    """A shape from what `as_json` gave, also after a way through JSON."""
    known = dict(values)
    for name in ("unit_classes", "pointers"):
        known[name] = tuple(tuple(entry) for entry in known[name])
    known["heads"] = tuple(known["heads"])
    return PolicyShape(**known)


class Policy(nn.Module):
    """Units by class, pooled; oneself; a memory; pointers to units."""

    def __init__(self, shape: PolicyShape) -> None:
        super().__init__()
        self.shape = shape
        s = shape
        classes = len(s.unit_classes)
        self.units = nn.ModuleList(nn.Linear(s.unit_features, s.embed) for _ in s.unit_classes)
        self.places = nn.ParameterList(
            nn.Parameter(torch.zeros(count, s.embed)) for _, count, ordered in s.unit_classes if ordered
        )
        self.vector = nn.Linear(s.vector, s.vector_width)
        self.mix = nn.Linear(s.vector_width + 2 * classes * s.embed, s.width)
        read = s.width + s.share
        if s.core == "lstm":
            self.core_in = nn.Linear(read, 4 * s.memory)
            self.core_state = nn.Linear(s.memory, 4 * s.memory, bias=False)
        elif s.core == "mingru":
            self.core_in = nn.Linear(read, 2 * s.memory)
        else:
            self.core_in = nn.Linear(read, s.memory)
        self.plain = nn.Linear(s.memory, s.actions - sum(count for _, count in s.pointers))
        self.query = nn.Linear(s.memory, len(s.pointers) * s.embed) if s.pointers else None
        self.critic = nn.Linear(s.critic, 32) if s.critic else None
        self.value = nn.Linear(s.memory + (32 if s.critic else 0), 1)
        self._begin()

    def _begin(self) -> None:
        """Orthogonal weights; small ones where actions and values come out, so that nothing is preferred at first."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.orthogonal_(module.weight, gain=2**0.5)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.orthogonal_(self.plain.weight, gain=0.01)
        if self.query is not None:
            nn.init.orthogonal_(self.query.weight, gain=0.01)
        nn.init.orthogonal_(self.value.weight, gain=1.0)
        if self.shape.core == "lstm":
            nn.init.orthogonal_(self.core_in.weight, gain=1.0)
            nn.init.orthogonal_(self.core_state.weight, gain=1.0)
            with torch.no_grad():  # gates in the order input, forget, new, output; to remember is the default
                self.core_in.bias[self.shape.memory : 2 * self.shape.memory] = 1.0

    @property
    def device(self) -> torch.device:
        """Where it lies."""
        return self.mix.weight.device

    # -- seeing ------------------------------------------------------------------------------------

    def _see(self, vector: Tensor, units: Tensor) -> tuple[Tensor, Tensor | None]:
        """Everything before the memory, for any number of rows: (..., F) and (..., U, F)."""
        s = self.shape
        seen = [F.relu(self.vector(vector))]
        embedded: list[Tensor] = []
        place = 0
        for (first, count, ordered), encode in zip(s.unit_classes, self.units, strict=True):
            part = encode(units[..., first : first + count, :])
            if ordered:
                part = part + self.places[place]
                place += 1
            part = F.relu(part)
            embedded.append(part)
            seen += [part.amax(dim=-2), part.mean(dim=-2)]
        mixed = F.relu(self.mix(torch.cat(seen, dim=-1)))
        return mixed, torch.cat(embedded, dim=-2) if embedded else None

    def _together(self, mixed: Tensor) -> Tensor:
        """Add the largest of a side's values in the first channels: (..., K, width) to (..., K, width + share)."""
        if not self.shape.share:
            return mixed
        pooled = mixed[..., : self.shape.share].amax(dim=-2, keepdim=True)
        return torch.cat([mixed, pooled.expand(*mixed.shape[:-1], self.shape.share)], dim=-1)

    # -- memory ------------------------------------------------------------------------------------

    def _remember(self, read_T: Tensor, state: Tensor, fresh_T: Tensor) -> tuple[Tensor, Tensor]:
        """Walk through the steps: (T, rows, ...), memory (rows, state), fresh (T, rows) where a match begins."""
        s = self.shape
        given_T = self.core_in(read_T)
        if s.core == "none":
            return torch.tanh(given_T), state
        keep_T = 1.0 - fresh_T.to(given_T.dtype)[..., None]
        outs = []
        if s.core == "mingru":
            # Feng et al. 2024: h' = (1 - z) h + z g(x), where neither z nor g looks at h.
            update_T, new_T = given_T.chunk(2, dim=-1)
            z_T, new_T = torch.sigmoid(update_T), torch.tanh(new_T)
            h = state
            for t in range(len(given_T)):
                h = h * keep_T[t]
                h = h + z_T[t] * (new_T[t] - h)
                outs.append(h)
            return torch.stack(outs), h
        h, c = state.chunk(2, dim=-1)
        for t in range(len(given_T)):
            h, c = h * keep_T[t], c * keep_T[t]
            gates = torch.addmm(given_T[t], h, self.core_state.weight.t())
            i, f, g, o = gates.chunk(4, dim=-1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
            outs.append(h)
        return torch.stack(outs), torch.cat([h, c], dim=-1)

    # -- deciding ----------------------------------------------------------------------------------

    def _decide(self, core: Tensor, embedded: Tensor | None, critic: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (..., N) without a mask, values (...)."""
        s = self.shape
        plain = self.plain(core)
        if self.query is not None:
            assert embedded is not None
            queries = self.query(core).unflatten(-1, (len(s.pointers), s.embed))
            points = torch.matmul(queries, embedded.transpose(-1, -2)) * s.embed**-0.5
            parts, at, taken = [], 0, 0
            for number, (first, count) in enumerate(s.pointers):
                if first > at:
                    parts.append(plain[..., taken : taken + first - at])
                    taken += first - at
                parts.append(points[..., number, :count])
                at = first + count
            parts.append(plain[..., taken:])
            logits = torch.cat(parts, dim=-1)
        else:
            logits = plain
        known = torch.cat([core, F.relu(self.critic(critic))], dim=-1) if self.critic is not None else core
        return logits, self.value(known).squeeze(-1)

    def unroll(
        self, vector: Tensor, units: Tensor, critic: Tensor, state: Tensor, fresh: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Many steps of many sides.

        Args:
            vector: (T, S, K, F). units: (T, S, K, U, F). critic: (T, S, K, F).
            state: memory before the first step, (S, K, state).
            fresh: bool (T, S, K), true where a match begins with this step: the memory before it is forgotten.

        Returns:
            logits (T, S, K, N) before the mask, values (T, S, K), memory after the last step (S, K, state).
        """
        steps, sides, players = vector.shape[:3]
        mixed, embedded = self._see(vector, units)
        read = self._together(mixed).flatten(1, 2)
        core, state = self._remember(read, state.flatten(0, 1), fresh.flatten(1, 2))
        core = core.view(steps, sides, players, -1)
        logits, values = self._decide(core, embedded, critic)
        return logits, values, state.view(sides, players, self.shape.state)

    def step(
        self, vector: Tensor, units: Tensor, critic: Tensor, state: Tensor, fresh: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One step: as `unroll`, without T."""
        logits, values, state = self.unroll(vector[None], units[None], critic[None], state, fresh[None])
        return logits[0], values[0], state


def masked(logits: Tensor, mask: Tensor) -> Tensor:
    """Logits in float32 with what is not legal out of reach."""
    return logits.float().masked_fill(~mask, NEVER)


def log_probabilities(logits: Tensor, mask: Tensor, heads: tuple[int, ...]) -> list[Tensor]:
    """Log probabilities of each head over its legal actions."""
    parts = masked(logits, mask).split(list(heads), dim=-1)
    return [F.log_softmax(part, dim=-1) for part in parts]
