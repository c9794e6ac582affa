"""The report is one well-formed page that needs neither a network nor a script, and agrees with the bundle."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from appliance.bundle import EncoderSpec
from quantize.evaluation.findings import Findings
from quantize.reporting.report import report_page
from tests.quantize.reporting.findings import DISTRIBUTION, FULL, manifest


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


@pytest.mark.parametrize("findings", [Findings(), Findings(distribution=DISTRIBUTION), Findings(tries=FULL.tries[:1])])
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
    page = report_page(manifest().model_copy(update={"model": spec}), Findings(distribution=DISTRIBUTION))
    assert "1 − cosine of one text" in page.decode()


def test_the_same_findings_give_the_same_bytes() -> None:
    assert report_page(manifest(), FULL) == report_page(manifest(), FULL)


def parsed(findings: Findings) -> ElementTree.Element:
    return ElementTree.fromstring(report_page(manifest(), findings).decode())
