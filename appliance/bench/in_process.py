"""The half of the bench that needs no server: an installed decoder on this process's own runner."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from appliance.bench.bandwidth import read_bandwidth
from appliance.bench.decoder import DecoderBench
from appliance.bench.figures import Figure, Metric
from appliance.bench.plan import BenchPlan
from appliance.bundle import Bundle, DecoderSpec
from appliance.bundle.manifest import MODEL_DATA_NAME, MODEL_NAME
from appliance.engine.graphs.slot_arrays import layout_of
from appliance.engine.runtime.model_runner import OrtModelRunner
from appliance.host.cores import usable_cores
from appliance.models.loading import prepared_decoder

DECODE_CONTEXT = 128  # where decode is compared: with the bound, and with the same over HTTP
_BATCHES = (1, 2, 4, 8)
_BYTES_PER_GB = 1e9


def measure_in_process(
    plan: BenchPlan,
    bundle: Bundle,
    spec: DecoderSpec,
    cache: Path,
    *,
    on_progress: Callable[[str], None] = lambda _: None,
) -> list[Figure]:
    """Measure the plan's engine groups; `cache` is the server's folder of prepacked models.

    Raises:
        ModelError: the model cannot be loaded or fails.
    """
    engine = plan.engine
    limit = min(engine.context_length, spec.context_length)
    plan = replace(plan, engine=replace(engine, context_length=limit))
    on_progress(f"loading {bundle.name}")
    file, tuning = prepared_decoder(bundle, plan.engine, cache)
    runner = OrtModelRunner(
        file,
        spec,
        num_slots=max(_BATCHES),
        capacity=limit,
        num_threads=tuning.num_threads,
        spinning=tuning.spinning,
    )
    bench = DecoderBench(runner)
    figures: list[Figure] = []
    if plan.wants("decode"):
        figures += _decode(plan, bench, bytes_per_token(bundle), on_progress)
    if plan.wants("prefill"):
        metrics = {n: Metric("prefill", f"prefill {n}", "tok/s") for n in plan.prompt_lengths}
        figures += _rounds(plan, metrics, bench.prefill_rate, on_progress)
    if plan.wants("batch"):
        metrics = {n: Metric("batch", f"decode of {n} row{'s' * (n > 1)}", "tok/s") for n in _BATCHES}
        figures += _rounds(plan, metrics, lambda n: bench.batch_rate(n, num_steps=plan.num_tokens // 2), on_progress)
    return figures


def bytes_per_token(bundle: Bundle) -> float:
    """Return the bytes of a token at DECODE_CONTEXT: weights, keys and values are read, a state is written as well."""
    weights = sum(f.size_bytes for f in bundle.manifest.files if f.name in {MODEL_NAME, MODEL_DATA_NAME})
    layout = layout_of(bundle.path(MODEL_NAME).read_bytes())
    return weights + layout.token_bytes() * DECODE_CONTEXT + 2 * layout.state_bytes


def _decode(plan: BenchPlan, bench: DecoderBench, num_bytes: float, on_progress: Callable[[str], None]) -> list[Figure]:
    metrics = {n: Metric("decode", f"decode at context {n}", "tok/s") for n in plan.contexts}
    figures = _rounds(plan, metrics, lambda n: bench.decode_rate(n, num_steps=plan.num_tokens), on_progress)
    on_progress("reading memory")
    reads = [read_bandwidth(usable_cores()) for _ in range(plan.repeat)]
    figures.append(Figure(Metric("decode", "memory read", "GB/s"), tuple(r / _BYTES_PER_GB for r in reads)))
    if plan.contexts[0] == DECODE_CONTEXT:
        shares = tuple(rate * num_bytes / read * 100 for rate, read in zip(figures[0].samples, reads, strict=True))
        note = f"{num_bytes / 1e6:.0f} MB a token"
        figures.append(Figure(Metric("decode", f"share of that bound at {DECODE_CONTEXT}", "%"), shares, note))
    return figures


def _rounds(
    plan: BenchPlan, metrics: dict[int, Metric], rate: Callable[[int], float], on_progress: Callable[[str], None]
) -> list[Figure]:
    """Yield every size once a round, so that a busy moment does not fall on one size alone."""
    samples: dict[int, list[float]] = {size: [] for size in metrics}
    for i in range(plan.repeat):
        for size, metric in metrics.items():
            on_progress(f"{metric.name}: run {i + 1} of {plan.repeat}")
            samples[size].append(rate(size))
    return [Figure(metric, tuple(samples[size])) for size, metric in metrics.items()]
