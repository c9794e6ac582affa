"""Sentence pairs that people rated: three forms of the file, and the correlation of ranks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from appliance.errors import QuantizeError
from quantize.cli import main
from quantize.evaluation.similarity import RatedPair, ranks, read_rated_pairs, spearman
from tests.quantize.tiny import write_encoder

_PAIRS = [RatedPair(f'the "fox" number {n}', f"a dog, number {n}", float(n % 6)) for n in range(12)]


@pytest.mark.parametrize("name", ["pairs.jsonl", "pairs.csv", "pairs.tsv", "with_head.tsv"])
def test_every_form_of_the_file_gives_the_same_pairs(name: str, tmp_path: Path) -> None:
    assert read_rated_pairs(write_pairs(tmp_path / name)) == _PAIRS


@pytest.mark.parametrize("content", ["a\tb\n" * 20, "a\tb\tgood\n" * 20, "a\tb\t1\n"])
def test_a_file_of_another_form_is_refused(content: str, tmp_path: Path) -> None:
    path = tmp_path / "pairs.tsv"
    path.write_text(content)
    with pytest.raises(QuantizeError, match="rated"):
        read_rated_pairs(path)
    with pytest.raises(QuantizeError, match="rated"):
        read_rated_pairs(tmp_path / "absent.tsv")


def test_equal_values_share_their_rank() -> None:
    assert ranks(np.array([3.0, 1.0, 3.0, 2.0])).tolist() == [2.5, 0, 2.5, 1]


def test_cosines_in_the_order_of_the_ratings_correlate_fully() -> None:
    pairs = [RatedPair("0", str(n), 5 - n**0.5) for n in range(20)]

    def embed(texts: Sequence[str]) -> NDArray[np.float32]:
        angles = np.array([int(text) for text in texts]) / 20
        return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)

    assert spearman(pairs, embed) == pytest.approx(1)
    assert spearman([RatedPair(p.first, p.second, -p.rating) for p in pairs], embed) == pytest.approx(-1)


def test_a_build_with_rated_pairs_tells_both_correlations_and_no_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LANTERN_HOME", str(tmp_path / "home"))
    rated = write_pairs(tmp_path / "pairs.tsv")
    checkpoint = write_encoder(tmp_path / "tiny-bert")
    out = tmp_path / "out"
    assert main(["build", str(checkpoint), "--out", str(out), "--similarity", str(rated), "--force"]) == 0
    text = (out / "tiny-bert" / "manifest.json").read_text()
    manifest = json.loads(text)
    metrics = manifest["evaluation"]["metrics"]
    assert metrics["rated_pairs"] == 12
    assert abs(metrics["spearman"] - metrics["spearman_float"]) < 0.3
    assert 0 < metrics["neighbour_agreement"] <= 1
    assert str(tmp_path) not in text
    capsys.readouterr()
    command = ["evaluate", str(out / "tiny-bert"), "--source", str(checkpoint), "--json"]
    assert main([*command, "--similarity", str(rated)]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["spearman"] == pytest.approx(metrics["spearman"], abs=1e-3)


def write_pairs(path: Path) -> Path:
    if path.suffix == ".jsonl":
        lines = [json.dumps({"sentence1": p.first, "sentence2": p.second, "score": p.rating}) for p in _PAIRS]
    elif path.suffix == ".csv":
        lines = [f'"{p.first.replace(chr(34), chr(34) * 2)}","{p.second}",{p.rating}' for p in _PAIRS]
    else:
        lines = [f"{p.first}\t{p.second}\t{p.rating}" for p in _PAIRS]
    if "head" in path.name:
        lines = ["score\tgenre\tsentence2\tsentence1", *(f"{p.rating}\tx\t{p.second}\t{p.first}" for p in _PAIRS)]
    path.write_text("\n".join(lines) + "\n")
    return path
