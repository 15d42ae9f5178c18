"""Train players of a game against themselves, their past and scripted players: `train_text`'s twin.

In:      a recipe, a game with as many matches as this process plays, a folder.
Out:     PlayProgress for every update, and Checkpoint once each is whole on disk.
Kept:    an update is a function of (recipe, state before it): a run killed at any moment and resumed writes the same
         numbers (same device, threads and processes; without `minutes`, whose schedules follow the clock). The state
         holds the matches in flight, the memories in them, the pool and its scores.
Not here: money, leases, signals, names of models (`flows.train`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from time import monotonic, perf_counter

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor

from cerulea.core.errors import ResumeMismatch
from cerulea.core.seeds import mixed
from cerulea.core.values import Checkpoint, PlayProgress
from cerulea.games.game import Game
from cerulea.nn.policy import Policy
from cerulea.train.agent import agent_json, shape_for
from cerulea.train.checkpoint import (
    Writer,
    load_resume,
    newest_checkpoint,
    remove_leftovers,
    retain,
    set_aside,
    snapshot_tensors,
)
from cerulea.train.fitting import bots_of, refuse_too_large
from cerulea.train.learn import TOLD, Learner, rate_at, shaped, spread
from cerulea.train.opponents import BOT, HUNTER, LINE, MAIN, NOW, PAST, SELF, Opponent, Pool, choose, shares_now
from cerulea.train.parallel import Team
from cerulea.train.play_recipe import PlayRecipe
from cerulea.train.play_state import (
    MATCHES,
    POOL,
    AgentSnapshot,
    PlayState,
    binding_of,
    card_of,
    fraction_of,
    limit_reached,
    load_matches,
    matches_of,
)
from cerulea.train.ppo import advantages
from cerulea.train.rated import MYSELF, noted, taken_in, without
from cerulea.train.record import Metrics
from cerulea.train.rollout import Player, Result

Event = PlayProgress | Checkpoint
YEAR_S = 365 * 24 * 3600
EXPLOITERS_LESS = 4  # exploiters are taken into the pool so many times less often than the main net


def self_play(
    recipe: PlayRecipe,
    game: Game,
    folder: Path,
    *,
    resume: bool = False,
    verified: Checkpoint | None = None,
    team: Team = Team(),
    should_stop: Callable[[], str] = lambda: "",
    began: float | None = None,
    memory_bytes: int = 0,
    weights: dict[str, Tensor] | None = None,
    past: dict[int, dict[str, Tensor]] | None = None,
    say: Callable[[str], None] = lambda sentence: None,
) -> Iterator[Event]:
    """Train until a stop rule holds; to stop earlier, cease to ask or let `should_stop` give a reason.

    Args:
        game: with `recipe.game.matches / team.ranks` matches; it belongs to the run from now on.
        folder: of the run; gets metrics.jsonl and checkpoints/.
        resume: go on from the newest checkpoint in `folder` that verifies.
        memory_bytes: of this machine; a run that would need more is refused before it begins. 0 asks nothing.
        weights: what a new run begins with, instead of what its seed gives.
        past: members of the pool that a new run begins with, by a number each; an exploiter's only opponent.

    Raises:
        RecipeInvalid: the game does not fit the recipe, or the run does not fit into memory.
        ResumeMismatch, CheckpointNotWritten, CheckpointUnusable.
    """
    run = _Run(recipe, game, folder, team, monotonic() if began is None else began, memory_bytes)
    try:
        run.start(resume, verified, say, weights, past or {})
        yield from run.updates(should_stop)
    finally:
        run.close()


class _Run:
    """The parts of one run, and the loop over its updates."""

    def __init__(
        self, recipe: PlayRecipe, game: Game, folder: Path, team: Team, began: float, memory_bytes: int
    ) -> None:
        self.recipe, self.game, self.team, self.began = recipe, game, team, began
        self.keys = recipe.train
        self.folder, self.checkpoints = folder, folder / "checkpoints"
        self.shape = shape_for(game.schema, recipe.model, game.teams)
        refuse_too_large(recipe, game, self.shape, team.ranks, memory_bytes)
        self.bots = bots_of(recipe, game)
        torch.manual_seed(self.keys.seed)
        self.league = recipe.opponents.mode == "league" and max(game.teams) > 0
        self.nets = [Policy(self.shape) for _ in range(3 if self.league else 1)]
        for net in self.nets[1:]:
            net.load_state_dict(self.nets[MAIN].state_dict())
        self.learners = [Learner(net, self.keys, team) for net in self.nets]
        self.policy, self.learner = self.nets[MAIN], self.learners[MAIN]
        self.pool = Pool(mode=recipe.opponents.mode)
        self.past: dict[int, Policy] = {}
        self.pool_weights: dict[int, dict[str, Tensor]] = {}
        self.state, self.before_s = PlayState(), 0.0
        self.writer = Writer(self.checkpoints)
        self.metrics: Metrics | None = None
        self.stall_s = self.saved_at = self.stepping_from = 0.0
        self.resumed: Checkpoint | None = None
        self.recent: deque[float] = deque(maxlen=100)
        self.recent_steps: deque[int] = deque(maxlen=100)
        seed = mixed(self.keys.seed, 77)
        self.player = Player(game, self.nets, self.keys.rollout, seed=seed, rank=team.rank, ranks=team.ranks)
        self.running_MP = np.zeros((game.matches, game.players))  # discounted sums, for the spread of returns

    # -- beginning ---------------------------------------------------------------------------------

    def start(
        self,
        resume: bool,
        verified: Checkpoint | None,
        say: Callable[[str], None],
        weights: dict[str, Tensor] | None,
        past: dict[int, dict[str, Tensor]],
    ) -> None:
        """Begin anew, or from the newest checkpoint."""
        if self.team.leads:
            remove_leftovers(self.checkpoints)
        checkpoint = None
        if resume:
            quiet = say if self.team.leads else lambda sentence: None
            checkpoint = verified or newest_checkpoint(self.checkpoints, quiet)
            if checkpoint is not None and self.team.leads:
                set_aside(self.checkpoints, checkpoint.step)
            self.team.meet()
            if checkpoint is None:
                say("The run has no checkpoint yet and starts at step 0.")
        if checkpoint is not None:
            self._go_on(checkpoint)
            return
        if weights is not None:
            for net in self.nets:
                net.load_state_dict(weights)
        for number, member in past.items():
            self.pool.add(number, self.recipe.opponents.pool)
            self.pool_weights[number] = member
        self.pool.choose_active(self.keys.seed, 0, self.recipe.opponents.groups)
        if self.team.leads:
            self.metrics = Metrics(self.folder / "metrics.jsonl")
        self.player.begin(np.ones(self.game.matches, np.bool_), self._choose)

    def _go_on(self, checkpoint: Checkpoint) -> None:
        tensors, state = load_resume(checkpoint.folder)
        binding = binding_of(self.recipe, self.game, self.team.ranks)
        differing = [name for name, value in binding.items() if state["binding"].get(name) != value]
        if differing:
            raise ResumeMismatch(
                f"The checkpoint at step {checkpoint.step:,} was made with another {' and '.join(differing)}.",
                why="A resumed run must compute what the uninterrupted one would have.",
                fix="Restore what differs, or start a new run without --resume.",
            )
        self.policy.load_state_dict(load_file(checkpoint.folder / "model.safetensors"))
        self.learner.load_moments(tensors)
        for number in range(1, len(self.nets)):
            own = {key.partition("/")[2]: value for key, value in tensors.items() if key.startswith(f"{number}/")}
            self.learners[number].load_moments(own)
            self.nets[number].load_state_dict({n: own[f"weight:{n}"] for n in self.nets[number].state_dict()})
        self.state = PlayState(**state["run"])
        self.state.stop_reason = ""
        self.recent.extend(self.state.recent)
        self.recent_steps.extend(self.state.recent_steps)
        self.pool = Pool(**state["pool"])
        for name, tensor in load_file(checkpoint.folder / POOL).items():
            step, _, weight_name = name.partition(":")
            self.pool_weights.setdefault(int(step), {})[weight_name] = tensor
        load_matches(checkpoint.folder / MATCHES.format(rank=self.team.rank), self.player, self.game, self.running_MP)
        self.resumed = checkpoint
        self.before_s = self.saved_at = self.state.elapsed_s
        if self.team.leads:
            self.metrics = Metrics(self.folder / "metrics.jsonl", state["metrics_bytes"])

    # -- the loop ----------------------------------------------------------------------------------

    def updates(self, should_stop: Callable[[], str]) -> Iterator[Event]:
        """Updates until a stop rule holds, with checkpoints between them."""
        state = self.state
        self.stepping_from = monotonic() - state.stepping_s
        if self.resumed is not None:
            state.stop_reason = self._stop_reason()
            if state.stop_reason:
                yield self.resumed
        while not state.stop_reason:
            yield self._update()
            asked = self._agreed(should_stop())
            state.stop_reason = asked or self._stop_reason()
            if self._checkpoint_due() or state.stop_reason:
                yield from self._finished(wait=True)
                self._save()
            yield from self._finished(wait=bool(state.stop_reason))

    def _choose(self, number: int) -> Opponent:
        o = self.recipe.opponents
        shares = (o.own, o.past, o.bots)
        if not o.always_bots:
            shares = shares_now(*shares, self._fraction())
        chosen = choose(
            self.pool,
            self.bots,
            shares,
            seed=self.player.seed,
            number=number,
            sides=self.player.sides.teams,
            exploiters=o.exploiters if self.league else 0.0,
        )
        if chosen.kind == BOT:  # of the chosen names, to the game's own numbers
            return Opponent(BOT, self.game.bots.index(self.bots[chosen.member]), chosen.side)
        return chosen

    def _past(self, step: int) -> Policy:
        """The net of a past self."""
        if step not in self.past:
            net = Policy(self.shape)
            net.load_state_dict(self.pool_weights[step])
            self.past[step] = net.eval()
        return self.past[step]

    def _update(self) -> PlayProgress:
        began = perf_counter()
        keys, state, r = self.keys, self.state, self.player.rollout
        fraction = self.learner.total(self._fraction() if self.team.leads else 0.0)
        results = self.player.play(state.step, self._choose, self._past)
        played = perf_counter()
        reward = shaped(r.reward, self.player.sides, keys, fraction)
        reward = reward / spread(reward, r, self.running_MP, state, keys.discount, self.learner.summed)
        advantage = advantages(
            reward,
            r.value,
            r.acting[:-1],
            r.terminated,
            r.truncated,
            r.after,
            r.last,
            discount=keys.discount,
            trace=keys.trace,
        )
        told = self._learn(advantage, fraction)
        state.step += 1
        counts = self.learner.summed(float(r.learns.sum()), float(r.acting[:-1].sum()))
        state.agent_steps += int(counts[0])
        state.played_steps += int(counts[1])
        self._count_results(results)
        self._grow_pool()
        state.elapsed_s = self._elapsed()
        seconds = perf_counter() - began
        game_s = self.game.step_s * keys.rollout * self.game.matches * self.team.ranks
        progress = PlayProgress(
            step=state.step,
            agent_steps=state.agent_steps,
            matches=state.matches,
            **told,
            learning_rate=rate_at(keys, fraction),
            agent_steps_per_s=counts[1] / seconds,
            match_years_per_day=game_s / seconds * 86_400 / YEAR_S,
            staleness=0.0,
            reuse=float(keys.epochs) * counts[0] / max(counts[1], 1.0),
            episode_return=float(np.mean(self.recent)) if self.recent else 0.0,
            episode_steps=float(np.mean(self.recent_steps)) if self.recent_steps else 0.0,
            win_shares={name: round(share, 4) for name, share in sorted(self.pool.shares.items())},
            meters={name: round(value, 4) for name, value in self.state.meters.items()},
            rating=round(self.state.ratings.get(MYSELF, [0.0])[0], 3),
            elapsed_s=state.elapsed_s,
            fraction=self._fraction(),
        )
        self.learn_s = seconds - (played - began)
        if self.metrics:
            self.metrics.add("progress", asdict(progress))
        return progress

    def _learn(self, advantage: NDArray[np.float32], fraction: float) -> dict[str, float]:
        """Train each net on what it decided; told is what came of the main one."""
        r, told = self.player.rollout, {}
        for number, learner in enumerate(self.learners):
            if self.learner.total(float((r.learns & (r.owner == number)).any())):
                told[number] = learner.learn(
                    r, self.player.sides, advantage, step=self.state.step, fraction=fraction, number=number
                )
        return told.get(MAIN) or dict.fromkeys(TOLD, 0.0)

    # -- what came of it ---------------------------------------------------------------------------

    def _count_results(self, results: list[Result]) -> None:
        """Shares won, quality of past selves, lately paid; in the order of processes and matches, on every process."""
        everyones: list[list[Result]] = [results]
        if self.team.ranks > 1:
            everyones = [[] for _ in range(self.team.ranks)]
            dist.all_gather_object(everyones, results)
        for result in (each for part in everyones for each in part):
            kind = result.opponent.kind
            self.state.matches += 1
            if kind in (PAST, NOW):
                self.pool.note(result.opponent, result.won)
            if result.opponent.learner != MAIN:
                self.pool.count("main, by exploiters" if kind == NOW else "past, by exploiters", result.won)
                continue
            if kind != SELF:
                name = self.game.bots[result.opponent.member] if kind == BOT else "past"
                self.pool.count(name, result.won)
                other = name if kind == BOT else f"past-{result.opponent.member}"
                self.state.ratings = noted(self.state.ratings, other, result.won)
            self.recent.append(result.paid)
            self.recent_steps.append(result.steps)
            for name, value in zip(self.game.meters, result.meters, strict=True):
                before = self.state.meters.get(name, float(value))
                self.state.meters[name] = 0.99 * before + 0.01 * float(value)

    def _grow_pool(self) -> None:
        o, step = self.recipe.opponents, self.state.step
        if (o.past <= 0 and not self.league) or self.player.sides.teams == 1 or step % o.snapshot_steps:
            return
        self._take_in(MAIN)
        for number in range(1, len(self.nets)):
            strong = number == HUNTER and self.pool.won.get(f"{HUNTER}:now", 0.5) > o.reset_at
            if strong or step % (EXPLOITERS_LESS * o.snapshot_steps) == 0:
                self._take_in(number)
            if strong:  # it has found what it was for: it begins again from what the main net is now
                self.nets[number].load_state_dict(self.policy.state_dict())
                self.learners[number].forget()
                self.pool.won[f"{HUNTER}:now"] = 0.5
        busy = {each.member for each in self.player.opponents if each.kind == PAST}
        if self.team.ranks > 1:
            everyones: list[set[int]] = [set() for _ in range(self.team.ranks)]
            dist.all_gather_object(everyones, busy)
            busy = set().union(*everyones)
        self.pool.choose_active(self.keys.seed, step, o.groups, busy)
        kept = {*self.pool.steps, *busy}
        self.pool_weights = {member: w for member, w in self.pool_weights.items() if member in kept}
        self.past = {member: net for member, net in self.past.items() if member in kept}
        self.state.ratings = without(self.state.ratings, self.pool.steps)

    def _take_in(self, number: int) -> None:
        """A net as it is becomes a member of the pool."""
        member = self.state.step + LINE * number
        self.pool_weights[member] = snapshot_tensors(dict(self.nets[number].state_dict()))
        self.pool.add(member, self.recipe.opponents.pool)
        if number == MAIN:
            self.state.ratings = taken_in(self.state.ratings, member)

    # -- rules to stop by --------------------------------------------------------------------------

    def _fraction(self) -> float:
        return fraction_of(self.keys, self.state, monotonic() - self.stepping_from if self.stepping_from else 0.0)

    def _stop_reason(self) -> str:
        keys = self.keys
        if keys.target_return and len(self.recent) == 100 and np.mean(self.recent) >= keys.target_return:
            return "target"
        if self.learner.total(float(self._fraction() >= 1.0) if self.team.leads else 0.0) == 0:
            return ""
        return limit_reached(keys, self.state)

    def _agreed(self, reason: str) -> str:
        return reason if self.learner.total(float(bool(reason))) == 0 else reason or "signal"

    def _elapsed(self) -> float:
        return self.before_s + monotonic() - self.began

    # -- checkpoints -------------------------------------------------------------------------------

    def _checkpoint_due(self) -> bool:
        keys, state = self.keys, self.state
        by_step = keys.checkpoint_steps > 0 and state.step % keys.checkpoint_steps == 0
        by_time = keys.checkpoint_minutes > 0 and state.elapsed_s - self.saved_at >= 60 * keys.checkpoint_minutes
        return self.learner.total(float((by_step or by_time) and self.team.leads)) > 0

    def _save(self) -> None:
        self.saved_at = self._elapsed()
        self.state.stepping_s = monotonic() - self.stepping_from
        self.state.recent, self.state.recent_steps = list(self.recent), list(self.recent_steps)
        matches = [matches_of(self.player, self.game, self.running_MP)]
        if self.team.ranks > 1:
            everyones: list[dict[str, Tensor]] = [{} for _ in range(self.team.ranks)]
            dist.all_gather_object(everyones, matches[0])
            matches = everyones
        if not (self.team.leads and self.metrics):
            return
        began = perf_counter()
        self.metrics.sync()
        snapshot = AgentSnapshot(
            agent=agent_json(self.game, self.shape),
            weights=snapshot_tensors(dict(self.policy.state_dict())),
            optimizer=snapshot_tensors(self._trained()),
            pool={f"{step}:{n}": t for step, weights in self.pool_weights.items() for n, t in weights.items()},
            matches=matches,
            state={
                "step": self.state.step,
                "run": asdict(self.state),
                "pool": asdict(self.pool),
                "metrics_bytes": self.metrics.offset,
                "binding": binding_of(self.recipe, self.game, self.team.ranks),
            },
            card=card_of(self.game, self.policy, self.state, self.pool),
        )
        self.writer.start(snapshot)
        self.stall_s += perf_counter() - began

    def _trained(self) -> dict[str, Tensor]:
        """Optimizer states by the names of weights, and a league's exploiters."""
        tensors = self.learner.moments()
        for number in range(1, len(self.nets)):
            tensors |= {f"{number}/{name}": value for name, value in self.learners[number].moments().items()}
            tensors |= {f"{number}/weight:{name}": value for name, value in self.nets[number].state_dict().items()}
        return tensors

    def _finished(self, *, wait: bool) -> Iterator[Checkpoint]:
        checkpoint = self.writer.fetch(wait=wait)
        if checkpoint is None:
            return
        retain(self.checkpoints, last=self.keys.keep_last, best=0, scores={})
        yield checkpoint

    def close(self) -> None:
        """Wait for a checkpoint that is being written; a failure of it was or will be told elsewhere."""
        with suppress(Exception):
            self.writer.fetch(wait=True)
        if self.metrics:
            self.metrics.close()
