"""What a run will take and cost, before it begins: a range, and what it rests on.

In:      a checked recipe, the prices, jobs that ran before, this machine's measurement where there is one.
Out:     Estimate.
Kept:    where nothing is known, nothing is claimed: the seconds are None and only the price per hour stands.
Not here: torch; a plan over machines and money.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from cerulea.core.files import read_json
from cerulea.core.money import cost
from cerulea.flows.platform import Platform
from cerulea.nn.flops import train_flops_per_token
from cerulea.store.database import Tx
from cerulea.train.recipe import Recipe, TextRecipe

UTILIZATION = (0.1, 0.6)  # of the measured peak: what runs of any size were seen to reach
SPREAD = (0.8, 1.5)  # around the pace of a run of the same shape
RECENT = 20  # finished jobs among which such a run is looked for


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What a job will probably take."""

    team: str
    fund: str
    device: str
    processes: int
    parameters: int | None  # None for an agent, where what its game shows decides
    tokens: int | None  # to train on; None where the corpus or the clock decides
    agent_steps: int | None  # to decide in games; None likewise
    per_hour: int  # nano-units
    low_s: float | None
    high_s: float | None
    low: int | None  # nano-units
    high: int | None
    basis: str  # minutes, history, machine or unknown
    available: int | None  # nano-units that the team has in the fund; None: no limit


def estimate_of(
    platform: Platform, recipe: Recipe, *, team: str, fund: str, device: str, processes: int, tx: Tx
) -> Estimate:
    """The estimate for a recipe on `processes` slots of `device`, paid by `team` from `fund`."""
    rates = platform.prices.rates(device, platform.clock.now(), tx=tx)
    meter, amount = _amount(recipe)
    seconds: tuple[float, float] | None = None
    basis = "unknown"
    if amount is not None:
        pace = _seen_pace(recipe, meter, device, processes, tx)
        if pace is not None:
            basis, seconds = "history", (amount / pace * SPREAD[0], amount / pace * SPREAD[1])
        elif isinstance(recipe, TextRecipe) and (peak := _measured_flops(platform, device)) is not None:
            shape = recipe.shape(recipe.tokenizer.vocab)
            flops = amount * train_flops_per_token(shape, shape.context)
            basis = "machine"
            seconds = (flops / (peak * processes * UTILIZATION[1]), flops / (peak * processes * UTILIZATION[0]))
    if recipe.train.minutes:
        most = 60.0 * recipe.train.minutes
        if seconds is None or seconds[0] > most:
            basis, seconds = "minutes", (most, most * 1.1)
        else:
            seconds = (seconds[0], min(seconds[1], most * 1.1))

    def price(s: float) -> int:
        return cost({"device_ms": int(1000 * s * processes), meter: amount or 0}, rates)

    account = tx.one(
        "SELECT limited, cr_posted - dr_posted - dr_pending AS free FROM account WHERE code = :code",
        code=f"team:{team}/{fund}",
    )
    return Estimate(
        team=team,
        fund=fund,
        device=device,
        processes=processes,
        parameters=recipe.shape(recipe.tokenizer.vocab).parameters() if isinstance(recipe, TextRecipe) else None,
        tokens=amount if meter == "trained_tokens" else None,
        agent_steps=amount if meter == "agent_steps" else None,
        per_hour=cost({"device_ms": 3_600_000 * processes}, rates),
        low_s=None if seconds is None else round(seconds[0], 1),
        high_s=None if seconds is None else round(seconds[1], 1),
        low=None if seconds is None else price(seconds[0]),
        high=None if seconds is None else price(seconds[1]),
        basis=basis,
        available=account.free if account is not None and account.limited else None,
    )


def _amount(recipe: Recipe) -> tuple[str, int | None]:
    """What is metered beside the clock, and how much of it the recipe asks for, where it says so."""
    keys = recipe.train
    if isinstance(recipe, TextRecipe):
        limits = [t for t in (recipe.train.tokens, recipe.train.steps * recipe.train.batch_tokens) if t]
        return "trained_tokens", min(limits) if limits else None
    return "agent_steps", getattr(keys, "agent_steps", 0) or None


# Jobs are alike where these of their recipes are equal.
ALIKE = {"text": ("model", "tokenizer", "train.batch_tokens"), "selfplay": ("model", "game", "train.rollout")}


def _seen_pace(recipe: Recipe, meter: str, device: str, processes: int, tx: Tx) -> float | None:
    """Tokens, or decisions, a second of the newest job with the same model, batch and machines."""
    rows = tx.all(
        "SELECT recipe, usage, device, slots FROM job WHERE status = 'SUCCEEDED' ORDER BY seq DESC LIMIT :recent",
        recent=RECENT,
    )
    mine, kind = recipe.as_json(), recipe.kind
    for row in rows:
        theirs: dict[str, Any] = json.loads(row.recipe)
        usage: dict[str, int] = json.loads(row.usage)
        alike = theirs.get("kind") == kind and all(_at(theirs, key) == _at(mine, key) for key in ALIKE[kind])
        if alike and (row.device, row.slots) == (device, processes) and usage.get("device_ms"):
            return usage.get(meter, 0) * 1000 * row.slots / usage["device_ms"] or None
    return None


def _at(values: dict[str, Any], key: str) -> Any:
    table, _, name = key.partition(".")
    return values.get(table, {}).get(name) if name else values.get(table)


def _measured_flops(platform: Platform, device: str) -> float | None:
    """The best rate of matrix products that was measured here on such a device, operations a second."""
    path = platform.settings.home / "doctor.json"
    if not path.exists():
        return None
    try:
        found = [m for m in read_json(path).values() if m["device"].startswith(device)]
        return max(max(m["matmul_fp32_gflops"], m["matmul_bf16_gflops"]) for m in found) * 1e9 if found else None
    except (ValueError, TypeError, KeyError, AttributeError):
        return None  # a measurement of another version
