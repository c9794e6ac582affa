"""The int8 graph of a text model's checkpoint; the float form runs once to measure the size of its channels."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir

from appliance.bundle import RerankerSpec
from appliance.bundle.manifest import MODEL_NAME, TOKENIZER_NAME
from appliance.engine.texts.embedder import TokenPair
from appliance.text.tokenizer import Tokenizer
from quantize.builder.weights import checkpoint_weights, whole
from quantize.evaluation import texts
from quantize.evaluation.reranker import encoded_pairs, query_document_pairs
from quantize.graph.edit import Editor
from quantize.graph.files import save_graph
from quantize.kinds.encoder_graph.body import build_body
from quantize.kinds.encoder_graph.body_int8 import quantize_body
from quantize.kinds.encoder_graph.graph import EncoderGraph
from quantize.kinds.encoder_graph.measured import Feeds, Seen, add_outputs, inputs_seen
from quantize.kinds.encoder_graph.packing import Packing
from quantize.kinds.encoder_graph.pooling import unit_vectors
from quantize.kinds.encoder_graph.tensors import load_tensors
from quantize.pipeline import PARTIAL
from quantize.sources.decoder_config import DecoderConfig
from quantize.sources.embedding_gemma2 import PROJECTION
from quantize.sources.encoder_config import EncoderConfig
from quantize.sources.sentence import SentenceLayout

_LENGTHS = [3, 10, 20, 40, 90, 160]  # words
_NUM_SNIPPETS = 96
_STEP_WORDS = 977
_NUM_QUERIES = 12

Finish = Callable[[EncoderGraph], ir.Model]


def build_encoder(
    checkpoint: Path, target: Path, config: EncoderConfig | DecoderConfig, layout: SentenceLayout, *, smoothing: float
) -> None:
    """Write the int8 graph of an embedding model into the target folder; that of a decoder's body is not smoothed.

    Raises:
        QuantizeError: the weights are not those of config.json.
    """
    tokenizer = Tokenizer.from_file(checkpoint / TOKENIZER_NAME)
    lengths = _LENGTHS * (_NUM_SNIPPETS // len(_LENGTHS))
    snippets = texts.snippets(texts.prose() + texts.code(), lengths, _STEP_WORDS)
    feeds = [_feeds_of(tokenizer.encode_framed(text)[: layout.max_tokens]) for text in snippets]
    if isinstance(config, EncoderConfig):
        _build(checkpoint, target, config, lambda graph: graph.vectors(layout), feeds, smoothing)
        return
    with tempfile.TemporaryDirectory(dir=target, prefix=PARTIAL) as floats:
        build_float_encoder(checkpoint, Path(floats), config, layout)
        quantize_body(Path(floats), target, feeds)


def build_reranker(
    checkpoint: Path, target: Path, config: EncoderConfig, spec: RerankerSpec, *, smoothing: float
) -> None:
    """Write the int8 graph of a cross-encoder into the target folder.

    Raises:
        QuantizeError: the weights are not those of config.json.
    """
    feeds = [_feeds_of_pair(pair) for pair in calibration_pairs(checkpoint, spec)]
    _build(checkpoint, target, config, EncoderGraph.scores, feeds, smoothing)


def build_prompted(floats: Path, checkpoint: Path, target: Path, spec: RerankerSpec) -> None:
    """Write the int8 graph of a causal model that scores, from its float graph in `floats`, which gets a second one."""
    quantize_body(floats, target, [_feeds_of(pair.tokens) for pair in calibration_pairs(checkpoint, spec)])


def calibration_pairs(checkpoint: Path, spec: RerankerSpec) -> list[TokenPair]:
    """Return the pairs of texts to which a reranker's weights are fitted."""
    return encoded_pairs(checkpoint, query_document_pairs(texts.prose() + texts.code(), _NUM_QUERIES), spec)


def build_float_encoder(
    checkpoint: Path, target: Path, config: EncoderConfig | DecoderConfig, layout: SentenceLayout
) -> None:
    """Write the float graph, as the reference for architectures that optimum cannot export.

    Raises:
        QuantizeError: the weights are not those of config.json, or a decoder's body has layers other than attention.
    """
    if isinstance(config, EncoderConfig):
        save_graph(EncoderGraph(config, load_tensors(checkpoint)).vectors(layout), target)
        return

    weights = checkpoint_weights(checkpoint)
    projection = whole(weights[PROJECTION]) if PROJECTION in weights else None

    def finish(edit: Editor, packing: Packing, hidden: ir.Value) -> tuple[ir.Value, list[int | str]]:
        vectors = unit_vectors(edit, packing, hidden, config.hidden_size, layout, projection)
        return vectors, ["batch_size", layout.dimensions(config.output_size)]

    build_body(weights, config, target, finish, num_positions=layout.max_tokens)


def _build(
    checkpoint: Path, target: Path, config: EncoderConfig, finish: Finish, feeds: Sequence[Feeds], smoothing: float
) -> None:
    tensors = load_tensors(checkpoint)
    graph = EncoderGraph(config, tensors)
    with tempfile.TemporaryDirectory(dir=target, prefix=PARTIAL) as floats:
        seen = _inputs_seen(graph, finish(graph), feeds, Path(floats))
    save_graph(finish(EncoderGraph(config, tensors, seen=seen, smoothing=smoothing)), target)


def _inputs_seen(graph: EncoderGraph, model: ir.Model, feeds: Sequence[Feeds], scratch: Path) -> Mapping[str, Seen]:
    """Run the float graph over all texts, and measure the inputs of every product by its name.

    The graph lies in a file meanwhile: a message of protobuf holds at most 2 GB.
    """
    inputs = graph.products.inputs
    names = add_outputs(model, inputs.values())
    save_graph(model, scratch)
    seen = inputs_seen(scratch / MODEL_NAME, names, feeds)
    return {product: seen[str(value.name)] for product, value in inputs.items()}


def _feeds_of(ids: Sequence[int]) -> Feeds:
    row = np.asarray([ids], np.int64)
    return {"input_ids": row, "attention_mask": np.ones_like(row)}


def _feeds_of_pair(pair: TokenPair) -> Feeds:
    feeds = _feeds_of(pair.tokens)
    places = np.arange(len(pair.tokens))[None]
    return {**feeds, "token_type_ids": (places >= pair.second_start).astype(np.int64)}
