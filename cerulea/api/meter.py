"""Counters for Prometheus: requests as they pass, and the platform's state when somebody looks.

Kept:    labels are route templates, never what a caller wrote, so that nobody can make the series grow.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.types import Scope

from cerulea.core.money import UNIT
from cerulea.flows.platform import Platform
from cerulea.jobs.job import Status

BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)


class Meter:
    """What /metrics shows of one application."""

    def __init__(self, platform: Platform) -> None:
        self.registry = CollectorRegistry()
        names = ("method", "route")
        self.requests = Counter(
            "cerulea_http_requests", "Requests answered.", (*names, "status"), registry=self.registry
        )
        self.seconds = Histogram(
            "cerulea_http_request_seconds", "Time to answer.", names, buckets=BUCKETS, registry=self.registry
        )
        self.registry.register(_State(platform))

    def begin(self) -> float:
        """A request has come."""
        return time.perf_counter()

    def end(self, began: float, scope: Scope, status: int) -> None:
        """It was answered."""
        route = getattr(scope.get("route"), "path", "none")
        method = scope["method"] if scope["method"] in ("GET", "POST", "PUT", "PATCH", "DELETE") else "other"
        self.requests.labels(method, route, str(status)).inc()
        self.seconds.labels(method, route).observe(time.perf_counter() - began)

    def refused(self, route: str) -> None:
        """One was refused at the door, as it came."""
        self.requests.labels("POST", route, "429").inc()
        self.seconds.labels("POST", route).observe(0.0)

    def text(self) -> bytes:
        """In Prometheus's text format."""
        return generate_latest(self.registry)


class _State(Collector):
    """Jobs, money and workers, read when they are asked for."""

    def __init__(self, platform: Platform) -> None:
        self.platform = platform

    def describe(self) -> list[Metric]:
        """Nothing is read from the database when this is registered."""
        return []

    def collect(self) -> Iterator[Metric]:
        """One reading of the database."""
        with self.platform.database.read() as tx:
            counts = {row.status: row.n for row in tx.all("SELECT status, count(*) AS n FROM job GROUP BY status")}
            oldest = tx.value("SELECT min(queued_at) FROM job WHERE status = 'QUEUED'")
            held = sum(row.dr_pending for row in tx.all("SELECT dr_pending FROM account WHERE kind = 'team'"))
            charged = tx.value("SELECT sum(charged * 1.0) FROM job") or 0.0
            workers = tx.all("SELECT status, count(*) AS n, sum(slots) AS slots FROM worker GROUP BY status")
        jobs = GaugeMetricFamily("cerulea_jobs", "Jobs by status.", labels=["status"])
        for status in Status:
            jobs.add_metric([status.value], counts.get(status.value, 0))
        yield jobs
        age = 0.0 if oldest is None else max(0.0, (self.platform.clock.now() - oldest) / 1000)
        yield GaugeMetricFamily("cerulea_queue_age_seconds", "How long the oldest job waits.", value=age)
        yield GaugeMetricFamily("cerulea_money_held", "Held for what runs, in the fund's currency.", value=held / UNIT)
        yield GaugeMetricFamily("cerulea_money_settled", "Charged for jobs so far.", value=float(charged) / UNIT)
        alive = GaugeMetricFamily("cerulea_workers", "Workers by status.", labels=["status"])
        slots = GaugeMetricFamily("cerulea_worker_slots", "Their slots.", labels=["status"])
        for row in workers:
            alive.add_metric([row.status], row.n)
            slots.add_metric([row.status], int(row.slots))
        yield alive
        yield slots
