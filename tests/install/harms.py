"""Models that their maker signed and that still must not be served: what each does to a sound graph."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from tests.install.tiny_bundles import Change


def _in_front(model: onnx.ModelProto, *nodes: onnx.NodeProto) -> None:
    old = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*nodes, *old])


def foreign_domain(model: onnx.ModelProto, _: Path) -> None:
    model.opset_import.append(helper.make_opsetid("evil.ops", 1))
    _in_front(model, helper.make_node("Run", ["input_ids"], ["unused"], domain="evil.ops"))


def foreign_domain_of_a_node_only(model: onnx.ModelProto, _: Path) -> None:
    _in_front(model, helper.make_node("Run", ["input_ids"], ["unused"], domain="com.microsoft.experimental"))


def foreign_domain_in_a_branch(model: onnx.ModelProto, _: Path) -> None:
    out = helper.make_tensor_value_info("unused", TensorProto.INT64, None)
    branch = helper.make_graph([helper.make_node("Run", ["input_ids"], ["unused"], domain="evil")], "b", [], [out])
    condition = numpy_helper.from_array(np.array(True), "condition")
    model.graph.initializer.append(condition)
    _in_front(model, helper.make_node("If", ["condition"], ["x"], then_branch=branch, else_branch=branch))


def foreign_function(model: onnx.ModelProto, _: Path) -> None:
    node = helper.make_node("Run", ["x"], ["y"], domain="evil")
    opsets = [helper.make_opsetid("", 17)]
    model.functions.append(helper.make_function("com.microsoft", "Own", ["x"], ["y"], [node], opsets))


def reaches_out(model: onnx.ModelProto, _: Path) -> None:
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    _in_front(
        model, helper.make_node("EPContext", [], ["unused"], domain="com.microsoft", ep_cache_context="/etc/passwd")
    )


def _external(model: onnx.ModelProto, location: str, **more: str) -> None:
    table = model.graph.initializer[0]
    table.ClearField("raw_data")
    table.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **more}.items():
        table.external_data.add(key=key, value=value)


def reads_up(model: onnx.ModelProto, folder: Path) -> None:
    (folder.parent / "secret").write_bytes(b"s" * 4096)
    _external(model, "../secret")


def reads_absolutely(model: onnx.ModelProto, _: Path) -> None:
    _external(model, "/etc/passwd")


def reads_a_stranger(model: onnx.ModelProto, _: Path) -> None:
    _external(model, "elsewhere.bin")


def reads_beyond_the_end(model: onnx.ModelProto, folder: Path) -> None:
    (folder / "model.onnx.data").write_bytes(b"x" * 10)
    _external(model, "model.onnx.data", offset="0", length="999999")


def reads_before_the_beginning(model: onnx.ModelProto, folder: Path) -> None:
    (folder / "model.onnx.data").write_bytes(b"x" * 10)
    _external(model, "model.onnx.data", offset="-5", length="10")


def reads_up_in_a_constant(model: onnx.ModelProto, _: Path) -> None:
    tensor = TensorProto(data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="../../signing.pem")
    _in_front(model, helper.make_node("Constant", [], ["unused"], value=tensor))


def never_ends(model: onnx.ModelProto, _: Path) -> None:
    """A loop of as many turns as a counter holds."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["going"], ["still_going"]),
            helper.make_node("Add", ["total", "total"], ["next"]),
        ],
        "turn",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("going", TensorProto.BOOL, []),
            helper.make_tensor_value_info("total", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("still_going", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, None),
        ],
    )
    model.graph.initializer.extend(
        [
            numpy_helper.from_array(np.array(2**62, np.int64), "turns"),
            numpy_helper.from_array(np.array(True), "forever"),
        ]
    )
    last = model.graph.node[-1]
    last.input[0] = "looped"
    loop = helper.make_node("Loop", ["turns", "forever", "sum"], ["looped"], body=body)
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*nodes[:-1], loop, nodes[-1]])


def takes_all_memory(model: onnx.ModelProto, _: Path) -> None:
    """A tensor whose size is computed only when it runs."""
    model.graph.initializer.append(numpy_helper.from_array(np.array([1 << 20, 1 << 14], np.int64), "big"))
    last = model.graph.node[-1]
    last.input[0] = "with_big"
    nodes = list(model.graph.node)
    del model.graph.node[:]
    value = helper.make_tensor("value", TensorProto.FLOAT, [1], [1.0])
    huge = helper.make_node("ConstantOfShape", ["big"], ["huge"], value=value)
    reduced = helper.make_node("ReduceMax", ["huge"], ["scalar"], keepdims=0)
    added = helper.make_node("Add", ["sum", "scalar"], ["with_big"])
    model.graph.node.extend([*nodes[:-1], huge, reduced, added, nodes[-1]])


def not_a_number(model: onnx.ModelProto, _: Path) -> None:
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.full((8, 8), np.nan, np.float32), "table"))


def too_narrow(model: onnx.ModelProto, _: Path) -> None:
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.ones((8, 4), np.float32), "table"))


def too_few_words(model: onnx.ModelProto, _: Path) -> None:
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.ones((1, 8), np.float32), "table"))


def other_inputs(model: onnx.ModelProto, _: Path) -> None:
    model.graph.input[0].name = "tokens"
    model.graph.node[0].input[1] = "tokens"


def unknown_operator(model: onnx.ModelProto, _: Path) -> None:
    model.graph.node[0].op_type = "Launch"


def deeply_nested(model: onnx.ModelProto, _: Path) -> None:
    graph = helper.make_graph([], "end", [], [])
    for _level in range(20):
        node = helper.make_node("If", ["c"], ["x"])
        attribute = AttributeProto(name="then_branch", type=AttributeProto.GRAPH)
        attribute.g.CopyFrom(graph)
        node.attribute.append(attribute)
        graph = helper.make_graph([node], "level", [], [])
    _in_front(model, *graph.node)


GRAPHS: dict[str, tuple[Change, str]] = {
    "foreign domain": (foreign_domain, "evil.ops"),
    "foreign domain of a node": (foreign_domain_of_a_node_only, "com.microsoft.experimental"),
    "foreign domain in a branch": (foreign_domain_in_a_branch, "evil"),
    "foreign function": (foreign_function, "evil"),
    "reaches out": (reaches_out, "EPContext"),
    "reads up": (reads_up, "no file of the bundle"),
    "reads absolutely": (reads_absolutely, "no file of the bundle"),
    "reads a stranger": (reads_a_stranger, "no file of the bundle"),
    "reads beyond the end": (reads_beyond_the_end, "beyond its end"),
    "reads before the beginning": (reads_before_the_beginning, "beyond its end"),
    "reads up in a constant": (reads_up_in_a_constant, "no file of the bundle"),
    "takes all memory": (takes_all_memory, "trial"),
    "not a number": (not_a_number, "unit vectors"),
    "too narrow": (too_narrow, "trial"),
    "too few words": (too_few_words, "trial"),
    "other inputs": (other_inputs, "trial"),
    "unknown operator": (unknown_operator, "trial"),
    "deeply nested": (deeply_nested, "levels"),
}
