"""Attention of our library in the place of onnxruntime's: taken where it is the same, and given back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from appliance.engine.graphs.group_attention import OWN, STOCK, take_own_attention, take_stock_attention
from appliance.engine.graphs.onnx_proto import parse
from appliance.engine.graphs.variants import verify_graph, with_int8_kv

PAST = ["past_key_values.0.key", "past_key_values.0.value"]
PRESENT = ["present.0.key", "present.0.value"]
DEFAULTS = {
    "rotary_interleaved": 0,
    "softcap": 0.0,
    "smooth_softmax": -1,
    "k_quant_type": "NONE",
    "qk_norm_epsilon": 1e-6,
}


def graph_of(
    *,
    width: int = 16,
    dtype: int = TensorProto.FLOAT,
    more: tuple[str, ...] = (),
    lent: bool = False,
    **attributes: Any,
) -> bytes:
    """Return a decoder of one layer, whose keys and values another layer lends if `lent`."""
    past = ["lent.key", "lent.value"] if lent else PAST
    inputs = ["x", "", "", *past, "seqlens_k", "total_sequence_length", "cos", "sin", *more]
    sizes = {"num_heads": 4, "kv_num_heads": 2, "scale": 0.25, "do_rotary": 1, "local_window_size": -1}
    node = helper.make_node(
        STOCK, inputs, ["logits", *PRESENT], name="a", domain="com.microsoft", **{**sizes, **DEFAULTS, **attributes}
    )
    cache = [helper.make_tensor_value_info(name, dtype, ["b", 2, "capacity", width]) for name in PAST]
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, None), *cache],
        [helper.make_tensor_value_info(name, dtype, None) for name in ("logits", *PRESENT)],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString())


def own(model: bytes) -> bytes:
    parsed = parse(model)
    take_own_attention(parsed.graph)
    return bytes(parsed.SerializeToString())


def operators(model: bytes) -> list[tuple[str, str]]:
    return [(node.op_type, node.domain) for node in parse(model).graph.node]


@pytest.mark.parametrize("attributes", [{}, {"do_rotary": 0}, {"local_window_size": 512}], ids=str)
def test_what_the_library_computes_is_taken_and_given_back(attributes: dict[str, Any]) -> None:
    stock = graph_of(**attributes)
    taken = parse(own(stock))
    assert operators(taken.SerializeToString()) == [(OWN, "lantern")]
    take_stock_attention(taken.graph)
    assert taken == parse(stock)


@pytest.mark.parametrize(
    "form",
    [
        {"width": 12},
        {"dtype": TensorProto.FLOAT16},
        {"dtype": TensorProto.INT8},
        {"lent": True},
        {"more": ("positions",)},
        {"more": ("", "bias")},
        {"more": ("", "", "sinks")},
        {"rotary_interleaved": 1},
        {"softcap": 30.0},
        {"smooth_softmax": 1},
        {"k_quant_type": "PER_CHANNEL"},
        {"causal": 0},
        {"of_a_later_onnxruntime": 1},
    ],
    ids=str,
)
def test_another_form_stays_as_it_is(form: dict[str, Any]) -> None:
    model = graph_of(**form)
    assert parse(own(model)) == parse(model)


def test_keys_and_values_in_int8_take_the_stock_operator() -> None:
    scales = np.ones(2 * 2 * 16, np.float32)
    assert parse(with_int8_kv(own(graph_of()), scales)) == parse(with_int8_kv(graph_of(), scales))


def test_a_draft_is_one_operator_that_knows_the_length_with_all_of_its_tokens() -> None:
    graph = parse(verify_graph(own(graph_of()), 4)).graph
    (attention,) = [node for node in graph.node if node.op_type == OWN]
    added = {node.output[0]: list(node.input) for node in graph.node if node.op_type == "Add"}
    for at, name in ((5, "seqlens_k"), (6, "total_sequence_length")):
        assert added[attention.input[at]] == [name, "stepwise.offset.3"]
    assert list(attention.input[3:5]) == PAST
    assert [value.name for value in graph.output] == ["logits", *PRESENT]
