"""The decoder graph with products of Lantern's kernels (docs/kernels.md), made on the device from the optimized one.

Each MatMulNBits becomes a MatMulBlocks whose weights lie packed in a file, in the order in which the kernels read them.
A table of embeddings that is the head as well becomes a GatherBlocks, which reads the head's weights; what is computed
between products is fused (fused.py), and attention is the library's (group_attention.py). The file is mapped by all
graphs of the model, so that the weights are on disk and in memory once: what the bundle's own file holds in that order
is read there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from appliance.engine.graphs.fused import fuse_small_operators
from appliance.engine.graphs.group_attention import take_own_attention
from appliance.engine.graphs.onnx_proto import (
    EXTERNAL,
    FLOAT,
    LANTERN,
    UINT8,
    Message,
    add_node,
    parse,
    tensor_value,
)
from appliance.engine.graphs.weight_file import WeightFile
from appliance.errors import ModelError

STORED: Final = "MatMulNBits"
BLOCKS: Final = "MatMulBlocks"
_STORED_TABLE, _TABLE = "GatherBlockQuantized", "GatherBlocks"
PRODUCTS: Final = (STORED, BLOCKS)

_X, _CODES, _SCALES, _ZERO_POINTS, _ORDER, _BIAS = range(6)  # the inputs of a stored product
_BITS, _BLOCKS = (4, 8), (32, 64, 128)
_TABLE_INPUTS = 3  # codes, indices and scales; a table with zero points stays as it is
_INT8_ACTIVATIONS = 4  # the accuracy level of products that may round their activations to int8
_PACKED = "/packed"

Codes = NDArray[np.uint8]
# Codes (N, blocks, bytes), scales (N, blocks), zero points or None, K, bits: packed bytes, and the bits of their codes.
Pack = Callable[[Codes, NDArray[np.float32], Codes | None, int, int], tuple[Codes, int]]


def write_block_products(
    optimized: Path,
    target: Path,
    data_name: str,
    pack: Pack,
    *,
    stored: Path | None = None,
    constants: Mapping[str, NDArray[np.generic]] | None = None,
) -> None:
    """Write the graph with packed products to `target`, and its weights to the file `data_name` beside it.

    `stored` is the bundle's model: weights that its file has as they are packed stay there, and the graph names that
    file. `constants` are values that take the place of those which the optimizer has computed, by their names.

    Raises:
        ModelError: the graph has no stored product, or one that the library cannot compute, or an unknown slot.
    """
    model = parse(optimized.read_bytes())
    graph, folder = model.graph, optimized.parent
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    nodes = list(graph.node)
    products = [node for node in nodes if node.op_type == STORED]
    if not products:
        raise ModelError("the model has no product of quantized weights")
    del graph.node[:]
    del graph.initializer[:]
    bits: dict[str, int] = {}
    with target.with_name(data_name).open("wb") as file:
        weights = WeightFile(file, stored)
        for name, node in {packed_name(node): node for node in products}.items():
            packed, bits[name] = _packed(folder, tensors, node, pack)
            weights.add(graph, name, packed)
        for node in nodes:
            head = _same_weights(folder, tensors, node, products) if node.op_type == _STORED_TABLE else None
            if head is not None:
                sizes = {**_sizes(head), "bits": bits[packed_name(head)], "has_zeros": 0}
                add_node(graph, _TABLE, [packed_name(head), node.input[1]], list(node.output), sizes, domain=LANTERN)
            elif node.op_type == STORED:
                _multiply(graph, node, bits[packed_name(node)])
            else:
                graph.node.append(node)
        fuse_small_operators(graph, tensors)
        take_own_attention(graph)
        _add_others(graph, tensors, folder, weights, constants or {})
    model.opset_import.add(domain=LANTERN, version=1)
    target.write_bytes(model.SerializeToString())


def _add_others(
    graph: Message,
    tensors: dict[str, Message],
    folder: Path,
    weights: WeightFile,
    constants: Mapping[str, NDArray[np.generic]],
) -> None:
    """Add what else the nodes read, with `constants` in the place of those of the same shape."""
    for name in sorted({name for node in graph.node for name in node.input} & set(tensors)):
        tensor, other = tensors[name], constants.get(name)
        if other is not None and list(other.shape) == list(tensor.dims):
            weights.add(graph, name, other)
        elif tensor.data_location == EXTERNAL:
            weights.add(graph, name, tensor_value(tensor, folder))
        else:
            graph.initializer.append(tensor)


def packed_bytes(model: bytes) -> int:
    """Return the bytes of the packed weights, which every token reads; of a table of embeddings it reads a few rows."""
    tensors = parse(model).graph.initializer
    return sum(math.prod(tensor.dims) for tensor in tensors if tensor.name.endswith(_PACKED))


def weights_name(node: Message) -> str:
    """Return the name that the weights of a product have in the optimized graph, whatever its operator."""
    return str(node.input[_CODES]).removesuffix(_PACKED)


def packed_name(node: Message) -> str:
    """Return the name of the packed weights of a stored product."""
    return f"{node.input[_CODES]}{_PACKED}"


def _packed(folder: Path, tensors: dict[str, Message], node: Message, pack: Pack) -> tuple[Codes, int]:
    size = {a.name: a.i for a in node.attribute}
    found = [tensors.get(name) for name in list(node.input)[_CODES:_ORDER]]
    codes, scales, zeros = [*found, None][:3]
    is_known = (
        size["bits"] in _BITS
        and size["block_size"] in _BLOCKS
        and size.get("accuracy_level", 0) == _INT8_ACTIVATIONS
        and not (len(node.input) > _ORDER and node.input[_ORDER])
        and codes is not None
        and scales is not None
        and scales.data_type == FLOAT
        and (zeros is None or zeros.data_type == UINT8)
    )
    if not is_known:
        form = f"{size['bits']} bits, blocks of {size['block_size']}, level {size.get('accuracy_level', 0)}"
        raise ModelError(f"the product {node.name} has a form that the library does not compute ({form})")
    count = size["N"]
    return pack(
        tensor_value(codes, folder)
        .astype(np.uint8, copy=False)
        .reshape(count, -1, size["block_size"] * size["bits"] // 8),
        tensor_value(scales, folder).astype(np.float32, copy=False).reshape(count, -1),
        None if zeros is None else tensor_value(zeros, folder).astype(np.uint8, copy=False),
        size["K"],
        size["bits"],
    )


def _same_weights(folder: Path, tensors: dict[str, Message], table: Message, heads: list[Message]) -> Message | None:
    """Return the product whose weights are a table's, byte for byte: those of a head that is the embedding as well."""
    sizes = {a.name: a.i for a in table.attribute}
    if len(table.input) != _TABLE_INPUTS or sizes.get("gather_axis", 0) != 0 or sizes.get("quantize_axis", 1) != 1:
        return None
    form = (sizes.get("bits", 4), sizes.get("block_size", 128))
    for head in heads:
        of_head = _sizes(head)
        pairs = ((table.input[0], head.input[_CODES]), (table.input[2], head.input[_SCALES]))
        is_alike = form == (of_head["bits"], of_head["block_size"]) and not _has_zeros(head)
        if is_alike and all(_is_same(tensors.get(a), tensors.get(b), folder) for a, b in pairs):
            return head
    return None


def _is_same(one: Message | None, other: Message | None, folder: Path) -> bool:
    """Return True if two initializers are rows of the same bytes, whatever their shapes."""
    if one is None or other is None or one.data_type != other.data_type or math.prod(one.dims) != math.prod(other.dims):
        return False
    if one.name == other.name:
        return True
    return np.array_equal(tensor_value(one, folder).reshape(-1), tensor_value(other, folder).reshape(-1))


def _sizes(node: Message) -> dict[str, int]:
    return {a.name: a.i for a in node.attribute if a.name in {"K", "N", "bits", "block_size"}}


def _has_zeros(node: Message) -> bool:
    return len(node.input) > _ZERO_POINTS and bool(node.input[_ZERO_POINTS])


def _multiply(graph: Message, node: Message, bits: int) -> None:
    """Append the operators that replace a stored product; `bits` are those of a packed code."""
    result = node.output[0]
    bias = node.input[_BIAS] if len(node.input) > _BIAS else ""
    product = f"{result}/product" if bias else result
    attributes = {**_sizes(node), "bits": bits, "packed": 1, "has_zeros": int(_has_zeros(node))}
    add_node(graph, BLOCKS, [node.input[_X], packed_name(node)], [product], attributes, domain=LANTERN)
    if bias:
        add_node(graph, "Add", [product, bias], [result])
