"""The decoder graph for prompts, fast for many tokens at once, made on the device from the optimized one.

Blocks of weights with a scale each suit the product of one token, which is bound by memory. The products of a prompt
are bound by arithmetic, and a processor with dot products of bytes multiplies whole columns of int8 several times as
fast. So a prompt gets products of its own: weights with one scale for each output, activations with one scale for each
token. No token depends on its neighbours, and integers add up exactly, so that a prompt gives the same bits however it
is cut into chunks.

Everything else, the head included, is the graph for single tokens, and maps the same weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from appliance.engine.graphs.blocks import PRODUCTS, STORED, weights_name
from appliance.engine.graphs.fused import CONVOLUTION, SKIP_NORM
from appliance.engine.graphs.group_attention import OPERATORS as ATTENTION
from appliance.engine.graphs.onnx_proto import (
    FLOAT,
    MICROSOFT,
    UINT8,
    Message,
    add_constant,
    add_external,
    add_node,
    add_value,
    empty_like,
    parse,
    tensor_value,
)
from appliance.errors import ModelError

_X, _CODES, _SCALES, _ZERO_POINTS, _ORDER, _BIAS = range(6)  # the inputs of a stored product
_PAST = 3  # the first input of attention that is no query, key or value
_RECURRENT = ("CausalConvWithState", CONVOLUTION, "LinearAttention")
# The search for the product behind a value ends at other products, and at sums with the residual stream.
_SUMS = ("SkipSimplifiedLayerNormalization", "SkipLayerNormalization", SKIP_NORM)
_BARRIERS = {*ATTENTION, *_RECURRENT, "MatMul", "Gemm", *_SUMS}
_HEAD = "logits"
_PER_LAYER = "/per_layer_"  # in the names of the products around per-layer embeddings
_LARGEST = 127
_MIDDLE = 128  # the code of zero
_SMALLEST_SCALE = np.float32(1e-9)
_ALIGNMENT = 64


def write_int8_products(optimized: Path, target: Path) -> None:
    """Write a model of the int8 products that `with_int8_products` needs to `target`, its weights beside it.

    Raises:
        ModelError: there are no stored products, or one has an unknown form.
    """
    model = parse(optimized.read_bytes())
    products = empty_like(model)
    graph = products.graph
    add_constant(graph, _name("one"), np.array(1, np.float32))
    add_constant(graph, _name("middle"), np.array(_MIDDLE, np.uint8))
    data = target.with_suffix(".raw")
    with data.open("wb") as file:
        for node in _products(model):
            codes, scales = _by_column(_stored_weights(optimized.parent, model, node))
            name = node.input[_CODES]
            file.write(bytes(-file.tell() % _ALIGNMENT))
            add_external(graph, _name(name, "codes"), codes, data.name, file.tell())
            file.write(codes.tobytes())
            add_constant(graph, _name(name, "scales"), scales)
            add_value(graph.input, _name(name, "rows"), UINT8)
            add_value(graph.output, _name(name, "product"), FLOAT)
            _multiply(graph, name)
    if not graph.node:
        raise ModelError(f"{optimized.name} holds no stored products")
    target.write_bytes(products.SerializeToString())


def with_int8_products(optimized: bytes, products: bytes) -> bytes:
    """Return the graph with the products that onnxruntime has packed from `write_int8_products`.

    `optimized`: the graph with stored products, or the same with Lantern's own (graphs/blocks.py).
    """
    model, packed = parse(optimized), parse(products)
    graph = model.graph
    replaced = [node.output[0] for node in _products(model)]
    nodes = list(graph.node)
    del graph.node[:]
    graph.initializer.MergeFrom(packed.graph.initializer)
    _shared_constants(graph)
    for node in nodes:
        if node.output[0] in replaced:
            _multiply_rows(graph, node, is_first=node.output[0] == replaced[0])
        else:
            graph.node.append(node)
    used = {name for node in graph.node for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    return bytes(model.SerializeToString())


def int8_product_bytes(model: bytes) -> int:
    """Estimate the memory of the products for prompts; 0 if there are none."""
    try:
        sizes = [{a.name: a.i for a in node.attribute} for node in _products(parse(model))]
    except ModelError:
        return 0
    return sum(int(size["K"] * size["N"]) for size in sizes)


def int8_product_graph(codes: NDArray[np.int8]) -> bytes:
    """Return a graph of one such product: rows (N, K) uint8 in, float32 out; `codes` (K, M) are its weights."""
    model = parse(b"")
    model.ir_version = 10
    model.opset_import.add(domain="", version=18)
    model.opset_import.add(domain=MICROSOFT, version=1)
    model.graph.name = "sum"
    add_constant(model.graph, _name("one"), np.array(1, np.float32))
    add_constant(model.graph, _name("middle"), np.array(0, np.uint8))
    add_constant(model.graph, _name("x", "codes"), codes)
    add_constant(model.graph, _name("x", "scales"), np.ones(codes.shape[1], np.float32))
    add_value(model.graph.input, _name("x", "rows"), UINT8)
    add_value(model.graph.output, _name("x", "product"), FLOAT)
    _multiply(model.graph, "x")
    return bytes(model.SerializeToString())


def _products(model: Message) -> list[Message]:
    """Return the products to replace: the wide ones of the MLP, and the output of attention.

    They are most of the work, and int8 costs them next to no accuracy. Q, K and V and the down-projection keep their
    stored weights: int8 costs them too much, since the inputs of the down-projection, products of two activations, have
    peaks that one scale for each token cannot hold. Neither do inputs of convolutions and linear attention: their state
    keeps an error for all tokens to come. Products around per-layer embeddings are small and have such inputs, too. The
    head has few rows, and keeps its own.
    """
    makers = {name: node for node in model.graph.node for name in node.output}
    kept = _makers_of([_HEAD], makers)
    for node in model.graph.node:
        if node.op_type in ATTENTION:
            kept |= _makers_of(list(node.input[:_PAST]), makers)
        elif node.op_type in _RECURRENT:
            kept |= _makers_of(list(node.input), makers)
    found = []
    for node in model.graph.node:
        size = {a.name: a.i for a in node.attribute}
        is_kept = node.output[0] in kept or _PER_LAYER in node.output[0]
        if node.op_type in PRODUCTS and not is_kept and size["K"] <= size["N"]:
            if node.op_type == STORED and len(node.input) > _ORDER and node.input[_ORDER]:
                raise ModelError(f"the product {node.name} has an order of blocks, which is not supported")
            found.append(node)
    return found


def _makers_of(names: list[str], makers: dict[str, Message]) -> set[str]:
    """Return the outputs of the stored products from which values come with no other product between."""
    found, waiting, seen = set(), list(names), set()
    while waiting:
        name = waiting.pop()
        node = makers.get(name)
        if node is None or name in seen:
            continue
        seen.add(name)
        if node.op_type in PRODUCTS:
            found.add(node.output[0])
        elif node.op_type not in _BARRIERS:
            waiting.extend(node.input)
    return found


def _stored_weights(folder: Path, model: Message, node: Message) -> NDArray[np.float32]:
    """Return the weights (N, K) of a MatMulNBits: codes in blocks, each with a scale and, if given, a zero point."""
    size = {a.name: a.i for a in node.attribute}
    count, block, bits = size["N"], size["block_size"], size["bits"]
    found = {t.name: t for t in model.graph.initializer}
    codes, scales, *rest = (found.get(name) for name in node.input[_CODES:_ORDER])
    if bits not in {4, 8} or codes is None or scales is None or scales.data_type != FLOAT:
        raise ModelError(f"the product {node.name} stores its weights in an unknown way")
    by_block = tensor_value(scales, folder).astype(np.float32, copy=False).reshape(count, -1, 1)

    def unpacked(tensor: Message) -> NDArray[np.uint8]:
        return _unpacked(tensor_value(tensor, folder).astype(np.uint8, copy=False).reshape(count, -1), bits)

    middles = np.array(1 << bits - 1, np.uint8)
    if rest and rest[0] is not None:
        if rest[0].data_type != UINT8:
            raise ModelError(f"the product {node.name} has zero points of an unknown type")
        middles = unpacked(rest[0])[:, : by_block.shape[1], None]
    units = unpacked(codes).reshape(count, -1, block)
    weights = (units.astype(np.float32) - middles) * by_block
    return np.asarray(weights.reshape(count, -1)[:, : size["K"]], np.float32)


def _unpacked(values: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Unpack (N, bytes) to (N, codes): of two codes in a byte the lower one comes first."""
    if bits == 8:
        return values
    pairs = np.stack([values & 15, values >> 4], axis=-1)
    return pairs.reshape(len(values), -1)


def _by_column(weights: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Return the codes (K, N) of weights (N, K), and the scale of each output."""
    scales = np.maximum(np.abs(weights).max(axis=1) / _LARGEST, _SMALLEST_SCALE).astype(np.float32)
    return np.ascontiguousarray(np.rint(weights / scales[:, None]).astype(np.int8).T), scales


def _shared_constants(graph: Message) -> None:
    add_constant(graph, _name("last_axis"), np.array([-1], np.int64))
    add_constant(graph, _name("first_axis"), np.array([0], np.int64))
    add_constant(graph, _name("step"), np.array(1 / _LARGEST, np.float32))


def _multiply_rows(graph: Message, node: Message, *, is_first: bool) -> None:
    """Append the operators that replace a stored product, (1, S, K) float to (1, S, N) float."""
    name, x = weights_name(node), node.input[_X]
    size = next(a.i for a in node.attribute if a.name == "K")

    def part(suffix: str) -> str:
        return _name(name, suffix)

    def then(op_type: str, inputs: list[str], output: str, attributes: Mapping[str, int] | None = None) -> None:
        add_node(graph, op_type, inputs, [output], attributes)

    add_constant(graph, part("shape"), np.array([-1, size], np.int64))
    then("Reshape", [x, part("shape")], part("tokens"))
    then("Abs", [part("tokens")], part("magnitudes"))
    then("ReduceMax", [part("magnitudes"), _name("last_axis")], part("peaks"), {"keepdims": 0})
    then("Mul", [part("peaks"), _name("step")], part("steps"))  # 0 for a row of zeros, whose codes do not matter then
    if is_first:  # every product has as many tokens
        then("Shape", [part("steps")], _name("num_tokens"))
        then("Expand", [_name("middle"), _name("num_tokens")], _name("zeros"))
    then("QuantizeLinear", [part("tokens"), part("steps"), _name("zeros")], part("rows"), {"axis": 0})
    _multiply(graph, name)
    then("Unsqueeze", [part("steps"), _name("last_axis")], part("column"))
    then("Mul", [part("product"), part("column")], part("scaled"))
    bias = node.input[_BIAS] if len(node.input) > _BIAS else ""
    if bias:
        then("Add", [part("scaled"), bias], part("biased"))
    then("Unsqueeze", [part("biased" if bias else "scaled"), _name("first_axis")], node.output[0])


def _multiply(graph: Message, name: str) -> None:
    """Append the product of the rows' codes and the weights' codes, scaled by column."""
    inputs = [_name(name, "rows"), _name(name, "codes"), _name("one"), _name(name, "scales"), _name("middle")]
    add_node(graph, "MatMulIntegerToFloat", inputs, [_name(name, "product")], domain=MICROSOFT)


def _name(*parts: str) -> str:
    return "/".join(("prompt", *parts))
