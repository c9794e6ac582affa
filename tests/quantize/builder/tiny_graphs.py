"""Random decoders as the builder makes them, with what an engine needs beside the graph."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import onnx_ir as ir

from appliance.bundle import DecoderSpec
from appliance.bundle.manifest import CHAT_TEMPLATE_NAME, MODEL_NAME, TOKENIZER_NAME
from quantize.builder.decoder import build_decoder
from quantize.builder.weights import checkpoint_weights
from quantize.graph.codec import Bits, round_to_nearest
from quantize.graph.files import save_graph
from quantize.precision.matrices import quantize_graph
from quantize.sources.checkpoint import read_checkpoint
from quantize.sources.decoder_config import read_decoder_config
from quantize.sources.prepare import prepare
from quantize.spec import graph_spec
from tests.quantize.newer import NEWER_DECODERS, write_newer
from tests.quantize.tiny import write_decoder

_CONTEXT = 256


def write_graph(
    root: Path, architecture: str, *, is_float: bool = False, bits: Bits = 8, context: int = _CONTEXT, **changes: Any
) -> tuple[Path, DecoderSpec]:
    """Write a random model's graph, quantized or float, with tokenizer and template; return its folder and its spec."""
    checkpoint, target, built = root / "checkpoint", root / "model", root / "float"
    root.mkdir(exist_ok=True)
    write = write_newer if architecture in NEWER_DECODERS else write_decoder
    write(root / "published", architecture, **changes)
    for folder in (checkpoint, target, built):
        folder.mkdir()
    prepare(read_checkpoint(root / "published"), checkpoint)
    config = read_decoder_config(checkpoint)
    spec = graph_spec(config, checkpoint, context)
    build_decoder(
        checkpoint_weights(checkpoint), config, target if is_float else built, context_length=spec.context_length
    )
    if not is_float:
        model = ir.load(built / MODEL_NAME)
        shared = quantize_graph(model, lambda matrix: [round_to_nearest(matrix.view(), bits)])
        save_graph(model, target, shared)
    for name in (TOKENIZER_NAME, CHAT_TEMPLATE_NAME):
        shutil.copyfile(checkpoint / name, target / name)
    return target, spec
