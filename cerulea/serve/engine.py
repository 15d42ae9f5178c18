"""The engine: continues many sequences at once, step by step, and counts every token that it computes.

    submit -> (wait) -> start (row, cached prefix) -> read the prompt in chunks -> write a token a step -> end

In:      Requests, leases and aborts, between steps; a Runner that computes, a Picker that picks.
Out:     of each step, a Delta for every sequence that got a token or ended. The last one has the exact usage.
Kept:    a step is planned, computed and then committed; one that fails commits nothing and ends its sequences, not the
         process. No token is computed that is not leased. A sequence that is aborted has left its row before the next
         step. What a sequence writes depends on its request alone, and with `deterministic` so does every bit of it.
Not here: text, money, processes (`process`), who runs next (`scheduler`), rows (`prefix`).
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from cerulea.core.errors import CeruleaError, EngineFailed, Invalid, PromptTooLong, QueueFull
from cerulea.core.values import Usage
from cerulea.serve.plan import Chunk, Runner
from cerulea.serve.prefix import LEAST_SHARED, Rows
from cerulea.serve.request import Delta, Finish, Request, TokenLogprob
from cerulea.serve.scheduler import Scheduler
from cerulea.serve.sequence import Sequence

if TYPE_CHECKING:
    from torch import Tensor

COMPILE_LOOK_S = 0.02  # how long an engine that has nothing else to do looks at a grammar that is being compiled

log = logging.getLogger("cerulea.serve")


class Picker(Protocol):
    """Picks tokens (`sampler`)."""

    def pick(self, logits_BV: Tensor, sequences: list[Sequence]) -> list[TokenLogprob | Exception]:
        """The next token of each sequence, or why there is none."""
        ...

    def prompt_logprobs(self, logits_TV: Tensor, targets: list[int], top: int) -> list[TokenLogprob]:
        """Log probabilities of tokens that are known."""
        ...

    def begin(self, sequence: Sequence) -> None:
        """A sequence is about to wait for its turn: its grammar is made here, in a thread that does nothing else.

        Raises:
            GrammarInvalid: nothing can meet it.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """What an engine has done and does; for /metrics."""

    running: int
    waiting: int
    rows: int
    rows_used: int
    prompt_tokens: int
    written_tokens: int
    prefix_queries: int
    prefix_hits: int
    steps: int
    step_ms: float  # the last one


class Engine:
    """Continues sequences with one model. One thread calls it.

    Args:
        runner: computes; has the rows.
        picker: picks tokens.
        most_running: sequences that run at a time; the rest of the rows keep prefixes.
        most_waiting: requests that may wait beside them.
        most_waiting_tokens: prompt tokens that may wait, by default 64 contexts.
        most_wait_s: seconds that a request may wait; then it is refused, for whoever asked has given up.
    """

    def __init__(
        self,
        runner: Runner,
        picker: Picker,
        *,
        most_running: int = 16,
        most_waiting: int = 256,
        most_waiting_tokens: int | None = None,
        most_wait_s: float = 120.0,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.runner, self.picker, self.clock = runner, picker, clock
        self.rows = Rows(runner.rows, runner.copy, runner.release)
        self.scheduler: Scheduler[Sequence] = Scheduler(min(most_running, runner.rows))
        self.most_waiting, self.most_wait_s = most_waiting, most_wait_s
        self.most_waiting_tokens = most_waiting_tokens or 64 * runner.context
        self._waiting_tokens = 0
        self._by_id: dict[str, Sequence] = {}
        self._running: list[Sequence] = []
        self._ended: list[Delta] = []  # since the last step
        self._compiling: dict[str, tuple[Sequence, Future[None]]] = {}  # whose grammars are
        self._compiler = ThreadPoolExecutor(1, thread_name_prefix="grammar")
        self._read = self._written = self._steps = 0
        self.failures = 0  # steps that failed one after the other
        self._step_ms = 0.0

    @property
    def idle(self) -> bool:
        """Whether a step would do nothing."""
        line = self._ended or self._compiling or self.scheduler.waiting
        return not line and not self.scheduler.plan(self._running)

    @property
    def stats(self) -> Stats:
        """Counters, as of now."""
        return Stats(
            running=len(self._running),
            waiting=self.scheduler.waiting,
            rows=self.runner.rows,
            rows_used=self.rows.running,
            prompt_tokens=self._read,
            written_tokens=self._written,
            prefix_queries=self.rows.queries,
            prefix_hits=self.rows.hits,
            steps=self._steps,
            step_ms=self._step_ms,
        )

    # -- between steps -----------------------------------------------------------------------------

    def submit(self, request: Request) -> None:
        """Let a request wait for its turn.

        One with a grammar waits until that is compiled, in a thread of its own; one that nothing can meet ends it.

        Raises:
            PromptTooLong: it leaves no room for a token in the context.
            QueueFull: too much waits already.
            Invalid: an id outside the vocabulary.
        """
        assert request.id not in self._by_id, request.id
        self._check(request)
        sequence = Sequence(request, list(request.prompt), request.leased, came_at=self.clock())
        self._by_id[request.id] = sequence
        self._waiting_tokens += len(request.prompt)
        if request.sampling.grammar:
            self._compiling[sequence.id] = (sequence, self._compiler.submit(self.picker.begin, sequence))
        else:
            self.scheduler.add(sequence, self._running)

    def lease(self, request_id: str, tokens: int) -> None:
        """Let a sequence write this many tokens in all. The same number again says that there will be no more."""
        sequence = self._by_id.get(request_id)
        if sequence is None:
            return
        if tokens > sequence.leased:
            sequence.leased = tokens
            return
        sequence.last_lease = True
        if sequence.written >= sequence.leased:
            self._leave_line(sequence)
            self._ended.append(self._end(sequence, "length", detail="lease"))

    def abort(self, request_id: str) -> None:
        """End a sequence; its row is free before the next step, its last delta comes with it."""
        sequence = self._by_id.get(request_id)
        if sequence is None:
            return
        self._leave_line(sequence)
        self._ended.append(self._end(sequence, "abort"))

    def _leave_line(self, sequence: Sequence) -> None:
        if self._compiling.pop(sequence.id, None) is not None or self.scheduler.drop(sequence):
            self._waiting_tokens -= len(sequence.request.prompt)

    # -- a step ------------------------------------------------------------------------------------

    def step(self) -> list[Delta]:
        """Start who may start, compute one step, and say what it brought."""
        deltas, self._ended = self._ended, []
        self._take_compiled(deltas)
        self._give_up(deltas)
        self._start()
        plan = self.scheduler.plan(self._running)
        if not plan:
            if self._compiling and not deltas:  # nothing else is to be done
                wait([compiling for _, compiling in self._compiling.values()], COMPILE_LOOK_S, FIRST_COMPLETED)
            return deltas
        began = self.clock()
        # Deterministic sequences, and those that are embedded, are computed in passes of their own.
        parts: dict[tuple[bool, bool], list[tuple[Sequence, int]]] = {}
        for one, n in plan:
            parts.setdefault((one.request.embed, one.request.sampling.deterministic), []).append((one, n))
        for (embed, deterministic), part in parts.items():
            try:
                if embed:
                    self._embed(part, deltas)
                else:
                    self._continue(part, deterministic, deltas)
            except Exception as error:
                log.exception("a step failed")
                self.failures += 1
                failure = error if isinstance(error, CeruleaError) else _failed(error)
                deltas += [self._end(one, "error", detail=str(failure)) for one, _ in part if one.row >= 0]
            else:
                self.failures = 0
        took = 1000 * (self.clock() - began)
        self.scheduler.ran(plan, took)
        self._steps += 1
        self._step_ms = took
        return deltas

    def _take_compiled(self, deltas: list[Delta]) -> None:
        """Let those wait for their turn whose grammar is compiled."""
        for one, compiling in [found for found in self._compiling.values() if found[1].done()]:
            if (error := compiling.exception()) is None:
                del self._compiling[one.id]
                self.scheduler.add(one, self._running)
                continue
            self._leave_line(one)
            failure = error if isinstance(error, CeruleaError) else _failed(error)
            deltas.append(self._end(one, "error", detail=json.dumps(failure.as_json())))

    def _give_up(self, deltas: list[Delta]) -> None:
        """Refuse what has waited too long."""
        before = self.clock() - self.most_wait_s
        while late := [one for one in self.scheduler.oldest() if one.came_at < before]:
            for one in late:
                self._leave_line(one)
                full = QueueFull(f"The request waited {self.most_wait_s:.0f} s for its turn.", retry_after_s=10)
                deltas.append(self._end(one, "error", detail=json.dumps(full.as_json())))

    def _start(self) -> None:
        later: set[str] = set()  # teams whose next one begins like one that is being read
        while (one := self.scheduler.next(self._running, self.rows.free, later)) is not None:
            request = one.request
            # Logits of the whole prompt, and a mean over all of it, need all of it computed.
            share = request.share_prefix and request.sampling.prompt_logprobs < 0 and not request.embed
            if share and self._is_being_read(request):
                self.scheduler.put_back(one)
                later.add(one.team)
                continue
            self._waiting_tokens -= len(request.prompt)
            scope = (request.team, request.sampling.deterministic)
            one.row, one.cached = self.rows.take(scope, request.prompt, share=share)
            one.computed = one.cached
            one.started_at = self.clock()
            self._running.append(one)

    def _is_being_read(self, request: Request) -> bool:
        """Whether the same prompt is being read now: another choice of one question copies it in a moment."""
        return any(
            one.to_read > 1
            and one.team == request.team
            and one.request.share_prefix
            and one.request.sampling.deterministic == request.sampling.deterministic
            and len(request.prompt) > LEAST_SHARED
            and one.request.prompt == request.prompt
            for one in self._running
        )

    def _continue(self, plan: list[tuple[Sequence, int]], deterministic: bool, deltas: list[Delta]) -> None:
        """Read what is planned, and write a token of every sequence that is read to its end."""
        chunks: list[Chunk] = []
        for one, n in plan:
            last = one.computed + n == len(one.tokens)
            wanted = n if one.request.sampling.prompt_logprobs >= 0 and not one.written else int(last)
            chunks.append(Chunk(one.row, one.computed, one.tokens[one.computed : one.computed + n], wanted))
        logits_NV = self.runner.run(chunks, deterministic=deterministic)
        at, picks, rows = 0, [], []
        for (one, n), chunk in zip(plan, chunks, strict=True):
            if one.request.sampling.prompt_logprobs >= 0 and not one.written:
                self._note_prompt(one, chunk, logits_NV[at : at + chunk.wanted])
            at += chunk.wanted
            if not one.written:
                self._read += n
                self.scheduler.count(one.team, read=n)
            one.computed += n
            if one.computed < len(one.tokens):
                continue
            if one.request.sampling.max_tokens:
                picks.append(one)
                rows.append(at - 1)
            else:
                deltas.append(self._end(one, "length"))
        if picks:
            picked = self.picker.pick(logits_NV if len(rows) == len(logits_NV) else logits_NV[rows], picks)
            deltas += [self._commit(one, token) for one, token in zip(picks, picked, strict=True)]
        for one, n in plan:
            if n > 1 and one.row >= 0 and one.request.share_prefix:
                self.rows.note(one.row, one.tokens[: one.computed])

    def _embed(self, plan: list[tuple[Sequence, int]], deltas: list[Delta]) -> None:
        """Prompts to be embedded: the mean over all hidden states, summed chunk by chunk."""
        chunks = [Chunk(one.row, one.computed, one.tokens[one.computed : one.computed + n], 0) for one, n in plan]
        hidden_ND = self.runner.hidden(chunks)
        at = 0
        for one, n in plan:
            part_D = hidden_ND[at : at + n].sum(0)
            one.hidden_sum = part_D if one.hidden_sum is None else one.hidden_sum + part_D
            at += n
            one.computed += n
            self._read += n
            self.scheduler.count(one.team, read=n)
            if one.computed == len(one.tokens):
                mean_D = one.hidden_sum / len(one.tokens)
                deltas.append(self._end(one, "stop", embedding=tuple(mean_D.tolist())))

    def _note_prompt(self, one: Sequence, chunk: Chunk, logits_TV: Tensor) -> None:
        """Keep what the model thought of the prompt tokens that follow those of this chunk."""
        targets = one.tokens[chunk.start + 1 : chunk.start + 1 + len(chunk.tokens)]
        targets = targets[: len(one.request.prompt) - 1 - chunk.start]
        if targets:
            top = one.request.sampling.prompt_logprobs
            one.prompt_logprobs += self.picker.prompt_logprobs(logits_TV[: len(targets)], targets, top)

    def _commit(self, one: Sequence, picked: TokenLogprob | Exception) -> Delta:
        """Add a token to a sequence, and end it where it ends."""
        if isinstance(picked, Exception):
            return self._end(one, "error", detail=str(picked))
        sampling, first = one.request.sampling, one.written == 0
        if first:
            one.first_at = self.clock()
        one.tokens.append(picked.token)
        self._written += 1
        self.scheduler.count(one.team, written=1)
        given: dict[str, Any] = {"prompt_logprobs": tuple(one.prompt_logprobs) if first else ()}
        if picked.token in sampling.stop_ids:
            # It was computed and is paid for, like every other token; it is not part of the text.
            return self._end(one, "stop", **given)
        given["tokens"] = (picked.token,)
        if sampling.logprobs >= 0:
            given["logprobs"] = (picked,)
        if one.grammar is not None:
            try:
                one.grammar.advance(picked.token)
            except CeruleaError as error:  # it asks for more work than a token may cost
                return self._end(one, "error", detail=str(error), **given)
            if one.grammar.done:
                return self._end(one, "stop", **given)
        if one.written >= sampling.max_tokens:
            return self._end(one, "length", **given)
        if len(one.tokens) >= self.runner.context:
            return self._end(one, "length", detail="context", **given)
        if one.last_lease and one.written >= one.leased:
            return self._end(one, "length", detail="lease", **given)
        return Delta(id=one.id, **given)

    def _end(self, one: Sequence, finish: Finish, **given: Any) -> Delta:
        """Take a sequence out, free its row, and say what it used."""
        del self._by_id[one.id]
        computed = 0
        if one.row >= 0:
            self._running.remove(one)
            computed = min(one.computed, len(one.request.prompt))
            keep = one.request.share_prefix and finish != "error" and not one.request.embed
            self.rows.give_back(one.row, one.tokens[: one.computed], keep=keep)
            one.row = -1
        if finish == "length" and not one.written:
            given["prompt_logprobs"] = tuple(one.prompt_logprobs)
        # A prompt counts as far as it was read; what was copied from a cached prefix is told beside it.
        usage = Usage(prompt_tokens=computed, completion_tokens=one.written)
        given["queue_ms"] = 1000 * max(0.0, one.started_at - one.came_at)
        given["prefill_ms"] = 1000 * max(0.0, one.first_at - one.started_at)
        return Delta(id=one.id, finish=finish, usage=usage, cached_tokens=one.cached, **given)

    def _check(self, request: Request) -> None:
        prompt, most = len(request.prompt), request.sampling.max_tokens
        assert prompt, request
        if not 0 <= min(request.prompt) <= max(request.prompt) < self.runner.vocab:
            raise Invalid(
                f"The prompt has an id outside 0 to {self.runner.vocab - 1:,}.",
                fix="Make ids with the model's own tokenizer.",
            )
        if prompt + min(most, 1) > self.runner.context:
            raise PromptTooLong(
                f"The prompt has {prompt:,} tokens; this model's context is {self.runner.context:,}.",
                why="One place is needed for the first token written." if most else "",
                fix=f"Give at most {self.runner.context - min(most, 1):,} tokens.",
            )
        if len(self._running) + self.scheduler.waiting >= self.scheduler.most_running + self.most_waiting:
            raise QueueFull(f"{self.scheduler.waiting} requests wait already.", retry_after_s=self._patience())
        if self.scheduler.waiting and self._waiting_tokens + prompt > self.most_waiting_tokens:
            raise QueueFull(f"{self._waiting_tokens:,} prompt tokens wait already.", retry_after_s=self._patience())

    def _patience(self) -> float:
        """Seconds until a place in the line comes free, roughly: a sequence writes 64 tokens, the rows share a step."""
        return max(1.0, 64 * self._step_ms / 1000 / max(1, self.scheduler.most_running))


def _failed(error: BaseException) -> EngineFailed:
    return EngineFailed(
        f"The engine failed on this request: {type(error).__name__}: {str(error)[:300]}.",
        fix="Try again; if it happens again, look at the server's log.",
    )
