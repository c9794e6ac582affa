from __future__ import annotations

from pathlib import Path

import pytest
from onnxruntime import InferenceSession

from appliance.bundle import BundleStore, TrustedKeys
from appliance.engine.runtime import tuning
from appliance.engine.runtime.prepacked import prepacked
from appliance.engine.runtime.tuning import Tuning, can_measure_prompts, candidates, choose, tune
from appliance.home import Home
from appliance.host.cores import usable_cores


def test_candidates_go_from_modest_to_greedy() -> None:
    assert candidates(1) == [Tuning(1, False)]
    assert candidates(4) == [Tuning(1, False), *(Tuning(n, s) for n in (2, 3, 4) for s in (False, True))]


@pytest.mark.parametrize(
    ("seconds", "chosen"),
    [
        ((3.0, 2.0, 1.0), Tuning(2, True)),
        ((3.0, 1.02, 1.0), Tuning(2, False)),
        ((1.0, 1.0, 1.0), Tuning(1, False)),
        ((1.0, 2.0, 3.0), Tuning(1, False)),
    ],
)
def test_the_fastest_wins_unless_a_more_modest_one_is_as_good(seconds: tuple[float, ...], chosen: Tuning) -> None:
    assert choose(list(zip(candidates(2), seconds, strict=True))) == chosen


def test_settings_come_before_what_was_measured() -> None:
    measured = Tuning(4, True)
    assert measured.with_settings(None, None) == measured
    assert measured.with_settings(2, None) == Tuning(2, True)
    assert measured.with_settings(None, False) == Tuning(4, False)


@pytest.mark.parametrize("content", [None, "", "{}", '{"num_threads": "x"}', "[]"])
def test_what_cannot_be_read_is_as_if_nothing_was_measured(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "tuning.json"
    if content is not None:
        path.write_text(content)
    assert Tuning.read(path) == Tuning.default()
    Tuning(3, False).write(path)
    assert Tuning.read(path) == Tuning(3, False)


@pytest.mark.parametrize("name", ["smollm2-135m-instruct", "all-minilm-l6-v2"])
def test_the_first_load_measures_how_the_model_runs_best_here(starter_home: Home, tmp_path: Path, name: str) -> None:
    bundle = BundleStore(starter_home.bundles, TrustedKeys.load(starter_home.trusted_keys)).open(name)
    file = prepacked(bundle, tmp_path)
    assert (file.path.parent / "tuning.json").exists()
    assert file.tuning in candidates(usable_cores())
    assert prepacked(bundle, tmp_path).tuning == file.tuning


def test_a_slow_board_does_not_measure_while_somebody_waits(
    starter_home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = BundleStore(starter_home.bundles, TrustedKeys.load(starter_home.trusted_keys)).open("all-minilm-l6-v2")
    loaded: list[tuple[int, bool]] = []

    def session(num_threads: int, spinning: bool) -> InferenceSession:
        loaded.append((num_threads, spinning))
        return InferenceSession(str(bundle.path("model.onnx")), providers=["CPUExecutionProvider"])

    assert tune(session, 2, budget_s=0.0) == Tuning.default()
    assert len(loaded) == 1
    loaded.clear()
    monkeypatch.setattr(tuning, "guess_s", lambda _: 1.0)
    assert tune(session, 2, budget_s=2.0) == Tuning.default()  # long enough for two of three candidates
    assert len(loaded) == 1


def test_a_board_of_less_than_a_token_a_second_makes_no_second_graph() -> None:
    assert can_measure_prompts(30.0)
    assert not can_measure_prompts(500.0)
