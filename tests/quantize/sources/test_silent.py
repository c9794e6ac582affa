"""Checkpoints that once became another model without a word: each is read to the right one, or refused by name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tokenizers import Tokenizer

from appliance.errors import QuantizeError
from quantize.builder.weights import weights_of, whole
from quantize.evaluation.questions import chat_template
from quantize.quiet import quiet
from quantize.recipe import Recipe, SourcePart, default_name
from quantize.sources.checkpoint import read_checkpoint
from quantize.sources.encoder_config import read_encoder_config
from quantize.sources.prepare import has_weights, prepare
from quantize.sources.sentence import read_layout
from quantize.sources.source import resolve
from tests.quantize.sources.mutations import Entry, read_tensors, write_tensors
from tests.quantize.tiny import TEMPLATE, change_json, write_decoder, write_encoder

_ROW = np.random.default_rng(0).integers(3, 320, 40)
_HEAD = "lm_head.weight"


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    return write_decoder(tmp_path / "llama", "llama", rope_scaling=None, rope_theta=1e6)


def test_transformers_5s_spelling_is_the_same_model(llama: Path, tmp_path: Path) -> None:
    before = logits(prepared(llama, tmp_path / "old"))
    replace_keys(llama, {"rope_theta", "rope_scaling"}, rope_parameters={"rope_theta": 1e6, "rope_type": "default"})
    after = prepared(llama, tmp_path / "new")
    assert json.loads((after / "config.json").read_text())["rope_theta"] == 1e6
    np.testing.assert_array_equal(logits(after), before)


def test_a_base_that_is_nowhere_is_refused(llama: Path) -> None:
    replace_keys(llama, {"rope_theta"})
    with pytest.raises(QuantizeError, match=r"config\.json has no rope_theta"):
        read_checkpoint(llama)


def test_a_missing_head_is_refused_by_name(llama: Path) -> None:
    change_tensors(llama, lambda tensors: tensors.pop(_HEAD))
    with pytest.raises(QuantizeError, match=r"^the weights have no lm_head\.weight"):
        read_checkpoint(llama)


def test_a_tied_head_that_differs_is_refused_and_an_equal_one_left_out(tmp_path: Path) -> None:
    folder = write_decoder(tmp_path / "llama", "llama", tie_word_embeddings=True)
    embedding = read_tensors(folder / "model.safetensors")["model.embed_tokens.weight"]
    change_tensors(folder, lambda tensors: tensors.update({_HEAD: embedding}))
    assert _HEAD in read_checkpoint(folder).left_out
    change_tensors(folder, lambda tensors: tensors.update({_HEAD: (*embedding[:2], embedding[2][::-1])}))
    with pytest.raises(QuantizeError, match=r"lm_head\.weight differs from model\.embed_tokens\.weight"):
        read_checkpoint(folder)


def test_stored_frequencies_are_held_against_the_config(llama: Path) -> None:
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"

    def add(theta: float) -> Callable[[dict[str, Entry]], object]:
        values = (theta ** -(np.arange(0, 16, 2) / 16)).astype("<f4")
        return lambda tensors: tensors.update({name: ("F32", (8,), values.tobytes())})

    change_tensors(llama, add(1e6))
    assert name in read_checkpoint(llama).left_out
    change_tensors(llama, add(1e4))
    with pytest.raises(QuantizeError, match=rf"{name} in model\.safetensors differs from what rope_theta 1e\+06 gives"):
        read_checkpoint(llama)


def test_a_missing_shard_is_named(llama: Path) -> None:
    shard(llama, 2)
    assert len(read_checkpoint(llama).weights.tensors) == 21
    (llama / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(
        QuantizeError, match=r"^model-00002-of-00002\.safetensors is missing, which model\.safetensors\.i"
    ):
        read_checkpoint(llama)
    (llama / "model.safetensors.index.json").unlink()
    with pytest.raises(QuantizeError, match=r"^model-00002-of-00002\.safetensors is missing"):
        read_checkpoint(llama)


def test_shards_are_the_same_model(llama: Path, tmp_path: Path) -> None:
    before = logits(prepared(llama, tmp_path / "whole"))
    shard(llama, 3)
    np.testing.assert_array_equal(logits(prepared(llama, tmp_path / "shards")), before)


@pytest.mark.parametrize("name", ["../model.safetensors", "/etc/model.safetensors", "sub/model.safetensors", 3])
def test_an_index_that_points_elsewhere_is_not_followed(llama: Path, name: object) -> None:
    shutil.copy(llama / "model.safetensors", llama.parent / "model.safetensors")
    index = {"weight_map": dict.fromkeys(read_tensors(llama / "model.safetensors"), name)}
    (llama / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(QuantizeError, match="only files of the folder itself are read"):
        read_checkpoint(llama)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_link_out_of_the_folder_is_not_followed(llama: Path, tmp_path: Path, name: str) -> None:
    (llama / name).rename(llama.parent / name)
    (llama / name).symlink_to(llama.parent / name)
    with pytest.raises(QuantizeError, match=f"^{name} lies outside the checkpoint's folder"):
        resolve(SourcePart(uri=str(llama)), tmp_path / "cache")


def test_a_hubs_cache_whose_files_are_links_is_read(llama: Path, tmp_path: Path) -> None:
    root = tmp_path / "models--someone--tiny"
    snapshot = root / "snapshots" / "abc"
    (root / "blobs").mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for path in llama.iterdir():
        path.rename(root / "blobs" / path.name)
        (snapshot / path.name).symlink_to(Path("../../blobs") / path.name)
    assert len(read_checkpoint(resolve(SourcePart(uri=str(snapshot)), tmp_path).path).weights.tensors) == 21


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"adapter_config.json": "{}"}, "the folder holds an adapter (adapter_config.json)"),
        ({"adapter_model.safetensors": ""}, "the folder holds an adapter (adapter_model.safetensors)"),
        ({"other.safetensors": ""}, "the folder holds other.safetensors, which is not part of model.safetensors"),
    ],
)
def test_what_lies_beside_the_weights_is_named(llama: Path, files: dict[str, str], said: str) -> None:
    for name, content in files.items():
        (llama / name).write_text(content)
    with pytest.raises(QuantizeError) as raised:
        read_checkpoint(llama)
    assert raised.value.message.startswith(said)


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ({"quant_method": "gptq", "bits": 4}, "GPTQ"),
        ({"quant_method": "awq", "bits": 4}, "AWQ"),
        ({"load_in_4bit": True}, "bitsandbytes"),
        ({"quant_method": "new"}, "'new'"),
    ],
)
def test_weights_that_are_quantized_are_one_sentence(llama: Path, config: dict[str, Any], name: str) -> None:
    change_json(llama / "config.json", quantization_config=config)
    with pytest.raises(QuantizeError, match=f"the weights are quantized by {name} .*give the checkpoint"):
        read_checkpoint(llama)


@pytest.mark.parametrize("block", [None, [16, 32]])
def test_fp8_with_scales_is_read_and_without_them_refused(llama: Path, tmp_path: Path, block: list[int] | None) -> None:
    import ml_dtypes

    name = "model.layers.0.mlp.up_proj.weight"
    wanted: NDArray[Any] = np.zeros(0)

    def store(tensors: dict[str, Entry]) -> None:
        nonlocal wanted
        _, shape, _ = tensors[name]
        codes = np.random.default_rng(0).normal(size=shape).astype(ml_dtypes.float8_e4m3fn)
        rows, columns = (1, 1) if block is None else (shape[0] // block[0], shape[1] // block[1])
        scales = np.arange(1, 1 + rows * columns, dtype="<f4").reshape(rows, columns)
        wanted = codes.astype(np.float32) * np.kron(scales, np.ones((shape[0] // rows, shape[1] // columns), "<f4"))
        tensors[name] = ("F8_E4M3", shape, codes.tobytes())
        tensors[f"{name}_scale_inv"] = ("F32", (rows, columns), scales.tobytes())

    change_tensors(llama, store)
    bare = without_scale(llama, tmp_path / "bare", name)
    with pytest.raises(QuantizeError, match="no quantization_config that says how to scale it"):
        read_checkpoint(bare)
    change_json(llama / "config.json", quantization_config={"quant_method": "fp8", "weight_block_size": block})
    values = read_tensors(prepared(llama, tmp_path / "out") / "model.safetensors")[name][2]
    np.testing.assert_array_equal(np.frombuffer(values, "<f4").reshape(wanted.shape), wanted)
    (tmp_path / "lean").mkdir()
    prepare(read_checkpoint(llama), tmp_path / "lean", copies=False)
    assert not has_weights(tmp_path / "lean")
    np.testing.assert_array_equal(whole(weights_of(llama, tmp_path / "lean")[name]), wanted)
    with pytest.raises(QuantizeError, match=r"is stored in FP8 without .*weight_scale or .*weight_scale_inv beside it"):
        read_checkpoint(without_scale(llama, tmp_path / "bare2", name))


def test_bfloat16_is_read_as_it_is(llama: Path, tmp_path: Path) -> None:
    def narrow(tensors: dict[str, Entry]) -> None:
        for name, (_, shape, data) in tensors.items():
            tensors[name] = ("BF16", shape, (np.frombuffer(data, "<u4") >> 16).astype("<u2").tobytes())

    change_tensors(llama, narrow)
    tensor = read_checkpoint(llama).weights.tensors["model.norm.weight"]
    assert tensor.load().dtype == np.float32
    np.testing.assert_allclose(tensor.load(), 1, atol=0.5)
    assert np.isfinite(logits(prepared(llama, tmp_path / "out"))).all()


def test_pooling_as_sentence_transformers_5_4_writes_it(tmp_path: Path) -> None:
    folder = write_encoder(tmp_path / "bert")
    pooling = folder / "1_Pooling" / "config.json"
    pooling.write_text('{"embedding_dimension": 64, "pooling_mode": "mean", "include_prompt": true}')
    assert read_layout(folder, read_encoder_config(folder)).pooling == "mean"
    pooling.write_text('{"pooling_mode": ["mean", "cls"]}')
    with pytest.raises(QuantizeError, match="mean, cls, lasttoken are known"):
        read_layout(folder, read_encoder_config(folder))


def test_a_folder_with_blanks_and_brackets_has_a_valid_name() -> None:
    name = default_name("/models/My Model v1.5 (final)")
    assert Recipe.create(name=name, source={"uri": "x"}).name == "my-model-v1.5-final"


@pytest.mark.parametrize(
    "value",
    [
        TEMPLATE,
        [{"name": "default", "template": TEMPLATE}, {"name": "rag", "template": "x"}],
        [{"name": "tool_use", "template": TEMPLATE}],
    ],
)
@pytest.mark.parametrize("file", ["chat_template.json", "tokenizer_config.json"])
def test_a_chat_template_is_found_wherever_it_is(llama: Path, tmp_path: Path, file: str, value: object) -> None:
    (llama / "tokenizer_config.json").write_text("{}")
    (llama / file).write_text(json.dumps({"chat_template": value}))
    assert chat_template(prepared(llama, tmp_path / "out")) == TEMPLATE


def test_several_templates_without_a_default_are_named(llama: Path, tmp_path: Path) -> None:
    change_json(
        llama / "tokenizer_config.json", chat_template=[{"name": n, "template": "x"} for n in ("rag", "tool_use")]
    )
    with pytest.raises(QuantizeError, match="the chat templates rag, tool_use, none of them named 'default'"):
        prepared(llama, tmp_path / "out")


def test_an_older_tokenizer_is_converted_where_that_is_exact(llama: Path, tmp_path: Path) -> None:
    whole = Tokenizer.from_file(str(llama / "tokenizer.json"))
    model = json.loads((llama / "tokenizer.json").read_text())["model"]
    (llama / "tokenizer.json").unlink()
    (llama / "vocab.json").write_text(json.dumps(model["vocab"]))
    (llama / "merges.txt").write_text("\n".join(["#version: 0.2", *map(" ".join, model["merges"])]))
    change_json(llama / "tokenizer_config.json", tokenizer_class="GPT2Tokenizer", unk_token="<|endoftext|>")
    found = Tokenizer.from_file(str(prepared(llama, tmp_path / "out") / "tokenizer.json"))
    text = "the quick brown fox jumps 12 times, naïvely"
    assert found.encode(text).ids == whole.encode(text).ids


@pytest.mark.parametrize("name", [None, "tokenizer.model"])
def test_a_tokenizer_that_cannot_be_read_is_one_sentence(llama: Path, tmp_path: Path, name: str | None) -> None:
    (llama / "tokenizer.json").unlink()
    if name is not None:
        (llama / name).write_bytes(b"\x0a\x0e\x0a\x05<unk>\x15\x00\x00\x00\x00\x18\x02")
    with pytest.raises(QuantizeError, match=r"no tokenizer\.json") as raised:
        prepared(llama, tmp_path / "out")
    assert "\n" not in raised.value.message


def test_added_tokens_without_a_row_are_left_out_and_others_refused(llama: Path, tmp_path: Path) -> None:
    path = llama / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.add_special_tokens([f"<extra{number}>" for number in range(200)])
    tokenizer.save(str(path))
    found = Tokenizer.from_file(str(prepared(llama, tmp_path / "out") / "tokenizer.json"))
    assert max(found.get_vocab().values()) < 320
    raw = json.loads(path.read_text())
    raw["model"]["vocab"]["zzz"] = 5000
    path.write_text(json.dumps(raw))
    with pytest.raises(QuantizeError, match=r"the tokenizer has 5001 tokens, but config\.json says 320"):
        prepared(llama, tmp_path / "out2")


@pytest.mark.parametrize(("field", "value"), [("eos_token_id", 320), ("bos_token_id", -1), ("eos_token_id", [2, 999])])
@pytest.mark.parametrize("file", ["config.json", "generation_config.json"])
def test_a_token_out_of_range_is_named(llama: Path, file: str, field: str, value: object) -> None:
    change_json(llama / file, **{field: value})
    with pytest.raises(QuantizeError, match=f"{field} in {file}"):
        read_checkpoint(llama)


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("generation_config.json", {"suppress_tokens": [3]}),
        ("generation_config.json", {"new_way_of_decoding": 3}),
        ("tokenizer_config.json", {"new_step": True}),
        ("tokenizer_config.json", {"split_special_tokens": True}),
    ],
)
def test_an_unknown_key_of_any_file_is_named(llama: Path, tmp_path: Path, file: str, change: dict[str, object]) -> None:
    change_json(llama / file, **change)
    with pytest.raises(QuantizeError, match=rf"{file}.*{next(iter(change))}"):
        prepared(llama, tmp_path / "out")


def prepared(folder: Path, target: Path) -> Path:
    found = read_checkpoint(folder)
    target.mkdir()
    prepare(found, target)
    return target


def logits(folder: Path) -> NDArray[np.float32]:
    with quiet():
        import torch
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
        with torch.no_grad():
            values: NDArray[np.float32] = model(torch.from_numpy(_ROW)[None]).logits[0].numpy()
    return values


def replace_keys(folder: Path, dropped: set[str], **added: object) -> None:
    path = folder / "config.json"
    raw = {name: value for name, value in json.loads(path.read_text()).items() if name not in dropped}
    path.write_text(json.dumps({**raw, **added}))


def change_tensors(folder: Path, change: Callable[[dict[str, Entry]], object]) -> None:
    tensors = read_tensors(folder / "model.safetensors")
    change(tensors)
    write_tensors(folder / "model.safetensors", tensors)


def without_scale(folder: Path, target: Path, name: str) -> Path:
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(folder, target)
    change_tensors(target, lambda tensors: tensors.pop(f"{name}_scale_inv"))
    return target


def shard(folder: Path, count: int) -> None:
    """Cut the weights into files as transformers does."""
    tensors = read_tensors(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    places: dict[str, str] = {}
    for number in range(count):
        name = f"model-{number + 1:05d}-of-{count:05d}.safetensors"
        part = {key: tensors[key] for key in sorted(tensors)[number::count]}
        write_tensors(folder / name, part)
        places |= dict.fromkeys(part, name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
