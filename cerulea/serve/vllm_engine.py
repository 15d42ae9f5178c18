"""vLLM behind our engine's protocol (`process.Steps`), for servers with large GPUs: it computes, we lease and count.

    submit -> (wait) -> open (a vLLM request for what is leased) -> tokens -> its end -> wait for a lease, or end
                 ^_________________________ a new lease __________________________|

In:      Requests, leases and aborts, between steps; an LLMEngine of vLLM's V1 API (0.12 or later).
Out:     of each step, a Delta for every sequence that got tokens or ended. The last one has the exact usage.
Kept:    tokens are counted by their ids. vLLM cannot pause a sequence, so it is asked for what is leased alone; with a
         new lease it is asked again, with prompt and text as the prompt, which its prefix cache makes cheap and which
         is not charged again. Prefixes are shared inside a team alone: the salt is ours, never a client's.
Differs: under a seed, texts are not our engine's, and may depend on where a lease ended: each vLLM request has a seed
         of (seed, choice, tokens written so far). A grammar and penalties for what was written begin anew with a vLLM
         request, so they are taken only where the whole text is leased at once. A text that meets its grammar is ended
         by an end-of-text token, which is counted. To read a prompt alone, vLLM computes one token, which is neither
         shown nor counted. No embeddings, no `deterministic`.
Not here: text, money, processes (`process`), vLLM's own settings (`load`).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from cerulea.core.errors import EngineFailed, Invalid, PromptTooLong, QueueFull
from cerulea.core.seeds import mixed
from cerulea.core.values import Usage
from cerulea.serve.engine import Stats
from cerulea.serve.request import Delta, Finish, Request, TokenLogprob
from cerulea.serve.scheduler import SPARE_ROWS, Scheduler
from cerulea.serve.sequence import Tracked

log = logging.getLogger("cerulea.serve")

STRUCTURED = {"schema": "json", "regex": "regex", "lark": "grammar", "json_object": "json_object"}  # ours, and vLLM's


@dataclass(slots=True, eq=False, kw_only=True)
class _Sequence(Tracked):
    """One request on its way: in a line, open in vLLM, or standing still until it is leased more."""

    salt: str  # who has the same one may read its cached prefixes
    waiting: bool = False
    opened: str = ""  # id of its vLLM request
    read: bool = False  # the prompt

    to_read = 1  # vLLM plans its own steps


class VllmEngine:
    """Continues sequences with one model in vLLM. One thread calls it.

    Args:
        vllm: an LLMEngine, or what has its add_request, abort_request and step.
        context: tokens of one sequence.
        vocab: ids are below it.
        most_running: sequences that are open in vLLM at a time.
        most_waiting: requests that may wait beside them.
        most_waiting_tokens: prompt tokens that may wait, by default 64 contexts.
    """

    def __init__(
        self,
        vllm: Any,
        *,
        context: int,
        vocab: int,
        most_running: int = 16,
        most_waiting: int = 256,
        most_waiting_tokens: int | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.vllm, self.context, self.vocab, self.clock = vllm, context, vocab, clock
        self.scheduler: Scheduler[_Sequence] = Scheduler(most_running)
        self.most_waiting = most_waiting
        self.most_waiting_tokens = most_waiting_tokens or 64 * context
        self._by_id: dict[str, _Sequence] = {}
        self._open: dict[str, _Sequence] = {}  # by the id of the vLLM request
        self._ended: list[Delta] = []  # since the last step
        self._openings = self._read = self._written = self._queries = self._hits = self._steps = 0
        self._step_ms = 0.0
        self.failures = 0  # steps that failed one after the other
        self._dead = False

    @property
    def idle(self) -> bool:
        """Whether a step would do nothing."""
        return not (self._ended or self._open or self.scheduler.waiting or self._dead)

    @property
    def stats(self) -> Stats:
        """Counters, as of now."""
        return Stats(
            running=len(self._open),
            waiting=self.scheduler.waiting,
            rows=self.scheduler.most_running + SPARE_ROWS,
            rows_used=len(self._open),
            prompt_tokens=self._read,
            written_tokens=self._written,
            prefix_queries=self._queries,
            prefix_hits=self._hits,
            steps=self._steps,
            step_ms=self._step_ms,
        )

    # -- between steps -----------------------------------------------------------------------------

    def submit(self, request: Request) -> None:
        """Let a request wait for its turn.

        Raises:
            PromptTooLong: it leaves no room for a token in the context.
            QueueFull: too much waits already.
            Invalid: an id outside the vocabulary, or something that vLLM cannot do here.
        """
        assert request.id not in self._by_id, request.id
        self._check(request)
        salt = hashlib.sha256(request.team.encode()).hexdigest() if request.share_prefix else secrets.token_hex(32)
        one = _Sequence(
            request=request, tokens=list(request.prompt), leased=request.leased, salt=salt, came_at=self.clock()
        )
        self._by_id[request.id] = one
        if one.may_go_on:
            one.waiting = True
            self.scheduler.add(one, self._open.values())

    def lease(self, request_id: str, tokens: int) -> None:
        """Let a sequence write this many tokens in all. The same number again says that there will be no more."""
        one = self._by_id.get(request_id)
        if one is None:
            return
        stands = not one.waiting and not one.opened
        if tokens > one.leased:
            one.leased = tokens
            if stands:
                self._go_on(one)
            return
        one.last_lease = True
        if stands:
            self._ended.append(self._end(one, "length", detail="lease"))

    def abort(self, request_id: str) -> None:
        """End a sequence; its last delta comes with the next step."""
        one = self._by_id.get(request_id)
        if one is None:
            return
        if one.waiting:
            self.scheduler.drop(one)
        if one.opened:
            self._abort([one.opened])
        self._ended.append(self._end(one, "abort"))

    # -- a step ------------------------------------------------------------------------------------

    def step(self) -> list[Delta]:
        """Open who may start, let vLLM do one step, and say what it brought.

        Raises:
            EngineFailed: vLLM said in the step before that it is dead: this process has to end.
        """
        if self._dead:
            raise EngineFailed(
                "vLLM has ended.", fix="Look at the server's log; the model is loaded anew when asked for."
            )
        self._start()
        deltas, self._ended = self._ended, []
        if not self._open:
            return deltas
        began = self.clock()
        try:
            for output in self.vllm.step():
                if (one := self._open.get(output.request_id)) is not None:  # not one that was aborted
                    deltas += self._commit(one, output)
        except Exception as error:
            log.exception("a step failed")
            self.failures += 1
            self._dead = _is_death(error)
            self._abort(list(self._open))
            deltas += [self._end(one, "error", detail=str(_failed(error))) for one in list(self._open.values())]
        else:
            self.failures = 0
        self._steps += 1
        self._step_ms = 1000 * (self.clock() - began)
        return deltas

    def _start(self) -> None:
        while (one := self.scheduler.next(list(self._open.values()), 1)) is not None:
            one.waiting = False
            one.started_at = one.started_at or self.clock()
            self._openings += 1
            name = f"{one.id}/{self._openings}"  # another one each time: answers of an aborted one may still come
            prompt = {"type": "token", "prompt_token_ids": list(one.tokens), "cache_salt": one.salt}
            try:
                self.vllm.add_request(name, prompt, _params(one, self.context))
            except Exception as error:
                log.exception("vLLM does not take request %s", one.id)
                self._dead = self._dead or _is_death(error)
                self._ended.append(self._end(one, "error", detail=_refusal(error, one)))
                continue
            one.opened = name
            self._open[name] = one

    def _go_on(self, one: _Sequence) -> None:
        """It stood still and is leased more: it is the first of its line, having come before all of them."""
        one.waiting = True
        self.scheduler.count(one.team)  # known again, where the counts were cleared meanwhile
        self.scheduler.put_back(one)

    def _commit(self, one: _Sequence, output: Any) -> list[Delta]:
        """Take in what vLLM says of a sequence, and end it where it ends."""
        sampling, prompt = one.request.sampling, one.request.prompt
        completion = output.outputs[0]
        given: dict[str, Any] = {}
        if not one.read:
            one.read, one.first_at = True, self.clock()
            one.cached = min(max(output.num_cached_tokens or 0, 0), len(prompt))
            self._read += len(prompt) - one.cached
            self._queries += len(prompt)
            self._hits += one.cached
            self.scheduler.count(one.team, read=len(prompt) - one.cached)
        if sampling.prompt_logprobs >= 0 and output.prompt_logprobs:
            pairs = zip(prompt[1:], output.prompt_logprobs[1:], strict=False)  # nothing stands before the first
            given["prompt_logprobs"] = tuple(_told(token, found, sampling.prompt_logprobs) for token, found in pairs)
        reason = completion.finish_reason
        if sampling.max_tokens:
            tokens = list(completion.token_ids)
            one.tokens += tokens
            self._written += len(tokens)
            self.scheduler.count(one.team, written=len(tokens))
            # What ends a text was computed and is paid for, like every other token; it is not part of the text.
            shown = tokens[:-1] if reason == "stop" else tokens
            given["tokens"] = tuple(shown)
            if sampling.logprobs >= 0:
                pairs = zip(shown, completion.logprobs, strict=False)
                given["logprobs"] = tuple(_told(token, found, sampling.logprobs) for token, found in pairs)
        if not reason:
            return [Delta(id=one.id, **given)] if any(given.values()) else []
        del self._open[one.opened]
        one.opened = ""
        if reason not in ("stop", "length"):
            return [self._end(one, "error", detail=f"vLLM ended this request: {reason}.", **given)]
        if reason == "stop" and sampling.max_tokens:
            return [self._end(one, "stop", **given)]
        if one.written >= sampling.max_tokens:
            return [self._end(one, "length", **given)]
        if len(one.tokens) >= self.context:
            return [self._end(one, "length", detail="context", **given)]
        if one.may_go_on:  # it was leased more meanwhile
            self._go_on(one)
        elif one.last_lease:
            return [self._end(one, "length", detail="lease", **given)]
        return [Delta(id=one.id, **given)]

    def _end(self, one: _Sequence, finish: Finish, **given: Any) -> Delta:
        """Take a sequence out, and say what it used."""
        del self._by_id[one.id]
        self._open.pop(one.opened, None)
        # vLLM does not say how far it has read a prompt: it counts whole with the first answer, and not before.
        usage = Usage(prompt_tokens=len(one.request.prompt) if one.read else 0, completion_tokens=one.written)
        given["queue_ms"] = 1000 * max(0.0, one.started_at - one.came_at)
        given["prefill_ms"] = 1000 * max(0.0, one.first_at - one.started_at)
        return Delta(id=one.id, finish=finish, usage=usage, cached_tokens=one.cached, **given)

    def _abort(self, opened: list[str]) -> None:
        with contextlib.suppress(Exception):  # one that is dead does not answer, and has nothing to abort
            self.vllm.abort_request(opened)

    def _check(self, request: Request) -> None:
        prompt, sampling = len(request.prompt), request.sampling
        assert prompt, request
        if not 0 <= min(request.prompt) <= max(request.prompt) < self.vocab:
            raise Invalid(
                f"The prompt has an id outside 0 to {self.vocab - 1:,}.", fix="Make ids with the model's own tokenizer."
            )
        if prompt + 1 > self.context:
            raise PromptTooLong(
                f"The prompt has {prompt:,} tokens; this model's context is {self.context:,}.",
                why="One place is needed for the first token written.",
                fix=f"Give at most {self.context - 1:,} tokens.",
            )
        if request.embed or sampling.deterministic:
            what = "embeddings" if request.embed else "answers with `deterministic`"
            raise Invalid(
                f"This server has no {what}.",
                why="It runs vLLM.",
                fix="Set CERULEA_SERVE_ENGINE to own, or do without.",
            )
        anew = sampling.grammar or sampling.presence_penalty or sampling.frequency_penalty
        if anew and request.leased < sampling.max_tokens:
            raise Invalid(
                "A grammar, presence_penalty and frequency_penalty need the whole text leased at once here.",
                why="It runs vLLM, which would begin them anew with every lease.",
                fix='Send "strict": true, or a smaller max_tokens.',
            )
        if len(self._by_id) >= self.scheduler.most_running + self.most_waiting:
            raise QueueFull(f"{self.scheduler.waiting} requests wait already.", retry_after_s=self._patience())
        waiting = sum(len(one.request.prompt) for one in self._by_id.values() if one.waiting)
        if waiting and waiting + prompt > self.most_waiting_tokens:
            raise QueueFull(f"{waiting:,} prompt tokens wait already.", retry_after_s=self._patience())

    def _patience(self) -> float:
        """Seconds until a place in the line comes free, roughly: a sequence writes 64 tokens, all share a step."""
        return max(1.0, 64 * self._step_ms / 1000 / self.scheduler.most_running)


def _params(one: _Sequence, context: int) -> Any:
    """VLLM's parameters for what a sequence may write now."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

    asked, written = one.request.sampling, one.written
    most = max(1, min(one.leased, asked.max_tokens, context - len(one.request.prompt)) - written)
    structured = None
    if asked.grammar:
        ((kind, value),) = json.loads(asked.grammar).items()
        structured = StructuredOutputsParams(**{STRUCTURED[kind]: value})
    return SamplingParams(
        max_tokens=most,
        min_tokens=min(most, max(0, asked.least_tokens - written)),
        temperature=asked.temperature,
        top_k=asked.top_k,
        top_p=asked.top_p,
        min_p=asked.min_p,
        presence_penalty=asked.presence_penalty,
        frequency_penalty=asked.frequency_penalty,
        repetition_penalty=asked.repetition_penalty,
        logit_bias=dict(asked.logit_bias) or None,
        seed=mixed(asked.seed, asked.choice, written) >> 1,  # 63 bits: it is a signed integer there
        stop_token_ids=list(asked.stop_ids),
        ignore_eos=not asked.grammar,  # only stop_ids end a text; nothing else can follow a text that meets its grammar
        logprobs=asked.logprobs if asked.logprobs >= 0 else None,
        prompt_logprobs=asked.prompt_logprobs if asked.prompt_logprobs >= 0 and not written else None,
        structured_outputs=structured,
        detokenize=False,
        output_kind=RequestOutputKind.DELTA,
    )


def _told(token: int, found: Mapping[int, Any], most: int) -> TokenLogprob:
    """Of vLLM's log probabilities at one place: the token itself, and the likeliest."""
    top = sorted(((i, float(entry.logprob)) for i, entry in found.items()), key=lambda pair: -pair[1])
    return TokenLogprob(token, float(found[token].logprob), tuple(top[:most]))


def _is_death(error: Exception) -> bool:
    """Whether vLLM's own processes are gone (its EngineDeadError)."""
    return type(error).__name__ == "EngineDeadError"


def _refusal(error: Exception, one: _Sequence) -> str:
    """Why vLLM did not take a request: what was asked is wrong, told as a refusal is, or it failed."""
    if isinstance(error, ValueError) and not one.written:
        refused = Invalid(f"vLLM refuses this request: {str(error)[:300]}.", fix="Correct what it names.")
        return json.dumps(refused.as_json())
    return str(_failed(error))


def _failed(error: Exception) -> EngineFailed:
    return EngineFailed(
        f"vLLM failed on this request: {type(error).__name__}: {str(error)[:300]}.",
        fix="Try again; if it happens again, look at the server's log.",
    )
