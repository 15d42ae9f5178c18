"""Train players of a game against themselves, their past and scripted players: `train_text`'s twin.

In:      a recipe, a game with as many matches as this process plays, a folder.
Out:     PlayProgress for every update, and Checkpoint once each is whole on disk.
Kept:    an update is a function of (recipe, state before it): a run killed at any moment and resumed writes the same
         numbers (same device, threads and processes; without `minutes`, whose schedules follow the clock). The state holds
         the matches in flight, the memories in them, the pool and its scores.
Not here: money, leases, signals, names of models (`flows.train`).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import monotonic, perf_counter
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch import Tensor

from cerulea.core.errors import RecipeInvalid, ResumeMismatch
from cerulea.core.seeds import mixed
from cerulea.core.values import Checkpoint, ModelCard, PlayProgress
from cerulea.games.game import Game
from cerulea.nn.policy import Policy
from cerulea.train.agent import AGENT, agent_json, shape_for
from cerulea.train.checkpoint import (
    Writer,
    load_resume,
    newest_checkpoint,
    remove_leftovers,
    retain,
    set_aside,
    snapshot_tensors,
    write_file,
    write_state,
    write_tensors,
)
from cerulea.train.opponents import BOT, PAST, SELF, Opponent, Pool, choose, shares_now
from cerulea.train.parallel import Team
from cerulea.train.play_recipe import PlayRecipe
from cerulea.train.ppo import advantages, ppo_loss
from cerulea.train.record import Metrics
from cerulea.train.rollout import Player, Result, bytes_of

Event = PlayProgress | Checkpoint
POOL, MATCHES = "pool.safetensors", "matches-{rank}.safetensors"
YEAR_S = 365 * 24 * 3600


@dataclass(slots=True)
class PlayState:
    """What a run knows besides tensors."""

    step: int = 0
    agent_steps: int = 0
    played_steps: int = 0  # decisions of all players, learning or not
    matches: int = 0
    elapsed_s: float = 0.0
    stepping_s: float = 0.0
    returns_seen: float = 0.0  # for the running spread of returns: count, mean, sum of squared deviations
    returns_mean: float = 0.0
    returns_m2: float = 0.0
    recent: list[float] = field(default_factory=list)  # what the last matches paid
    recent_steps: list[int] = field(default_factory=list)
    meters: dict[str, float] = field(default_factory=dict)
    stop_reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentSnapshot:
    """A self-play checkpoint: an agent's folder with what a resume needs."""

    agent: dict[str, Any]
    weights: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    pool: dict[str, Tensor]
    matches: list[dict[str, Tensor]]  # of each process: matches in flight
    state: dict[str, Any]
    card: ModelCard

    def fill(self, folder: Path) -> None:
        """All files but the manifest."""
        import json

        write_file(folder / AGENT, (json.dumps(self.agent, indent=1) + "\n").encode())
        write_tensors(folder / "model.safetensors", self.weights)
        write_tensors(folder / "optim.safetensors", self.optimizer)
        write_tensors(folder / POOL, self.pool)
        for rank, tensors in enumerate(self.matches):
            write_tensors(folder / MATCHES.format(rank=rank), tensors)
        write_state(folder, self.state, self.card)


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
        needed = (2 if recipe.train.minibatch < recipe.train.rollout * game.matches * game.players else 3) * bytes_of(
            game, self.keys.rollout, self.shape.state
        )
        if memory_bytes and needed * team.ranks > 0.8 * memory_bytes:
            raise RecipeInvalid(
                f"{recipe.game.matches:,} matches of {game.name} need about {needed * team.ranks / 1e9:.1f} GB; "
                f"this machine has {memory_bytes / 1e9:.1f} GB.",
                why=f"All that {game.players} players see in {self.keys.rollout} steps is kept for an update.",
                fix="Play fewer at once: --set game.matches="
                f"{max(1, int(recipe.game.matches * 0.5 * memory_bytes / (needed * team.ranks)))}",
            )
        self.bots = self._bots()
        torch.manual_seed(self.keys.seed)
        self.policy = Policy(self.shape)
        self.optimizer = torch.optim.Adam(self.policy.parameters(), lr=self.keys.learning_rate, eps=1e-5)
        self.pool, self.past = Pool(), {}
        self.pool_weights: dict[int, dict[str, Tensor]] = {}
        self.state, self.before_s = PlayState(), 0.0
        self.writer = Writer(self.checkpoints)
        self.metrics: Metrics | None = None
        self.stall_s = self.saved_at = self.stepping_from = 0.0
        self.resumed: Checkpoint | None = None
        self.recent: deque[float] = deque(maxlen=100)
        self.recent_steps: deque[int] = deque(maxlen=100)
        seed = mixed(self.keys.seed, 77)
        self.player = Player(game, self.policy, self.keys.rollout, seed=seed, rank=team.rank, ranks=team.ranks)
        self.running_MP = np.zeros((game.matches, game.players))  # discounted sums, for the spread of returns

    def _bots(self) -> tuple[str, ...]:
        names = tuple(self.recipe.opponents.names) or self.game.bots
        for name in names:
            if name not in self.game.bots:
                raise RecipeInvalid(
                    f"opponents.names has {name!r}, which {self.game.name} does not know.",
                    fix=f"Use some of {', '.join(self.game.bots)}." if self.game.bots else "Leave it empty.",
                )
        return names

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
            self.policy.load_state_dict(weights)
        for number, member in past.items():
            self.pool.add(number, self.recipe.opponents.pool)
            self.pool_weights[number] = member
        self.pool.choose_active(self.keys.seed, 0, self.recipe.opponents.groups)
        if self.team.leads:
            self.metrics = Metrics(self.folder / "metrics.jsonl")
        self.player.begin(np.ones(self.game.matches, np.bool_), self._choose)

    def _go_on(self, checkpoint: Checkpoint) -> None:
        tensors, state = load_resume(checkpoint.folder)
        binding = self._binding()
        differing = [name for name, value in binding.items() if state["binding"].get(name) != value]
        if differing:
            raise ResumeMismatch(
                f"The checkpoint at step {checkpoint.step:,} was made with another {' and '.join(differing)}.",
                why="A resumed run must compute what the uninterrupted one would have.",
                fix="Restore what differs, or start a new run without --resume.",
            )
        self.policy.load_state_dict(load_file(checkpoint.folder / "model.safetensors"))
        moments = {}
        for index, (name, weight) in enumerate(self.policy.named_parameters()):
            if f"{name}.exp_avg" in tensors:
                moments[index] = {key: tensors[f"{name}.{key}"] for key in ("step", "exp_avg", "exp_avg_sq")}
            assert weight.requires_grad
        saved = self.optimizer.state_dict()
        self.optimizer.load_state_dict({"state": moments, "param_groups": saved["param_groups"]})
        self.state = PlayState(**state["run"])
        self.state.stop_reason = ""
        self.recent.extend(self.state.recent)
        self.recent_steps.extend(self.state.recent_steps)
        self.pool = Pool(**state["pool"])
        for name, tensor in load_file(checkpoint.folder / POOL).items():
            step, _, weight_name = name.partition(":")
            self.pool_weights.setdefault(int(step), {})[weight_name] = tensor
        self._load_matches(checkpoint.folder)
        self.resumed = checkpoint
        self.before_s = self.saved_at = self.state.elapsed_s
        if self.team.leads:
            self.metrics = Metrics(self.folder / "metrics.jsonl", state["metrics_bytes"])

    def _binding(self) -> dict[str, Any]:
        recipe = self.recipe.as_json()
        lasting = {k: v for k, v in recipe["train"].items() if k not in ("steps", "agent_steps", "minutes")}
        lasting = {k: v for k, v in lasting.items() if not k.startswith(("checkpoint", "keep", "target"))}
        return {
            "game": [self.game.name, self.game.version, self.game.schema.digest(), recipe["game"]],
            "model": recipe["model"],
            "train keys": lasting,
            "opponents": recipe["opponents"],
            "number of processes": self.team.ranks,
        }

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
            self.pool, self.bots, shares, seed=self.player.seed, number=number, sides=self.player.sides.teams
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
        fraction = self._everyones(self._fraction() if self.team.leads else 0.0)
        results = self.player.play(state.step, self._choose, self._past)
        played = perf_counter()
        reward = self._shaped(r.reward, fraction)
        reward = reward / self._spread(reward)
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
        counts = self._summed(float(r.learns.sum()), float(r.acting[:-1].sum()))
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
            learning_rate=self._rate(fraction),
            agent_steps_per_s=counts[1] / seconds,
            match_years_per_day=game_s / seconds * 86_400 / YEAR_S,
            staleness=0.0,
            reuse=float(keys.epochs) * counts[0] / max(counts[1], 1.0),
            episode_return=float(np.mean(self.recent)) if self.recent else 0.0,
            episode_steps=float(np.mean(self.recent_steps)) if self.recent_steps else 0.0,
            win_shares={name: round(share, 4) for name, share in sorted(self.pool.shares.items())},
            meters={name: round(value, 4) for name, value in self.state.meters.items()},
            rating=0.0,
            elapsed_s=state.elapsed_s,
            fraction=self._fraction(),
        )
        self.play_s, self.learn_s = played - began, seconds - (played - began)
        if self.metrics:
            self.metrics.add("progress", asdict(progress))
        return progress

    def _shaped(self, reward: np.ndarray, fraction: float) -> np.ndarray:
        """Team spirit, and what the other side got taken off."""
        sides = self.player.sides
        if sides.players == 1 and not (self.keys.zero_sum and sides.teams == 2):
            return reward
        by_side = reward.reshape(*reward.shape[:2], sides.sides, sides.players)
        mean = by_side.mean(-1, keepdims=True)
        first, middle, last = self.keys.team_spirit
        spirit = last if fraction >= 0.8 else first + (middle - first) * min(1.0, fraction / 0.6)
        shaped = (1 - spirit) * by_side + spirit * mean
        if self.keys.zero_sum and sides.sides == 2 and sides.teams == 2:
            shaped = shaped - mean[:, :, ::-1]
        return np.ascontiguousarray(shaped.reshape(reward.shape), np.float32)

    def _spread(self, reward: np.ndarray) -> np.float32:
        """The running standard deviation of discounted returns, over all processes."""
        r, state = self.player.rollout, self.state
        seen = []
        for t in range(r.steps):
            self.running_MP = self.running_MP * self.keys.discount + reward[t]
            seen.append(self.running_MP[r.learns[t]])
            self.running_MP[r.terminated[t] | r.truncated[t]] = 0.0
        values = np.concatenate(seen)
        count, total, squares = self._summed(float(len(values)), float(values.sum()), float((values**2).sum()))
        if count:
            mean = total / count
            m2 = max(0.0, squares - count * mean * mean)
            both = state.returns_seen + count
            delta = mean - state.returns_mean
            state.returns_m2 += m2 + delta * delta * state.returns_seen * count / both
            state.returns_mean += delta * count / both
            state.returns_seen = both
        spread = math.sqrt(state.returns_m2 / state.returns_seen) if state.returns_seen > 1 else 1.0
        return np.float32(max(spread, 1e-4))

    def _rate(self, fraction: float) -> float:
        return 1.0 + (self.keys.final_rate - 1.0) * fraction

    def _learn(self, advantage: np.ndarray, fraction: float) -> dict[str, float]:
        """One pass, or more, over the rollout in minibatches of whole sides."""
        keys, r, sides = self.keys, self.player.rollout, self.player.sides
        weight = r.learns
        returns = advantage + r.value
        chosen = advantage[weight]
        count, total, squares = self._summed(
            float(len(chosen)), float(chosen.sum(dtype=np.float64)), float((chosen.astype(np.float64) ** 2).sum())
        )
        mean = total / max(count, 1.0)
        deviation = math.sqrt(max(squares / max(count, 1.0) - mean * mean, 0.0))
        advantage = (advantage - np.float32(mean)) / np.float32(deviation + 1e-8)
        bonus = keys.entropy + (keys.final_entropy - keys.entropy) * fraction
        for group in self.optimizer.param_groups:
            group["lr"] = keys.learning_rate * self._rate(fraction)

        columns_all = self.game.matches * sides.sides

        def grouped(array: np.ndarray) -> Tensor:
            return torch.from_numpy(array).reshape(len(array), columns_all, sides.players, *array.shape[3:])

        parts = [r.vector, r.units, r.critic, r.fresh, r.mask]
        seen = [grouped(part[:-1]) for part in parts]
        numbers = [grouped(part) for part in (r.action, r.log_p, advantage, returns, weight)]
        state = torch.from_numpy(r.state).reshape(columns_all, sides.players, r.state.shape[-1])
        columns = np.flatnonzero(weight.reshape(r.steps, columns_all, sides.players).any((0, 2)))
        size = max(1, keys.minibatch // self.team.ranks // (r.steps * sides.players))
        pieces = max(1, round(len(columns) / size))
        (pieces_f,) = self._largest(float(pieces))
        pieces = int(pieces_f)
        sums = np.zeros(7)
        for epoch in range(keys.epochs):
            draw = np.random.Generator(np.random.Philox(key=mixed(keys.seed, self.state.step, epoch, self.team.rank)))
            for piece in np.array_split(draw.permutation(columns), pieces):
                at = torch.from_numpy(piece)
                vector, units, critic, fresh, mask = (part[:, at] for part in seen)
                action, log_p, adv, ret, w = (part[:, at] for part in numbers)
                logits, values, _ = self.policy.unroll(vector, units, critic, state[at], fresh)
                w = w.float()
                losses = ppo_loss(
                    logits,
                    values,
                    mask,
                    action.long(),
                    log_p,
                    adv,
                    ret,
                    w,
                    heads=self.shape.heads,
                    clip=keys.clip,
                    entropy_bonus=bonus,
                    value_weight=keys.value_weight,
                )
                self.optimizer.zero_grad(set_to_none=True)
                losses.total.backward()
                if self.team.ranks > 1:
                    self.team.sum_gradients(self.policy.parameters())
                    for each in self.policy.parameters():
                        assert each.grad is not None
                        each.grad /= self.team.ranks
                norm = torch.nn.utils.clip_grad_norm_(self.policy.parameters(), keys.gradient_norm or math.inf)
                self.optimizer.step()
                told = (losses.total, losses.policy, losses.value, losses.entropy, losses.divergence, losses.clipped)
                sums += [float(each.detach()) for each in (*told, norm)]
        sums /= keys.epochs * pieces
        spread = returns[weight].var()
        explained = 1 - (returns - r.value)[weight].var() / spread if spread > 0 else 0.0
        names = ("loss", "policy_loss", "value_loss", "entropy", "divergence", "clipped", "gradient_norm")
        told_by = dict(zip(names, (float(each) for each in sums), strict=True))
        return {**told_by, "explained_variance": float(explained)}

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
            if kind != SELF:
                name = self.game.bots[result.opponent.member] if kind == BOT else "past"
                self.pool.count(name, result.won)
            if kind == PAST and result.won == 1.0:
                self.pool.beaten(result.opponent.member)
            self.recent.append(result.paid)
            self.recent_steps.append(result.steps)
            for name, value in zip(self.game.meters, result.meters, strict=True):
                before = self.state.meters.get(name, float(value))
                self.state.meters[name] = 0.99 * before + 0.01 * float(value)

    def _grow_pool(self) -> None:
        o = self.recipe.opponents
        if o.past <= 0 or self.player.sides.teams == 1:
            return
        if self.state.step % o.snapshot_steps == 0:
            self.pool_weights[self.state.step] = snapshot_tensors(dict(self.policy.state_dict()))
            gone = self.pool.add(self.state.step, o.pool)
            self.pool.choose_active(self.keys.seed, self.state.step, o.groups)
            playing = {each.member for each in self.player.opponents if each.kind == PAST}
            if self.team.ranks > 1:
                everyones: list[set[int]] = [set() for _ in range(self.team.ranks)]
                dist.all_gather_object(everyones, playing)
                playing = set().union(*everyones)
            kept = {*self.pool.steps, *playing}
            assert gone is None or gone not in self.pool.steps
            self.pool_weights = {step: w for step, w in self.pool_weights.items() if step in kept}
            self.past = {step: net for step, net in self.past.items() if step in kept}

    # -- rules to stop by --------------------------------------------------------------------------

    def _fraction(self) -> float:
        keys, state = self.keys, self.state
        shares = [0.0]
        if keys.steps:
            shares.append(state.step / keys.steps)
        if keys.agent_steps:
            shares.append(state.agent_steps / keys.agent_steps)
        if keys.minutes and self.stepping_from:
            shares.append((monotonic() - self.stepping_from) / (60 * keys.minutes))
        return min(1.0, max(shares))

    def _stop_reason(self) -> str:
        keys, state = self.keys, self.state
        if keys.target_return and len(self.recent) == 100 and np.mean(self.recent) >= keys.target_return:
            return "target"
        if self._everyones(float(self._fraction() >= 1.0) if self.team.leads else 0.0) == 0:
            return ""
        if keys.steps and state.step >= keys.steps:
            return "steps"
        if keys.agent_steps and state.agent_steps >= keys.agent_steps:
            return "agent_steps"
        return "minutes"

    def _agreed(self, reason: str) -> str:
        return reason if self._everyones(float(bool(reason))) == 0 else reason or "signal"

    def _summed(self, *values: float) -> list[float]:
        if self.team.ranks == 1:
            return list(values)
        return [float(v) for v in self.team.sum(torch.tensor(values, dtype=torch.float64))]

    def _everyones(self, value: float) -> float:
        return self._summed(value)[0]

    def _largest(self, *values: float) -> list[float]:
        tensor = torch.tensor(values, dtype=torch.float64)
        if self.team.ranks > 1:
            dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
        return [float(v) for v in tensor]

    def _elapsed(self) -> float:
        return self.before_s + monotonic() - self.began

    # -- checkpoints -------------------------------------------------------------------------------

    def _checkpoint_due(self) -> bool:
        keys, state = self.keys, self.state
        by_step = keys.checkpoint_steps > 0 and state.step % keys.checkpoint_steps == 0
        by_time = keys.checkpoint_minutes > 0 and state.elapsed_s - self.saved_at >= 60 * keys.checkpoint_minutes
        return self._everyones(float((by_step or by_time) and self.team.leads)) > 0

    def _matches(self) -> dict[str, Tensor]:
        """The matches in flight of this process."""
        player = self.player
        kinds = [SELF, PAST, BOT]
        opponents = np.array([(kinds.index(o.kind), o.member, o.side) for o in player.opponents], np.int64)
        arrays = {
            "opponents": opponents,
            "bots": player.bot_MP,
            "learns": player.learns_MP.view(np.uint8),
            "length": player.length_M,
            "paid": player.paid_MP,
            "fresh": player.fresh_M.view(np.uint8),
            "begun": np.array([player.begun]),
            "running": self.running_MP,
            **{f"game.{name}": array for name, array in self.game.state().items()},
        }
        tensors = {name: torch.from_numpy(_plain(array).copy()) for name, array in arrays.items()}
        return {**tensors, "state": player.state.clone(), "past_state": player.past_state.clone()}

    def _load_matches(self, folder: Path) -> None:
        tensors = load_file(folder / MATCHES.format(rank=self.team.rank))
        player, kinds = self.player, [SELF, PAST, BOT]
        player.opponents = [Opponent(kinds[k], m, s) for k, m, s in tensors["opponents"].tolist()]
        player.bot_MP[:] = tensors["bots"].numpy()
        player.learns_MP[:] = tensors["learns"].numpy().view(np.bool_)
        player.length_M[:] = tensors["length"].numpy()
        player.paid_MP[:] = tensors["paid"].numpy()
        player.fresh_M[:] = tensors["fresh"].numpy().view(np.bool_)
        player.begun = int(tensors["begun"])
        player.state, player.past_state = tensors["state"].clone(), tensors["past_state"].clone()
        self.running_MP[:] = tensors["running"].numpy()
        current = self.game.state()
        self.game.restore(
            {
                name: tensors[f"game.{name}"].numpy().view(array.dtype).reshape(tensors[f"game.{name}"].shape)
                for name, array in current.items()
            }
        )

    def _save(self) -> None:
        self.saved_at = self._elapsed()
        self.state.stepping_s = monotonic() - self.stepping_from
        self.state.recent, self.state.recent_steps = list(self.recent), list(self.recent_steps)
        matches = [self._matches()]
        if self.team.ranks > 1:
            everyones: list[dict[str, Tensor]] = [{} for _ in range(self.team.ranks)]
            dist.all_gather_object(everyones, matches[0])
            matches = everyones
        if not (self.team.leads and self.metrics):
            return
        began = perf_counter()
        self.metrics.sync()
        moments = {}
        for weight_name, weight in self.policy.named_parameters():
            for key, value in self.optimizer.state.get(weight, {}).items():
                moments[f"{weight_name}.{key}"] = value
        snapshot = AgentSnapshot(
            agent=agent_json(self.game, self.shape),
            weights=snapshot_tensors(dict(self.policy.state_dict())),
            optimizer=snapshot_tensors(moments),
            pool={f"{step}:{n}": t for step, weights in self.pool_weights.items() for n, t in weights.items()},
            matches=matches,
            state={
                "step": self.state.step,
                "run": asdict(self.state),
                "pool": asdict(self.pool),
                "metrics_bytes": self.metrics.offset,
                "binding": self._binding(),
            },
            card=self._card(),
        )
        self.writer.start(snapshot)
        self.stall_s += perf_counter() - began

    def _finished(self, *, wait: bool) -> Iterator[Checkpoint]:
        checkpoint = self.writer.fetch(wait=wait)
        if checkpoint is None:
            return
        retain(self.checkpoints, last=self.keys.keep_last, best=0, scores={})
        yield checkpoint

    def _card(self) -> ModelCard:
        return ModelCard(
            preset="policy",
            parameters=sum(p.numel() for p in self.policy.parameters()),
            context=0,
            vocab=0,
            extra={
                "game": self.game.name,
                "version": self.game.version,
                "agent_steps": self.state.agent_steps,
                "matches": self.state.matches,
                "win_shares": {name: round(share, 4) for name, share in sorted(self.pool.shares.items())},
                "episode_return": round(float(np.mean(self.recent)), 4) if self.recent else None,
            },
        )

    def close(self) -> None:
        """Wait for a checkpoint that is being written; a failure of it was or will be told elsewhere."""
        with suppress(Exception):
            self.writer.fetch(wait=True)
        if self.metrics:
            self.metrics.close()


def _plain(array: np.ndarray) -> np.ndarray:
    """An array of a type that safetensors keeps; unsigned 64 bits as signed ones."""
    array = np.ascontiguousarray(array)
    if array.dtype == np.uint64:
        return array.view(np.int64)
    return array.view(np.uint8) if array.dtype == np.bool_ else array
