"""What a job is charged: how fast it costs, what is held for it, what it pays.

Kept:    a job is charged the price of its whole usage, at the prices of the day it was submitted, rounded up once;
         what was charged before is taken off. Nothing is charged beyond what was held; what was used beyond it and
         cannot be held any more is absorbed by the platform, never overdrawn.
Not here: a job's states (`flows.work`), which commit in the same transaction.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from cerulea.core.errors import CapReached, FundTooLow
from cerulea.core.money import Nanos, Rate, cost, show
from cerulea.core.values import Usage
from cerulea.flows.platform import Platform
from cerulea.jobs.job import Job
from cerulea.store.database import Tx

TRANCHE_S = 300.0  # what is held at a time, in seconds of the job's pace
RESERVE_S = 3.0  # kept for saving when the money ends
LEAST_S = 2.0  # less than this, beside the reserve, is not worth a start


class Charges:
    """Prices, holds and charges of jobs."""

    def __init__(self, platform: Platform, *, heartbeat_s: float, tranche_s: float) -> None:
        self.platform, self.heartbeat_s, self.tranche_s = platform, heartbeat_s, tranche_s
        self._known: dict[tuple[str, int], tuple[Rate, ...]] = {}

    def can_pay(self, job: Job) -> bool:
        """Whether its team has what a start costs, and its caps leave room for it."""
        pace, due = self.pace(job), self.due(job)
        return (pace == 0 and due == 0) or self._room(job) >= self._least(pace, due)

    def settle_rest(self, tx: Tx, job: Job) -> int:
        """Charge what a job still owes when it ends: the team pays it if it can, else the platform does."""
        over = self.due(job)
        if not over:
            return 0
        key = f"{job.id}/{job.attempt}/rest"
        ledger = self.platform.ledger
        try:
            ledger.hold(job.fund, job.team, Nanos(over), key=f"{key}/hold", job=job.id, actor=job.person, tx=tx)
        except (FundTooLow, CapReached):
            reason = f"job {job.id} used {show(over)} beyond what was held"
            ledger.absorb(Nanos(over), key=f"{key}/absorbed", job=job.id, reason=reason, tx=tx)
            return 0
        ledger.settle(f"{key}/hold", Nanos(over), key=f"{key}/post", tx=tx)
        return over

    def rates(self, job: Job) -> tuple[Rate, ...]:
        key = job.device, job.submitted_at
        if key not in self._known:
            if len(self._known) > 10_000:
                self._known.clear()
            self._known[key] = self.platform.prices.rates(*key)
        return self._known[key]

    def cost_of(self, job: Job, usage: Usage) -> int:
        """Price of everything a job used, at the prices of the day it was submitted."""
        return cost(usage.as_json(), self.rates(job))

    def due(self, job: Job) -> int:
        return max(0, self.cost_of(job, job.usage) - job.charged)

    def pace(self, job: Job) -> float:
        """Nano-units a second: what its device costs, or what it was seen to cost where that is more."""
        rates = self.rates(job)
        device = cost({"device_ms": 1000 * job.slots}, rates)
        seen = self.cost_of(job, job.usage) * 1000 * job.slots / job.usage.device_ms if job.usage.device_ms else 0.0
        if not seen:
            seen = float(cost(_first_pace(job), rates))
        return max(float(device), seen)

    def left(self, job: Job) -> float:
        """What is held and not used."""
        return job.held - self.due(job)

    def reserve(self, job: Job) -> float:
        """What saving is going to cost."""
        return self.pace(job) * min(RESERVE_S, self.tranche_s / 4)

    def is_low(self, job: Job) -> bool:
        """Whether the next tranche is due: a fifth is left, or less than two reports' worth."""
        return self.left(job) < max(self.reserve(job) + 2 * self.heartbeat_s * self.pace(job), 0.2 * job.held)

    def turn(self, tx: Tx, job: Job) -> dict[str, Any]:
        """Charge the tranche and hold the next one, or what is left; nothing where there is no more to hold.

        Where even what the old hold gives back cannot be held again (a cap was lowered meanwhile), the job is left
        without a hold: it is told to stop.
        """
        if self._room(job, tx=tx) <= 0:
            return {}
        charge = min(self.due(job), job.held)
        self.settle(tx, job, charge)
        after = dataclasses.replace(job, charged=job.charged + charge)
        try:
            money = self.hold(tx, after, attempt=job.attempt, tranche=job.tranche + 1, least=1)
        except (FundTooLow, CapReached):
            money = {"hold_key": None, "held": 0, "tranche": job.tranche + 1}
        return {**money, "charged": after.charged}

    def hold(self, tx: Tx, job: Job, *, attempt: int, tranche: int, least: int | None = None) -> dict[str, Any]:
        """Hold a tranche, or what is there if that is at least `least` nano-units; the columns that say so.

        Raises:
            FundTooLow, CapReached: nothing is held.
        """
        pace, due = self.pace(job), self.due(job)
        if pace == 0 and due == 0:
            return {"hold_key": None, "held": 0, "tranche": tranche}
        want = int(pace * (self.tranche_s + RESERVE_S)) + due + 1
        if least is None:
            least = self._least(pace, due)
        room = self._room(job, tx=tx)
        # Where there is less than a tranche: what there is, or, to be refused with the number that would do, the least.
        amount = Nanos(want if room >= want else max(room, least))
        key = f"{job.id}/{attempt}/{tranche}/hold"
        self.platform.ledger.hold(
            job.fund, job.team, amount, key=key, job=job.id, api_key=job.api_key, actor=job.person, tx=tx
        )
        return {"hold_key": key, "held": amount, "tranche": tranche}

    def _room(self, job: Job, *, tx: Tx | None = None) -> int:
        """What can be held for it: what its team has available, and its caps leave."""
        return self.platform.ledger.room(job.fund, job.team, job=job.id, api_key=job.api_key, tx=tx)

    def _least(self, pace: float, due: int) -> int:
        """What a start must have: some seconds of work, and the reserve."""
        return int(pace * min(LEAST_S + RESERVE_S, self.tranche_s)) + due + 1

    def settle(self, tx: Tx, job: Job, charge: int) -> None:
        assert job.hold_key is not None
        detail = {"usage": job.usage.as_json(), "rates": [list(rate) for rate in self.rates(job)]}
        self.platform.ledger.settle(
            job.hold_key, Nanos(charge), key=job.hold_key.replace("/hold", "/post"), detail=detail, tx=tx
        )


def _first_pace(job: Job) -> dict[str, int]:
    """What a second is taken to use before the first report: ten steps of a text, two updates of self-play by two."""
    keys, game = job.recipe.get("train", {}), job.recipe.get("game", {})
    factors: tuple[Any, ...]
    if job.kind == "selfplay":
        factors, meter, pace = (game.get("matches", 0), keys.get("rollout", 0)), "agent_steps", 4
    else:
        factors, meter, pace = (keys.get("batch_tokens", 0),), "trained_tokens", 10
    return {meter: pace * math.prod(factor if isinstance(factor, int) else 0 for factor in factors)}
