"""What answering a request takes from others: an engine's running sequence, a loaded model, a host of models, a bill.

Kept:    protocols and plain values; who stands behind them is chosen where the application is made (`Gateway`).
Not here: the story (`flows.complete`), HTTP (`api`), tensors.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from cerulea.core.crew import Crew
from cerulea.core.errors import NotFound, NotReady
from cerulea.core.values import Usage
from cerulea.flows.bill import Keep, Order, open_bill
from cerulea.flows.grammars import Checker
from cerulea.flows.platform import Platform
from cerulea.people import Caller
from cerulea.serve.request import Delta, Request
from cerulea.text.chat import ChatTemplate
from cerulea.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from cerulea.flows.complete import Completion

BILL_THREADS = 64


class Flow(Protocol):
    """One running sequence of an engine."""

    def __aiter__(self) -> AsyncIterator[Delta]:
        """Ends after the Delta with `finish`."""
        ...

    def lease(self, tokens: int) -> None:
        """Raise to this total the tokens that may be written; the same total again says that there are no more."""
        ...

    def abort(self) -> None:
        """Stop it; idempotent. The last Delta still comes, with what was used."""
        ...


class Served(Protocol):
    """A model that is loaded."""

    @property
    def label(self) -> str:
        """`brook@3`."""
        ...

    @property
    def tokenizer(self) -> Tokenizer:
        """The one it was trained with."""
        ...

    @property
    def template(self) -> ChatTemplate | None:
        """None for a model that knows no conversations."""
        ...

    @property
    def grammars(self) -> Checker:
        """What tells whether a grammar can be met."""
        ...

    @property
    def context(self) -> int:
        """Most tokens of prompt and text together."""
        ...

    @property
    def vocab(self) -> int:
        """Ids below this one can be read."""
        ...

    def submit(self, request: Request) -> Flow:
        """Let it run.

        Raises:
            QueueFull, NotReady: not now.
            GrammarInvalid: its grammar cannot be met.
        """
        ...


@runtime_checkable
class Admits(Protocol):
    """A Served that says early that it is full, so that a refusal costs no look at the books."""

    def admit(self, sequences: int, prompt_tokens: int) -> None:
        """Nothing where so much more would be taken now; `submit` has the last word.

        Raises:
            QueueFull, NotReady: not now.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """A model that can be asked for."""

    label: str
    team: str
    created_at: int = 0  # milliseconds
    aliases: tuple[str, ...] = ()
    context: int = 0  # tokens; 0 where it is not known before it is loaded
    loaded: bool = False


class Line(Protocol):
    """Those who came for a loaded model and are not answered yet; counted by requests, as they come."""

    def enter(self) -> None:
        """Count one more.

        Raises:
            QueueFull: there is no place.
        """
        ...

    def leave(self) -> None:
        """One was answered, or has gone."""
        ...


class Host(Protocol):
    """What runs models."""

    async def open(self, caller: Caller, label: str) -> Served:
        """The model, loaded on first use.

        Raises:
            NotFound: none of that name that the caller may see; names the nearest.
            NotReady: it is being loaded.
            ModelTooLarge: there is no room for it.
        """
        ...

    def line(self, caller: Caller, label: str) -> Line | None:
        """The line of the loaded model that a label named when it was last asked for; never waits."""
        ...

    def models(self, caller: Caller) -> list[Offer]:
        """What the caller may ask for."""
        ...

    def loaded(self) -> list[tuple[str, Mapping[str, Any]]]:
        """Labels of loaded models, and their engines' counters."""
        ...

    async def preload(self) -> list[str]:
        """Load what is to be loaded before anybody asks; what could not be, and why."""
        ...

    async def close(self) -> None:
        """End every model."""
        ...


class Bill(Protocol):
    """The money of one HTTP request."""

    @property
    def leased(self) -> int:
        """Tokens to be written that are paid for, all choices together."""
        ...

    async def extend(self, tokens: int) -> int:
        """How many more were granted; 0 where the money has ended."""
        ...

    async def renew(self) -> bool:
        """Say that the request still runs; False where its hold is over."""
        ...

    async def settle(self, usage: Usage, *, cached_tokens: int, finish: str, keep: Keep | None = None) -> None:
        """Charge what was used and give the rest back; once, a repeat does nothing.

        Args:
            keep: what is written with it, both or neither; where it says no, nothing is charged.
        """
        ...


OpenBill = Callable[[Platform, Caller, Order], Awaitable[Bill]]  # `flows.bill.open_bill`


class Observer(Protocol):
    """Who counts what requests to models take; seconds."""

    def first(self, model: str, seconds: float) -> None:
        """From a request's coming to a sequence's first token."""
        ...

    def between(self, model: str, seconds: float, tokens: int) -> None:
        """From one step's tokens to the next one's."""
        ...

    def ended(self, model: str, delta: Delta, seconds: float) -> None:
        """A sequence has ended, so long after its request came."""
        ...

    def leased(self, model: str, asked: int, granted: int) -> None:
        """A lease was to be extended by so many tokens."""
        ...


class Unobserved:
    """Nobody counts."""

    def first(self, model: str, seconds: float) -> None:
        """Nothing."""

    def between(self, model: str, seconds: float, tokens: int) -> None:
        """Nothing."""

    def ended(self, model: str, delta: Delta, seconds: float) -> None:
        """Nothing."""

    def leased(self, model: str, asked: int, granted: int) -> None:
        """Nothing."""


class NoHost:
    """Where no models are run."""

    async def open(self, caller: Caller, label: str) -> Served:
        """Nothing is found."""
        raise NotFound(f"There is no model {label[:100]!r} here.", why="This server runs no models.")

    def line(self, caller: Caller, label: str) -> Line | None:
        """None."""
        return None

    def models(self, caller: Caller) -> list[Offer]:
        """None."""
        return []

    def loaded(self) -> list[tuple[str, Mapping[str, Any]]]:
        """None."""
        return []

    async def preload(self) -> list[str]:
        """Nothing is loaded."""
        return []

    async def close(self) -> None:
        """Nothing is to be ended."""


@dataclass(slots=True, kw_only=True)
class Gateway:
    """All that requests to models need, of one process."""

    platform: Platform
    host: Host = field(default_factory=NoHost)
    # Threads of its own for the database work of bills: many, since those who wait for one write share it.
    crew: Crew = field(default_factory=lambda: Crew(BILL_THREADS, "bill"))
    open_bill: OpenBill | None = None  # `flows.bill.open_bill` with that crew
    observer: Observer = field(default_factory=Unobserved)
    draining: bool = False  # takes no new requests; those that run finish
    running: dict[str, Completion] = field(default_factory=dict)  # by request id
    keyed: dict[tuple[str, str], tuple[str, asyncio.Task[Any]]] = field(default_factory=dict)  # see `flows.attach`

    async def open(self, caller: Caller, label: str) -> Served:
        """A loaded model.

        Raises:
            NotReady: the server is about to stop; and as `Host.open`.
        """
        self.refuse_if_draining()
        return await self.host.open(caller, label)

    async def bill(self, caller: Caller, order: Order) -> Bill:
        """What a request is paid from; see `flows.bill.open_bill`."""
        opening = self.open_bill or partial(open_bill, crew=self.crew)
        return await opening(self.platform, caller, order)

    def refuse_if_draining(self) -> None:
        """Nothing is begun any more once the server is about to stop.

        Raises:
            NotReady: it is.
        """
        if self.draining:
            raise NotReady(
                "This server is about to stop.", why="Requests that run are finished first.", retry_after_s=5.0
            )

    @property
    def busy(self) -> bool:
        """Whether anything runs."""
        return bool(self.running or self.keyed)

    async def preload(self, say: Callable[[str], None]) -> None:
        """Load the models that are to be loaded before anybody asks, and say which could not be."""
        for trouble in await self.host.preload():
            say(trouble)

    def abort(self) -> None:
        """Stop everything that runs, and say that it was not finished."""
        for completion in list(self.running.values()):
            completion.abort(NotReady("This server stops; the text was not finished.", retry_after_s=10))

    async def close(self) -> None:
        """Stop what runs, settle it, and end every model."""
        self.draining = True
        try:
            while True:
                self.abort()
                await self.idle()
                await self.crew.close()
                if not self.busy:  # else a request's bill was being opened meanwhile
                    return
        finally:
            await self.host.close()

    async def idle(self) -> None:
        """Return when nothing runs: what runs is finished, and settled."""
        while self.running or self.keyed:
            tasks = [one.ended() for one in self.running.values()]
            await asyncio.gather(*tasks, *(task for _, task in self.keyed.values()), return_exceptions=True)
            await asyncio.sleep(0)
