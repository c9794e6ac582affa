"""From an encoder's checkpoint to its int8 graph: the float form is run once to see how large its channels get."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
from numpy.typing import NDArray

from appliance.engine.provider import session_options
from appliance.errors import QuantizeError
from quantize.encoders.bert import EncoderGraph, Weights
from quantize.evaluation import texts
from quantize.evaluation.decoder import runner_threads
from quantize.graph.files import save_graph
from quantize.sources.checkpoint import EncoderConfig
from quantize.sources.sentence import SentenceLayout, load_tokenizer

_LENGTHS = [3, 10, 20, 40, 90, 160]  # words
_NUM_SNIPPETS = 96
_STEP_WORDS = 977


def build_encoder(
    checkpoint: Path, target: Path, config: EncoderConfig, layout: SentenceLayout, *, smoothing: float
) -> None:
    """Write the int8 graph into the target folder."""
    weights = load_weights(checkpoint)
    peaks = _channel_peaks(checkpoint, config, weights, layout)
    graph = EncoderGraph(config, weights, layout.pooling, peaks=peaks, smoothing=smoothing)
    save_graph(graph.build(), target)


def load_weights(checkpoint: Path) -> Weights:
    """All tensors of a checkpoint as float32, without the prefix that task heads add.

    Raises:
        QuantizeError: the files cannot be read.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    weights: dict[str, NDArray[np.float32]] = {}
    try:
        for path in sorted(checkpoint.glob("*.safetensors")):
            for name, tensor in load_file(path).items():
                weights[name.removeprefix("bert.").removeprefix("roberta.")] = tensor.float().numpy()
    except SafetensorError as err:
        raise QuantizeError(f"the weights cannot be read: {err}") from err
    return weights


def _channel_peaks(
    checkpoint: Path, config: EncoderConfig, weights: Weights, layout: SentenceLayout
) -> dict[str, NDArray[np.float32]]:
    graph = EncoderGraph(config, weights, layout.pooling)
    model = graph.build()
    names = list(graph.products.inputs)
    for value in dict.fromkeys(graph.products.inputs.values()):
        value.type = ir.TensorType(ir.DataType.FLOAT)
        model.graph.outputs.append(value)
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString(), session_options(runner_threads()))
    tokenizer = load_tokenizer(checkpoint)
    lengths = _LENGTHS * (_NUM_SNIPPETS // len(_LENGTHS))
    peaks: dict[str, NDArray[np.float32]] = {}
    for text in texts.snippets(texts.prose() + texts.code(), lengths, _STEP_WORDS):
        ids = np.asarray([tokenizer.encode(text).ids[: layout.max_tokens]], np.int64)
        wanted = [graph.products.inputs[name].name for name in names]
        arrays = session.run(wanted, {"input_ids": ids, "attention_mask": np.ones_like(ids)})
        for name, array in zip(names, arrays, strict=True):
            peak = np.abs(array).max(axis=0)
            peaks[name] = np.maximum(peaks[name], peak) if name in peaks else peak
    return peaks
