"""What a worker and the platform say to one another: plain values, the same in one process and over HTTP.

    worker                        platform
    claim ───────────────────────▶ Assignment (token, recipe, first Order)
    Report, every few seconds ───▶ Order (go on, or stop and why; how far the money goes)
    Ending ──────────────────────▶ settled, registered, or queued again

Not here: who calls whom (`flows.work` and `flows.perform`), the wire (`api`, `client`).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from cerulea.core.money import Rate
from cerulea.core.values import Usage

HEARTBEAT_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What the platform wants of a worker that reports."""

    desired: str = "run"  # or stop: save, then end
    reason: str = ""  # of the stop: cancel, preempt, budget, drain, timeout
    paid: int | None = None  # nano-units: the worker stops by itself when its whole job has cost this; None: no limit
    rates: tuple[Rate, ...] = ()  # what each meter costs
    heartbeat_s: float = HEARTBEAT_S

    @classmethod
    def of(cls, values: dict[str, Any]) -> Order:
        """From the wire."""
        return cls(**{**values, "rates": tuple(Rate(*rate) for rate in values["rates"])})


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """A job given to a worker, for as long as its lease is renewed."""

    job: str
    attempt: int
    token: str  # goes with every message of this attempt
    kind: str
    name: str  # of the model
    recipe: dict[str, Any]
    run: str  # the run's folder name
    slots: int
    order: Order
    checkpoint_step: int | None = None  # what the platform knows of; a resume must not begin before it
    checkpoint_digest: str | None = None
    checkpoint_tokens: int | None = None
    bound: bool = True  # it may read files below the worker's CERULEA_DATA_ROOTS alone

    @classmethod
    def of(cls, values: dict[str, Any]) -> Assignment:
        """From the wire."""
        return cls(**{**values, "order": Order.of(values["order"])})


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """How a job stands."""

    usage: Usage = Usage()  # of the whole job, as its own counters say
    step: int = 0
    fraction: float = 0.0
    checkpoint_step: int | None = None
    checkpoint_digest: str | None = None
    checkpoint_tokens: int | None = None
    resumed_step: int | None = None  # where this attempt began
    run: str | None = None

    @classmethod
    def of(cls, values: dict[str, Any]) -> Report:
        """From the wire."""
        return cls(**{**values, "usage": Usage(**values["usage"])})


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How an attempt ended."""

    outcome: str  # done, stopped or failed
    reason: str  # done: the stop rule; stopped: the order's reason or a signal; failed: one of job.FAILURES or crash
    detail: str = ""
    report: Report = Report()
    result: dict[str, Any] = field(default_factory=dict)  # scores, seconds, the step that became the model
    model: dict[str, Any] | None = None  # files by name with sha256 and bytes, digest, card, corpus

    @classmethod
    def of(cls, values: dict[str, Any]) -> Ending:
        """From the wire."""
        return cls(**{**values, "report": Report.of(values["report"])})


def wire(value: Order | Assignment | Report | Ending) -> dict[str, Any]:
    """As JSON has it."""
    return asdict(value)
