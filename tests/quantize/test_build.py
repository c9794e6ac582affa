"""From a checkpoint's folder to a signed bundle, by the command that people use."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from appliance.bundle import BundleStore, DecoderSpec, EncoderSpec, TrustedKeys, open_bundle
from appliance.bundle.manifest import SamplingDefaults
from appliance.errors import BundleError, QuantizeError
from appliance.home import Home
from quantize.build import build_into_store, build_to_folder, installed_and_current
from quantize.cli import main
from quantize.evaluation import texts
from quantize.package import tokenizer_bytes
from quantize.progress import StageProgress
from quantize.recipe import CalibrationPart, Recipe
from quantize.sources.decoder_config import DecoderConfig, read_decoder_config
from quantize.spec import decoder_spec
from tests.quantize.tiny import FORCED, TEMPLATE, change_json, write_bigrams, write_decoder, write_encoder
from tests.quantize.tiny_gguf import write_gguf
from tests.quantize.tiny_recipe import decoder_recipe

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_decoder(tmp_path_factory.mktemp("llama") / "tiny-llama", "llama", tie_word_embeddings=True)


@pytest.fixture(scope="module")
def built(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Home, Path]:
    home, out = Home(tmp_path_factory.mktemp("home")), tmp_path_factory.mktemp("out")
    with StageProgress() as progress:
        build_to_folder(decoder_recipe(llama), home, out, progress, FORCED)
    return home, out / "tiny-llama"


def test_a_built_bundle_opens_and_says_what_it_is(built: tuple[Home, Path]) -> None:
    home, folder = built
    bundle = open_bundle(folder, TrustedKeys.load(home.trusted_keys))
    spec = bundle.manifest.model
    assert isinstance(spec, DecoderSpec)
    assert spec.weights_bytes is None
    assert spec.loading_bytes is not None
    assert spec.loading_bytes > bundle.manifest.loaded_bytes
    assert spec.eos_token_ids == (0, 2)
    assert spec.context_length == 256
    assert bundle.manifest.source.uri == "folder:tiny-llama"
    assert bundle.path("chat_template.jinja").read_text() == TEMPLATE
    assert "Apache License" in bundle.path("LICENSE").read_text()
    metrics = bundle.manifest.evaluation.metrics
    assert 0 < metrics["kl_mean"] < metrics["kl_p99"]
    assert metrics["top1_agreement"] > 0.5
    assert str(home.root) not in json.dumps(bundle.manifest.model_dump(mode="json"))


def test_a_flipped_byte_is_refused(built: tuple[Home, Path], tmp_path: Path) -> None:
    home, folder = built
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    data = bytearray((copy / "model.onnx.data").read_bytes())
    data[len(data) // 2] ^= 1
    (copy / "model.onnx.data").write_bytes(data)
    with pytest.raises(BundleError, match=r"model\.onnx\.data"):
        open_bundle(copy, TrustedKeys.load(home.trusted_keys))


def test_embedding_and_head_share_one_table_on_disk(built: tuple[Home, Path]) -> None:
    _, folder = built
    model = onnx.load(folder / "model.onnx", load_external_data=False)
    readers = {node.op_type: node.input for node in model.graph.node if "lm_head.codes" in node.input}
    assert readers.keys() == {"MatMulNBits", "Reshape"}
    [rows] = [node for node in model.graph.node if node.op_type == "GatherBlockQuantized"]
    assert rows.input[0] == "embed.codes"
    assert [t.name for t in model.graph.initializer if t.name.startswith(("embed", "lm_head"))] == [
        "lm_head.tile_codes",
        "lm_head.tile_steps",
        "lm_head.tile_units",
    ]


def test_another_home_builds_the_same_bytes(llama: Path, built: tuple[Home, Path], tmp_path: Path) -> None:
    _, folder = built
    with StageProgress() as progress:
        build_to_folder(decoder_recipe(llama), Home(tmp_path / "home"), tmp_path / "out", progress, FORCED)
    again = tmp_path / "out" / "tiny-llama"
    names = sorted(path.name for path in folder.iterdir())
    assert names == sorted(path.name for path in again.iterdir())
    for name in set(names) - {"manifest.sig"}:
        assert (folder / name).read_bytes() == (again / name).read_bytes(), name


def test_a_second_build_skips_every_stage(
    llama: Path, built: tuple[Home, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home, _ = built
    with StageProgress() as progress:
        build_to_folder(decoder_recipe(llama), home, tmp_path, progress, FORCED)
    said = capsys.readouterr().err
    assert "export ..." not in said  # not kept, and nothing has to read it
    for stage in ("fuse", "calibrate", "fit", "sensitivity", "search", "weights", "evaluate"):
        assert f"{stage}: unchanged, skipped" in said


def test_the_float_weights_of_a_gguf_file_are_kept_once_and_come_back_for_a_stage_that_reads_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home, out = Home(tmp_path / "home"), tmp_path / "out"
    source = write_gguf(tmp_path / "tiny.gguf")
    recipe = decoder_recipe(source)
    with StageProgress() as progress:
        build_to_folder(recipe, home, out, progress, FORCED)
    kept = {path.name.split("-")[0] for path in home.cache.glob("quantize/*-*") if _holds_floats(path)}
    assert kept == {"fuse"}
    first = (out / "tiny-llama" / "model.onnx.data").read_bytes()
    for folder in home.cache.glob("quantize/fuse-*"):
        shutil.rmtree(folder)
    capsys.readouterr()
    with StageProgress() as progress:
        build_to_folder(recipe, home, out, progress, FORCED)
    said = capsys.readouterr().err.splitlines()
    assert {"export ...", "fuse ..."} <= set(said)
    assert "fit: unchanged, skipped" in said
    assert (out / "tiny-llama" / "model.onnx.data").read_bytes() == first


def _holds_floats(folder: Path) -> bool:
    return folder.name.startswith(("checkpoint", "export", "fuse", "smooth")) and any(
        path.stat().st_size > 100_000 and path.name != "tokenizer.json" for path in folder.rglob("*")
    )


def test_other_calibration_fits_the_weights_and_the_scales_again(
    llama: Path, built: tuple[Home, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home, _ = built
    other = decoder_recipe(llama).model_copy(update={"calibration": CalibrationPart(num_windows=5, window_tokens=32)})
    with StageProgress() as progress:
        build_to_folder(other, home, tmp_path, progress, FORCED)
    said = capsys.readouterr().err.splitlines()
    assert "fuse: unchanged, skipped" in said
    assert {"calibrate ...", "fit ..."} <= set(said)


def test_a_missed_gate_stops_the_build_and_force_records_it(
    built: tuple[Home, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    home, _ = built
    monkeypatch.setenv("LANTERN_HOME", str(home.root))
    checkpoint = write_bigrams(tmp_path / "bigrams", texts.held_out_prose())
    recipe = tmp_path / "strict.toml"
    recipe.write_text(
        f'name = "strict"\nlicense = "Apache-2.0"\n[source]\nuri = "{checkpoint}"\n[gates]\nmax_kl = 1e-9\n'
        '[weights]\nscheme = "int4"\n[calibration]\nnum_windows = 6\nwindow_tokens = 32\n'
    )
    command = ["build", str(checkpoint), "--recipe", str(recipe), "--out", str(tmp_path / "out"), "--for", "x86"]
    assert main(command) == 5
    said = capsys.readouterr().err
    assert "fails its gates: kl_mean_blocks is" in said
    assert "kl_mean_rows" not in said  # which no board of this target computes with
    assert not (tmp_path / "out").exists()
    assert main([*command, "--force"]) == 0
    assert main(["inspect", str(tmp_path / "out" / "strict"), "--json"]) == 0
    manifest = json.loads(capsys.readouterr().out.split("\n", 1)[1])
    assert manifest["evaluation"]["gates_overruled"] is True
    assert manifest["built_for"] == "x86"
    metrics = manifest["evaluation"]["metrics"]
    assert 0 < metrics["kl_mean_floats"] < metrics["kl_mean_rows"]
    assert manifest["evaluation"]["witness"]["overruled"] is False


def test_an_encoder_is_built_installed_and_known_to_be_current(
    home: Home, tmp_path: Path, progress: StageProgress
) -> None:
    checkpoint = write_encoder(tmp_path / "tiny-bert")
    recipe = Recipe.create(name="tiny-bert", source={"uri": str(checkpoint)})
    bundle = build_into_store(recipe, home, progress, FORCED)
    spec = bundle.manifest.model
    assert isinstance(spec, EncoderSpec)
    assert (spec.dimensions, spec.max_tokens) == (64, 64)
    assert bundle.manifest.evaluation.metrics["cosine_mean"] > 0.99
    assert bundle.manifest.evaluation.metrics["batch_difference"] < 1e-6
    assert BundleStore(home.bundles, TrustedKeys.load(home.trusted_keys)).names() == ["tiny-bert"]

    assert bundle.manifest.source.sha256 is not None
    pinned = Recipe.create(name="tiny-bert", source={"uri": "x/y", "sha256": bundle.manifest.source.sha256})
    assert installed_and_current(pinned, home) == bundle
    changed = pinned.model_copy(update={"license": "MIT"})
    assert installed_and_current(changed, home) is None


def test_the_bundles_tokenizer_neither_truncates_nor_pads(tmp_path: Path) -> None:
    raw = json.loads(tokenizer_bytes(write_encoder(tmp_path / "bert")))
    assert raw["truncation"] is None
    assert raw["padding"] is None


def test_an_encoder_in_int4_is_refused_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LANTERN_HOME", str(tmp_path / "home"))
    checkpoint = write_encoder(tmp_path / "bert")
    assert main(["build", str(checkpoint), "--scheme", "int4", "--out", str(tmp_path / "out")]) == 5
    assert capsys.readouterr().err.strip().endswith("encoders are built with --scheme int8, not int4")


def test_a_tokenizer_larger_than_the_vocabulary_is_refused(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LANTERN_HOME", str(tmp_path / "home"))
    small = write_decoder(tmp_path / "small", "llama", vocab_size=200)
    assert main(["build", str(small), "--out", str(tmp_path / "out")]) == 5
    assert "but config.json says 200" in capsys.readouterr().err


def test_sampling_is_the_recipes_word_else_the_checkpoints_recommendation(llama: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(llama, copy)
    recommended = {"do_sample": True, "temperature": 0.6, "top_p": 0.95, "top_k": 20}
    (copy / "generation_config.json").write_text(json.dumps(recommended))
    config, plain = read_decoder_config(copy), decoder_recipe(copy)
    spec = decoder_spec(config, copy, plain)
    assert (spec.sampling.temperature, spec.sampling.top_p, spec.sampling.top_k) == (0.6, 0.95, 20)
    decided = plain.model_copy(update={"sampling": SamplingDefaults(temperature=0.2)})
    assert decoder_spec(config, copy, decided).sampling.top_p is None
    change_json(copy / "generation_config.json", top_p=7)
    with pytest.raises(QuantizeError, match="generation_config"):
        decoder_spec(config, copy, plain)


def test_a_pad_token_in_the_config_does_not_end_the_text(llama: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(llama, copy)
    change_json(copy / "config.json", eos_token_id=[2, 5], pad_token_id=7)
    config: DecoderConfig = read_decoder_config(copy)
    assert set(config.eos_token_ids) >= {2, 5}
    assert 7 not in config.eos_token_ids


def test_the_command_is_light_until_a_stage_runs() -> None:

    script = "import quantize.cli, sys; print([m for m in ('torch', 'optimum', 'onnxruntime') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
