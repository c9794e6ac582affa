from __future__ import annotations

import pytest

from appliance.bench.figures import Figure, Metric, advantage, percentile

SPEED = Metric("decode", "decode at context 128", "tok/s")
WAIT = Metric("stream", "first token", "ms", lower_is_better=True)


def test_the_median_is_of_the_samples() -> None:
    assert Figure(SPEED, (3.0, 100.0, 2.0)).median == 3.0
    assert Figure(SPEED, (3.0, 5.0)).median == 4.0
    assert Figure(SPEED).median is None


@pytest.mark.parametrize(("percent", "expected"), [(50, 4.0), (95, 8.0), (0, 1.0), (100, 8.0), (12.5, 1.0)])
def test_a_percentile_is_one_of_the_values(percent: float, expected: float) -> None:
    assert percentile([8.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0], percent) == expected


def test_an_advantage_above_one_is_better_whichever_way_the_metric_counts() -> None:
    assert advantage(Figure(SPEED, (240.0,)), Figure(SPEED, (200.0,))) == pytest.approx(1.2)
    assert advantage(Figure(WAIT, (20.0,)), Figure(WAIT, (30.0,))) == pytest.approx(1.5)


def test_there_is_no_advantage_over_what_was_not_measured() -> None:
    assert advantage(Figure(SPEED, (1.0,)), Figure(SPEED, note="not supported")) is None
    assert advantage(Figure(SPEED), Figure(SPEED, (1.0,))) is None
