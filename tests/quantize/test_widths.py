"""Bundles in mixed widths: what recipes and searches decide is in the graph, and in what the manifest says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
import pytest

from appliance.bundle import DecoderSpec
from appliance.engine.graphs.stored_codes import fold_codes
from appliance.home import Home
from quantize.build import build_to_folder
from quantize.evaluation import arithmetic
from quantize.evaluation.decoder import DecoderEvaluation
from quantize.graph.codec import BLOCK
from quantize.progress import StageProgress
from quantize.recipe import WeightsPart
from tests.quantize.tiny import FORCED, write_decoder
from tests.quantize.tiny_recipe import decoder_recipe

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_decoder(tmp_path_factory.mktemp("llama") / "tiny-llama", "llama", tie_word_embeddings=True)


def test_a_packed_bundle_says_what_it_takes_in_memory(llama: Path, tmp_path: Path, progress: StageProgress) -> None:
    weights = WeightsPart(scheme="packed", max_kl=1.0)
    recipe = decoder_recipe(llama).model_copy(update={"weights": weights})
    bundle = build_to_folder(recipe, Home(tmp_path / "home"), tmp_path / "out", progress, FORCED)
    spec = bundle.manifest.model
    assert isinstance(spec, DecoderSpec)
    file_bytes = sum(bundle.path(name).stat().st_size for name in ("model.onnx", "model.onnx.data"))
    assert spec.weights_bytes is not None
    assert spec.loading_bytes is not None
    assert file_bytes < spec.weights_bytes == bundle.manifest.loaded_bytes < spec.loading_bytes
    nodes = onnx.load(bundle.path("model.onnx"), load_external_data=False).graph.node
    assert {node.name for node in nodes if ".joined" in node.name} == {"/lm_head.joined_1", "/lm_head.joined_2"}


def test_widths_and_the_heads_form_are_as_the_recipe_says(llama: Path, tmp_path: Path, progress: StageProgress) -> None:
    weights = WeightsPart(scheme="int4", int8=("*/v_proj",), int6=("*/[qk]_proj",), int5=("*/down_proj",), head="int5")
    recipe = decoder_recipe(llama).model_copy(update={"weights": weights})
    bundle = build_to_folder(recipe, Home(tmp_path / "home"), tmp_path / "out", progress, FORCED)
    found = fold_codes(bundle.path("model.onnx").read_bytes(), bundle.folder)
    assert found is not None
    wide = {name: codes for name, codes in found[1].items() if codes.shape[-1] > BLOCK // 2}
    bits = {name: 5 if not (codes & 7).any() else 6 if not (codes & 3).any() else 8 for name, codes in wide.items()}
    assert bits.pop("embed.codes") == bits.pop("lm_head.codes") == 5
    assert {name.rpartition("/")[2]: width for name, width in bits.items()} == {
        "qkv_proj.0.codes": 6,
        "qkv_proj.1.codes": 6,
        "qkv_proj.2.codes": 8,
        "down_proj.codes": 5,
    }
    assert bundle.manifest.evaluation.metrics["kl_mean"] < 0.1
    unpacked = sum(
        codes.size for name, codes in wide.items() if name != "embed.codes" and not (codes & 3).any()
    )  # the head's memory
    file_bytes = sum(bundle.path(name).stat().st_size for name in ("model.onnx", "model.onnx.data"))
    assert file_bytes + unpacked / 4 < bundle.manifest.loaded_bytes < file_bytes + unpacked / 2


def test_what_a_search_has_measured_is_not_measured_again(
    llama: Path, tmp_path: Path, progress: StageProgress, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    measured = arithmetic.evaluate_with

    def evaluate_with(*given: Any) -> DecoderEvaluation:
        asked.append(given[3])
        return measured(*given)

    monkeypatch.setattr(arithmetic, "evaluate_with", evaluate_with)
    recipe = decoder_recipe(llama).model_copy(update={"weights": WeightsPart(scheme="auto", max_kl=0.05)})
    home = Home(tmp_path / "home")
    bundle = build_to_folder(recipe, home, tmp_path / "out", progress, FORCED)
    (tries,) = (home.cache / "quantize").glob("search-*/tries.json")
    chosen = json.loads(tries.read_text())[-1]
    assert bundle.manifest.evaluation.metrics["kl_mean_rows"] == pytest.approx(chosen["kl_mean"], abs=1e-6)
    assert asked.count("rows") == len(json.loads(tries.read_text()))
    assert asked.count("floats") == 1
