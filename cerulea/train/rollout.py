"""Play: many matches for a few steps, and everything that learning needs of them in one place.

In:      games, the policy that learns, past selves, and who plays against whom (`opponents`).
Out:     a Rollout: what was seen, done, paid and estimated, for all players of all matches and steps.
Kept:    the game writes what it shows straight into the rollout. All that is drawn is a function of (seed, update,
         step). An opponent stays for a whole match; memories are empty where a match begins. Two Players of one process
         share weights, which nobody changes meanwhile, and nothing else: each may play in a thread of its own.
Not here: what is learned from it (`ppo`, `selfplay`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import copy
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cerulea.core.seeds import mixed
from cerulea.games.game import Game, Observation, observation_buffers, tick_buffers
from cerulea.games.match import random_actions
from cerulea.nn import policy_fast
from cerulea.nn.policy import Policy, masked
from cerulea.train.opponents import BOT, PAST, SELF, Opponent

SCRIPTED = -1  # whoever decides for a side: a net that learns by its number, a script, or -2 - member of the pool


@dataclass(frozen=True, slots=True)
class Sides:
    """How players of a match form sides: (sides, players of a side), in order."""

    sides: int
    players: int
    teams: int

    @classmethod
    def of(cls, teams: tuple[int, ...]) -> Sides:
        """Sides of equal size whose players stand together; else each player is a side of its own."""
        count = max(teams) + 1
        size = len(teams) // count
        together = tuple(p // size for p in range(count * size)) == teams
        return cls(count, size, count) if together else cls(len(teams), 1, count)


@dataclass(slots=True)
class Result:
    """One match that ended."""

    opponent: Opponent
    won: float  # by the learner: 1, 0, or 0.5 for a draw; of a match against oneself, by side 0
    timeout: bool
    steps: int
    paid: float  # mean over learning players of what the game paid
    meters: NDArray[np.float32]  # mean over learning players


class Rollout:
    """Buffers (T steps, M matches, P players, ...), written anew by every update.

    Args:
        state: numbers of a player's memory.
        pinned: in memory that a GPU reads by itself, while the CPU goes on.
    """

    def __init__(self, game: Game, steps: int, state: int, *, matches: int, pinned: bool = False) -> None:
        t, m, p = steps, matches, game.players
        schema = game.schema
        # One look more than there are steps: what is seen after the last one is what the next update begins with.
        self.vector = np.zeros((t + 1, m, p, len(schema.vector)), np.float32)
        self.units = np.zeros((t + 1, m, p, schema.units, len(schema.unit_features)), np.float32)
        self.critic = np.zeros((t + 1, m, p, len(schema.critic)), np.float32)
        self.mask = np.zeros((t + 1, m, p, schema.actions), np.bool_)
        self.acting = np.zeros((t + 1, m, p), np.bool_)
        self.fresh = np.zeros((t + 1, m, p), np.bool_)
        self.action = np.zeros((t, m, p, len(schema.heads)), np.int32)
        self.log_p = np.zeros((t, m, p), np.float32)
        self.value = np.zeros((t, m, p), np.float32)
        self.reward = np.zeros((t, m, p), np.float32)
        self.terminated = np.zeros((t, m, p), np.bool_)
        self.truncated = np.zeros((t, m, p), np.bool_)
        self.after = np.zeros((t, m, p), np.float32)
        self.learns = np.zeros((t, m, p), np.bool_)
        self.owner = np.zeros((t, m, p), np.int8)  # which of the nets that learn decided, where one did
        self.state = np.zeros((m, p, state), np.float32)  # memory when the rollout begins
        self.last = np.zeros((m, p), np.float32)
        if pinned:
            for name, array in vars(self).items():
                if array.size:
                    setattr(self, name, torch.from_numpy(array).pin_memory().numpy())
        self.steps = t

    def part(self, where: slice) -> Rollout:
        """Some of the matches, in the same buffers."""
        part = copy(self)
        for name, array in vars(self).items():
            if name in ("state", "last"):
                setattr(part, name, array[where])
            elif name != "steps":
                setattr(part, name, array[:, where])
        return part

    def look(self, t: int) -> Observation:
        """The buffers of one step, for the game to write into."""
        return Observation(
            vector_MPF=self.vector[t],
            units_MPUF=self.units[t],
            critic_MPF=self.critic[t],
            mask_MPN=self.mask[t],
            acting_MP=self.acting[t],
        )


def bytes_of(game: Game, steps: int, state: int) -> int:
    """What a Rollout of this game would need, without making it."""
    s = game.schema
    seen = 4 * (len(s.vector) + s.units * len(s.unit_features) + len(s.critic)) + s.actions + 2
    each = seen + 4 * len(s.heads) + 4 * 4 + 4
    return (steps + 1) * game.matches * game.players * each + 4 * game.matches * game.players * state


def draw_actions(logits: Tensor, mask: Tensor, heads: tuple[int, ...], uniform: Tensor) -> tuple[Tensor, Tensor]:
    """Draw one action for each head.

    Args:
        logits: (..., N), before the mask. mask: bool (..., N). uniform: in [0, 1), (..., A).

    Returns:
        actions: int64 (..., A). log probabilities of them together: float32 (...).
    """
    parts = masked(logits, mask).split(list(heads), dim=-1)
    actions, total = [], torch.zeros(logits.shape[:-1], device=logits.device)
    for number, part in enumerate(parts):
        log_p = torch.log_softmax(part, dim=-1)
        sums = log_p.exp().cumsum(-1)
        # The first action whose sum is above the draw: one of probability 0 adds nothing and is never that one.
        at = uniform[..., number : number + 1] * sums[..., -1:]
        action = (sums <= at).sum(-1, keepdim=True).clamp_max(part.shape[-1] - 1)
        # A draw that rounds up to the whole sum would fall behind the last legal action.
        legal = part.gather(-1, action) > -1e8
        action = torch.where(legal, action, log_p.argmax(-1, keepdim=True))
        actions.append(action)
        total = total + log_p.gather(-1, action).squeeze(-1)
    return torch.cat(actions, dim=-1), total


class Player:
    """The matches of one process, or one of its halves, from rollout to rollout.

    Args:
        rollout: of this game's matches. rank, ranks: which of all Players of a run this one is.
    """

    def __init__(
        self, game: Game, nets: Sequence[Policy], rollout: Rollout, *, seed: int, rank: int = 0, ranks: int = 1
    ) -> None:
        self.game, self.nets, self.seed, self.rank, self.ranks = game, nets, seed, rank, ranks
        m, p, shape = game.matches, game.players, nets[0].shape
        self.sides = Sides.of(game.teams)
        self.teams = np.array(game.teams)
        self.team_of_side = self.teams[:: self.sides.players]
        self.rollout, self.device = rollout, nets[0].device
        self.stream = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None
        self.tick = tick_buffers(m, p)
        self.final = observation_buffers(game.schema, m, p)  # the last look at matches that were cut off
        self.meters = np.zeros((m, p, len(game.meters)), np.float32)
        self.state = torch.zeros(m, p, shape.state, device=self.device)  # of whoever decides for a place
        self.opponents: list[Opponent] = [Opponent(SELF)] * m
        self.bot_MP = np.full((m, p), -1, np.int8)
        self.learns_MP = np.ones((m, p), np.bool_)
        self.actor_MS = np.zeros((m, self.sides.sides), np.int64)
        self.length_M = np.zeros(m, np.int64)
        self.paid_MP = np.zeros((m, p), np.float64)
        self.fresh_M = np.ones(m, np.bool_)
        self.begun = 0
        self.heads, self.table = shape.heads, policy_fast.Table.of(shape)
        self.fast = policy_fast.takes(nets[0])
        self.simulate_s = self.infer_s = 0.0
        self.seat()

    # -- matches -----------------------------------------------------------------------------------

    def begin(self, where_M: NDArray[np.bool_], choose: Callable[[int], Opponent]) -> None:
        """Begin the marked matches, each with an opponent and a seed of its own."""
        seeds = np.zeros(self.game.matches, np.uint64)
        for m in np.flatnonzero(where_M):
            number = self.begun * self.ranks + self.rank
            self.begun += 1
            seeds[m] = mixed(self.seed, number, 1)
            self.opponents[m] = choose(number)
        self.game.reset(seeds, where_M)
        self.length_M[where_M] = 0
        self.paid_MP[where_M] = 0.0
        self.fresh_M[where_M] = True
        self.seat(np.flatnonzero(where_M))

    def seat(self, matches: NDArray[np.int64] | None = None) -> None:
        """Who decides for each side of some matches, or of all, by their opponents."""
        for m in range(self.game.matches) if matches is None else matches:
            opponent = self.opponents[m]
            against = self.teams != opponent.side
            alone = opponent.kind == SELF
            self.learns_MP[m] = True if alone else ~against
            self.bot_MP[m] = np.where(against, opponent.member, -1) if opponent.kind == BOT else -1
            other = {SELF: opponent.learner, BOT: SCRIPTED, PAST: -2 - opponent.member}.get(opponent.kind, 0)
            self.actor_MS[m] = np.where(self.team_of_side == opponent.side, opponent.learner, other)
        flat = self.actor_MS.reshape(-1)
        actors = [int(actor) for actor in np.unique(flat) if actor != SCRIPTED]
        self.seats = {actor: np.flatnonzero(flat == actor) for actor in actors}
        self.owner_MP = np.repeat(np.maximum(self.actor_MS, 0), self.sides.players, axis=1).astype(np.int8)

    # -- playing -----------------------------------------------------------------------------------

    def _grouped(self, array: Any) -> Tensor:
        """(M, P, ...) as (sides of all matches, players of a side, ...), where the nets lie."""
        tensor = torch.as_tensor(array).to(self.device, non_blocking=True)
        return tensor.reshape(len(tensor) * self.sides.sides, self.sides.players, *tensor.shape[2:])

    def _rows(self, actor: int) -> Tensor | slice:
        """Sides for which somebody decides."""
        rows = self.seats[actor]
        return slice(None) if len(rows) == self.actor_MS.size else torch.from_numpy(rows).to(self.device)

    def _values(self, looks: tuple[Any, ...], fresh: Any, out: NDArray[np.float32]) -> None:
        """What the nets that learn expect from here on, for their own sides."""
        flat = out.reshape(-1, self.sides.players)
        seen = [self._grouped(each) for each in (*looks, self.state, fresh)]
        for actor, at in self.seats.items():
            if actor >= 0:
                rows, net = self._rows(actor), self.nets[actor]
                vector, units, critic, state, new = (each[rows] for each in seen)
                if self.fast:
                    parts = policy_fast.parts_of(units, net.shape)
                    decision, _ = policy_fast.unroll(net, vector[None], parts, critic[None], state, new[None])
                    values = decision.value.view(-1, self.sides.players)
                else:
                    _, values, _ = net.step(vector, units, critic, state, new)
                flat[at] = values.cpu().numpy()

    def _decide(self, t: int, uniform: Tensor, past: Mapping[int, Policy]) -> None:
        """Let every net decide for its sides: the learning ones, and past selves."""
        r, players = self.rollout, self.sides.players
        looks = [
            self._grouped(each)
            for each in (r.vector[t], r.units[t], r.critic[t], self.state, r.fresh[t], r.mask[t], uniform)
        ]
        for actor, at in self.seats.items():
            rows = self._rows(actor)
            net = self.nets[actor] if actor >= 0 else past[-2 - actor]
            *seen, mask, draws = (each[rows] for each in looks)
            mask, draws = mask.flatten(0, 1), draws.flatten(0, 1)
            if self.fast:
                action, log_p, values, after = policy_fast.act(net, self.table, seen, mask.numpy(), draws.numpy())
            else:
                logits, values, after = net.step(*seen)
                drawn, log = draw_actions(logits.flatten(0, 1), mask, self.heads, draws)
                action, log_p = drawn.int().cpu().numpy(), log.cpu().numpy()
            r.action[t].reshape(-1, players, len(self.heads))[at] = action.reshape(-1, players, len(self.heads))
            r.log_p[t].reshape(-1, players)[at] = log_p.reshape(-1, players)
            r.value[t].reshape(-1, players)[at] = values.view(-1, players).cpu().numpy()
            if isinstance(rows, slice):
                self.state = after.reshape(self.state.shape)
            else:
                self._grouped(self.state)[rows] = after

    def _queue(self) -> AbstractContextManager[Any]:
        """A queue of this Player's own on the GPU, behind what has been queued for the weights."""
        if self.stream is None:
            return nullcontext()
        self.stream.wait_stream(torch.cuda.default_stream(self.device))
        return torch.cuda.stream(self.stream)

    def play(self, update: int, choose: Callable[[int], Opponent], past: Mapping[int, Policy]) -> list[Result]:
        """Fill the rollout, and tell which matches ended.

        Args:
            past: nets of all past selves that `choose` may name or that are met already.
        """
        r, game, m, p = self.rollout, self.game, self.game.matches, self.game.players
        results: list[Result] = []
        self.simulate_s = self.infer_s = 0.0
        r.fresh[0] = self.fresh_M[:, None]
        game.observe(r.look(0))
        with torch.inference_mode(), self._queue():
            r.state[:] = self.state.cpu().numpy()
            for t in range(r.steps):
                began = perf_counter()
                generator = torch.Generator().manual_seed(mixed(self.seed, update, t, self.rank, 2) >> 1)
                self._decide(t, torch.rand(m, p, len(self.heads), generator=generator), past)
                r.learns[t] = self.learns_MP & r.acting[t]
                r.owner[t] = self.owner_MP
                decided = perf_counter()
                if (self.actor_MS == SCRIPTED).any():
                    self._script(t, mixed(self.seed, update, t, self.rank, 3))
                game.step(r.action[t], self.tick)
                self._note(t)
                self.fresh_M[:] = False
                if self.tick.truncated_MP.any():
                    self._cut_off(t)
                if self.tick.ended_M.any():
                    results += self._ended(choose)
                r.fresh[t + 1] = self.fresh_M[:, None]
                game.observe(r.look(t + 1))
                self.infer_s += decided - began
                self.simulate_s += perf_counter() - decided
            began = perf_counter()
            self._values((r.vector[-1], r.units[-1], r.critic[-1]), r.fresh[-1], r.last)
            self.infer_s += perf_counter() - began
        return results

    def _script(self, t: int, key: int) -> None:
        """What scripted players do. The random one, whom no game has among its own, comes after the last of them."""
        game, action, random = self.game, self.rollout.action[t], self.bot_MP == len(self.game.bots)
        if random.any():
            seed_M = np.uint64(key) ^ np.arange(game.matches, dtype=np.uint64)
            action[random] = random_actions(self.rollout.look(t).mask_MPN, game.schema.heads, seed_M, t)[random]
        if game.bots:
            game.script(np.where(random, -1, self.bot_MP).astype(np.int8), action)

    def _note(self, t: int) -> None:
        r, tick = self.rollout, self.tick
        r.reward[t] = tick.reward_MP
        r.terminated[t], r.truncated[t] = tick.terminated_MP, tick.truncated_MP
        self.paid_MP += tick.reward_MP
        self.length_M += 1

    def _cut_off(self, t: int) -> None:
        """Values of what would have followed for players who were cut off, whether or not their match goes on."""
        look, r = self.final, self.rollout
        self.game.observe(look)
        self._values((look.vector_MPF, look.units_MPUF, look.critic_MPF), np.zeros_like(r.fresh[t]), r.after[t])

    def _ended(self, choose: Callable[[int], Opponent]) -> list[Result]:
        """Results of matches that ended, and new matches in their places."""
        tick, game = self.tick, self.game
        game.read_meters(self.meters)
        results = []
        ended_M = tick.ended_M.copy()
        for m in np.flatnonzero(ended_M):
            opponent = self.opponents[m]
            winner, timeout = int(tick.winner_M[m]), bool(tick.truncated_MP[m].any())
            side = max(opponent.side, 0)
            won = 0.0 if timeout and opponent.kind != SELF else 0.5 if winner < 0 else float(winner == side)
            ours = self.learns_MP[m]
            results.append(
                Result(
                    opponent,
                    won,
                    timeout,
                    int(self.length_M[m]),
                    float(self.paid_MP[m][ours].mean()),
                    self.meters[m][ours].mean(0),
                )
            )
        self.begin(ended_M, choose)
        return results
