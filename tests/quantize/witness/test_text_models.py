"""The witnesses of text models: transformers computes the same vectors and scores, and random weights find nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from appliance.bundle import RerankerSpec
from appliance.bundle.manifest import Witness
from quantize.fusion.export import ENCODER_TASK, RERANKER_TASK, export
from quantize.kinds.encoder_graph.build import build_float_encoder
from quantize.progress import SILENT
from quantize.sources.encoder_config import read_encoder_config
from quantize.sources.sentence import read_layout
from quantize.witness.text_models import witness_encoder, witness_reranker
from quantize.witness.verdict import doubts
from tests.quantize.tiny import change_json, write_encoder, write_reranker

pytestmark = pytest.mark.slow

_SAME = 1e-4
_EXPORTED = ("bert", "roberta", "xlm-roberta", "mpnet", "modernbert")


@pytest.mark.parametrize("architecture", _EXPORTED)
@pytest.mark.parametrize("pooling", ["mean_tokens", "cls_token"])
def test_transformers_agrees_on_the_vectors(architecture: str, pooling: str, tmp_path: Path) -> None:
    source = write_encoder(tmp_path / "source", architecture, pooling=pooling)
    found = encoder_witness(source, tmp_path)
    assert (found.by, found.read, found.reason) == ("transformers", "source", None)
    assert found.difference is not None
    assert found.difference <= _SAME
    assert found.figures["passages"] == 34


def test_random_weights_find_passages_no_better_than_counting_does(tmp_path: Path) -> None:
    found = encoder_witness(write_encoder(tmp_path / "source", "roberta"), tmp_path)
    assert "as if weights were random" in doubts(found)[0]


def test_an_architecture_that_transformers_lacks_has_its_passages_as_the_only_witness(tmp_path: Path) -> None:
    source = write_encoder(tmp_path / "source", "nomic_bert")
    config, folder = read_encoder_config(source), tmp_path / "float"
    layout = read_layout(source, config)
    folder.mkdir()
    build_float_encoder(source, folder, config, layout)
    found = witness_encoder(source, source, folder, layout, SILENT)
    assert (found.by, found.read, found.difference) == ("retrieval", None, None)
    assert found.reason is not None
    assert found.reason.startswith("transformers refuses it: ")
    assert 0 <= found.figures["own_found"] <= 1


@pytest.mark.parametrize("architecture", _EXPORTED)
def test_transformers_agrees_on_the_scores(architecture: str, tmp_path: Path) -> None:
    source, folder = write_reranker(tmp_path / "source", architecture), tmp_path / "float"
    folder.mkdir()
    export(source, folder, task=RERANKER_TASK)
    found = witness_reranker(source, source, folder, RerankerSpec(architecture="any", max_tokens=64), SILENT)
    assert (found.by, found.read) == ("transformers", "source")
    assert found.difference is not None
    assert found.difference <= _SAME
    assert doubts(found) == []


def test_another_activation_than_the_published_one_is_a_doubt(tmp_path: Path) -> None:
    source, other = write_encoder(tmp_path / "source"), write_encoder(tmp_path / "other")
    change_json(other / "config.json", hidden_act="relu")
    folder = tmp_path / "float"
    folder.mkdir()
    export(other, folder, task=ENCODER_TASK)
    found = witness_encoder(source, other, folder, read_layout(source, read_encoder_config(source)), SILENT)
    assert any("differ from those of transformers" in clause for clause in doubts(found))


def encoder_witness(source: Path, root: Path) -> Witness:
    folder = root / "float"
    folder.mkdir()
    export(source, folder, task=ENCODER_TASK)
    return witness_encoder(source, source, folder, read_layout(source, read_encoder_config(source)), SILENT)
