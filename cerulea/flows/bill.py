"""The bill of one request to a model: lease, count, settle.

    open_bill -> (extend | renew)* -> settle            open_now, extend_now, renew_now, settle_now block

In:      an open platform, a caller, the exact size of a prompt, how many tokens may be written.
Out:     a Bill, whose `leased` tokens are paid for in advance.
Kept:    no token is written that is not held, so nobody is charged more than was set aside. A request holds, and pays,
         once: its id is its key. What it pays commits together with its row of `request_usage`. No lock and no
         transaction is open while tokens flow.
Paid:    the prompt once, however many choices, without what was read from the team's own cached prefix; each token
         written; at the prices of the moment it was opened, rounded up once over the sum. The machine's time is not
         charged beside it. A request that computed nothing pays nothing.
Lapsed:  a hold that nobody extends or renews for LEASE_MS is given back by the conductor's sweep. Whoever settles
         after that charges nothing: the house absorbs the cost, the request's row says how much. To hold the money
         anew would charge a team for what its lease had not covered any more, and may not even find it there.
Kept with: what a caller may ask for again (`flows.attach`) is written in the transaction that charges it, so that no
         death between the two makes anybody pay twice. Where another gateway took the work over, the house pays.
Threads: the database blocks, so the coroutines run their twins in the crew that was given to `open_bill`. Many threads
         are cheap here: on SQLite all who wait share one fsync.
"""

from __future__ import annotations

import logging
import re
import threading
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from cerulea.core.crew import Crew
from cerulea.core.errors import CapReached, FundTooLow, HoldClosed, Invalid, KeyReused
from cerulea.core.money import Nanos, Rate, cost
from cerulea.core.values import Usage
from cerulea.flows import limits
from cerulea.flows.fund import find_team
from cerulea.flows.limits import KeyLimit
from cerulea.flows.platform import Platform
from cerulea.flows.usage import RequestUsage, note
from cerulea.ledger import holds
from cerulea.ledger.book import Hold
from cerulea.people import Caller
from cerulea.store.database import Tx

T = TypeVar("T")
# What stands or falls with a settlement. False says that another one answers in its place: nothing is charged then.
Keep = Callable[[Tx], bool]
LEASE_MS = 120_000  # how long a hold stands without a word from who has it
RENEW_S = 15.0  # after which who has it and needs no tokens should say a word; shorter than the conductor's patience
_ID = re.compile(r"[A-Za-z0-9._:-]{1,120}")

log = logging.getLogger("cerulea.bill")


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What a request wants to be paid for."""

    request_id: str  # letters, digits and . _ : -; it is the key of the hold
    model: str  # `brook`, or `brook@3` for the version
    endpoint: str
    prompt_tokens: int
    choices: int = 1
    first_tokens: int  # to be written, leased at first, for each choice
    most_tokens: int  # to be written, for each choice
    strict: bool = False  # hold the most at once, for callers who prefer a refusal to a cut


class Bill:
    """What one request has leased, and its end. Safe to use from several threads."""

    def __init__(
        self,
        platform: Platform,
        caller: Caller,
        order: Order,
        *,
        lease_ms: int,
        crew: Crew | None,
    ) -> None:
        self.platform, self.caller = platform, caller
        self.request_id, self.endpoint = order.request_id, order.endpoint
        self.model, _, version = order.model.partition("@")
        self.version = int(version) if version.isdecimal() else None
        self.prompt_tokens = order.prompt_tokens
        self.most_tokens = order.most_tokens * order.choices
        self.leased = 0  # completion tokens, over all choices together, that are paid for in advance
        self.repeated = False  # the id came before: somebody else may be writing, or has written, this answer
        self.begun_at = platform.clock.now()
        self.rates: tuple[Rate, ...] = platform.prices.token_rates(self.model, self.begun_at)
        self.hold_key = f"request/{order.request_id}"
        self.fund = ""  # of the caller's team; known when it is begun
        self.limit: KeyLimit | None = None
        self._lease_ms, self._crew = lease_ms, crew
        self._held = False  # False where there is nothing to pay
        self._over = False
        self._lock = threading.Lock()

    async def extend(self, tokens: int) -> int:
        """Lease so many tokens more; how many were granted: all, what the money allows, or 0."""
        return await self._off(partial(self.extend_now, tokens))

    async def renew(self) -> bool:
        """Say that the request is still running; False where its hold is over."""
        return await self._off(self.renew_now)

    async def settle(self, usage: Usage, *, cached_tokens: int = 0, finish: str, keep: Keep | None = None) -> None:
        """Pay for what was computed and end; a repeat does nothing. Goes on where its caller is cancelled."""
        await self._off(partial(self.settle_now, usage, cached_tokens=cached_tokens, finish=finish, keep=keep))

    def cost(self, completion_tokens: int, prompt_tokens: int | None = None) -> int:
        """Nano-units for the prompt and so many tokens written."""
        read = self.prompt_tokens if prompt_tokens is None else prompt_tokens
        return cost({"prompt_tokens": read, "completion_tokens": completion_tokens}, self.rates)

    def extend_now(self, tokens: int) -> int:
        """As `extend`. A repeat, after an answer that got lost, does not hold twice."""
        with self._lock:
            if self._over:
                return 0
            more, refused = min(tokens, self.most_tokens - self.leased), False
            while more > 0:
                try:
                    self._extend(more)
                except (FundTooLow, CapReached):
                    fits = self._fitting(self.cost(self.leased), self.leased + more - 1) - self.leased
                    # Others want the same money: after a second refusal no look at it is believed for long.
                    more, refused = min(fits, more // 2) if refused else fits, True
                    continue
                except HoldClosed:  # it was swept, or the same request has ended elsewhere
                    self._over = True
                    return 0
                self.leased += more
                return more
            return 0

    def renew_now(self) -> bool:
        """As `renew`."""
        with self._lock:
            if self._held and not self._over:
                until = self.platform.clock.now() + self._lease_ms
                self._over = not self.platform.database.write(
                    lambda tx: holds.renew(tx, self.hold_key, until), durable=False
                )
            return not self._over

    def settle_now(self, usage: Usage, *, cached_tokens: int = 0, finish: str, keep: Keep | None = None) -> None:
        """As `settle`.

        Args:
            usage: the prompt once, however many choices; the tokens of all of them.
            cached_tokens: of the prompt, that were not computed.
            finish: why it ended: stop, length, abort, error.
            keep: what commits with it, such as the answer itself.
        """
        with self._lock:
            self.platform.database.write(lambda tx: self._settle(tx, usage, cached_tokens, finish, keep))
            self._over = True

    # -- opening -------------------------------------------------------------------------------------

    def _look_up_payer(self, tx: Tx) -> None:
        """Find the fund of the caller's team, and the limits of his key."""
        row = tx.one(
            "SELECT t.fund, l.api_key, l.requests_per_minute, l.tokens_per_minute "
            "FROM team t LEFT JOIN key_limit l ON l.api_key = :key WHERE t.name = :team",
            key=self.caller.key,
            team=self.caller.team,
        )
        if row is None:
            self.fund = find_team(self.platform, self.caller, self.caller.team, tx)  # which names the nearest
            return
        self.fund = str(row.fund)
        if row.requests_per_minute is not None or row.tokens_per_minute is not None:
            self.limit = KeyLimit(
                api_key=row.api_key,
                requests_per_minute=row.requests_per_minute,
                tokens_per_minute=row.tokens_per_minute,
            )

    def begin(self, first_tokens: int, *, strict: bool) -> None:
        """Hold the prompt and the first lease, or as much of that as there is money for, one token at least."""
        if self.platform.database.dialect != "sqlite":  # on SQLite the transaction that holds looks it up (`_reserve`)
            with self.platform.database.read() as tx:
                self._look_up_payer(tx)
        least = min(1, self.most_tokens)
        tokens, refused = max(first_tokens, least), False
        while True:
            try:
                found, tokens = self._reserve(tokens, strict=strict)
                break
            except (FundTooLow, CapReached):
                tokens = self._within_limit(tokens, strict=strict)
                if strict or tokens <= least:
                    raise
                fits = self._fitting(0, tokens - 1)
                tokens, refused = max(min(fits, tokens // 2) if refused else fits, least), True
            except KeyReused:
                found, tokens = self._reserved_before(), self._within_limit(tokens, strict=strict)
                break
        self._held, self.leased = self.cost(tokens) > 0, tokens
        if found is not None and found.repeated:
            self.repeated, self._over = True, not found.open
            self.leased = self._affordable(found.amount, self.most_tokens) if found.open else 0

    def _within_limit(self, tokens: int, *, strict: bool) -> int:
        """So many, or what the key may have in a minute beside the prompt; one at least."""
        if strict or self.limit is None or self.limit.tokens_per_minute is None:
            return tokens
        return max(min(tokens, self.limit.tokens_per_minute - self.prompt_tokens), min(1, self.most_tokens))

    def _reserve(self, tokens: int, *, strict: bool) -> tuple[Hold | None, int]:
        """Count the request and hold what it costs, both or neither: the hold, None where it is free; its tokens."""

        def work(tx: Tx | None) -> tuple[Hold | None, int]:
            if tx is not None and not self.fund:  # where it runs again it finds the same
                self._look_up_payer(tx)
            leased = self._within_limit(tokens, strict=strict)
            amount = self.cost(leased)
            if self.limit is not None and tx is not None:
                limits.take(tx, self.limit, self.prompt_tokens + leased, self.platform.clock.now())
            return self._hold(amount, tx) if amount else None, leased

        return self._write(work, together=self.limit is not None)

    def _write(self, work: Callable[[Tx | None], T], *, together: bool) -> T:
        """A hold's beginning, or more of it, without waiting for the disk: a power cut of this machine ends the request
        as well, so that no one misses its hold. A database elsewhere places a hold alone in one statement.
        """
        if together or self.platform.database.dialect == "sqlite":
            return self.platform.database.write(work, durable=False)
        return work(None)

    def _hold(self, amount: int, tx: Tx | None = None) -> Hold:
        return self.platform.ledger.hold(
            self.fund,
            self.caller.team,
            amount,
            key=self.hold_key,
            expires_ms=self._lease_ms,
            request=self.request_id,
            api_key=self.caller.key or None,
            payee="inference",
            actor=self.caller.actor,
            tx=tx,
        )

    def _reserved_before(self) -> Hold:
        """The hold of a request that came before with another first lease, for that was all there was money for.

        Raises:
            KeyReused: it was another team's, or another fund paid.
        """
        with self.platform.database.read() as tx:
            row = tx.one(
                "SELECT a.fund, a.team, t.amount, t.at FROM transfer t JOIN account a ON a.id = t.debit "
                "WHERE t.key = :key AND t.kind = 'pending'",
                key=self.hold_key,
            )
            found = self.platform.ledger.find_hold(self.hold_key, tx=tx)
        if row is None or (row.fund, row.team) != (self.fund, self.caller.team):
            raise KeyReused(
                f"The request id {self.request_id!r} came before with another request.",
                why="An id stands for one request for ever, so that none is paid twice.",
                fix="Use a new id for a new request.",
            )
        return Hold(
            key=self.hold_key,
            fund=row.fund,
            team=row.team,
            payee="inference",
            amount=Nanos(row.amount) if found is None else found.amount,
            expires_at=None,
            job=None,
            request=self.request_id,
            at=row.at,
            open=found is not None,
            repeated=True,
        )

    # -- what the money allows -----------------------------------------------------------------------

    def _affordable(self, budget: int, most: int) -> int:
        """The most tokens, up to `most`, that cost no more than `budget` with the prompt; -1 where not even that."""
        return bisect_right(range(most + 1), budget, key=self.cost) - 1

    def _fitting(self, held: int, most: int) -> int:
        """The same for what is held and what the team, and every cap, has left at this moment."""
        ledger = self.platform.ledger
        room = ledger.room(self.fund, self.caller.team, api_key=self.caller.key or None)
        return self._affordable(held + max(room, 0), most)

    def _extend(self, more: int) -> None:
        amount, now = self.cost(self.leased + more) - self.cost(self.leased), self.platform.clock.now()
        # The key says from where to where: who repeats it because the answer got lost extends once.
        key = f"{self.hold_key}/{self.leased}+{more}"
        counted = self.limit is not None and self.limit.tokens_per_minute is not None

        def work(tx: Tx | None) -> None:
            if counted and tx is not None:
                limits.add(tx, self.caller.key, more, now)
            if self._held and amount:
                self.platform.ledger.extend(
                    self.hold_key, amount, key=key, expires_ms=self._lease_ms, actor=self.caller.actor, tx=tx
                )

        self._write(work, together=counted)

    # -- the end -------------------------------------------------------------------------------------

    def _settle(self, tx: Tx, usage: Usage, cached_tokens: int, finish: str, keep: Keep | None) -> None:
        # Whoever ends the same request, or sweeps it, waits here until this one is done.
        held = tx.value(f"SELECT amount FROM open_hold WHERE key = :key{tx.for_update}", key=self.hold_key)
        due = self.cost(usage.completion_tokens, max(usage.prompt_tokens - cached_tokens, 0))
        charged = min(due, held or 0) if keep is None or keep(tx) else 0
        row = RequestUsage(
            request_id=self.request_id,
            begun_at=self.begun_at,
            ended_at=self.platform.clock.now(),
            team=self.caller.team,
            fund=self.fund,
            person=self.caller.person,
            api_key=self.caller.key,
            model=self.model,
            version=self.version,
            endpoint=self.endpoint,
            prompt_tokens=usage.prompt_tokens,
            cached_tokens=cached_tokens,
            completion_tokens=usage.completion_tokens,
            charged=Nanos(charged),
            absorbed=Nanos(due - charged),
            finish=finish,
        )
        # The row before the money, so that the team's account, which others want, is locked for the shorter time.
        if not note(tx, row):
            return
        ledger, key, actor = self.platform.ledger, f"{self.hold_key}/post", self.caller.actor
        if charged:
            detail = {
                "model": self.model,
                "usage": {**usage.as_json(), "cached_tokens": cached_tokens},
                "rates": [list(rate) for rate in self.rates],
            }
            ledger.settle(self.hold_key, charged, key=key, detail=detail, actor=actor, tx=tx)
        elif held is not None:
            ledger.void(self.hold_key, key=key, actor=actor, tx=tx)
        if due > charged:
            if held is not None and charged:
                log.error("request %s used %s beyond its lease: %d of %d", self.request_id, usage, due, held)
            why = "its lease had ended" if held is None else "beyond its lease" if charged else "answered by another"
            reason = f"request {self.request_id}: {why}"
            ledger.absorb(due - charged, key=f"{self.hold_key}/absorbed", reason=reason, tx=tx)

    async def _off(self, work: Callable[[], T]) -> T:
        """Run it in a thread; it goes on where who waits for it is cancelled."""
        assert self._crew is not None, "a bill of open_now blocks"
        return await self._crew.do(work)


def open_now(
    platform: Platform, caller: Caller, order: Order, *, lease_ms: int = LEASE_MS, crew: Crew | None = None
) -> Bill:
    """Admit a request: hold its exact prompt and a first lease, out of the fund of the caller's team.

    Where the money does not reach for the whole first lease, as much is leased as it does, one token at least. A
    request that came before is not held twice: its bill says `repeated`, with what is leased to it now, which is 0
    where it has ended.

    Args:
        lease_ms: how long the hold stands without extend or renew.
        crew: where the bill's coroutines block; without one `extend`, `renew` and `settle` must not be awaited.

    Raises:
        FundTooLow, CapReached: there is no money for the prompt and one token; says what there is and what to type.
        RateLimited: the key's requests or tokens of this minute are used up.
        KeyReused: the id was another team's.
        MoneyInvalid, NotFound: nothing says what a token costs; the team has no purse in its fund.
    """
    assert order.prompt_tokens >= 0 and order.choices >= 1 and order.most_tokens >= 0 and order.first_tokens >= 0
    if not _ID.fullmatch(order.request_id):
        text = f"{order.request_id[:40]!r} cannot be a request's id."
        raise Invalid(text, fix="Use 1 to 120 letters, digits and . _ : -")
    bill = Bill(platform, caller, order, lease_ms=lease_ms, crew=crew)
    first = bill.most_tokens if order.strict else min(order.first_tokens * order.choices, bill.most_tokens)
    bill.begin(first, strict=order.strict)
    return bill


async def open_bill(platform: Platform, caller: Caller, order: Order, *, lease_ms: int = LEASE_MS, crew: Crew) -> Bill:
    """As `open_now`. Who is cancelled while waiting leaves nothing held: what was opened for him is given back."""

    def give_back(bill: Bill) -> None:
        if not bill.repeated:  # one that came before is somebody else's to end
            crew.leave(partial(bill.settle_now, Usage(), finish="abort"))

    return await crew.do(partial(open_now, platform, caller, order, lease_ms=lease_ms, crew=crew), give_back)
