"""A decoder's witnesses: transformers reads the source by itself, and sees each of our mistakes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from appliance.bundle.manifest import Witness
from appliance.errors import QuantizeError
from appliance.home import Home
from quantize.cli import main
from quantize.evaluation import texts
from quantize.fusion.export import DECODER_TASK, export
from quantize.fusion.fuse import fuse_file
from quantize.progress import SILENT
from quantize.sources.checkpoint import read_checkpoint
from quantize.sources.decoder_config import read_decoder_config
from quantize.sources.gguf_file import dequantize
from quantize.sources.prepare import prepare
from quantize.spec import graph_spec
from quantize.witness.decoder import witness_decoder
from quantize.witness.verdict import check_witness, doubts
from tests.quantize.sources.published import as_transformers_5
from tests.quantize.tiny import DECODERS, change_json, write_bigrams, write_decoder
from tests.quantize.tiny_gguf import write_gguf

pytestmark = pytest.mark.slow

_SAME = 1e-3


@pytest.mark.parametrize("architecture", DECODERS)
def test_transformers_agrees_with_the_graph_of_every_architecture(architecture: str, tmp_path: Path) -> None:
    found = witness_of(write_decoder(tmp_path / "source", architecture), tmp_path)
    assert (found.by, found.read, found.reason) == ("transformers", "source", None)
    assert found.difference is not None
    assert found.difference <= _SAME
    assert "perplexity_far" not in found.figures  # 256 positions
    assert "as if weights were random" in doubts(found)[0]


def test_a_model_that_has_learnt_something_is_not_doubted(tmp_path: Path) -> None:
    source = write_bigrams(tmp_path / "source", texts.held_out_prose(), max_position_embeddings=2048)
    found = check_witness(witness_of(source, tmp_path), overrule=False)
    figures = found.figures
    assert figures["perplexity_near"] < figures["perplexity_of_frequencies"]
    assert figures["perplexity_far"] == pytest.approx(figures["perplexity_near"], rel=0.05)
    assert not found.overruled


@pytest.mark.parametrize(
    "mistake",
    [
        {"rope_theta": 20_000.0},
        {"rms_norm_eps": 1e-3},
        {"rope_scaling": None},
    ],
)
def test_a_mistake_of_our_reading_stops_the_build(mistake: dict[str, object], tmp_path: Path) -> None:
    source = write_decoder(tmp_path / "source", "llama")
    checkpoint = prepared(source, tmp_path / "checkpoint")
    change_json(checkpoint / "config.json", **mistake)
    found = witness_of(source, tmp_path, checkpoint)
    assert found.read == "source"
    with pytest.raises(QuantizeError, match="differ from those of transformers"):
        check_witness(found, overrule=False)


def test_weights_that_are_not_numbers_are_one_sentence(tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    source = write_decoder(tmp_path / "source", "llama")
    tensors = load_file(source / "model.safetensors")
    tensors["model.norm.weight"][0] = np.nan
    save_file(tensors, source / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(QuantizeError, match="not finite"):
        witness_of(source, tmp_path)


def test_what_transformers_4_would_misread_it_reads_in_canonical_form(tmp_path: Path) -> None:
    source = write_decoder(tmp_path / "source", "qwen2", rope_theta=1_000_000.0)
    path = source / "config.json"
    path.write_text(json.dumps(as_transformers_5(json.loads(path.read_text()))))
    found = witness_of(source, tmp_path)
    assert (found.by, found.read) == ("transformers", "canonical")
    assert found.reason == "config.json is of a newer transformers"
    assert found.difference is not None
    assert found.difference <= _SAME


def test_a_gguf_file_is_read_by_transformers_itself(tmp_path: Path) -> None:
    source = write_gguf(tmp_path / "tiny.gguf")
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    dequantize(source, checkpoint)
    found = witness_of(source, tmp_path, checkpoint)
    assert (found.by, found.read) == ("transformers", "source")
    assert found.difference is not None
    assert found.difference <= _SAME


def test_a_process_of_its_own_gives_the_same_witness(tmp_path: Path) -> None:
    source = write_decoder(tmp_path / "source", "qwen3")
    inside = witness_of(source, tmp_path)
    spec = graph_spec(read_decoder_config(tmp_path / "canonical"), tmp_path / "canonical", 4096)
    folders = source, tmp_path / "canonical", tmp_path / "fused"
    assert witness_decoder(*folders, spec, tmp_path, SILENT, most_inline_bytes=0) == inside
    change_json(source / "config.json", architectures=["Unknown"], model_type="unknown")
    refused = witness_decoder(*folders, spec, tmp_path, SILENT, most_inline_bytes=0)
    assert refused.read == "canonical"
    assert refused.reason is not None
    assert refused.reason.startswith("transformers refuses it: ")


def test_a_checkpoint_of_the_body_alone_is_read_as_transformers_reads_it(tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    source = write_decoder(tmp_path / "source", "qwen2", tie_word_embeddings=True)
    tensors = load_file(source / "model.safetensors")
    body = {name.removeprefix("model."): array for name, array in tensors.items() if name != "lm_head.weight"}
    whole = witness_of(source, tmp_path)
    save_file(body, source / "model.safetensors", metadata={"format": "pt"})
    spec = graph_spec(read_decoder_config(tmp_path / "canonical"), tmp_path / "canonical", 4096)
    assert witness_decoder(source, tmp_path / "canonical", tmp_path / "fused", spec, tmp_path, SILENT) == whole


@pytest.mark.parametrize("is_tied", [True, False])
def test_the_embedding_keeps_the_rows_of_the_text_alone(tmp_path: Path, *, is_tied: bool) -> None:
    import torch

    from quantize.builder.weights import weights_of
    from quantize.precision.torch_blocks import TorchBlocks

    source = write_decoder(tmp_path / "source", "qwen2", tie_word_embeddings=is_tied)
    witness_of(source, tmp_path)
    checkpoint, text = tmp_path / "canonical", torch.tensor([7, 200, 7, 3])
    weights = weights_of(source, checkpoint)
    whole, few = (TorchBlocks.canonical(checkpoint, weights, tokens=tokens) for tokens in (None, text))
    assert torch.equal(whole.embedded(text), few.embedded(text))
    size = len(whole.model.get_input_embeddings().weight)
    assert len(few.model.get_input_embeddings().weight) == (size if is_tied else 3)


def test_a_missing_weight_is_not_made_up(tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    source = write_decoder(tmp_path / "source", "llama")
    witness_of(source, tmp_path)
    tensors = load_file(source / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    shutil.copytree(source, tmp_path / "short")
    save_file(tensors, tmp_path / "short" / "model.safetensors", metadata={"format": "pt"})
    spec = graph_spec(read_decoder_config(tmp_path / "canonical"), tmp_path / "canonical", 4096)
    found = witness_decoder(tmp_path / "short", tmp_path / "canonical", tmp_path / "fused", spec, tmp_path, SILENT)
    assert found.reason == "transformers finds no weight for model.layers.1.mlp.up_proj.weight"


def test_without_the_memory_for_transformers_the_perplexity_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_decoder(tmp_path / "source", "llama")
    shutil.copytree(source, tmp_path / "half")
    store_in_half(tmp_path / "half")
    monkeypatch.setattr("quantize.witness.published.available_bytes", lambda: 1000)
    found = witness_of(tmp_path / "half", tmp_path)
    assert (found.by, found.read, found.reason) == ("perplexity", None, "memory is short")
    assert found.figures["perplexity_near"] > 100


def test_random_weights_stop_before_anything_takes_long_and_force_is_recorded(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LANTERN_HOME", str(home.root))
    source, out = write_decoder(tmp_path / "tiny", "llama"), tmp_path / "out"
    command = ["build", str(source), "--out", str(out), "--license", "MIT"]
    assert main(command) == QuantizeError.exit_code
    said = capsys.readouterr().err.splitlines()
    assert said[-1].startswith("lantern-quantize: the float model is not what was published: its perplexity")
    assert "witness ..." in said
    assert "calibrate ..." not in said
    assert not out.exists()
    assert main([*command, "--force"]) == 0
    assert "witness: unchanged, skipped" in capsys.readouterr().err
    witness = json.loads((out / "tiny" / "manifest.json").read_text())["evaluation"]["witness"]
    assert witness["overruled"] is True
    assert witness["by"] == "transformers"
    assert "transformers" in (out / "tiny" / "report.html").read_text()
    assert main(["inspect", str(out / "tiny")]) == 0
    shown = capsys.readouterr().err
    assert "float model" in shown
    assert "overruled by --force" in " ".join(shown.replace("│", " ").split())


def prepared(source: Path, checkpoint: Path) -> Path:
    checkpoint.mkdir()
    prepare(read_checkpoint(source), checkpoint)
    return checkpoint


def witness_of(source: Path, root: Path, checkpoint: Path | None = None) -> Witness:
    checkpoint = checkpoint or prepared(source, root / "canonical")
    exported, fused = root / "exported", root / "fused"
    exported.mkdir()
    fused.mkdir()
    export(checkpoint, exported, task=DECODER_TASK)
    config = read_decoder_config(checkpoint)
    spec = graph_spec(config, checkpoint, 4096)
    fuse_file(exported, fused, config, context_length=spec.context_length)
    return witness_decoder(source, checkpoint, fused, spec, root, SILENT)


def store_in_half(folder: Path) -> None:
    from safetensors.numpy import load_file, save_file

    path = folder / "model.safetensors"
    save_file({name: value.astype("float16") for name, value in load_file(path).items()}, path)
