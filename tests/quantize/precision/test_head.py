"""The head in 4 bits: fitted to the hidden states that it multiplies, and shared with the embedding if they are one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from appliance.bundle import DecoderSpec
from quantize.builder.decoder import build_decoder
from quantize.builder.weights import checkpoint_weights
from quantize.evaluation.hidden_states import HiddenStates
from quantize.graph.codec import QuantizedMatrix, round_to_nearest
from quantize.precision.fit import fit_matrices
from quantize.precision.fitted import load_fitted
from quantize.precision.head import fit_head
from quantize.precision.matrices import HEAD, matrices_of, quantize_graph
from quantize.precision.mixed import decoder_parts, widths_by_pattern, write_mixed
from quantize.progress import SILENT
from quantize.sources.decoder_config import read_decoder_config
from tests.quantize.precision.test_mixed import mean_kl
from tests.quantize.tiny import VOCAB, write_decoder

pytestmark = pytest.mark.slow

_WINDOWS = np.random.default_rng(5).integers(3, VOCAB, (12, 48))


@dataclass(frozen=True, slots=True)
class Model:
    graph: Path
    fit: Path
    head: Path
    spec: DecoderSpec


@pytest.fixture(scope="module", params=["llama", "qwen2"])  # the second has one table for embedding and head
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    root = tmp_path_factory.mktemp("head")
    checkpoint = write_decoder(root / "checkpoint", request.param)
    found = Model(
        root / "graph",
        root / "fit",
        root / "head",
        DecoderSpec(
            architecture=request.param,
            context_length=64,
            vocab_size=VOCAB,
            num_layers=2,
            num_kv_heads=2,
            head_dim=16,
            eos_token_ids=(0,),
        ),
    )
    for folder in (found.graph, found.fit, found.head):
        folder.mkdir()
    config = read_decoder_config(checkpoint)
    build_decoder(checkpoint_weights(checkpoint), config, found.graph, context_length=64)
    fit_matrices(found.graph, found.fit, (4, 8), _WINDOWS, found.spec, SILENT)
    fit_head(found.graph, found.head, _WINDOWS, SILENT)
    return found


def test_its_outputs_are_closer_than_those_of_rounded_weights(model: Model) -> None:
    weight = next(m for m in matrices_of(ir.load(model.graph / "model.onnx").graph) if m.is_head).weight()
    states = np.concatenate(HiddenStates.of(model.graph, list(_WINDOWS), SILENT).by_text)
    fitted, rounded = load_fitted(model.head, HEAD, 4), round_to_nearest(weight, 4)
    assert loss(weight, fitted, states) < 0.8 * loss(weight, rounded, states)


def test_the_graph_has_it_in_4_bits_and_the_embedding_too_if_they_are_one(model: Model, tmp_path: Path) -> None:
    widths = widths_by_pattern(decoder_parts(model.graph, model.spec), {8: ["*"]})
    for name, head in (("int4", model.head), ("int8", None)):
        (tmp_path / name).mkdir()
        wanted = widths if head is None else {**widths, HEAD: 4}
        write_mixed(model.graph, model.fit, tmp_path / name, model.spec, wanted, head=head)
    graph = onnx.load(tmp_path / "int4/model.onnx", load_external_data=False).graph
    bits = {
        node.op_type: attribute(node, "bits") for node in graph.node if reads(node, ("lm_head.codes", "embed.codes"))
    }
    assert bits == {"MatMulNBits": 4, "GatherBlockQuantized": 4 if model.spec.architecture == "qwen2" else 8}
    near, far = (mean_kl(model.graph, tmp_path / name, model.spec) for name in ("int8", "int4"))
    assert near < far < 0.2


@pytest.mark.parametrize(("error", "is_joined"), [("bfloat16", True), ("a hundredth", False)])
def test_copies_of_one_table_are_joined_if_they_are_the_same_to_rounding(
    tmp_path: Path, error: str, is_joined: bool
) -> None:
    checkpoint = write_decoder(tmp_path / "checkpoint", "llama")
    tensors = load_file(checkpoint / "model.safetensors")
    table = tensors["model.embed_tokens.weight"]
    rounded = (table.view(np.uint32) + np.uint32(0x8000) & np.uint32(0xFFFF0000)).view(np.float32)
    tensors["lm_head.weight"] = rounded if error == "bfloat16" else table * np.float32(1.01)
    save_file(tensors, checkpoint / "model.safetensors", {"format": "pt"})
    for name in ("graph", "stored"):
        (tmp_path / name).mkdir()
    build_decoder(
        checkpoint_weights(checkpoint), read_decoder_config(checkpoint), tmp_path / "graph", context_length=64
    )
    graph = ir.load(tmp_path / "graph/model.onnx")
    shared = quantize_graph(graph, lambda matrix: [round_to_nearest(matrix.view(), 8)])
    assert shared == ({"embed.codes": "lm_head.codes"} if is_joined else {})


def loss(weight: NDArray[np.float32], stored: QuantizedMatrix, states: NDArray[np.float32]) -> float:
    return float(np.square(states @ (stored.dequantized() - weight).T).sum())


def reads(node: onnx.NodeProto, names: tuple[str, ...]) -> bool:
    return any(name in names for name in node.input)


def attribute(node: onnx.NodeProto, name: str) -> int:
    return int(next(a.i for a in node.attribute if a.name == name))
