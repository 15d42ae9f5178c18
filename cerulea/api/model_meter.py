"""Counters of models for Prometheus, under the names that dashboards for vLLM read, with `cerulea:` in front.

In:      what a Gateway observes; the counters of loaded engines, when somebody looks.
Kept:    the label is a model's registered name, never what a caller wrote.
"""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from cerulea.flows.serving import Gateway
from cerulea.serve.request import Delta

FAST = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
SLOW = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
LABEL = ("model_name",)


class ModelMeter(Collector):
    """What requests to models took. It is the gateway's observer."""

    def __init__(self, gateway: Gateway, registry: CollectorRegistry) -> None:
        self._gateway = gateway

        def histogram(name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(f"cerulea:{name}", text, LABEL, buckets=buckets, registry=registry)

        def counter(name: str, text: str, *more: str) -> Counter:
            return Counter(f"cerulea:{name}", text, (*LABEL, *more), registry=registry)

        self._first = histogram("time_to_first_token_seconds", "From a request to its first token.", SLOW)
        self._between = histogram("inter_token_latency_seconds", "Between two tokens of a text.", FAST)
        self._whole = histogram("e2e_request_latency_seconds", "From a request to its last token.", SLOW)
        self._queue = histogram("request_queue_time_seconds", "Waiting for a row.", SLOW)
        self._prefill = histogram("request_prefill_time_seconds", "From a row to the first token.", SLOW)
        self._decode = histogram("request_decode_time_seconds", "From the first token to the last.", SLOW)
        self._prompt = counter("prompt_tokens", "Prompt tokens read, cached ones included.")
        self._written = counter("generation_tokens", "Tokens written.")
        self._ended = counter("request_success", "Sequences that ended.", "finished_reason")
        self._extended = counter("lease_extensions", "Leases that were to be extended.")
        self._denied = counter("lease_denied", "Of those, the ones that got less than was asked for.")
        registry.register(self)

    def first(self, model: str, seconds: float) -> None:
        """From a request's coming to a sequence's first token."""
        self._first.labels(model).observe(seconds)

    def between(self, model: str, seconds: float, tokens: int) -> None:
        """From one step's tokens to the next one's."""
        self._between.labels(model).observe(seconds / tokens)

    def ended(self, model: str, delta: Delta, seconds: float) -> None:
        """A sequence has ended."""
        queue_s, prefill_s = delta.queue_ms / 1000, delta.prefill_ms / 1000
        self._whole.labels(model).observe(seconds)
        self._queue.labels(model).observe(queue_s)
        self._prefill.labels(model).observe(prefill_s)
        self._decode.labels(model).observe(max(0.0, seconds - queue_s - prefill_s))
        self._ended.labels(model, delta.finish).inc()
        if delta.usage is not None:
            self._prompt.labels(model).inc(delta.usage.prompt_tokens)
            self._written.labels(model).inc(delta.usage.completion_tokens)

    def leased(self, model: str, asked: int, granted: int) -> None:
        """A lease was to be extended by so many tokens."""
        self._extended.labels(model).inc()
        if granted < asked:
            self._denied.labels(model).inc()

    def describe(self) -> list[Metric]:
        """Nothing is asked of engines when this is registered."""
        return []

    def collect(self) -> Iterator[Metric]:
        """The counters of every loaded engine, as it told them last."""
        gauges = {
            "num_requests_running": ("Sequences that run.", "running"),
            "num_requests_waiting": ("Sequences that wait for a row.", "waiting"),
        }
        loaded = self._gateway.host.loaded()
        for name, (text, key) in gauges.items():
            family = GaugeMetricFamily(f"cerulea:{name}", text, labels=LABEL)
            for label, stats in loaded:
                family.add_metric([label], float(stats.get(key, 0)))
            yield family
        used = GaugeMetricFamily("cerulea:kv_cache_usage_perc", "Share of rows that are in use.", labels=LABEL)
        for label, stats in loaded:
            used.add_metric([label], float(stats.get("rows_used", 0)) / max(1, stats.get("rows", 1)))
        yield used
        for name, key in (("prefix_cache_queries", "prefix_queries"), ("prefix_cache_hits", "prefix_hits")):
            counted = CounterMetricFamily(f"cerulea:{name}", "Prompt tokens looked for, found.", labels=LABEL)
            for label, stats in loaded:
                counted.add_metric([label], float(stats.get(key, 0)))
            yield counted
