"""The page report.html: a bundle's facts, its quality, and what else was tried. No script, no network."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from appliance.bundle import Manifest
from appliance.bundle.manifest import Witness
from quantize.evaluation.distribution import Distribution
from quantize.evaluation.findings import AnswerPair, Findings, Try
from quantize.reporting.charts import Point, bars, scatter, shades
from quantize.reporting.tables import EXPORT_WAYS, missed_target, witness_text
from quantize.witness.verdict import doubts

REPORT_NAME = "report.html"

_STYLE = Path(__file__).parent / "report.css"
_NOT_XML = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
_MEASURED = {
    "decoder": ("KL of one position", "positions"),
    "encoder": ("1 − cosine of one text", "texts"),
    "reranker": ("difference in the score of one pair, as a share of the scores' spread", "pairs"),
}
_MEANINGS = {
    "kl_mean": "KL divergence from the float model, nats a token, mean",
    "kl_p99": "the same, 99th percentile",
    "top1_agreement": "how often both models hold the same token, or document, for the best",
    "kl_mean_blocks": "the mean as x86 computes it, and Lantern's kernels everywhere",
    "kl_mean_rows": "the mean as onnxruntime computes it on a Pi 5 or Orin: one scale of activations a row",
    "kl_mean_floats": "the mean as onnxruntime computes it on a Pi 4: activations are not rounded",
    "top1_agreement_blocks": "the same agreement by that arithmetic",
    "top1_agreement_rows": "the same agreement by that arithmetic",
    "top1_agreement_floats": "the same agreement by that arithmetic",
    "kl_mean_int8_kv": "the mean where the device keeps keys and values in int8 too",
    "top1_agreement_int8_kv": "the same agreement then",
    "perplexity": "of the held-out text",
    "perplexity_float": "the float model's",
    "tokens": "positions measured",
    "tasks": "small tasks with checkable answers",
    "tasks_right": "of them answered right",
    "tasks_right_float": "answered right by the float model",
    "cosine_mean": "cosine to the float model's vectors, mean",
    "cosine_min": "the same, worst snippet",
    "batch_difference": "largest difference that the batch makes to a vector or a score",
    "snippets": "texts measured",
    "neighbour_agreement": "share of texts whose nearest other text is the float model's",
    "spearman": "rank correlation of cosines and people's ratings",
    "spearman_float": "the float model's",
    "rated_pairs": "pairs of sentences that people rated",
    "score_correlation": "of the float model's scores and these",
    "order_agreement": "share of two documents that both models order alike",
    "pairs": "pairs of a query and a document measured",
}


def report_page(manifest: Manifest, findings: Findings) -> bytes:
    """Return the whole page; the same arguments give the same bytes."""
    sections = [
        _summary(manifest),
        _frontier(findings.tries),
        _sensitivity(findings),
        _distribution(findings.distribution, manifest.model.kind),
        _answers(findings.answers),
        _origin(manifest),
    ]
    title = escape(f"{manifest.name}: report")
    head = (
        f'<meta charset="utf-8"/><meta http-equiv="Content-Security-Policy" content="{_POLICY}"/>'
        f'<meta name="viewport" content="width=device-width"/><title>{title}</title>'
        f"<style>{_STYLE.read_text(encoding='utf-8')}</style>"
    )
    body = f"<main><h1>{escape(manifest.name)}</h1>{''.join(sections)}</main>"
    page = f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head><body>{body}</body></html>\n'
    return _NOT_XML.sub("\N{REPLACEMENT CHARACTER}", page).encode()


def _summary(manifest: Manifest) -> str:
    scheme = str(manifest.recipe.get("weights", {}).get("scheme", ""))
    facts = [manifest.model.architecture, f"{manifest.size_bytes / 1e6:.1f} MB", scheme, manifest.license]
    rows = [
        (name, f"{value:g}", _MEANINGS.get(name, "")) for name, value in sorted(manifest.evaluation.metrics.items())
    ]
    warning = (
        '<p class="warning">A gate of the recipe failed and was overruled with --force.</p>'
        if manifest.evaluation.gates_overruled
        else ""
    )
    if missed := missed_target(manifest):
        warning += f'<p class="warning">{escape(missed)}.</p>'
    text = f"<p>Measured on {escape(manifest.evaluation.text or 'held-out text')}, which nothing was fitted to.</p>"
    if manifest.evaluation.witness is not None:
        warning += _doubted(manifest.evaluation.witness)
        text += f"<p>{escape(witness_text(manifest.evaluation.witness))}</p>"
    lead = f'<p class="lead">{escape(" · ".join(fact for fact in facts if fact))}</p>'
    return lead + warning + _section("Quality", text + _table(("figure", "value", "meaning"), rows))


def _doubted(witness: Witness) -> str:
    """Return the warning above a bundle whose float model is in doubt."""
    if not witness.overruled:
        return ""
    return f'<p class="warning">{escape("; ".join(doubts(witness)).capitalize())}. Overruled with --force.</p>'


def _frontier(tries: Sequence[Try]) -> str:
    if not tries:
        return ""
    chosen = tries[-1]
    points = [
        Point(t.size_bytes / 1e6, t.kl_mean, f"{t.size_bytes / 1e6:.1f} MB, KL {t.kl_mean:.4f}", t == chosen)
        for t in tries
    ]
    rows = [
        (
            f"{t.size_bytes / 1e6:.1f}",
            f"{t.kl_mean:.4f}",
            f"{t.top1_agreement:.1%}",
            str(t.num_steps),
            "chosen" if t == chosen else "",
        )
        for t in sorted(tries, key=lambda t: t.size_bytes)
    ]
    chart = scatter(points, x_title="MB of model.onnx and its data", y_title="mean KL")
    table = _table(("MB", "mean KL", "top-1", "steps from int4", ""), rows)
    return _section("Size and quality of what was tried", chart + table)


def _sensitivity(findings: Findings) -> str:
    if not findings.sensitivity:
        return ""
    cells: dict[tuple[str, str], tuple[float, int]] = {}
    for name, value in findings.sensitivity.items():
        layer, kind = _layer_and_kind(name)
        cells[layer, kind] = (value, findings.widths.get(name, 4))
    rows = sorted({layer for layer, _ in cells}, key=lambda layer: (len(layer), layer))
    columns = list(dict.fromkeys(kind for _, kind in sorted(cells, key=_column_order)))
    text = (
        "<p>KL in thousandths that each part alone would cause in the fewest bits (4; a head that is listed, 6), "
        "estimated from gradients on the calibration text; behind it the bits of what is stored in more than 4.</p>"
    )
    return _section("Sensitivity", text + shades(rows, columns, cells))


def _distribution(found: Distribution | None, kind: str) -> str:
    if found is None:
        return ""
    what = _MEASURED[kind]
    rows = [(f"{quantile:.1%}", f"{value:g}") for quantile, value in found.quantiles]
    chart = bars(found.edges, found.counts, x_title=what[0], y_title=what[1])
    return _section("Distribution", chart + _table((f"share of {what[1]}", f"{what[0]} at most"), rows))


def _answers(answers: Sequence[AnswerPair]) -> str:
    if not answers:
        return ""
    marks = {None: "", True: "right: ", False: "wrong: "}
    rows = [(a.question, marks[a.before_is_right] + a.before, marks[a.after_is_right] + a.after) for a in answers]
    text = "<p>Both greedy, cut after a few dozen tokens.</p>"
    return _section("Answers side by side", text + _table(("question", "float", "quantized"), rows, kind="answers"))


def _origin(manifest: Manifest) -> str:
    source = manifest.source
    rows = [("source", source.uri), ("revision", source.revision or ""), ("SHA-256", source.sha256 or "")]
    rows += [("license", manifest.license), ("built for", manifest.built_for)]
    rows += [("context", str(manifest.recipe.get("context_limit", "")))]
    rows += [("float graph", EXPORT_WAYS.get(str(manifest.recipe.get("export")), ""))]
    rows += sorted(manifest.tools.items())
    recipe = json.dumps(manifest.recipe, indent=2, sort_keys=True, ensure_ascii=False)
    table = _table(("", ""), [row for row in rows if row[1]])
    details = f"<details><summary>recipe</summary><pre>{escape(recipe)}</pre></details>"
    return _section("Origin and versions", table + details)


def _layer_and_kind(name: str) -> tuple[str, str]:
    layer, _, kind = name.removeprefix("layers.").partition("/")
    return (layer, kind.rsplit("/", 1)[-1]) if kind else ("all", layer)


def _column_order(cell: tuple[str, str]) -> int:
    known = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    return known.index(cell[1]) if cell[1] in known else len(known)


def _section(title: str, body: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{body}</section>"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], *, kind: str = "plain") -> str:
    top = "".join(f'<th scope="col">{escape(text)}</th>' for text in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(text)}</td>" for text in row) + "</tr>" for row in rows)
    return f'<table class="{kind}"><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>'
