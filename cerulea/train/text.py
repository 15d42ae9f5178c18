"""Train a language model: one generator from first step to last checkpoint.

In:      a recipe, packed shards with their tokenizer, a folder, how to compute (Execution).
Out:     Progress for every step, Evaluation, and Checkpoint once each is whole on disk.
Kept:    everything a step does is a function of (recipe, shards, step, the share of the run that is done), so
         that a run killed at any moment and resumed writes the same numbers (same device and threads).
Not here: money, leases, signals, names of models (`flows.train`): they live in the loop around this one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from time import monotonic, perf_counter

import torch

from cerulea.core.errors import RecipeInvalid, ResumeMismatch
from cerulea.core.values import Checkpoint, Evaluation, ModelCard, Progress
from cerulea.nn.decoder import Decoder
from cerulea.nn.flops import train_flops_per_token
from cerulea.nn.generate import Sampling, generate
from cerulea.nn.optim import Optimizer
from cerulea.nn.precision import DTYPES, Execution
from cerulea.nn.weights import load_decoder
from cerulea.text.order import make_order
from cerulea.text.shards import Shards
from cerulea.text.tokenizer import Tokenizer
from cerulea.train.binding import binding, differences
from cerulea.train.checkpoint import (
    Snapshot,
    Writer,
    load_resume,
    newest_checkpoint,
    remove_leftovers,
    retain,
    set_aside,
    snapshot_tensors,
)
from cerulea.train.evaluate import held_out
from cerulea.train.loop import Slot, SpikeGuard, add_gradients, agree, clip, count_targets, gradient_norm
from cerulea.train.parallel import Team
from cerulea.train.recipe import TextRecipe
from cerulea.train.record import Metrics
from cerulea.train.schedule import batch_rows, momentum_at, optimizer_settings, rate_scale
from cerulea.train.state import RunState

Event = Progress | Evaluation | Checkpoint


def train_text(
    recipe: TextRecipe,
    shards: Shards,
    tokenizer: Tokenizer,
    folder: Path,
    execution: Execution,
    *,
    resume: bool = False,
    verified: Checkpoint | None = None,
    team: Team = Team(),
    should_stop: Callable[[], str] = lambda: "",
    began: float | None = None,
    say: Callable[[str], None] = lambda sentence: None,
) -> Iterator[Event]:
    """Train until a stop rule holds; to stop earlier, cease to ask or let `should_stop` give a reason.

    Args:
        folder: of the run; gets metrics.jsonl and checkpoints/.
        resume: go on from the newest checkpoint in `folder` that verifies.
        verified: that checkpoint, where the caller has looked for it already.
        team: the processes that train together; only its leader writes files.
        should_stop: asked after each step; a reason ends the run with a checkpoint.
        began: `time.monotonic()` of the command's start, for `elapsed_s`.
        say: told of what a person should know, such as a damaged checkpoint.

    Raises:
        ResumeMismatch: the checkpoint is of another recipe, corpus or tokenizer.
        CheckpointNotWritten, CheckpointUnusable, TrainingDiverged.
    """
    run = _Run(recipe, shards, tokenizer, folder, execution, team, monotonic() if began is None else began)
    try:
        if resume:
            run.resume(verified, say)
        else:
            run.start()
        yield from run.steps(should_stop)
    finally:
        run.close()


class _Run:
    """The parts of one run, and the loop over its steps."""

    def __init__(
        self,
        recipe: TextRecipe,
        shards: Shards,
        tokenizer: Tokenizer,
        folder: Path,
        execution: Execution,
        team: Team,
        began: float,
    ) -> None:
        self.recipe, self.shards, self.tokenizer, self.team = recipe, shards, tokenizer, team
        self.keys = recipe.train
        self.folder, self.checkpoints = folder, folder / "checkpoints"
        self.execution, self.began = execution, began
        self.shape = recipe.shape(tokenizer.vocab)
        self.device = torch.device(execution.device)
        self.prompt = [tokenizer.begin_of_text, *tokenizer.encode_prompt(self.keys.sample_prompt)]
        if self.keys.sample_tokens and len(self.prompt) >= self.shape.context:
            raise RecipeInvalid(
                f"train.sample_prompt has {len(self.prompt):,} tokens; the context is {self.shape.context:,}.",
                fix="Shorten it, or set train.sample_tokens to 0.",
            )
        self.order = make_order(tuple(len(t) for t in shards.train), shards.weights, self.shape.context, self.keys.seed)
        self.read = shards.reader(self.shape.context, self.keys.seed)
        self.state, self.before_s = RunState(), 0.0
        self.guard = SpikeGuard(self.keys.skip_sigma)
        self.writer = Writer(self.checkpoints)
        self.stall_s = self.looked_at = self.saved_at = self.stepping_from = 0.0
        self.metrics: Metrics | None = None
        self.resumed: Checkpoint | None = None

    # -- beginning ---------------------------------------------------------------------------------

    def start(self) -> None:
        """Draw initial weights."""
        torch.manual_seed(self.keys.seed)
        self._use(Decoder(self.shape, dropout=self.keys.dropout))
        if self.team.leads:
            remove_leftovers(self.checkpoints)
            self.metrics = Metrics(self.folder / "metrics.jsonl")

    def resume(self, verified: Checkpoint | None, say: Callable[[str], None]) -> None:
        """Take weights, optimizer and state from the newest checkpoint that verifies; start where there is none."""
        if self.team.leads:
            remove_leftovers(self.checkpoints)
        quiet = say if self.team.leads else lambda sentence: None
        checkpoint = verified or newest_checkpoint(self.checkpoints, quiet)
        if checkpoint is not None and self.team.leads:
            set_aside(self.checkpoints, checkpoint.step)
        self.team.meet()
        if checkpoint is None:
            say("The run has no checkpoint yet and starts at step 0.")
            self.start()
            return
        tensors, state = load_resume(checkpoint.folder)
        differing = differences(state["binding"], binding(self.recipe, self.shards))
        if differing:
            raise ResumeMismatch(
                f"The checkpoint at step {checkpoint.step:,} was made with another {' and '.join(differing)}.",
                why="A resumed run must compute what the uninterrupted one would have.",
                fix="Restore what differs, or start a new run without --resume.",
            )
        decoder = load_decoder(checkpoint.folder)
        decoder.set_dropout(self.keys.dropout)
        self.execution = replace(
            self.execution, **{k: state["execution"][k] for k in ("precision", "compile", "micro_batch_tokens")}
        )
        self._use(decoder)
        self.optimizer.load({name: tensor.to(self.device) for name, tensor in tensors.items()})
        self.state = RunState(**state["run"])
        self.state.stop_reason = ""
        self.resumed = checkpoint
        self.before_s = self.looked_at = self.saved_at = self.state.elapsed_s
        self.guard.load(state["guard"])
        if self.team.leads:
            self.metrics = Metrics(self.folder / "metrics.jsonl", state["metrics_bytes"])

    def _use(self, decoder: Decoder) -> None:
        """Put the decoder to work: device, precision, compiling, optimizer."""
        self.decoder = decoder.to(self.device).train()
        self.decoder.compute_dtype = DTYPES[self.execution.precision]
        if self.execution.compile:
            self.decoder.compile_blocks()
        self.settings = optimizer_settings(self.recipe, self.execution)
        self.optimizer = Optimizer(self.decoder, self.settings)

    # -- the loop ----------------------------------------------------------------------------------

    def steps(self, should_stop: Callable[[], str]) -> Iterator[Event]:
        """Steps until a stop rule holds, with evaluations and checkpoints between them."""
        state = self.state
        if self.keys.eval_first and state.step == 0:
            yield self._evaluate()
        # What comes before the first step is not counted: beside other work it may take longer than the minutes.
        self.stepping_from = monotonic() - state.stepping_s
        if self.resumed is not None:
            # A run that was killed between its last checkpoint and its record has nothing left to do.
            state.stop_reason = self._stop_reason()
            if state.stop_reason:
                yield self.resumed
        while not state.stop_reason:
            progress = self._step()
            yield progress
            asked = self._asked(should_stop())
            state.stop_reason = asked or self._stop_reason()
            new_best = False
            # Whoever asks to stop may not wait: then the checkpoint comes first, and no score.
            last = state.stop_reason and str(state.step) not in state.scores
            if not asked and (self._evaluation_due() or last):
                evaluation = self._evaluate()
                new_best = evaluation.best
                yield evaluation
                state.stop_reason = state.stop_reason or self._stop_reason()
            if self._checkpoint_due() or (new_best and self.keys.keep_best) or state.stop_reason:
                yield from self._finished(wait=True)
                self._save()
            yield from self._finished(wait=bool(state.stop_reason))

    def _step(self) -> Progress:
        keys, state = self.keys, self.state
        began = perf_counter()
        # With `minutes` each rank has a clock of its own: the leader's holds.
        (fraction,) = agree(self.team, self._fraction() if self.team.leads else 0.0)
        rows = batch_rows(self.recipe.rows, keys.batch_ramp, fraction)
        slots = self._slots(rows)
        (targets,) = agree(self.team, float(count_targets(slots)))
        self.decoder.zero_grad(set_to_none=True)
        summed = add_gradients(self.decoder, slots, targets, seed=keys.seed, step=state.step)
        self.team.sum_gradients(self.decoder.parameters())
        (total,) = agree(self.team, float(summed))
        loss, norm = total / targets, gradient_norm(self.decoder)
        skipped = self.guard.reason_to_skip(loss, norm)
        scale = rate_scale(
            self.schedule,
            state.step,
            fraction,
            warmup_steps=keys.warmup_steps,
            decay_fraction=keys.decay_fraction,
            final_rate=keys.final_rate,
        )
        if not skipped:
            clip(self.decoder, norm, self.largest_norm)
            momentum = momentum_at(state.step, self.settings.momentum)
            self.optimizer.step(rate_scale=scale, momentum=momentum, decay_scale=self._decay_scale(scale))
        tokens = rows * self.shape.context
        state.step += 1
        state.samples += rows
        state.tokens += tokens
        state.elapsed_s = self._elapsed()
        seconds = perf_counter() - began
        flops = train_flops_per_token(self.shape, self.shape.context) * tokens / seconds
        progress = Progress(
            step=state.step,
            tokens=state.tokens,
            loss=loss,
            learning_rate=scale,
            gradient_norm=norm,
            tokens_per_s=tokens / seconds,
            flops_utilization=flops / (self.execution.peak_flops * self.team.ranks),
            elapsed_s=state.elapsed_s,
            fraction=self._fraction(),
            skipped=skipped,
        )
        if self.metrics:
            self.metrics.add("progress", asdict(progress))
        return progress

    def _slots(self, rows: int) -> list[Slot]:
        """This rank's micro-batches of the step's rows. Slots are the same on any number of ranks that divides them."""
        context, ranks = self.shape.context, self.team.ranks
        count = max(ranks, -(-rows * context // self.execution.micro_batch_tokens))
        edges = [rows * i // count for i in range(count + 1)]
        first, last = count * self.team.rank // ranks, count * (self.team.rank + 1) // ranks
        slots = []
        for number in range(first, last):
            start, stop = edges[number], edges[number + 1]
            if start == stop:
                continue
            ids = torch.from_numpy(self.read(self.state.samples + start, stop - start)).to(self.device)
            slots.append(Slot(number, ids[:, :-1].contiguous(), ids[:, 1:].contiguous()))
        return slots

    # -- schedules and stop rules ------------------------------------------------------------------

    @property
    def schedule(self) -> str:
        """The schedule's name, with `auto` resolved."""
        if self.keys.schedule != "auto":
            return self.keys.schedule
        return "cosine" if self.recipe.model.preset == "gpt2" else "wsd"

    @property
    def largest_norm(self) -> float:
        """Gradient norm to clip at, 0 for none."""
        if self.keys.clip >= 0:
            return self.keys.clip
        return 1.0 if self.settings.kind == "adamw" else 0.0

    def _decay_scale(self, scale: float) -> float:
        return 1.0 if self.settings.kind == "adamw" else scale

    def _elapsed(self) -> float:
        return self.before_s + monotonic() - self.began

    def _fraction(self) -> float:
        """Share of the run that is done: the largest over all limits that the recipe sets."""
        keys, state = self.keys, self.state
        shares = [0.0]
        if keys.steps:
            shares.append(state.step / keys.steps)
        if keys.tokens:
            shares.append(state.tokens / keys.tokens)
        if keys.epochs:
            shares.append(self.order.epochs(state.samples) / keys.epochs)
        if keys.minutes:
            # The last evaluation belongs to the time that was asked for.
            stepping_s = monotonic() - self.stepping_from
            shares.append(stepping_s / max(60 * keys.minutes - state.evaluate_s, 1e-9))
        return min(1.0, max(shares))

    def _asked(self, reason: str) -> str:
        """The reason that this process was given to stop, or that another one was given one."""
        return reason if agree(self.team, float(bool(reason)))[0] == 0 else reason or "signal"

    def _stop_reason(self) -> str:
        keys, state = self.keys, self.state
        (over,) = agree(self.team, float(self._fraction() >= 1.0))
        if keys.target_bits_per_byte and state.best <= keys.target_bits_per_byte:
            return "target"
        if keys.patience and state.bad_evaluations >= keys.patience:
            return "patience"
        if not over:
            return ""
        for name, done in (
            ("steps", keys.steps and state.step >= keys.steps),
            ("tokens", keys.tokens and state.tokens >= keys.tokens),
            ("epochs", keys.epochs and self.order.epochs(state.samples) >= keys.epochs),
        ):
            if done:
                return name
        return "minutes"

    # -- evaluation and checkpoints ----------------------------------------------------------------

    def _evaluation_due(self) -> bool:
        keys, state = self.keys, self.state
        by_step = keys.eval_steps > 0 and state.step % keys.eval_steps == 0
        by_time = keys.eval_minutes > 0 and state.elapsed_s - self.looked_at >= 60 * keys.eval_minutes
        marked = any(self.looked_at < 60 * mark <= state.elapsed_s for mark in keys.eval_at_minutes)
        return bool(agree(self.team, float(by_step or by_time or marked))[0])

    def _evaluate(self) -> Evaluation:
        keys, state = self.keys, self.state
        began = perf_counter()
        score = held_out(self.decoder, self.shards.valid, self.tokenizer.bytes_of, self.shards.valid_bytes)
        sample = self._sample() if keys.sample_tokens and self.team.leads else ""
        # Every rank scores the same tokens; the leader's numbers hold, so that all decide alike.
        mine = (score.bits_per_byte, score.loss) if self.team.leads else (0.0, 0.0)
        bits, loss = agree(self.team, *mine)
        better = bits < state.best
        state.best, state.best_step = (bits, state.step) if better else (state.best, state.best_step)
        state.bad_evaluations = 0 if better else state.bad_evaluations + 1
        state.scores[str(state.step)] = bits
        state.evaluated = {"step": state.step, "loss": loss, "bits_per_byte": bits}
        state.evaluate_s = perf_counter() - began
        state.elapsed_s = self.looked_at = self._elapsed()
        evaluation = Evaluation(
            step=state.step,
            loss=loss,
            bits_per_byte=bits,
            elapsed_s=state.elapsed_s,
            evaluate_s=state.evaluate_s,
            best=better,
            sample=sample,
        )
        if self.metrics:
            self.metrics.add("eval", asdict(evaluation))
        return evaluation

    def _sample(self) -> str:
        keys = self.keys
        sampling = Sampling(max_tokens=keys.sample_tokens, seed=keys.seed)
        rows = generate(self.decoder, self.prompt, sampling, stop=self.tokenizer.end_of_text)
        return keys.sample_prompt + self.tokenizer.decode(rows[0])

    def _checkpoint_due(self) -> bool:
        keys, state = self.keys, self.state
        by_step = keys.checkpoint_steps > 0 and state.step % keys.checkpoint_steps == 0
        by_time = keys.checkpoint_minutes > 0 and state.elapsed_s - self.saved_at >= 60 * keys.checkpoint_minutes
        return bool(agree(self.team, float(by_step or by_time))[0])

    def _save(self) -> None:
        """Copy everything and let the writer's thread put it on disk."""
        self.saved_at = self._elapsed()
        self.state.stepping_s = monotonic() - self.stepping_from
        if not (self.team.leads and self.metrics):
            return
        began = perf_counter()
        self.metrics.sync()
        snapshot = Snapshot(
            shape=self.shape,
            weights=snapshot_tensors(dict(self.decoder.state_dict())),
            optimizer=snapshot_tensors(self.optimizer.tensors()),
            state={
                "step": self.state.step,
                "run": asdict(self.state),
                "guard": self.guard.state(),
                "metrics_bytes": self.metrics.offset,
                "binding": binding(self.recipe, self.shards),
                "execution": self.execution.as_json(),
            },
            card=self._card(),
            tokenizer=self.tokenizer,
        )
        self.writer.start(snapshot)
        self.stall_s += perf_counter() - began

    def _finished(self, *, wait: bool) -> Iterator[Checkpoint]:
        """The checkpoint that was being written, once it is whole."""
        began = perf_counter()
        checkpoint = self.writer.fetch(wait=wait)
        self.stall_s += perf_counter() - began
        if checkpoint is None:
            return
        checkpoint = replace(checkpoint, stall_s=self.stall_s)
        self.stall_s = 0.0
        scores = {int(step): bits for step, bits in self.state.scores.items()}
        retain(self.checkpoints, last=self.keys.keep_last, best=self.keys.keep_best, scores=scores)
        yield checkpoint

    def _card(self) -> ModelCard:
        evaluated = self.state.evaluated if self.state.evaluated.get("step") == self.state.step else {}
        return ModelCard(
            preset=self.recipe.model.preset,
            parameters=self.shape.parameters(),
            context=self.shape.context,
            vocab=self.shape.vocab,
            bits_per_byte=evaluated.get("bits_per_byte"),
            loss=evaluated.get("loss"),
            trained_tokens=self.state.tokens,
            corpus=self.shards.corpus,
            tokenizer=self.shards.tokenizer,
        )

    def close(self) -> None:
        """Wait for a checkpoint that is being written; a failure of it was or will be told elsewhere."""
        with suppress(Exception):
            self.writer.fetch(wait=True)
        if self.metrics:
            self.metrics.close()
