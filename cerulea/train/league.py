"""Those who are trained and those they have been: nets, their optimizers, past selves, scores.

In:      results of matches.
Out:     an Opponent for every match that begins; the net of a past self.
Kept:    all of it is equal on every process, and is what a checkpoint keeps. A main net that is untrained is rated 0:
         it is the random player. Past selves keep the rating they had.
Not here: the rules by which opponents are drawn (`opponents`), matches (`rollout`), gradients (`learn`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from cerulea.games.game import Game
from cerulea.games.match import RANDOM
from cerulea.nn.policy import Policy, PolicyShape
from cerulea.train.checkpoint import snapshot_tensors
from cerulea.train.fitting import bots_of
from cerulea.train.learn import TOLD, Learner
from cerulea.train.opponents import BOT, HUNTER, LINE, MAIN, NOW, PAST, SELF, Opponent, Pool, choose, shares_now
from cerulea.train.parallel import Team
from cerulea.train.play_recipe import PlayRecipe
from cerulea.train.play_state import PlayState
from cerulea.train.rated import noted, outclassed, taken_in, without
from cerulea.train.rollout import Result, Rollout, Sides

EXPLOITERS_LESS = 4  # exploiters are taken into the pool so many times less often than the main net


class League:
    """One net that learns, or three, and the pool of what they have been."""

    def __init__(
        self, recipe: PlayRecipe, game: Game, shape: PolicyShape, team: Team, state: PlayState, device: torch.device
    ) -> None:
        self.recipe, self.game, self.shape, self.team, self.state = recipe, game, shape, team, state
        self.device = device
        self.bots = bots_of(recipe, game)
        self._names = (*game.bots, RANDOM)  # by the numbers that matches are played with
        self.alone = max(game.teams) == 0
        self.nets = [Policy(shape).to(device)]
        if recipe.opponents.mode == "league" and not self.alone:
            self.nets += [Policy(shape).to(device), Policy(shape).to(device)]
            self.begin_with(self.nets[MAIN].state_dict())
        self.learners = [Learner(net, recipe.train, team) for net in self.nets]
        self.pool = Pool(mode=recipe.opponents.mode)
        self.weights: dict[int, dict[str, Tensor]] = {}  # of the pool's members, and of others with matches in flight
        self._past: dict[int, Policy] = {}

    def begin_with(self, weights: Mapping[str, Any]) -> None:
        """Let all nets begin with these weights."""
        for net in self.nets:
            net.load_state_dict(weights)

    # -- against whom ------------------------------------------------------------------------------

    def choose(self, number: int, seed: int, fraction: float) -> Opponent:
        """Whom match `number` is played against, when so much of the run was done as the rollout began.

        A function of its arguments between two updates: several Players may ask at the same time, in any order.
        """
        o = self.recipe.opponents
        shares = (o.own, o.past, o.bots)
        if not o.always_bots:
            shares = shares_now(*shares, fraction)
        sides = max(self.game.teams) + 1
        exploiters = o.exploiters if len(self.nets) > 1 else 0.0
        chosen = choose(self.pool, self.bots, shares, seed=seed, number=number, sides=sides, exploiters=exploiters)
        if chosen.kind == BOT:  # of the chosen names, to the game's own numbers
            return Opponent(BOT, self._names.index(self.bots[chosen.member]), chosen.side)
        return chosen

    def past(self, opponents: list[Opponent]) -> Mapping[int, Policy]:
        """Nets of the past selves that a rollout may need: of matches in flight, and of those that begin meanwhile."""
        for member in sorted({*self.pool.active, *(each.member for each in opponents if each.kind == PAST)}):
            if member not in self._past:
                net = Policy(self.shape).to(self.device)
                net.load_state_dict(self.weights[member])
                self._past[member] = net.eval()
        return self._past

    # -- what is learned ---------------------------------------------------------------------------

    def learn(self, r: Rollout, sides: Sides, advantage: NDArray[np.float32], fraction: float) -> dict[str, float]:
        """Train each net on what it decided; told is what came of the main one."""
        told = {}
        for number, learner in enumerate(self.learners):
            if learner.summed(float((r.learns & (r.owner == number)).any()))[0]:
                told[number] = learner.learn(
                    r, sides, advantage, step=self.state.step, fraction=fraction, number=number
                )
        return told.get(MAIN) or dict.fromkeys(TOLD, 0.0)

    def count(self, results: list[Result]) -> list[Result]:
        """Shares won, quality of past selves, ratings; in the order of processes and matches.

        Returns:
            those of the main net, of all processes.
        """
        everyones: list[list[Result]] = [results]
        if self.team.ranks > 1:
            everyones = [[] for _ in range(self.team.ranks)]
            dist.all_gather_object(everyones, results)
        mains = []
        for result in (each for part in everyones for each in part):
            kind = result.opponent.kind
            self.state.matches += 1
            if kind in (PAST, NOW):
                self.pool.note(result.opponent, result.won)
            if result.opponent.learner != MAIN:
                self.pool.count("main, by exploiters" if kind == NOW else "past, by exploiters", result.won)
                continue
            mains.append(result)
            if kind != SELF:
                name = self._names[result.opponent.member] if kind == BOT else "past"
                self.pool.count(name, result.won)
                other = name if kind == BOT else f"past-{result.opponent.member}"
                # A match that was cut off is nobody's loss, as in reported ratings; in shares it is not won.
                self.state.ratings = noted(self.state.ratings, other, 0.5 if result.timeout else result.won)
        return mains

    # -- the pool ----------------------------------------------------------------------------------

    def start(self, past: Mapping[int, dict[str, Tensor]]) -> None:
        """Begin a run, with these members in the pool."""
        for number, member in past.items():
            self.pool.add(number, self.recipe.opponents.pool)
            self.weights[number] = member
        self.pool.choose_active(self.recipe.train.seed, 0, self.recipe.opponents.groups)

    def grow(self, opponents: list[Opponent]) -> None:
        """Take new past selves in when it is time, and choose again whom new matches meet.

        Args:
            opponents: of this process's matches in flight.
        """
        o, step = self.recipe.opponents, self.state.step
        if (o.past <= 0 and len(self.nets) == 1) or self.alone or step % o.snapshot_steps:
            return
        self._take_in(MAIN)
        for number in range(1, len(self.nets)):
            strong = number == HUNTER and self.pool.won.get(f"{HUNTER}:now", 0.5) > o.reset_at
            if strong or step % (EXPLOITERS_LESS * o.snapshot_steps) == 0:
                self._take_in(number)
            if strong:  # it has found what it was for: it begins again as what the main net is now
                self.nets[number].load_state_dict(self.nets[MAIN].state_dict())
                self.learners[number].forget()
                self.pool.won[f"{HUNTER}:now"] = 0.5
        busy = {each.member for each in opponents if each.kind == PAST}
        if self.team.ranks > 1:
            everyones: list[set[int]] = [set() for _ in range(self.team.ranks)]
            dist.all_gather_object(everyones, busy)
            busy = set().union(*everyones)
        weaker = outclassed(self.state.ratings, self.pool.steps)
        self.pool.choose_active(self.recipe.train.seed, step, o.groups, sorted(busy), weaker)
        kept = {*self.pool.steps, *busy}
        self.weights = {member: weights for member, weights in self.weights.items() if member in kept}
        self._past = {member: net for member, net in self._past.items() if member in kept}
        self.state.ratings = without(self.state.ratings, sorted(kept))

    def _take_in(self, number: int) -> None:
        """A net as it is becomes a member of the pool."""
        member = self.state.step + LINE * number
        self.weights[member] = snapshot_tensors(dict(self.nets[number].state_dict()))
        self.pool.add(member, self.recipe.opponents.pool)
        # An exploiter is not rated by itself: it begins as the main net is, and is met while it can win against it.
        self.state.ratings = taken_in(self.state.ratings, member)

    # -- for checkpoints ---------------------------------------------------------------------------

    def trained(self) -> dict[str, Tensor]:
        """Optimizer states by the names of weights; exploiters, who are in no agent's folder, with their weights."""
        tensors = self.learners[MAIN].moments()
        for number in range(1, len(self.nets)):
            tensors |= {f"{number}/{name}": value for name, value in self.learners[number].moments().items()}
            tensors |= {f"{number}/weight:{name}": value for name, value in self.nets[number].state_dict().items()}
        return snapshot_tensors(tensors)

    def members(self) -> dict[str, Tensor]:
        """Weights of past selves."""
        return {f"{member}:{name}": w for member, weights in self.weights.items() for name, w in weights.items()}

    def go_on(
        self,
        state: PlayState,
        weights: Mapping[str, Tensor],
        trained: Mapping[str, Tensor],
        members: Mapping[str, Tensor],
        pool: dict[str, Any],
    ) -> None:
        """Be again what a checkpoint has kept."""
        self.state, self.pool = state, Pool(**pool)
        self.nets[MAIN].load_state_dict(dict(weights))
        self.learners[MAIN].load_moments(dict(trained))
        for number in range(1, len(self.nets)):
            own = {key.partition("/")[2]: value for key, value in trained.items() if key.startswith(f"{number}/")}
            self.learners[number].load_moments(own)
            self.nets[number].load_state_dict({n: own[f"weight:{n}"] for n in self.nets[number].state_dict()})
        for name, tensor in members.items():
            member, _, weight_name = name.partition(":")
            self.weights.setdefault(int(member), {})[weight_name] = tensor
