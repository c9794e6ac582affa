"""The figures that stop a build: all but the first were measured on SmolLM2-135M and MiniLM, whole and damaged."""

from __future__ import annotations

import math

import pytest

from appliance.bundle import EvalReport
from appliance.bundle.manifest import Witness
from appliance.errors import QuantizeError
from quantize.witness.verdict import check_witness, doubts, rounded_up

_FREQUENCIES = 245.0


def perplexities(near: float, far: float, difference: float | None = None) -> Witness:
    figures = {"perplexity_near": near, "perplexity_far": far, "perplexity_of_frequencies": _FREQUENCIES}
    return Witness(by="perplexity" if difference is None else "transformers", difference=difference, figures=figures)


def passages(found: float, by_counts: float) -> Witness:
    return Witness(by="retrieval", figures={"own_found": found, "own_found_by_counts": by_counts, "passages": 34.0})


@pytest.mark.parametrize(
    "whole",
    [
        Witness(by="none"),
        perplexities(25.65, 22.57),
        perplexities(25.65, 22.57, 1e-4),
        passages(0.5882, 0.2941),
    ],
)
def test_a_whole_model_is_not_doubted(whole: Witness) -> None:
    assert doubts(whole) == []
    assert check_witness(whole, overrule=True) == whole


@pytest.mark.parametrize(
    ("damaged", "clause"),
    [
        (perplexities(85_601.0, 86_184.0), "85,601, which is worse than the frequencies of that text's tokens"),
        (perplexities(319.6, 1104.0), "perplexity on ordinary text is 320"),  # rows of queries and keys out of order
        (perplexities(60.0, 207.0), "207 after 1,024 tokens and 60 after 128"),
        (perplexities(29.03, 27.42, 1.0), "differ from those of transformers by 1 of their spread"),  # RoPE base 1e4
        (passages(0.225, 0.25), "finds 22% of the passages that belong together, and counting their tokens finds 25%"),
    ],
)
def test_a_damaged_model_stops_the_build_unless_it_is_forced(damaged: Witness, clause: str) -> None:
    with pytest.raises(QuantizeError, match="the float model is not what was published") as refused:
        check_witness(damaged, overrule=False)
    assert clause in refused.value.message
    assert "--force" in refused.value.message
    assert check_witness(damaged, overrule=True).overruled


@pytest.mark.parametrize(
    ("difference", "shown"), [(0.0, 0.0), (3.2e-5, 1e-4), (1e-4, 1e-4), (0.7, 1.0), (math.nan, 1e30)]
)
def test_a_difference_is_rounded_up_to_a_power_of_ten(difference: float, shown: float) -> None:
    assert rounded_up(difference) == shown


def test_a_report_of_an_older_bundle_has_no_witness() -> None:
    assert EvalReport.model_validate({"metrics": {"kl_mean": 0.03}, "text": "x"}).witness is None
