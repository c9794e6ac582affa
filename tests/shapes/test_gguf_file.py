"""The GGUF files of shapes name every tensor as llama.cpp does, with the metadata of its architecture."""

from __future__ import annotations

from math import prod
from pathlib import Path

import gguf
import pytest

from quantize.sources.census import decoder_shapes
from quantize.sources.decoder_keys import read_decoder_keys
from tests.shapes.against_llama import published
from tests.shapes.gguf_file import write_gguf
from tests.shapes.shapes import SHAPES

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("shape", SHAPES)
def test_a_file_has_every_value_of_its_shape_under_a_name_that_its_architecture_knows(
    shape: str, tmp_path: Path
) -> None:
    config = {**SHAPES[shape](256, 4), "vocab_size": 1024}
    reader = gguf.GGUFReader(str(write_gguf(tmp_path / "model.gguf", config, context=512)))
    architecture = reader.fields["general.architecture"].contents()
    arch = next(arch for arch, known in gguf.MODEL_ARCH_NAMES.items() if known == architecture)
    known = {gguf.TENSOR_NAMES[tensor] for tensor in gguf.MODEL_TENSORS[arch]}
    shapes = decoder_shapes(read_decoder_keys(config).config)
    found = {tensor.name: int(tensor.n_elements) for tensor in reader.tensors}
    assert sum(found.values()) == sum(map(prod, shapes.values()))
    for name in found:
        parts = name.removesuffix(".weight").removesuffix(".bias").split(".")
        stem = ".".join(["blk", "{bid}", *parts[2:]]) if parts[0] == "blk" else ".".join(parts)
        assert stem in known
    assert reader.fields[f"{architecture}.block_count"].contents() == 4
    assert len(reader.fields["tokenizer.ggml.tokens"].contents()) == 1024


@pytest.mark.parametrize("name", ["Qwen3.5 0.8B", "LFM2 1.2B"])
def test_a_published_shape_is_the_published_one(name: str) -> None:
    keys = read_decoder_keys(published(name)).config
    billions = sum(map(prod, decoder_shapes(keys).values())) / 1e9
    assert billions == pytest.approx({"Qwen3.5 0.8B": 0.75, "LFM2 1.2B": 1.17}[name], rel=0.02)
