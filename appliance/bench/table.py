"""The report as people read it."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from appliance.bench.figures import Figure, advantage
from appliance.bench.report import ModelSummary, Report, Subject

_NOTHING = "–"


def render(report: Report) -> RenderableType:
    """Render the heading and the table; foreign texts in it are never read as markup."""
    heading = [Text(line) for line in _heading(report)]
    table = _comparison(report) if report.peer_figures is not None else _alone(report)
    notes = [Text(line, style="dim") for line in _notes(report)]
    return Group(*heading, Text(), table, *notes)


def format_value(value: float | None) -> str:
    """Format with three significant digits and never an exponent."""
    if value is None:
        return _NOTHING
    if abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _heading(report: Report) -> Iterator[str]:
    machine = report.machine
    yield (
        f"{machine.cpu} ({machine.architecture}), {machine.num_cores} cores, {machine.memory_bytes / 2**30:.1f} GiB; "
        f"load {report.load_before:g} before, {report.load_after:g} after"
    )
    yield f"{machine.system}, Python {machine.python}, onnxruntime {machine.onnxruntime}"
    if report.engine is not None:
        engine = report.engine
        spinning = "on" if engine.spinning else "off"
        slots = f"{engine.num_slots} slots of {engine.context_length} tokens"
        yield f"{engine.num_threads} threads, spinning {spinning}, {slots}"
    for subject in report.subjects:
        yield _subject_line(subject)
    yield f"Each figure is the median of {report.repeat} runs."


def _subject_line(subject: Subject) -> str:
    return f"{subject.label}: {', '.join(map(_model, subject.models))} ({subject.place})"


def _model(model: ModelSummary) -> str:
    known = [model.scheme, f"{model.size_bytes / 1e6:.1f} MB" if model.size_bytes else None]
    return " ".join([model.name, *filter(None, known)])


def _alone(report: Report) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("What", no_wrap=True)
    for name in ("Median", "Least", "Most"):
        table.add_column(name, justify="right")
    table.add_column("Unit")
    table.add_column("Note")
    for figure in report.figures:
        least = format_value(min(figure.samples, default=None))
        most = format_value(max(figure.samples, default=None))
        cells = [figure.metric.name, format_value(figure.median), least, most, figure.metric.unit, figure.note]
        table.add_row(*map(Text, cells))
    return table


def _comparison(report: Report) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("What", no_wrap=True)
    for name in ("Ours", "Theirs"):
        table.add_column(name, justify="right")
    table.add_column("Unit")
    table.add_column("Ratio", justify="right")
    table.add_column("Note")
    for ours, theirs in report.pairs():
        ratio = advantage(ours, theirs) if theirs else None
        style = "" if ratio is None else "green" if ratio >= 1 else "red"
        cells = [ours.metric.name, format_value(ours.median), format_value(theirs.median if theirs else None)]
        shown = Text(_NOTHING if ratio is None else f"{ratio:.2f}", style=style)
        table.add_row(*map(Text, cells), Text(ours.metric.unit), shown, Text(_note_of_pair(ours, theirs)))
    return table


def _note_of_pair(ours: Figure, theirs: Figure | None) -> str:
    if theirs is None or not theirs.note:
        return ours.note
    return f"ours: {ours.note}; theirs: {theirs.note}" if ours.note else f"theirs: {theirs.note}"


def _notes(report: Report) -> Iterator[str]:
    if report.peer_figures is not None:
        yield "A ratio above 1 says that ours is better: faster, sooner, or smaller."
    if max(report.load_before, report.load_after) > report.machine.num_cores:
        yield "The machine was busy with other work: measure again when it is quiet."
