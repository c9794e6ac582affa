"""The report is one well-formed page that needs neither a network nor a script, and says what the bundle says."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from appliance.bundle import DecoderSpec, EncoderSpec, EvalReport, FileEntry, Manifest
from appliance.bundle.manifest import Source
from quantize.evaluation.distribution import Distribution
from quantize.evaluation.findings import Answer, Findings, Try
from quantize.reporting.report import report_page

_DISTRIBUTION = Distribution((-2.0, -1.0, 0.0), (3, 1), ((0.5, 0.02), (0.99, 0.4)))
FULL = Findings(
    tries=(Try(0, 90_000_000, 0.08, 0.85), Try(210, 140_000_000, 0.004, 0.96), Try(40, 101_000_000, 0.03, 0.9)),
    sensitivity={f"layers.{layer}/self_attn/{part}_proj": 0.001 * layer for layer in range(12) for part in "qkvo"},
    widths={"layers.11/self_attn/v_proj": 8},
    distribution=_DISTRIBUTION,
    answers=(
        Answer("What is <b>7 + 5</b>?", "12", "<script>alert(1)</script>\x00\x1b[31m", True, False),
        Answer("Tell me about ünïcödé.", "日本語 & more", "]]>"),
    ),
)


def test_the_page_is_well_formed_whatever_the_model_answered() -> None:
    page = parsed(FULL)
    assert page.find("./body/main/h1") is not None
    assert [h.text for h in page.iter("h2")] == [
        "Quality",
        "Size and quality of what was tried",
        "Sensitivity",
        "Distribution",
        "Answers side by side",
        "Origin and versions",
    ]
    assert not list(page.iter("script"))
    assert "<script>alert(1)</script>" in "".join(page.itertext())


def test_the_page_loads_nothing() -> None:
    page = report_page(manifest(), FULL).decode()
    for outside in ("http://", "https://", "src=", "href=", "@import", "url("):
        assert outside not in page
    policy = parsed(FULL).find("./head/meta[@http-equiv='Content-Security-Policy']")
    assert policy is not None
    assert policy.get("content", "").startswith("default-src 'none'")


def test_the_chosen_try_is_marked_once_in_chart_and_table() -> None:
    page = parsed(FULL)
    marked = [circle for circle in page.iter("circle") if circle.get("class") == "chosen"]
    assert [circle.findtext("title") for circle in marked] == ["101.0 MB, KL 0.0300"]
    assert [cell.text for cell in page.iter("td")].count("chosen") == 1


def test_a_part_that_was_kept_in_int8_is_marked() -> None:
    assert "".join(parsed(FULL).itertext()).count("11.00 · 8") == 1


def test_a_head_with_a_width_of_its_own_has_its_place() -> None:
    page = parsed(Findings(sensitivity={"layers.0/mlp/up_proj": 0.002, "lm_head": 0.001}, widths={"lm_head": 6}))
    table = next(table for table in page.iter("table") if table.get("class") == "shades")
    assert [cell.text for cell in table.iter("th")] == [None, "up_proj", "lm_head", "0", "all"]
    assert "1.00 · 6" in [cell.text for cell in table.iter("td")]


@pytest.mark.parametrize("findings", [Findings(), Findings(distribution=_DISTRIBUTION), Findings(tries=FULL.tries[:1])])
def test_what_was_not_found_out_is_left_out(findings: Findings) -> None:
    titles = [h.text for h in parsed(findings).iter("h2")]
    assert titles[0] == "Quality"
    assert titles[-1] == "Origin and versions"
    assert "Sensitivity" not in titles


def test_an_overruled_gate_is_said() -> None:
    assert "overruled" in report_page(manifest(gates_overruled=True), Findings()).decode()
    assert "overruled" not in report_page(manifest(), Findings()).decode()


def test_an_encoders_distribution_is_that_of_cosines() -> None:
    spec = EncoderSpec(architecture="bert", dimensions=64, max_tokens=64)
    page = report_page(manifest().model_copy(update={"model": spec}), Findings(distribution=_DISTRIBUTION))
    assert "1 − cosine of one text" in page.decode()


def test_the_same_findings_give_the_same_bytes() -> None:
    assert report_page(manifest(), FULL) == report_page(manifest(), FULL)


def parsed(findings: Findings) -> ElementTree.Element:
    return ElementTree.fromstring(report_page(manifest(), findings).decode())


def manifest(*, gates_overruled: bool = False) -> Manifest:
    spec = DecoderSpec(
        architecture="llama",
        context_length=64,
        vocab_size=320,
        num_layers=2,
        num_kv_heads=2,
        head_dim=16,
        eos_token_ids=(0,),
    )
    files = [FileEntry(name=name, size_bytes=10, sha256="0" * 64) for name in ("model.onnx", "tokenizer.json")]
    return Manifest(
        name="tiny",
        model=spec,
        files=tuple(files),
        license="Apache-2.0",
        source=Source(uri="folder:tiny", sha256="1" * 64),
        recipe={"weights": {"scheme": "auto"}, "note": "<&>"},
        evaluation=EvalReport(metrics={"kl_mean": 0.03}, text="a <text>", gates_overruled=gates_overruled),
        tools={"onnxruntime": "1.32.0"},
    )
