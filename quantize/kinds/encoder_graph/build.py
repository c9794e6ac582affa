"""The int8 graph of a text model's checkpoint; the float form runs once to measure the size of its channels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
from numpy.typing import NDArray

from appliance.engine.runtime.provider import session_options
from appliance.engine.texts.embedder import TokenPair
from quantize.evaluation import texts
from quantize.evaluation.reranker import encoded_pairs, query_document_pairs
from quantize.evaluation.runners import runner_threads
from quantize.graph.files import save_graph
from quantize.kinds.encoder_graph.graph import EncoderGraph
from quantize.kinds.encoder_graph.products import Seen
from quantize.kinds.encoder_graph.tensors import load_tensors
from quantize.sources.encoder_config import EncoderConfig
from quantize.sources.sentence import SentenceLayout, load_tokenizer

_LENGTHS = [3, 10, 20, 40, 90, 160]  # words
_NUM_SNIPPETS = 96
_STEP_WORDS = 977
_NUM_QUERIES = 12

Feeds = dict[str, NDArray[np.int64]]
Finish = Callable[[EncoderGraph], ir.Model]


def build_encoder(
    checkpoint: Path, target: Path, config: EncoderConfig, layout: SentenceLayout, *, smoothing: float
) -> None:
    """Write the int8 graph of an embedding model into the target folder.

    Raises:
        QuantizeError: the weights are not those of config.json.
    """
    tokenizer = load_tokenizer(checkpoint)
    lengths = _LENGTHS * (_NUM_SNIPPETS // len(_LENGTHS))
    snippets = texts.snippets(texts.prose() + texts.code(), lengths, _STEP_WORDS)
    feeds = [_feeds_of(tokenizer.encode(text).ids[: layout.max_tokens]) for text in snippets]
    _build(checkpoint, target, config, lambda graph: graph.vectors(layout.pooling), feeds, smoothing)


def build_reranker(checkpoint: Path, target: Path, config: EncoderConfig, max_tokens: int, *, smoothing: float) -> None:
    """Write the int8 graph of a cross-encoder into the target folder.

    Raises:
        QuantizeError: the weights are not those of config.json.
    """
    pairs = query_document_pairs(texts.prose() + texts.code(), _NUM_QUERIES)
    feeds = [_feeds_of_pair(pair) for pair in encoded_pairs(checkpoint, pairs, max_tokens)]
    _build(checkpoint, target, config, EncoderGraph.scores, feeds, smoothing)


def build_float_encoder(checkpoint: Path, target: Path, config: EncoderConfig, layout: SentenceLayout) -> None:
    """Write the float graph, as the reference for architectures that optimum cannot export."""
    save_graph(EncoderGraph(config, load_tensors(checkpoint)).vectors(layout.pooling), target)


def _build(
    checkpoint: Path, target: Path, config: EncoderConfig, finish: Finish, feeds: Sequence[Feeds], smoothing: float
) -> None:
    tensors = load_tensors(checkpoint)
    graph = EncoderGraph(config, tensors)
    seen = _inputs_seen(graph, finish(graph), feeds)
    save_graph(finish(EncoderGraph(config, tensors, seen=seen, smoothing=smoothing)), target)


def _inputs_seen(graph: EncoderGraph, model: ir.Model, feeds: Sequence[Feeds]) -> dict[str, Seen]:
    """Run the float graph over all texts, and measure the inputs of every product."""
    names = list(graph.products.inputs)
    for value in dict.fromkeys(graph.products.inputs.values()):
        value.type = ir.TensorType(ir.DataType.FLOAT)
        model.graph.outputs.append(value)
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString(), session_options(runner_threads()))
    wanted = [graph.products.inputs[name].name for name in names]
    seen: dict[str, Seen] = {}
    for text in feeds:
        for name, rows in zip(names, session.run(wanted, text), strict=True):
            width = rows.shape[1]
            old = seen.get(name) or Seen(np.zeros(width, np.float32), np.zeros((width, width), np.float32))
            seen[name] = Seen(np.maximum(old.peaks, np.abs(rows).max(axis=0)), old.moments + rows.T @ rows)
    return seen


def _feeds_of(ids: Sequence[int]) -> Feeds:
    row = np.asarray([ids], np.int64)
    return {"input_ids": row, "attention_mask": np.ones_like(row)}


def _feeds_of_pair(pair: TokenPair) -> Feeds:
    feeds = _feeds_of(pair.tokens)
    places = np.arange(len(pair.tokens))[None]
    return {**feeds, "token_type_ids": (places >= pair.second_start).astype(np.int64)}
