"""Play: many matches for a few steps, and everything that learning needs of them in one place.

In:      a game, the policy that learns, past selves, and who plays against whom (`opponents`).
Out:     a Rollout: what was seen, done, paid and estimated, for all players of all matches and steps.
Kept:    the game writes what it shows straight into the rollout. All that is drawn is a function of (seed, update,
         step). An opponent stays for a whole match; memories are empty where a match begins.
Not here: what is learned from it (`ppo`, `selfplay`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cerulea.core.seeds import mixed
from cerulea.games.game import Game, Observation, observation_buffers, tick_buffers
from cerulea.nn.policy import Policy, masked
from cerulea.train.opponents import BOT, PAST, SELF, Opponent


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
    """Buffers (T steps, M matches, P players, ...), written anew by every update."""

    def __init__(self, game: Game, steps: int, state: int) -> None:
        t, m, p = steps, game.matches, game.players
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
        self.state = np.zeros((m, p, state), np.float32)  # memory when the rollout begins
        self.last = np.zeros((m, p), np.float32)
        self.steps = t

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
    each = seen + 4 * len(s.heads) + 4 * 4 + 3
    return (steps + 1) * game.matches * game.players * each + 4 * game.matches * game.players * state


def draw_actions(logits: Tensor, mask: Tensor, heads: tuple[int, ...], uniform: Tensor) -> tuple[Tensor, Tensor]:
    """Draw one action for each head.

    Args:
        logits: (..., N), before the mask. mask: bool (..., N). uniform: in [0, 1), (..., A).

    Returns:
        actions: int64 (..., A). log probabilities of them together: float32 (...).
    """
    parts = masked(logits, mask).split(list(heads), dim=-1)
    actions, total = [], torch.zeros(logits.shape[:-1])
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
    """The matches of one process, from rollout to rollout."""

    def __init__(self, game: Game, policy: Policy, steps: int, *, seed: int, rank: int = 0, ranks: int = 1) -> None:
        self.game, self.policy, self.seed, self.rank, self.ranks = game, policy, seed, rank, ranks
        m, p = game.matches, game.players
        self.sides = Sides.of(game.teams)
        self.teams = np.array(game.teams)
        self.rollout = Rollout(game, steps, policy.shape.state)
        self.tick = tick_buffers(m, p)
        self.final = observation_buffers(game.schema, m, p)  # the last look at matches that were cut off
        self.meters = np.zeros((m, p, len(game.meters)), np.float32)
        self.state = torch.zeros(m, p, policy.shape.state)
        self.past_state = torch.zeros(m, p, policy.shape.state)
        self.opponents: list[Opponent] = [Opponent(SELF)] * m
        self.bot_MP = np.full((m, p), -1, np.int8)
        self.learns_MP = np.ones((m, p), np.bool_)
        self.length_M = np.zeros(m, np.int64)
        self.paid_MP = np.zeros((m, p), np.float64)
        self.fresh_M = np.ones(m, np.bool_)
        self.begun = 0
        self.heads = policy.shape.heads

    # -- matches -----------------------------------------------------------------------------------

    def begin(self, where_M: NDArray[np.bool_], choose: Callable[[int], Opponent]) -> None:
        """Begin the marked matches, each with an opponent and a seed of its own."""
        seeds = np.zeros(self.game.matches, np.uint64)
        for m in np.flatnonzero(where_M):
            number = self.begun * self.ranks + self.rank
            self.begun += 1
            seeds[m] = mixed(self.seed, number, 1)
            opponent = choose(number)
            self.opponents[m] = opponent
            against = self.teams != opponent.side
            self.learns_MP[m] = True if opponent.kind == SELF else ~against
            self.bot_MP[m] = np.where(against, opponent.member, -1) if opponent.kind == BOT else -1
        self.game.reset(seeds, where_M)
        self.length_M[where_M] = 0
        self.paid_MP[where_M] = 0.0
        self.fresh_M[where_M] = True

    # -- playing -----------------------------------------------------------------------------------

    def _grouped(self, array: Any, rows: NDArray[np.int64] | None = None) -> Tensor:
        """(M, P, ...) as (sides of all matches, players of a side, ...), or some of these sides."""
        tensor = torch.as_tensor(array)
        tensor = tensor.reshape(len(tensor) * self.sides.sides, self.sides.players, *tensor.shape[2:])
        return tensor if rows is None else tensor[torch.from_numpy(rows)]

    def _think(self, policy: Policy, t: int, state: Tensor, rows: NDArray[np.int64] | None = None) -> Any:
        r = self.rollout
        looks = (r.vector[t], r.units[t], r.critic[t], state, r.fresh[t])
        return policy.step(*(self._grouped(each, rows) for each in looks))

    def play(self, update: int, choose: Callable[[int], Opponent], past: Callable[[int], Policy]) -> list[Result]:
        """Fill the rollout, and tell which matches ended."""
        r, game, m, p = self.rollout, self.game, self.game.matches, self.game.players
        results: list[Result] = []
        r.state[:] = self.state.numpy()
        with torch.inference_mode():
            for t in range(r.steps):
                if t == 0:
                    r.fresh[0] = self.fresh_M[:, None]
                    game.observe(r.look(0))
                generator = torch.Generator().manual_seed(mixed(self.seed, update, t, self.rank, 2) >> 1)
                uniform = torch.rand(m, p, len(self.heads), generator=generator)
                logits, values, state = self._think(self.policy, t, self.state)
                self.state = state.view(m, p, -1)
                logits = logits.view(m, p, -1)
                mask = torch.from_numpy(r.mask[t])
                actions, log_p = draw_actions(logits, mask, self.heads, uniform)
                r.action[t] = actions.numpy()
                r.log_p[t] = log_p.numpy()
                r.value[t] = values.view(m, p).numpy()
                r.learns[t] = self.learns_MP & r.acting[t]
                self._others(t, past, uniform)
                game.script(self.bot_MP, r.action[t])
                game.step(r.action[t], self.tick)
                self._note(t)
                self.fresh_M[:] = False
                if self.tick.ended_M.any():
                    results += self._ended(t, choose)
                r.fresh[t + 1] = self.fresh_M[:, None]
                game.observe(r.look(t + 1))
            _, values, _ = self._think(self.policy, r.steps, self.state)
            r.last[:] = values.view(m, p).numpy()
        return results

    def _others(self, t: int, past: Callable[[int], Policy], uniform: Tensor) -> None:
        """What past selves do, each for all sides that it plays."""
        r, sides = self.rollout, self.sides
        rows: dict[int, list[int]] = {}
        for m, opponent in enumerate(self.opponents):
            if opponent.kind == PAST:
                for side in range(sides.sides):
                    if self.teams[side * sides.players] != opponent.side:
                        rows.setdefault(opponent.member, []).append(m * sides.sides + side)
        for member in sorted(rows):
            at = np.array(rows[member])
            state = self.past_state
            logits, _, after = self._think(past(member), t, state, at)
            actions, _ = draw_actions(logits, self._grouped(r.mask[t], at), self.heads, self._grouped(uniform, at))
            self._grouped(state)[torch.from_numpy(at)] = after
            r.action[t].reshape(-1, sides.players, len(self.heads))[at] = actions.numpy()

    def _note(self, t: int) -> None:
        r, tick = self.rollout, self.tick
        r.reward[t] = tick.reward_MP
        r.terminated[t], r.truncated[t] = tick.terminated_MP, tick.truncated_MP
        self.paid_MP += tick.reward_MP
        self.length_M += 1

    def _ended(self, t: int, choose: Callable[[int], Opponent]) -> list[Result]:
        """Values of what was cut off, results, and new matches in their places."""
        r, tick, game = self.rollout, self.tick, self.game
        if r.truncated[t].any():
            game.observe(self.final)
            look = self.final
            still = np.zeros_like(r.fresh[t])
            looks = (look.vector_MPF, look.units_MPUF, look.critic_MPF, self.state, still)
            _, values, _ = self.policy.step(*(self._grouped(each) for each in looks))
            r.after[t] = values.view(*r.after[t].shape).numpy()
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
