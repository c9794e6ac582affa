"""A plan becomes a report: first in process, then over HTTP, so that never two copies of a model compete."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from appliance.bench.figures import Figure, Metric
from appliance.bench.in_process import DECODE_CONTEXT, measure_in_process
from appliance.bench.installed import check_installed, installed_decoder, summarize
from appliance.bench.machine import describe_machine, load_average
from appliance.bench.over_http import Measured, measure_over_http
from appliance.bench.plan import ENGINE_GROUPS, SERVER_GROUPS, BenchPlan
from appliance.bench.report import ModelSummary, Report, Subject
from appliance.bundle import BundleStore
from appliance.engine.runtime.prepacked import prepacked
from appliance.models import EngineSettings


def run_bench(
    plan: BenchPlan, store: BundleStore, cache: Path, *, on_progress: Callable[[str], None] = lambda _: None
) -> Report:
    """Measure all that the plan names, with the models of `store`; `cache` holds their prepacked forms.

    Raises:
        BundleError: no model is installed, or it does not verify.
        ModelNotFoundError: a named model is nowhere.
        BenchError: a server cannot be started or reached.
        ModelError: the model fails in process.
    """
    if plan.endpoint is None:
        check_installed(store, plan.chat_model, plan.embedding_model)
    load_before = load_average()
    figures: list[Figure] = []
    subjects: list[Subject] = []
    measured: list[Measured] = []
    if set(plan.groups) & set(ENGINE_GROUPS):
        bundle, spec = installed_decoder(store, plan.chat_model)
        subjects.append(Subject("in process", "the engine's own runner", (summarize(bundle),)))
        figures += measure_in_process(plan, bundle, spec, cache, on_progress=on_progress)
    if set(plan.groups) & set(SERVER_GROUPS):
        measured = asyncio.run(measure_over_http(plan, on_progress=on_progress))
        subjects += _servers(measured, store if plan.endpoint is None else None)
        figures += with_share(measured[0].figures, figures)
    return Report(
        machine=describe_machine(),
        load_before=load_before,
        load_after=load_average(),
        repeat=plan.repeat,
        engine=_tuned(plan, store, cache) if plan.endpoint is None else None,
        subjects=tuple(subjects),
        figures=tuple(figures),
        peer_figures=measured[1].figures if len(measured) > 1 else None,
    )


def _tuned(plan: BenchPlan, store: BundleStore, cache: Path) -> EngineSettings:
    """Return the settings as the chat model runs with them on this machine."""
    bundle, _ = installed_decoder(store, plan.chat_model)
    file = prepacked(bundle, cache, use_device=False, use_kernels=plan.engine.use_kernels)
    tuning = file.tuning.with_settings(plan.engine.num_threads, plan.engine.spinning)
    return replace(plan.engine, num_threads=tuning.num_threads, spinning=tuning.spinning)


def _servers(measured: list[Measured], store: BundleStore | None) -> list[Subject]:
    """Return ours and theirs; the sizes of ours are known if its bundles are those of the store."""
    subjects: list[Subject] = []
    for label, server in zip(("ours", "theirs"), measured, strict=False):
        names = [name for name in (server.chat_model, server.embedding_model) if name]
        installed = store.names() if store is not None and label == "ours" else []
        models = [summarize(store.open(n)) if store is not None and n in installed else ModelSummary(n) for n in names]
        subjects.append(Subject(label, server.url, tuple(models)))
    return subjects


def with_share(over_http: tuple[Figure, ...], in_process: list[Figure]) -> list[Figure]:
    """Add one stream's share of the in-process speed to the figures over HTTP, if both are known."""
    decode = _median(in_process, f"decode at context {DECODE_CONTEXT}")
    found: list[Figure] = []
    for figure in over_http:
        found.append(figure)
        if figure.metric.name == f"one stream, context {DECODE_CONTEXT}" and figure.median and decode:
            found.append(Figure(Metric("stream", "its share of in process", "%"), (figure.median / decode * 100,)))
    return found


def _median(figures: list[Figure], name: str) -> float | None:
    return next((f.median for f in figures if f.metric.name == name), None)
