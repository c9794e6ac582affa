"""Counters and histograms for Prometheus (text format 0.0.4), and gauges that are read when the page is made."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict

import psutil
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from appliance import __version__
from appliance.host.thermal import Thermal
from appliance.models import ModelPool

_FIRST_TOKEN_BUCKETS_S = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60)
_INTER_TOKEN_BUCKETS_S = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1)
_DURATION_BUCKETS_S = (0.01, 0.05, 0.1, 0.5, 1, 2, 5, 10, 30, 60, 120, 300)
_GAUGES = ("num_slots", "num_running", "num_waiting")


class Metrics:
    """The metrics of one server, in a registry of their own; counted on the event loop, written in a thread."""

    def __init__(self) -> None:
        registry = CollectorRegistry()
        self._registry = registry
        self.requests = Counter("lantern_requests", "Requests answered.", ["route", "status"], registry=registry)
        self.duration_s = Histogram(
            "lantern_request_seconds",
            "From the head of a request to its end.",
            ["route"],
            buckets=_DURATION_BUCKETS_S,
            registry=registry,
        )
        tokens = Counter("lantern_tokens", "Tokens: prompt, of those cached, generated.", ["kind"], registry=registry)
        self._tokens = tokens
        self.prompt_tokens = tokens.labels("prompt")
        self.cached_tokens = tokens.labels("cached")
        self.generated_tokens = tokens.labels("generated")
        self.first_token_s = Histogram(
            "lantern_first_token_seconds",
            "From the head of a request to its first token.",
            buckets=_FIRST_TOKEN_BUCKETS_S,
            registry=registry,
        )
        self.inter_token_s = Histogram(
            "lantern_inter_token_seconds",
            "Between two tokens of one choice.",
            buckets=_INTER_TOKEN_BUCKETS_S,
            registry=registry,
        )
        self.wait_s = Histogram(
            "lantern_wait_seconds",
            "From the head of a request to its slot.",
            buckets=_FIRST_TOKEN_BUCKETS_S,
            registry=registry,
        )

    def token_counts(self) -> tuple[float, float]:
        """Return the tokens of prompts without those of the cache, and the generated ones, since the start."""
        counts = {
            sample.labels["kind"]: sample.value
            for metric in self._tokens.collect()
            for sample in metric.samples
            if sample.name.endswith("_total")
        }
        return counts["prompt"] - counts["cached"], counts["generated"]

    def watch(self, pool: ModelPool, thermal: Callable[[], Thermal]) -> None:
        """Add the counts of the models and the state of the board."""
        self._registry.register(_State(pool, thermal))

    def text(self) -> bytes:
        """Write the page; takes some milliseconds, so call it in a thread."""
        return generate_latest(self._registry)


class _State(Collector):
    """The state of models, process and board, which others own."""

    def __init__(self, pool: ModelPool, thermal: Callable[[], Thermal]) -> None:
        self._pool = pool
        self._thermal = thermal

    def describe(self) -> Iterator[Metric]:
        """Describe nothing beforehand: engines come and go."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Yield the state at this moment."""
        info = GaugeMetricFamily("lantern_info", "The version that runs.", labels=["version"])
        info.add_metric([__version__], 1)
        yield info
        yield from self._engines()
        process = psutil.Process()
        yield GaugeMetricFamily("lantern_models_ready", "Whether models are loaded.", float(self._pool.is_ready))
        yield GaugeMetricFamily("lantern_models_damaged", "Bundles that were refused.", len(self._pool.damaged))
        yield GaugeMetricFamily("lantern_resident_bytes", "Resident memory.", process.memory_info().rss)
        yield GaugeMetricFamily("lantern_threads", "Threads of the process.", process.num_threads())
        yield GaugeMetricFamily("lantern_open_files", "Descriptors of the process.", process.num_fds())
        thermal = self._thermal()
        if thermal.temperature_c is not None:
            yield GaugeMetricFamily("lantern_temperature_celsius", "The hottest zone.", thermal.temperature_c)
        yield GaugeMetricFamily("lantern_throttled", "Whether heat slows the board.", float(thermal.is_throttled))
        yield GaugeMetricFamily("lantern_under_voltage", "Whether power is short.", float(thermal.is_under_voltage))

    def _engines(self) -> Iterator[Metric]:
        stats = {m.bundle.name: asdict(found) for m in self._pool.loaded() if (found := m.thread.stats()) is not None}
        names = dict.fromkeys(name for counts in stats.values() for name in counts)
        for name in names:
            kind = GaugeMetricFamily if name in _GAUGES else CounterMetricFamily
            family = kind(f"lantern_engine_{name.removeprefix('num_')}", f"EngineStats.{name}.", labels=["model"])
            for model, counts in stats.items():
                family.add_metric([model], counts[name])
            yield family
