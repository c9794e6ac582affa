"""A GGUF file is read as a whole: the same model, or a refusal that names the key or the tensor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tokenizers import Tokenizer

from appliance.errors import QuantizeError
from quantize.quiet import quiet
from quantize.recipe import SourcePart
from quantize.sources.gguf_file import dequantize, read_gguf_checkpoint
from quantize.sources.source import resolve
from tests.quantize.sources.gguf_files import gguf_parts, write_parts
from tests.quantize.tiny_gguf import write_gguf

_ROW = np.random.default_rng(0).integers(3, 320, 40)
_HEAD_DIM = 16


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


def test_rope_freqs_divide_the_frequencies(tiny: Path, tmp_path: Path) -> None:
    metadata, tensors = gguf_parts(tiny)
    factors = np.linspace(1, 8, _HEAD_DIM // 2, dtype=np.float32)
    changed = write_parts(tmp_path / "tiny.gguf", metadata, {**tensors, "rope_freqs.weight": factors})
    plain, scaled = model_of(tiny, tmp_path / "plain"), model_of(changed, tmp_path / "scaled")
    with quiet():
        import torch

        expected = plain.model.rotary_emb.inv_freq / torch.from_numpy(factors)
        torch.testing.assert_close(scaled.model.rotary_emb.inv_freq, expected, rtol=1e-6, atol=0)
        assert scaled.model.rotary_emb.attention_scaling == 1.0
        plain.model.rotary_emb.inv_freq = expected
        np.testing.assert_allclose(logits(scaled), logits(plain), atol=1e-5)


def test_rope_freqs_reach_the_fused_graph(tiny: Path, tmp_path: Path) -> None:
    from appliance.engine.runtime.model_file import ModelFile
    from appliance.engine.runtime.model_runner import OrtModelRunner
    from quantize.fusion.export import DECODER_TASK, export
    from quantize.fusion.fuse import fuse_file
    from quantize.sources.decoder_config import read_decoder_config
    from tests.quantize.fusion.test_fuse import run_chunk
    from tests.quantize.tiny import tiny_spec

    metadata, tensors = gguf_parts(tiny)
    factors = np.linspace(1, 8, _HEAD_DIM // 2, dtype=np.float32)
    path = write_parts(tmp_path / "tiny.gguf", metadata, {**tensors, "rope_freqs.weight": factors})
    expected = logits(model_of(path, tmp_path / "checkpoint"))
    export(tmp_path / "checkpoint", tmp_path / "exported", task=DECODER_TASK)
    config = read_decoder_config(tmp_path / "checkpoint")
    assert config.max_positions == 256
    (tmp_path / "fused").mkdir()
    fuse_file(tmp_path / "exported", tmp_path / "fused", config, context_length=64)
    model = ModelFile(tmp_path / "fused" / "model.onnx")
    runner = OrtModelRunner(model, tiny_spec(config), num_slots=1, capacity=64, num_threads=1)
    assert np.abs(run_chunk(runner, 0, _ROW, 0) - expected).max() <= 1e-4 * expected.std()


def test_llama_3_1_without_its_factors_is_refused(tiny: Path, tmp_path: Path) -> None:
    metadata, tensors = gguf_parts(tiny)
    metadata |= {"llama.rope.freq_base": 500_000.0, "llama.context_length": 131_072}
    with pytest.raises(QuantizeError, match=r"has no rope_freqs\.weight, which Llama 3\.1 and later have"):
        read_gguf_checkpoint(write_parts(tmp_path / "tiny.gguf", metadata, tensors))


@pytest.mark.parametrize(
    ("keys", "scaling"),
    [
        ({"type": "linear", "factor": 4.0}, {"rope_type": "linear", "factor": 4.0}),
        (
            {"type": "yarn", "factor": 4.0, "original_context_length": 64},
            {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64},
        ),
        ({"type": "none"}, None),
    ],
)
def test_scaled_positions_are_read(tiny: Path, tmp_path: Path, keys: dict[str, Any], scaling: object) -> None:
    metadata, tensors = gguf_parts(tiny)
    metadata |= {f"llama.rope.scaling.{name}": value for name, value in keys.items()}
    assert read_gguf_checkpoint(write_parts(tmp_path / "a.gguf", metadata, tensors)).config["rope_scaling"] == scaling


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("llama.attention.sliding_window", 8),
        ("llama.attention.scale", 0.5),
        ("llama.attn_logit_softcapping", 50.0),
        ("llama.expert_count", 8),
        ("llama.logit_scale", 2.0),
        ("llama.rope.dimension_count", 8),
        ("llama.rope.scaling.attn_factor", 1.5),
        ("llama.rope.scaling.type", "dynamic"),
        ("llama.attention.value_length", 32),
        ("llama.something_new", 1),
        ("general.type", "adapter"),
        ("tokenizer.ggml.pre", "new-cut"),
        ("tokenizer.ggml.model", "bert"),
        ("tokenizer.ggml.bos_token_id", 5000),
        ("tokenizer.ggml.something_new", True),
        ("split.count", 2),
        ("general.architecture", "mamba"),
    ],
)
def test_a_key_that_asks_for_the_unknown_is_named(tiny: Path, tmp_path: Path, key: str, value: object) -> None:
    metadata, tensors = gguf_parts(tiny)
    metadata[key] = value
    with pytest.raises(QuantizeError) as raised:
        read_gguf_checkpoint(write_parts(tmp_path / "tiny.gguf", metadata, tensors))
    said = key.removeprefix("llama.").removeprefix("tokenizer.ggml.") if key != "split.count" else "part 1 of 2"
    assert said in raised.value.message


def test_every_lost_renamed_or_retyped_key_is_harmless_or_named(tiny: Path, tmp_path: Path) -> None:
    metadata, tensors = gguf_parts(tiny)
    original = reading_of(tiny)
    for key in metadata:
        others = {name: value for name, value in metadata.items() if name != key}
        for changed in (others, {**others, f"{key}_": metadata[key]}, {**metadata, key: [metadata[key]]}):
            path = write_parts(tmp_path / "tiny.gguf", changed, tensors)
            outcome_is_right(path, original, {key.removeprefix("llama."), key.rsplit(".", 1)[-1]})


def test_every_lost_renamed_reshaped_or_added_tensor_is_named(tiny: Path, tmp_path: Path) -> None:
    metadata, tensors = gguf_parts(tiny)
    original = reading_of(tiny)
    for name, values in tensors.items():
        others = {key: value for key, value in tensors.items() if key != name}
        forms = [others, {**others, f"{name}s": values}, {**tensors, name: values.reshape(-1, 1)}]
        forms += [{**tensors, f"more.{name}": values}, {**tensors, name: values.reshape(2, -1)}]
        for changed in forms:
            path = write_parts(tmp_path / "tiny.gguf", metadata, changed)
            outcome_is_right(path, original, {name.removesuffix(".weight")})


def test_a_tensor_of_another_type_is_noticed(tiny: Path, tmp_path: Path) -> None:
    raw = bytearray(tiny.read_bytes())
    name = b"blk.0.ffn_down.weight"
    at = raw.index(name) + len(name) + 4 + 16
    raw[at : at + 4] = (1).to_bytes(4, "little")  # float16, half as long
    (tmp_path / "tiny.gguf").write_bytes(raw)
    with pytest.raises(QuantizeError, match="its type, shape or place is wrong"):
        read_gguf_checkpoint(tmp_path / "tiny.gguf")


@pytest.mark.parametrize("keep", [30, 400, 9000, -1, -5000])
def test_a_cut_file_is_one_sentence(tiny: Path, tmp_path: Path, keep: int) -> None:
    (tmp_path / "tiny.gguf").write_bytes(tiny.read_bytes()[:keep])
    with pytest.raises(QuantizeError, match=r"^tiny\.gguf (is truncated|cannot be read)"):
        read_gguf_checkpoint(tmp_path / "tiny.gguf")


def test_a_split_model_is_the_same_one(tiny: Path, tmp_path: Path) -> None:
    paths = write_split(tiny, tmp_path, 3)
    assert reading_of(paths[0]) == reading_of(tiny)
    first, second = (resolve(SourcePart(uri=str(path)), tmp_path) for path in paths[:2])
    assert first.path == second.path == paths[0]
    assert first.sha256 == second.sha256
    paths[1].unlink()
    with pytest.raises(QuantizeError, match=r"^split-00002-of-00003\.gguf is missing"):
        resolve(SourcePart(uri=str(paths[0])), tmp_path)


def test_parts_of_a_split_model_in_the_wrong_place_are_refused(tiny: Path, tmp_path: Path) -> None:
    paths = write_split(tiny, tmp_path, 2)
    paths[0].rename(tmp_path / "keep")
    paths[1].rename(paths[0])
    (tmp_path / "keep").rename(paths[1])
    with pytest.raises(QuantizeError, match="says that it is part 2 of 2, but its name and place say 1 of 2"):
        read_gguf_checkpoint(paths[0])


@pytest.mark.parametrize(
    ("pre", "text", "cut"),
    [
        ("smollm", "a  12", ["a", "ĠĠ", "1", "2"]),
        ("gpt-2", "a  12", ["a", "Ġ", "Ġ", "1", "2"]),
        ("llama-bpe", "I'LL", ["I", "'", "L", "L"]),
    ],
)
def test_words_are_cut_as_the_file_says(tiny: Path, tmp_path: Path, pre: str, text: str, cut: list[str]) -> None:
    metadata, tensors = gguf_parts(tiny)
    metadata["tokenizer.ggml.pre"] = pre
    tokens, merges = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.merges"]
    if "ĠĠ" not in tokens:  # in the place of the last token, which no merge needs
        metadata["tokenizer.ggml.tokens"] = [*tokens[:-1], "ĠĠ"]
        metadata["tokenizer.ggml.merges"] = [*(m for m in merges if tokens[-1] != m.replace(" ", "")), "Ġ Ġ"]
    content = read_gguf_checkpoint(write_parts(tmp_path / "tiny.gguf", metadata, tensors)).tokenizer.content
    assert Tokenizer.from_str(content.decode()).encode(text, add_special_tokens=False).tokens == cut


@pytest.mark.parametrize(("key", "opening"), [(None, []), (True, [1]), (False, [])])
def test_a_text_begins_as_the_file_says(tiny: Path, tmp_path: Path, key: bool | None, opening: list[int]) -> None:
    metadata, tensors = gguf_parts(tiny)
    if key is not None:
        metadata["tokenizer.ggml.add_bos_token"] = key
    content = read_gguf_checkpoint(write_parts(tmp_path / "tiny.gguf", metadata, tensors)).tokenizer.content
    tokenizer = Tokenizer.from_str(content.decode())
    bare = tokenizer.encode("a", add_special_tokens=False).ids
    assert tokenizer.encode("a").ids == [*opening, *bare]


def write_split(path: Path, folder: Path, count: int) -> list[Path]:
    metadata, tensors = gguf_parts(path)
    paths = [folder / f"split-{number + 1:05d}-of-{count:05d}.gguf" for number in range(count)]
    for number, part in enumerate(paths):
        keys = metadata if number == 0 else {}
        stated = {"split.no": number, "split.count": count, "split.tensors.count": len(tensors)}
        names = list(tensors)[number::count]
        write_parts(part, {**keys, **stated}, {name: tensors[name] for name in names})
    return paths


def reading_of(path: Path) -> object:
    found = read_gguf_checkpoint(path)
    tensors = {name: tensor.load().tobytes() for name, tensor in found.tensors.items()}
    return (
        json.dumps(dict(found.config), sort_keys=True),
        tensors,
        found.tokenizer.content,
        found.tokenizer.chat_template,
    )


def outcome_is_right(path: Path, original: object, culprits: set[str]) -> None:
    refusal = None
    try:
        reading = reading_of(path)
    except QuantizeError as err:
        refusal = err.message
    if refusal is None:
        assert reading == original, culprits
    else:
        assert any(name in refusal for name in culprits), (culprits, refusal)


def model_of(path: Path, target: Path) -> Any:
    target.mkdir()
    dequantize(path, target)
    with quiet():
        from transformers import AutoModelForCausalLM

        return AutoModelForCausalLM.from_pretrained(target, attn_implementation="eager").eval()


def logits(model: Any) -> NDArray[np.float32]:
    import torch

    with torch.no_grad():
        values: NDArray[np.float32] = model(torch.from_numpy(_ROW)[None]).logits[0].numpy()
    return values
