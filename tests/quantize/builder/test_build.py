"""A build from the tensors: without optimum, with the figures of a build by optimum, and said in the bundle."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from appliance.bundle import DecoderSpec, Manifest, TrustedKeys, open_bundle
from appliance.errors import QuantizeError
from appliance.home import Home
from quantize.build import build_to_folder
from quantize.measure import recipe_of
from quantize.progress import StageProgress
from quantize.recipe import Recipe
from quantize.reporting.tables import missed_target
from quantize.sources.inspection import inspect_source
from tests.quantize.builder.test_equal_graphs import canonical
from tests.quantize.newer import write_newer
from tests.quantize.tiny import FORCED, GRANITE_EXPERTS, write_decoder

pytestmark = pytest.mark.slow

_BUILD_ALONE = """
import sys
from pathlib import Path
from quantize.builder.decoder import build_decoder
from quantize.builder.weights import checkpoint_weights
from quantize.sources.decoder_config import read_decoder_config
checkpoint = Path(sys.argv[1])
build_decoder(checkpoint_weights(checkpoint), read_decoder_config(checkpoint), Path(sys.argv[2]), context_length=64)
print(sorted({"torch", "transformers", "optimum"} & set(sys.modules)))
"""


def test_the_bundle_says_how_its_graph_came_about_and_its_figures_do_not_depend_on_it(
    tmp_path: Path, progress: StageProgress
) -> None:
    source = write_decoder(tmp_path / "tiny", "qwen3", tie_word_embeddings=True)
    exported = built(source, tmp_path / "a", "optimum", progress)
    direct = built(source, tmp_path / "b", "direct", progress)
    assert (exported.recipe["export"], direct.recipe["export"]) == ("optimum", "direct")
    assert exported.recipe["input_sha256"] == direct.recipe["input_sha256"]
    assert exported.evaluation.metrics == direct.evaluation.metrics
    graphs = [[path.name for path in stages_of(tmp_path / name).glob("fuse-*")] for name in "ab"]
    assert [len(found) for found in graphs] == [1, 1]
    assert graphs[0] != graphs[1]  # the key of the stage knows the way


def test_a_bundle_is_measured_again_by_the_way_that_memory_allows(tmp_path: Path, progress: StageProgress) -> None:
    source = write_decoder(tmp_path / "tiny", "llama")
    built(source, tmp_path / "home", "direct", progress)
    bundle = open_bundle(tmp_path / "home" / "out" / "tiny", TrustedKeys.load(Home(tmp_path / "home").trusted_keys))
    recipe = recipe_of(bundle, str(source))
    assert recipe is not None
    assert recipe.export == "auto"


def test_torch_is_never_loaded(tmp_path: Path) -> None:
    checkpoint = canonical(write_decoder(tmp_path / "published", "gemma3_text"), tmp_path / "checkpoint")
    (tmp_path / "built").mkdir()
    command = [sys.executable, "-c", _BUILD_ALONE, str(checkpoint), str(tmp_path / "built")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []


def built(source: Path, root: Path, way: str, progress: StageProgress) -> Manifest:
    """Build in a home of its own."""
    recipe = Recipe.create(
        name="tiny",
        license="Apache-2.0",
        source={"uri": str(source)},
        export=way,
        calibration={"num_windows": 4, "window_tokens": 32},
    )
    return build_to_folder(recipe, Home(root), root / "out", progress, FORCED).manifest


def stages_of(root: Path) -> Path:
    return Home(root).cache / "quantize"


@pytest.mark.parametrize("architecture", ["granitemoehybrid", "lfm2"])
def test_a_model_of_the_builder_alone_is_built_searched_and_measured(
    architecture: str, tmp_path: Path, progress: StageProgress
) -> None:
    source = write_decoder(tmp_path / "tiny", architecture)
    recipe = Recipe.create(
        name="tiny",
        license="Apache-2.0",
        source={"uri": str(source)},
        weights={"scheme": "auto", "max_kl": 1.0},
        calibration={"num_windows": 4, "window_tokens": 32},
    )
    manifest = build_to_folder(recipe, Home(tmp_path / "home"), tmp_path / "out", progress, FORCED).manifest
    assert (manifest.model.architecture, manifest.recipe["export"]) == (architecture, "direct")
    assert manifest.evaluation.metrics["kl_mean"] <= 1.0
    with pytest.raises(QuantizeError, match=f"optimum cannot export {architecture}"):
        build_to_folder(
            recipe.model_copy(update={"export": "optimum"}), Home(tmp_path / "home"), tmp_path / "out", progress
        )


def test_a_longrope_model_says_where_its_context_ends(tmp_path: Path, progress: StageProgress) -> None:
    factors = {"type": "longrope", "short_factor": [1.0] * 8, "long_factor": [2.0] * 8}
    source = write_decoder(tmp_path / "tiny", "phi3", rope_scaling=factors, original_max_position_embeddings=128)
    manifest = built(source, tmp_path / "home", "auto", progress)
    assert isinstance(manifest.model, DecoderSpec)
    assert manifest.model.context_length == 128
    assert manifest.recipe["context_limit"].startswith("128 of 256 positions")
    assert (inspect_source(source).max_positions, inspect_source(source).context_limit) == (
        128,
        manifest.recipe["context_limit"],
    )


def test_a_model_that_transformers_4_knows_by_another_name_is_built_searched_and_witnessed(
    tmp_path: Path, progress: StageProgress
) -> None:
    source = write_decoder(tmp_path / "tiny", "mistral", sliding_window=None)
    yarn = {
        "rope_type": "yarn",
        "rope_theta": 1e6,
        "factor": 2.0,
        "original_max_position_embeddings": 128,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
        "llama_4_scaling_beta": 0.1,
    }
    config = json.loads((source / "config.json").read_text())
    del config["rope_theta"]
    config |= {"model_type": "ministral3", "architectures": ["Ministral3ForCausalLM"]}
    config |= {"rope_parameters": yarn, "head_dim": 16}
    (source / "config.json").write_text(json.dumps(config))
    manifest = built(source, tmp_path / "home", "auto", progress)
    assert isinstance(manifest.model, DecoderSpec)
    assert (manifest.model.architecture, manifest.model.context_length) == ("ministral3", 128)
    assert manifest.recipe["context_limit"].startswith("128 of 256 positions: beyond them its queries are scaled")
    witness = manifest.evaluation.witness
    assert witness is not None
    assert (witness.by, witness.read) == ("transformers", "canonical")
    assert witness.difference is not None
    assert witness.difference <= 1e-3
    searched = Recipe.create(
        name="tiny",
        source={"uri": str(source)},
        license="MIT",
        weights={"scheme": "auto", "max_kl": 1e-9},
        calibration={"num_windows": 4, "window_tokens": 32},
    )
    found = build_to_folder(searched, Home(tmp_path / "home"), tmp_path / "out", progress, FORCED)
    reached = found.manifest.evaluation.metrics["kl_mean"]
    missed = f"A KL of 1e-09 (--max-kl) cannot be reached in auto: {reached:g} was, with every part in 8 bits"
    assert missed_target(found.manifest) == missed
    assert missed in found.path("report.html").read_text()


@pytest.mark.parametrize(
    ("architecture", "changes"), [("qwen3_moe", {}), ("granitemoehybrid", GRANITE_EXPERTS)], ids=["qwen3", "granite"]
)
def test_experts_are_built_and_witnessed_and_no_search_weighs_them(
    architecture: str, changes: dict[str, Any], tmp_path: Path, progress: StageProgress
) -> None:
    recipe = Recipe.create(
        name="tiny",
        license="Apache-2.0",
        source={"uri": str(write_decoder(tmp_path / "tiny", architecture, **changes))},
        weights={"scheme": "int8"},
        calibration={"num_windows": 4, "window_tokens": 32},
    )
    home, out = Home(tmp_path / "home"), tmp_path / "out"
    evaluation = build_to_folder(recipe, home, out, progress, FORCED).manifest.evaluation
    assert evaluation.metrics["kl_mean"] < 0.1
    assert evaluation.witness is not None
    assert evaluation.witness.by == "transformers"
    assert evaluation.witness.difference is not None
    assert evaluation.witness.difference <= 1e-3
    with pytest.raises(QuantizeError, match=f"{architecture} cannot be built in packed: a search"):
        build_to_folder(recipe.changed({"weights.scheme": "packed"}), home, out, progress, FORCED)


@pytest.mark.parametrize(
    ("architecture", "scheme"),
    [
        ("qwen3_5_text", "int8"),
        ("qwen3_5_text", "int4"),
        ("gemma4_text", "int4"),
        ("lfm2_moe", "int4"),
        ("nemotron_h", "int8"),
        ("nemotron_h", "int4"),
    ],
)
def test_a_model_that_torch_does_not_know_is_built_and_measured(
    architecture: str, scheme: str, tmp_path: Path, progress: StageProgress
) -> None:
    recipe = Recipe.create(
        name="tiny",
        license="Apache-2.0",
        source={"uri": str(write_newer(tmp_path / "tiny", architecture))},
        weights={"scheme": scheme},
        calibration={"num_windows": 4, "window_tokens": 32},
    )
    manifest = build_to_folder(recipe, Home(tmp_path / "home"), tmp_path / "out", progress, FORCED).manifest
    assert manifest.evaluation.metrics["kl_mean"] < (0.1 if scheme == "int8" else 2.0)
    assert manifest.evaluation.metrics["kl_mean_int8_kv"] < (0.1 if scheme == "int8" else 2.0)
    assert manifest.evaluation.witness is not None
    assert manifest.evaluation.witness.by == "perplexity"
