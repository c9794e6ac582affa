"""The int8 form of a body's float graph: products and the table of words in blocks of 32, as decoders have them.

One scale a row, as other text models have it, costs a decoder's queries, keys, values and down-projection too much.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from appliance.bundle.manifest import MODEL_NAME
from quantize.graph import nbits
from quantize.graph.codec import BLOCK, round_to_nearest
from quantize.graph.edit import Editor, replace_value
from quantize.graph.files import save_graph
from quantize.kinds.encoder_graph.measured import Feeds, add_outputs, inputs_seen
from quantize.precision.gptq import Moments, gptq, one_thread
from quantize.sources.census import EMBEDDING

_LAYERS = "model.layers."  # begins the names of the weights that are quantized
_MEASURED_NAME = "measured.onnx"


def quantize_body(floats: Path, target: Path, feeds: Sequence[Feeds]) -> None:
    """Write the int8 form of the graph in `floats`, fitted to the inputs that its products have over all texts.

    A second graph is left in `floats`.
    """
    measured = ir.load(floats / MODEL_NAME)
    names = add_outputs(measured, [node.inputs[0] for node in _products(measured)])
    ir.save(measured, floats / _MEASURED_NAME)
    seen = inputs_seen(floats / _MEASURED_NAME, names, feeds)
    model = ir.load(floats / MODEL_NAME)
    edit = Editor(model.graph)
    for node in _products(model):
        x, weight = node.inputs[0], _array(node.inputs[1]).T
        with one_thread():
            stored = gptq(weight, Moments.of(seen[str(x.name)].moments), 8).stored
        name, output = _weight_name(node).removesuffix(".weight"), node.outputs[0]
        product, _ = nbits.product(edit, x, stored, name, f"{output.name}/int8", node)
        replace_value(output, product)
        model.graph.remove(node, safe=True)
    _quantize_words(edit, next(node for node in model.graph if node.op_type == "Gather" and _is_table(node)))
    for name in [name for name, value in model.graph.initializers.items() if not value.uses()]:
        del model.graph.initializers[name]
    save_graph(model, target)


def _products(model: ir.Model) -> list[ir.Node]:
    return [node for node in model.graph if node.op_type == "MatMul" and _weight_name(node).startswith(_LAYERS)]


def _quantize_words(edit: Editor, node: ir.Node) -> None:
    table, output = node.inputs[0], node.outputs[0]
    if table.shape[1] % BLOCK:
        return
    stored = round_to_nearest(_array(table), 8)
    codes = edit.constant(f"{EMBEDDING}.codes", stored.packed().reshape(stored.num_outputs, -1))
    scales = nbits.scales(edit, EMBEDDING, stored, node)
    replace_value(output, nbits.lookup(edit, codes, node.inputs[1], scales, stored, f"{output.name}/int8", node))
    edit.graph.remove(node, safe=True)


def _is_table(node: ir.Node) -> bool:
    return bool(node.inputs[0].name == EMBEDDING)


def _weight_name(node: ir.Node) -> str:
    value = node.inputs[1]
    return str(value.name) if value.const_value is not None else ""


def _array(value: ir.Value) -> NDArray[np.float32]:
    array: NDArray[np.float32] = value.const_value.numpy()
    return array
