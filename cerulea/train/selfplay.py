"""Train players of a game against themselves, their past and scripted players: `train_text`'s twin.

In:      a recipe, a game with as many matches as this process plays, a folder.
Out:     PlayProgress for every update, and Checkpoint once each is whole on disk.
Kept:    an update is a function of (recipe, state before it): a run killed at any moment and resumed writes the same
         numbers (same device, threads and processes; without `minutes`, whose schedules follow the clock). The state
         holds the matches in flight, the memories in them, the pool and its scores. All that an update learns from was
         decided by the weights that learn from it.
Not here: money, leases, signals, names of models (`flows.train`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
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
from cerulea.train.fitting import refuse_too_large
from cerulea.train.league import League
from cerulea.train.learn import FloatArray, note_returns, rate_at, shaped, spread
from cerulea.train.opponents import MAIN, Opponent
from cerulea.train.parallel import Team
from cerulea.train.play_recipe import PlayRecipe
from cerulea.train.play_state import (
    HALVES,
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
from cerulea.train.ppo import advantages, told_decisions
from cerulea.train.rated import MYSELF
from cerulea.train.record import Metrics
from cerulea.train.rollout import Player, Result, Rollout

Event = PlayProgress | Checkpoint
YEAR_S = 365 * 24 * 3600
CPU = torch.device("cpu")


def self_play(
    recipe: PlayRecipe,
    game: Game,
    folder: Path,
    *,
    second: Game | None = None,
    device: torch.device = CPU,
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
        second: another such game, each then with half of those matches: the two are played by a thread each, so that
            one is simulated while the device decides in the other.
        device: where nets lie.
        folder: of the run; gets metrics.jsonl and checkpoints/.
        resume: go on from the newest checkpoint in `folder` that verifies.
        memory_bytes: of this machine; a run that would need more is refused before it begins. 0 asks nothing.
        weights: what a new run begins with, instead of what its seed gives.
        past: members of the pool that a new run begins with, by a number each; an exploiter's only opponent.

    Raises:
        RecipeInvalid: the game does not fit the recipe, or the run does not fit into memory.
        ResumeMismatch, CheckpointNotWritten, CheckpointUnusable.
    """
    games = [game] if second is None else [game, second]
    run = Run(recipe, games, folder, team, monotonic() if began is None else began, memory_bytes, device)
    try:
        run.start(resume, verified, say, weights, past or {})
        yield from run.updates(should_stop)
    finally:
        run.close()


class Run:
    """The parts of one run, and the loop over its updates."""

    def __init__(
        self,
        recipe: PlayRecipe,
        games: list[Game],
        folder: Path,
        team: Team,
        began: float,
        memory_bytes: int,
        device: torch.device = CPU,
    ) -> None:
        self.recipe, self.team, self.began = recipe, team, began
        self.game = game = games[0]
        self.keys, halves = recipe.train, len(games)
        self.folder, self.checkpoints = folder, folder / "checkpoints"
        self.shape = shape_for(game.schema, recipe.model, game.teams)
        refuse_too_large(recipe, game, self.shape, team.ranks * halves, memory_bytes)
        torch.manual_seed(self.keys.seed)
        self.state, self.before_s = PlayState(), 0.0
        self.league = League(recipe, game, self.shape, team, self.state, device)
        self.policy, self.learner = self.league.nets[MAIN], self.league.learners[MAIN]
        self.writer = Writer(self.checkpoints)
        self.metrics: Metrics | None = None
        self.stall_s = self.saved_at = self.stepping_from = 0.0
        self.resumed: Checkpoint | None = None
        self.recent: deque[float] = deque(maxlen=100)
        self.recent_steps: deque[int] = deque(maxlen=100)
        self.matches = halves * game.matches
        pinned = device.type == "cuda"
        self.rollout = Rollout(game, self.keys.rollout, self.shape.state, matches=self.matches, pinned=pinned)
        parts = [slice(i * game.matches, (i + 1) * game.matches) for i in range(halves)]
        self.seed, first, all_of_them = mixed(self.keys.seed, 77), team.rank * halves, team.ranks * halves
        self.players = [
            Player(each, self.league.nets, self.rollout.part(part), seed=self.seed, rank=first + i, ranks=all_of_them)
            for i, (each, part) in enumerate(zip(games, parts, strict=True))
        ]
        self.threads = ThreadPoolExecutor(halves, thread_name_prefix="player") if halves > 1 else None

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
            self.league.begin_with(weights)
        self.league.start(past)
        if self.team.leads:
            self.metrics = Metrics(self.folder / "metrics.jsonl")
        for player in self.players:
            player.begin(np.ones(player.game.matches, np.bool_), self._chooser(self._fraction()))

    def _go_on(self, checkpoint: Checkpoint) -> None:
        tensors, state = load_resume(checkpoint.folder)
        binding = binding_of(self.recipe, self.game, self.team.ranks, len(self.players))
        then = {HALVES: 1, **state["binding"]}  # checkpoints of before do not tell
        differing = [name for name, value in binding.items() if then.get(name) != value]
        if differing:
            raise ResumeMismatch(
                f"The checkpoint at step {checkpoint.step:,} was made with another {' and '.join(differing)}.",
                why="A resumed run must compute what the uninterrupted one would have.",
                fix="Restore what differs, or start a new run without --resume.",
            )
        self.state = PlayState(**state["run"])
        self.state.stop_reason = ""
        self.recent.extend(self.state.recent)
        self.recent_steps.extend(self.state.recent_steps)
        weights, members = (load_file(checkpoint.folder / name) for name in ("model.safetensors", POOL))
        self.league.go_on(self.state, weights, tensors, members, state["pool"])
        for player in self.players:
            load_matches(checkpoint.folder / MATCHES.format(rank=player.rank), player)
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

    def _chooser(self, fraction: float) -> Callable[[int], Opponent]:
        return lambda number: self.league.choose(number, self.seed, fraction)

    def _opponents(self) -> list[Opponent]:
        return [opponent for player in self.players for opponent in player.opponents]

    def _play(self, fraction: float) -> list[Result]:
        """A rollout of every Player, at the same time where there are two; what ended, in their order."""
        choose, past, update = self._chooser(fraction), self.league.past(self._opponents()), self.state.step
        each = self.threads.map if self.threads else map
        return [one for ended in each(lambda p: p.play(update, choose, past), self.players) for one in ended]

    def _update(self) -> PlayProgress:
        began = perf_counter()
        keys, state, r = self.keys, self.state, self.rollout
        fraction = self.learner.total(self._fraction() if self.team.leads else 0.0)
        results = self._play(fraction)
        played = perf_counter()
        sides = self.players[0].sides
        reward = shaped(r.reward, sides, keys, fraction)
        told_TMP = told_decisions(r.acting, r.terminated | r.truncated)
        decided = float(r.learns.sum())
        r.learns &= told_TMP
        if not state.returns_seen:  # what was paid until the rollout's end is all that is known of returns yet
            nothing = np.zeros_like(r.value)
            paid = self._advantages(reward, nothing, nothing, nothing[0], told_TMP, trace=1.0)
            note_returns(state, paid[r.learns], self.learner.summed)
        scale = spread(state)
        advantage = self._advantages(reward / scale, r.value, r.after, r.last, told_TMP, trace=keys.trace)
        note_returns(state, (advantage + r.value)[r.learns] * scale, self.learner.summed)
        told = self.league.learn(r, sides, advantage, fraction)
        state.step += 1
        counts = self.learner.summed(decided, float(r.acting[:-1].sum()))
        state.agent_steps += int(counts[0])
        state.played_steps += int(counts[1])
        self._remember(self.league.count(results))
        self.league.grow(self._opponents())
        state.elapsed_s = self._elapsed()
        seconds = perf_counter() - began
        game_s = self.game.step_s * keys.rollout * self.matches * self.team.ranks
        progress = PlayProgress(
            step=state.step,
            agent_steps=state.agent_steps,
            matches=state.matches,
            **told,
            learning_rate=rate_at(keys, fraction),
            agent_steps_per_s=counts[1] / seconds,
            match_years_per_day=game_s / seconds * 86_400 / YEAR_S,
            staleness=0.0,  # nobody plays while weights change
            reuse=float(keys.epochs) * counts[0] / max(counts[1], 1.0),
            episode_return=float(np.mean(self.recent)) if self.recent else 0.0,
            episode_steps=float(np.mean(self.recent_steps)) if self.recent_steps else 0.0,
            win_shares={name: round(share, 4) for name, share in sorted(self.league.pool.shares.items())},
            meters={name: round(value, 4) for name, value in self.state.meters.items()},
            rating=round(self.state.ratings.get(MYSELF, [0.0])[0], 3),
            elapsed_s=state.elapsed_s,
            fraction=self._fraction(),
        )
        self.learn_s = seconds - (played - began)
        if self.metrics:
            self.metrics.add("progress", asdict(progress))
        return progress

    def _advantages(
        self,
        reward: FloatArray,
        value: FloatArray,
        after: FloatArray,
        last: FloatArray,
        told: NDArray[np.bool_],
        *,
        trace: float,
    ) -> FloatArray:
        r, discount = self.rollout, self.keys.discount
        acting, ends = r.acting[:-1], (r.terminated, r.truncated)
        return advantages(reward, value, acting, *ends, after, last, discount=discount, trace=trace, told_TMP=told)

    def _remember(self, results: list[Result]) -> None:
        """What was lately paid, and how it was played."""
        for result in results:
            self.recent.append(result.paid)
            self.recent_steps.append(result.steps)
            for name, value in zip(self.game.meters, result.meters, strict=True):
                before = self.state.meters.get(name, float(value))
                self.state.meters[name] = 0.99 * before + 0.01 * float(value)

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
        matches = [matches_of(player) for player in self.players]
        if self.team.ranks > 1:
            everyones: list[list[dict[str, Tensor]]] = [[] for _ in range(self.team.ranks)]
            dist.all_gather_object(everyones, matches)
            matches = [each for part in everyones for each in part]
        if not (self.team.leads and self.metrics):
            return
        began = perf_counter()
        self.metrics.sync()
        snapshot = AgentSnapshot(
            agent=agent_json(self.game, self.shape),
            weights=snapshot_tensors(dict(self.policy.state_dict())),
            optimizer=self.league.trained(),
            pool=self.league.members(),
            matches=matches,
            state={
                "step": self.state.step,
                "run": asdict(self.state),
                "pool": asdict(self.league.pool),
                "metrics_bytes": self.metrics.offset,
                "binding": binding_of(self.recipe, self.game, self.team.ranks, len(self.players)),
            },
            card=card_of(self.game, self.policy, self.state, self.league.pool),
        )
        self.writer.start(snapshot)
        self.stall_s += perf_counter() - began

    def _finished(self, *, wait: bool) -> Iterator[Checkpoint]:
        checkpoint = self.writer.fetch(wait=wait)
        if checkpoint is None:
            return
        retain(self.checkpoints, last=self.keys.keep_last, best=0, scores={})
        yield checkpoint

    def close(self) -> None:
        """Wait for a checkpoint that is being written; a failure of it was or will be told elsewhere."""
        if self.threads:
            self.threads.shutdown()
        with suppress(Exception):
            self.writer.fetch(wait=True)
        if self.metrics:
            self.metrics.close()
