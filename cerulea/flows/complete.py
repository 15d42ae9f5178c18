"""From a prompt to text and a bill: the story of one request to a model.

In:      sequences that an engine writes, and the bill that pays for them (`flows.admit`).
Out:     Pieces of text as they come, one stream or one answer of the same pieces; usage, settled.
Order:   the lease is extended while the text flows and never makes it wait; where money ends, the text ends with
         `length` and says why. An answer that is to be kept for a repeat is kept in the transaction that pays for it.
Kept:    whatever happens (an end, a stop string, a hang-up, a failure), every sequence is stopped, what the engine
         counted is settled once, and no token is written that is not paid for. Text of a stream, joined, is the text
         of a plain answer, since both are these pieces.
Not here: how a request begins (`flows.admit`), HTTP and OpenAI's names (`api.openai`), what a token costs
         (`flows.bill`), which step runs what (`serve`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import TypeVar

from cerulea.core.errors import CeruleaError, EngineFailed, Failed, HoldClosed
from cerulea.core.values import Usage
from cerulea.flows.ask import Ask, Piece, Prompt, Text, Told, joined
from cerulea.flows.bill import Keep
from cerulea.flows.serving import Bill, Flow, Gateway, Served
from cerulea.people import Caller
from cerulea.serve.request import Delta, TokenLogprob
from cerulea.store.database import Tx
from cerulea.text.stream import Pieces, TextStream

T = TypeVar("T")
LEASE = 64  # completion tokens of one sequence that are paid for at a time
LOW = 32  # with so many left, the next lease is asked for
RENEW_S = 30.0  # how often a bill is told that its request still runs
LAST_WORD_S = 10.0  # how long an engine may take to say what an aborted sequence used

log = logging.getLogger("cerulea.serving")


@dataclass(slots=True)
class Writing:
    """One text that is being written."""

    index: int
    prompt: Prompt
    flow: Flow
    stream: TextStream
    most: int  # tokens
    cut: bool  # fewer than were asked for, for the context has room for no more
    leased: int
    spelt: Pieces  # counts the characters before each token
    echo: str | None  # the prompt, until it was given
    written: int = 0  # tokens
    shown: int = 0  # characters given, and those before them
    told: list[Told] = field(default_factory=list)  # of text that is still held back
    ids: tuple[int, ...] = ()  # written since the last piece
    seen_at: float = 0.0  # when its newest tokens came
    usage: Usage | None = None
    cached: int = 0
    over: bool = False  # the engine is done with it
    ended: bool = False  # its last piece was given
    finish: str = ""
    denied: bool = False  # there is no more money for it

    @property
    def spent(self) -> int:
        """Tokens that are paid: as the engine counted them, an end-of-text among them where it counts one."""
        return self.usage.completion_tokens if self.usage else self.written

    @property
    def wants(self) -> int:
        """Tokens to lease next; none where enough are leased, or where it was said that there are no more."""
        enough = self.over or self.denied or self.leased - self.written > LOW
        return 0 if enough else min(LEASE, self.most - self.leased)


class Completion:
    """One request that runs. It goes on until every sequence has ended, whoever looks at it."""

    def __init__(self, gateway: Gateway, caller: Caller, served: Served, ask: Ask, bill: Bill) -> None:
        self.gateway, self.caller, self.served, self.ask, self.bill = gateway, caller, served, ask, bill
        self.id = ask.id
        self.created = gateway.platform.clock.now() // 1000
        self.came_at = monotonic()
        self.prompt_tokens = sum(len(prompt.ids) for prompt in ask.prompts)
        self.error: CeruleaError | None = None
        self.cached_tokens = 0
        self.sequences: list[Writing] = []
        self._keep: Callable[[list[Text]], Keep] | None = None  # see `keeping`
        self._pieces: asyncio.Queue[Piece | None] = asyncio.Queue()
        self._aborted = self._broke = False
        self._deadline: asyncio.Timeout | None = None
        self._lender: asyncio.Task[None] | None = None
        self._renewer: asyncio.Task[None] | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def usage(self) -> Usage:
        """What the engine counted so far; a prompt counts once, however many texts continue it."""
        best_of, read, written, device = self.ask.best_of, 0, 0, 0
        for first in range(0, len(self.sequences), best_of):
            group = self.sequences[first : first + best_of]
            read += max(one.usage.prompt_tokens if one.usage else 0 for one in group)
            written += sum(one.spent for one in group)
            device += sum(one.usage.device_ms for one in group if one.usage)
        return Usage(prompt_tokens=read, completion_tokens=written, device_ms=device)

    def abort(self, error: CeruleaError | None = None) -> None:
        """Stop every sequence; what was written until then is settled.

        Args:
            error: what the request fails of then; without one its texts end where they are.
        """
        running = [one for one in self.sequences if not one.over]
        if not running or self._aborted:
            return
        self.error = self.error or error
        self._aborted = True
        for one in running:
            one.flow.abort()
        if self._deadline is not None:
            self._deadline.reschedule(asyncio.get_running_loop().time() + LAST_WORD_S)

    async def pieces(self) -> AsyncIterator[list[Piece]]:
        """What has come since the last look, until everything has. Look from one place only."""
        while (piece := await self._pieces.get()) is not None:
            batch = [piece]
            while not self._pieces.empty() and (piece := self._pieces.get_nowait()) is not None:
                batch.append(piece)
            yield batch
            if piece is None:
                return

    async def keeping(self, tell: Callable[[list[Text]], T], keep: Callable[[Tx, T], bool]) -> T:
        """What is told of the whole texts, when it stands in the transaction that paid for them.

        To be called before anything else is awaited, and instead of `pieces`.

        Args:
            keep: writes it; False where another one answers instead, for nothing is charged then.

        Raises:
            CeruleaError: what the request failed of; nothing was kept then.
        """
        told: list[T] = []

        def made(texts: list[Text]) -> Keep:
            told.append(tell(texts))
            return lambda tx: keep(tx, told[0])

        self._keep = made
        await self.ended()
        if self.error is not None:
            raise self.error
        return told[0]

    async def ended(self) -> None:
        """Return when it is over and settled; leaving early ends nothing."""
        if self._task is not None and not self._task.done():
            await asyncio.wait([self._task])

    def start(self, sequences: Sequence[Writing]) -> None:
        """Follow these, in a task of its own."""
        self.sequences = list(sequences)
        self.gateway.running[self.id] = self
        self._task = asyncio.create_task(self._run(), name=self.id)
        self._top_up()  # the first lease may have been smaller than asked for

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        renewing = loop.call_later(RENEW_S, self._begin_to_renew)  # few requests last so long
        try:
            async with asyncio.timeout(None) as self._deadline:
                if len(self.sequences) == 1:
                    await self._follow(self.sequences[0])
                else:
                    await asyncio.gather(*map(self._follow, self.sequences))
                self._deadline = None
        except TimeoutError:
            log.error("%s: the engine did not say within %g s what was used", self.id, LAST_WORD_S)
        finally:
            renewing.cancel()
            if self._renewer is not None:
                self._renewer.cancel()
            try:
                await self._settle()
            finally:
                self.gateway.running.pop(self.id, None)
                self._pieces.put_nowait(None)

    def _begin_to_renew(self) -> None:
        self._renewer = asyncio.create_task(self._renew())

    async def _renew(self) -> None:
        """Keep the hold: a request may wait long for its turn, or write long without a new lease."""
        while True:
            try:
                if not await self.bill.renew():
                    self._fail(HoldClosed(f"The hold of {self.id} was over before the request was."))
                    return
            except Exception as error:  # the hold stands a while longer: there is a next time
                log.error("%s: not renewed: %s", self.id, error)
            await asyncio.sleep(RENEW_S)

    async def _settle(self) -> None:
        if self._lender is not None:
            await asyncio.wait([self._lender])
        groups = range(0, len(self.sequences), self.ask.best_of)
        # Others of one prompt find what the first one left in the cache, so that the least is what was there before.
        read = [[one for one in self.sequences[i : i + self.ask.best_of] if one.usage] for i in groups]
        begun = [[one.cached for one in group if one.usage and one.usage.prompt_tokens] for group in read]
        self.cached_tokens = sum(min(cached, default=0) for cached in begun)
        keep = self._kept()
        reasons = {one.finish for one in self.sequences}
        finish = "error" if self.error else "abort" if self._aborted else "stop" if "stop" in reasons else "length"
        try:
            await self.bill.settle(self.usage, cached_tokens=self.cached_tokens, finish=finish, keep=keep)
        except Exception as error:
            log.error("%s: not settled: %s", self.id, error)
            self.error = self.error or _known(error, "Its bill could not be settled")

    def _kept(self) -> Keep | None:
        """What is written with the settlement: the answer, where somebody keeps it and there is one."""
        if self._keep is None or self.error is not None:
            return None
        pieces = [self._pieces.get_nowait() for _ in range(self._pieces.qsize())]
        try:
            return self._keep(joined(len(self.sequences), [piece for piece in pieces if piece is not None]))
        except Exception as error:
            log.exception("%s: its answer could not be written", self.id)
            self.error = _known(error, "Its answer could not be written")
            return None

    # -- one sequence --------------------------------------------------------------------------------

    async def _follow(self, one: Writing) -> None:
        try:
            async for delta in one.flow:
                self._take(one, delta)
                if delta.finish:
                    break
            else:
                raise EngineFailed(f"The engine of {self.served.label} ended without a last word.")
        except CeruleaError as error:
            self._fail(error)
        except Exception as error:
            log.exception("%s", self.id)
            self._fail(EngineFailed(f"The engine of {self.served.label} failed: {type(error).__name__}."))
        finally:
            one.over = True

    def _fail(self, error: CeruleaError) -> None:
        """The first failure is the request's; the other sequences are not worth more."""
        self.error = self.error or error
        self.abort()

    def _take(self, one: Writing, delta: Delta) -> None:
        self._observe(one, delta)
        one.written += len(delta.tokens)
        if delta.finish:
            one.over, one.usage, one.cached = True, delta.usage, delta.cached_tokens
        if delta.finish == "error":
            raise EngineFailed(f"The engine of {self.served.label} failed: {delta.detail or 'no reason given'}.")
        if one.ended:
            return  # a stop string was found before; what came after it is paid and not shown
        one.ids += delta.tokens
        told: list[Told] = []
        text = ""
        if one.echo is not None and (delta.prompt_logprobs or not self._awaits_prompt(one, delta)):
            text, one.echo = one.echo, None
            told = self._told_prompt(one, text, delta.prompt_logprobs)
            one.shown += len(text)
        one.told += self._told(one, delta)
        if delta.tokens:
            more = one.stream.push(delta.tokens)
            text, one.shown = text + more, one.shown + len(more)
        stopped = one.stream.stopped is not None
        if delta.finish and not stopped:
            more = one.stream.end()
            text, one.shown, stopped = text + more, one.shown + len(more), one.stream.stopped is not None
        ends = stopped or bool(delta.finish)
        due = sum(1 for entry in one.told if entry.offset < one.shown or (ends and not stopped))
        told, one.told = told + one.told[:due], one.told[due:]
        finish, detail = self._end_of(one, delta, stopped) if ends else ("", "")
        if ends:
            one.ended, one.finish = True, finish
            if not delta.finish:
                one.flow.abort()
        if ends or text or told:
            self._pieces.put_nowait(Piece(one.index, text, tuple(told), finish, detail, delta.embedding, one.ids))
            one.ids = ()
        if not ends:
            self._top_up()

    def _observe(self, one: Writing, delta: Delta) -> None:
        observer, model, now = self.gateway.observer, self.served.label, monotonic()
        if delta.tokens and one.written:
            observer.between(model, now - one.seen_at, len(delta.tokens))
        elif delta.tokens:
            observer.first(model, now - self.came_at)
        one.seen_at = now
        if delta.finish:
            observer.ended(model, delta, now - self.came_at)

    def _awaits_prompt(self, one: Writing, delta: Delta) -> bool:
        asked = self.ask.sampling.prompt_logprobs >= 0 and len(one.prompt.ids) > 1
        return asked and not delta.tokens and not delta.finish

    def _end_of(self, one: Writing, delta: Delta, stopped: bool) -> tuple[str, str]:
        """Why a text ended, in OpenAI's words, and in ours where those do not say it."""
        if stopped or delta.finish == "stop":
            return "stop", ""
        if delta.finish == "abort":
            return "stop", "aborted"
        if one.written >= one.most:
            return "length", "context" if one.cut else ""
        return "length", "budget" if delta.detail == "lease" else delta.detail

    # -- what is reported of tokens ------------------------------------------------------------------

    def _told(self, one: Writing, delta: Delta) -> list[Told]:
        if not delta.logprobs:
            return []
        spelt = one.spelt.push([entry.token for entry in delta.logprobs])
        return [
            Told(entry.token, entry.logprob, entry.top, piece.offset)
            for entry, piece in zip(delta.logprobs, spelt, strict=True)
        ]

    def _told_prompt(self, one: Writing, text: str, found: tuple[TokenLogprob, ...]) -> list[Told]:
        if self.ask.sampling.prompt_logprobs < 0:
            return []
        first = TokenLogprob(one.prompt.ids[0], 0.0)
        spelt = Pieces(self.served.tokenizer).push(one.prompt.ids)
        specials = set(self.served.tokenizer.specials.values())
        told, more = [], 0
        for entry, piece in zip((first, *found), spelt, strict=False):
            told.append(
                Told(
                    entry.token,
                    None if entry is first else entry.logprob,
                    entry.top,
                    min(piece.offset + more, len(text)),
                )
            )
            # A special token that was spelled out in the prompt stands in its text.
            more += len(piece.text) if entry.token in specials and one.prompt.text else 0
        return told

    # -- the lease -----------------------------------------------------------------------------------

    def _top_up(self) -> None:
        if (self._lender is None or self._lender.done()) and any(one.wants > 0 for one in self.sequences):
            self._lender = asyncio.create_task(self._lend())

    async def _lend(self) -> None:
        """Lease more for every sequence that runs low: first what ended ones left, then new money."""
        try:
            while needy := [one for one in self.sequences if one.wants > 0]:
                spare = self.bill.leased - sum(one.spent if one.over else one.leased for one in self.sequences)
                missing = sum(one.wants for one in needy) - spare
                if missing > 0 and not self._broke:
                    granted = await self.bill.extend(missing)
                    self.gateway.observer.leased(self.served.label, missing, granted)
                    self._broke = granted == 0
                    spare += granted
                for one in needy:
                    share = min(one.wants, max(0, spare))
                    one.denied = not share and self._broke
                    spare -= share
                    one.leased += share
                    if not one.over:
                        one.flow.lease(one.leased + (one.leased >= one.most))
        except Exception as error:
            log.error("%s: no new lease: %s", self.id, error)
            self._fail(_known(error, "Its lease could not be extended"))


def _known(error: Exception, what: str) -> CeruleaError:
    """An error that may be told as it is, or what it kept from happening."""
    return error if isinstance(error, CeruleaError) else Failed(f"{what}; it was noted.")
