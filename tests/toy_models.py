"""Models that need no tensors: a toy behind the protocols of `flows.serving`, a host of them, and bills that add up.

The toy's next token is a fixed function of the last ones, so that equal requests get equal texts; it honours what an
engine must: max_tokens, stop_ids, lease, logprobs, prompt_logprobs, logit_bias, seed, choice, abort, embed.
"""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cerulea.core.errors import CeruleaError, FundTooLow, NotFound, QueueFull
from cerulea.core.values import Usage
from cerulea.flows.bill import Keep, Order
from cerulea.flows.grammars import Checker
from cerulea.flows.platform import Platform
from cerulea.flows.serving import Gateway, Offer
from cerulea.people import Caller
from cerulea.serve.request import Delta, Finish, Request, TokenLogprob
from cerulea.text.chat import DEFAULT_TEMPLATE, ChatTemplate
from cerulea.text.tokenizer import Tokenizer, bytes_tokenizer

CONTEXT = 1024


class ToyTemplate(ChatTemplate):
    """Cerulea's own layout, with the tools in front and a place for what they said."""

    def __init__(self) -> None:
        tools = "{% if tools %}<|system|>{{ tools | tojson }} in <tool_call><|end|>{% endif %}"
        super().__init__(tools + DEFAULT_TEMPLATE.replace("'assistant'", "'assistant', 'tool'"))


class Toy:
    """A loaded model over bytes."""

    def __init__(self, label: str, host: ToyHost, *, chats: bool = True) -> None:
        self.label, self.host = label, host
        self.tokenizer: Tokenizer = host.tokenizer
        self.template = ToyTemplate() if chats else None
        self.context, self.vocab = CONTEXT, self.tokenizer.vocab
        self.grammars = Checker(self.tokenizer, self.vocab)
        self.bonus = np.zeros(self.vocab)
        self.bonus[97:123] = self.bonus[32] = 6.0

    def admit(self, sequences: int, prompt_tokens: int) -> None:
        if len(self.host.flows) + sequences > self.host.most:
            raise QueueFull(f"{self.host.most} requests wait already.", retry_after_s=2.5)

    def submit(self, request: Request) -> ToyFlow:
        if self.host.refusal is not None:
            raise self.host.refusal
        if len(self.host.flows) >= self.host.most:
            raise QueueFull("64 requests wait already.", retry_after_s=2.5)
        flow = ToyFlow(self, request)
        self.host.flows.append(flow)
        self.host.requests.append(request)
        self.host.every.append((request, flow))
        return flow

    def logprobs(self, ids: list[int]) -> np.ndarray:
        rng = np.random.default_rng([len(ids), *ids[-3:]])
        logits = rng.normal(size=self.vocab) + self.bonus
        return logits - (logits.max() + math.log(np.exp(logits - logits.max()).sum()))

    def told(self, logprobs: np.ndarray, token: int, most: int) -> TokenLogprob:
        order = np.argsort(-logprobs, kind="stable")[:most]
        return TokenLogprob(token, float(logprobs[token]), tuple((int(i), float(logprobs[i])) for i in order))


class ToyFlow:
    """One sequence."""

    def __init__(self, model: Toy, request: Request) -> None:
        self.model, self.request, self.host = model, request, model.host
        self.leased, self.denied, self.aborted, self.written = request.leased, False, False, 0

    def lease(self, tokens: int) -> None:
        self.denied |= tokens <= self.leased
        self.leased = max(tokens, self.leased)

    def abort(self) -> None:
        self.aborted = True

    async def __aiter__(self) -> AsyncIterator[Delta]:
        try:
            async for delta in self.deltas():
                yield delta
        finally:
            if self in self.host.flows:
                self.host.flows.remove(self)

    async def deltas(self) -> AsyncIterator[Delta]:
        request, params = self.request, self.request.sampling
        ids = list(request.prompt)
        if request.embed:
            values = tuple(float(x) for x in np.random.default_rng(ids).normal(size=8))
            yield self.last("stop", embedding=values)
            return
        prompt = ()
        if params.prompt_logprobs >= 0:
            prompt = tuple(
                self.model.told(self.model.logprobs(ids[:i]), ids[i], params.prompt_logprobs)
                for i in range(1, len(ids))
            )
        script = self.host.script_of(request)
        while True:
            while self.host.paused and not self.aborted:
                await asyncio.sleep(0.002)
            await asyncio.sleep(0)
            if self.aborted:
                yield self.last("abort")
                return
            if self.host.breaks_at is not None and self.written >= self.host.breaks_at:
                yield self.last("error", detail="a step failed")
                return
            if self.written >= params.max_tokens:
                yield self.last("length", prompt_logprobs=prompt)
                return
            if self.written >= self.leased:
                if not self.denied:
                    await asyncio.sleep(0.001)
                    continue
                yield self.last("length", detail="lease")
                return
            logprobs = self.model.logprobs(ids)
            token = self.pick(logprobs, script)
            if token in params.stop_ids and self.written >= params.least_tokens:
                yield self.last("stop", prompt_logprobs=prompt)
                return
            self.written += 1
            ids.append(token)
            told = (self.model.told(logprobs, token, params.logprobs),) if params.logprobs >= 0 else ()
            full = len(ids) >= self.model.context
            yield (
                self.last("length", tokens=(token,), logprobs=told)
                if full
                else Delta(id=request.id, tokens=(token,), logprobs=told, prompt_logprobs=prompt)
            )
            prompt = ()
            if full:
                return

    def pick(self, logprobs: np.ndarray, script: list[int] | None) -> int:
        params = self.request.sampling
        if script is not None:
            return script[self.written] if self.written < len(script) else self.model.tokenizer.end_of_text
        scores = logprobs.copy()
        for token, bias in params.logit_bias:
            scores[token] += bias
        if params.temperature > 0:
            noise = np.random.default_rng([params.seed, params.choice, self.written]).gumbel(size=len(scores))
            scores = scores / params.temperature + noise
        return int(scores.argmax())

    def last(self, finish: Finish, **more: Any) -> Delta:
        used = Usage(prompt_tokens=len(self.request.prompt), completion_tokens=self.written)
        cached = min(self.host.cached, len(self.request.prompt) - 1)
        return Delta(id=self.request.id, finish=finish, usage=used, cached_tokens=cached, **more)


class ToyHost:
    """Models by label. What a test changes: `paused`, `refusal`, `breaks_at`, `scripts`, `cached`, ..."""

    def __init__(self, *labels: str) -> None:
        self.tokenizer = bytes_tokenizer()
        self.served = {label: Toy(label, self, chats="plain" not in label) for label in labels or ("toy@1",)}
        self.flows: list[ToyFlow] = []  # that have not ended
        self.requests: list[Request] = []  # that ever came
        self.every: list[tuple[Request, ToyFlow]] = []
        self.scripts: dict[str, str | list[int]] = {}  # what is written after a prompt that ends so
        self.paused, self.breaks_at, self.cached, self.most = False, None, 0, 4096
        self.breaks_at: int | None
        self.refusal: CeruleaError | None = None
        self.unready: CeruleaError | None = None
        self.anything = False  # every name is the first model's

    async def open(self, caller: Caller, label: str) -> Toy:
        if self.unready is not None:
            raise self.unready
        for known, model in self.served.items():
            if label in (known, known.partition("@")[0]):
                return model
        if self.anything:
            return next(iter(self.served.values()))
        raise NotFound(f"There is no model {label!r}.", why=f"The nearest is {next(iter(self.served))}.")

    def line(self, caller: Caller, label: str) -> None:
        return None

    def models(self, caller: Caller) -> list[Offer]:
        return [Offer(label=label, team="home", aliases=("served",), context=CONTEXT) for label in self.served]

    def loaded(self) -> list[tuple[str, dict[str, Any]]]:
        return [(label, {}) for label in self.served]

    async def preload(self) -> list[str]:
        return []

    async def close(self) -> None:
        return None

    def script_of(self, request: Request) -> list[int] | None:
        text = self.tokenizer.library.decode(list(request.prompt), skip_special_tokens=False)
        for ending, script in self.scripts.items():
            if text.endswith(ending):
                return list(script.encode()) if isinstance(script, str) else script
        return None


@dataclass
class ToyBill:
    """Money of one request, as tokens."""

    bills: ToyBills
    order: Order
    leased: int
    settled: list[tuple[Usage, int, str]] = field(default_factory=list)
    extended: list[int] = field(default_factory=list)

    async def extend(self, tokens: int) -> int:
        await asyncio.sleep(0)
        most = self.order.most_tokens * self.order.choices
        granted = self.bills.take(min(tokens, most - self.leased))
        self.leased += granted
        self.extended.append(granted)
        return granted

    async def renew(self) -> bool:
        return True

    async def settle(self, usage: Usage, *, cached_tokens: int, finish: str, keep: Keep | None = None) -> None:
        await asyncio.sleep(0)
        if not self.settled:
            assert usage.completion_tokens <= self.leased, "a token was written that was not paid for"
            self.bills.left += self.leased - usage.completion_tokens
            if keep is not None:
                await asyncio.to_thread(self.bills.platform.database.write, keep)
        self.settled.append((usage, cached_tokens, finish))


class ToyBills:
    """`open_bill` with so many tokens of money."""

    def __init__(self) -> None:
        self.left, self.refusal, self.opened = 1 << 40, None, list[ToyBill]()
        self.refusal: CeruleaError | None
        self.platform: Platform

    def take(self, tokens: int) -> int:
        granted = min(tokens, self.left)
        self.left -= granted
        return granted

    async def open(self, platform: Platform, caller: Caller, order: Order) -> ToyBill:
        await asyncio.sleep(0)
        if self.refusal is not None:
            raise self.refusal
        self.platform = platform
        wanted = order.first_tokens * order.choices
        granted = self.take(wanted)
        if granted < wanted and (order.strict or not granted):
            self.left += granted
            raise FundTooLow("Fund 'lab' is empty.", fix="Draw more: cerulea fund draw lab 1.00")
        self.opened.append(ToyBill(self, order, granted))
        return self.opened[-1]

    @property
    def last(self) -> ToyBill:
        return self.opened[-1]


def toy_gateway(platform: Platform, host: ToyHost | None = None, bills: ToyBills | None = None) -> Gateway:
    bills = bills or ToyBills()
    return Gateway(
        platform=platform,
        host=host or ToyHost("toy@1", "plain@1"),
        open_bill=bills.open,
    )


def wait_for(what: Callable[[], bool], seconds: float = 20.0) -> None:
    """Return when it is so."""
    event = threading.Event()
    for _ in range(int(seconds / 0.005)):
        if what():
            return
        event.wait(0.005)
    raise AssertionError("it never was so")
