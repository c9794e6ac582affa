"""A small random decoder with recurrent layers: short convolution, linear attention with a convolution, and attention.

Its products are quantized as those of a bundle, so that a row has the same bits in a batch as alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from appliance.bundle import DecoderSpec
from appliance.engine.runtime.model_file import ModelFile
from appliance.engine.runtime.model_runner import OrtModelRunner

VOCAB_SIZE, CONTEXT = 512, 1024
_WIDTH, _HEADS, _KV_HEADS, _HEAD_DIM = 64, 4, 2, 16
# Heads in fours: of other widths Softplus has other last bits for several rows at once (onnxruntime 1.32).
_LINEAR_HEADS, _KEY_DIM, _VALUE_DIM, _KERNEL = 4, 16, 32, 3
_BLOCK = 32

SPEC = DecoderSpec(
    architecture="hybrid",
    context_length=CONTEXT,
    vocab_size=VOCAB_SIZE,
    num_layers=4,
    num_kv_heads=_KV_HEADS,
    head_dim=_HEAD_DIM,
    eos_token_ids=(0,),
)


def hybrid_graph(*, seed: int = 3) -> bytes:
    """Return the graph: layer 0 convolves, 1 and 3 have linear attention, 2 has attention."""
    graph = _Graph(np.random.default_rng(seed))
    x = graph.node("Gather", [graph.constant("embedding", graph.random(VOCAB_SIZE, _WIDTH)), "input_ids"])
    for layer, mixer in enumerate((_convolution, _linear_attention, _attention, _linear_attention)):
        x = graph.node("Add", [x, mixer(graph, graph.node("Tanh", [x]), layer)])
    flat = graph.node("Reshape", [x, graph.constant("flat", np.array([-1, _WIDTH]))])
    rows = graph.node("Unsqueeze", [graph.node("Gather", [flat, "logit_rows"]), graph.constant("front", np.array([0]))])
    graph.node("Squeeze", [graph.product(rows, VOCAB_SIZE), "front"], output="logits")
    return graph.model()


def hybrid_runner(
    folder: Path,
    *,
    num_slots: int = 4,
    capacity: int = CONTEXT,
    num_checkpoints: int = 16,
    seed: int = 3,
    kind: type[OrtModelRunner] = OrtModelRunner,
) -> OrtModelRunner:
    """Return a runner of the graph, with room for so many checkpoints."""
    path = folder / f"hybrid-{seed}.onnx"
    if not path.exists():
        folder.mkdir(exist_ok=True)
        path.write_bytes(hybrid_graph(seed=seed))
    limit = num_checkpoints * state_bytes()
    return kind(ModelFile(path), SPEC, num_slots=num_slots, capacity=capacity, num_threads=1, checkpoint_bytes=limit)


def state_bytes() -> int:
    """Return the bytes of one slot's state, from the numbers above."""
    matrices = 2 * _LINEAR_HEADS * _KEY_DIM * _VALUE_DIM
    columns = (_KERNEL - 1) * (_WIDTH + 2 * _mixed_width())
    return 4 * (matrices + columns)


def token_bytes() -> int:
    """Return the bytes of one token's keys and values."""
    return 4 * 2 * _KV_HEADS * _HEAD_DIM


@dataclass(slots=True)
class _Graph:
    random_source: np.random.Generator
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, onnx.TensorProto] = field(default_factory=dict)
    inputs: list[onnx.ValueInfoProto] = field(default_factory=list)
    outputs: list[onnx.ValueInfoProto] = field(default_factory=list)

    def random(self, *shape: int) -> NDArray[np.float32]:
        return self.random_source.normal(0, 1, shape).astype(np.float32)

    def constant(self, name: str, value: NDArray[Any]) -> str:
        self.constants[name] = numpy_helper.from_array(value, name)
        return name

    def node(self, op_type: str, inputs: list[str], *, output: str = "", **attributes: Any) -> str:
        return self.several(op_type, inputs, [output or f"value.{len(self.nodes)}"], **attributes)[0]

    def several(self, op_type: str, inputs: list[str], outputs: list[str], **attributes: Any) -> list[str]:
        self.nodes.append(helper.make_node(op_type, inputs, outputs, name=outputs[0], **attributes))
        return outputs

    def product(self, x: str, num_outputs: int, num_inputs: int = _WIDTH) -> str:
        """Multiply by random weights of four bits."""
        name, blocks = f"weights.{len(self.nodes)}", -(-num_inputs // _BLOCK)
        codes = self.random_source.integers(0, 256, (num_outputs, blocks, _BLOCK // 2), np.uint8)
        scales = np.full((num_outputs, blocks), 0.25 / np.sqrt(num_inputs), np.float32)
        inputs = [x, self.constant(f"{name}.codes", codes), self.constant(f"{name}.scales", scales)]
        sizes: dict[str, Any] = {"K": num_inputs, "N": num_outputs, "bits": 4, "block_size": _BLOCK}
        return self.node("MatMulNBits", inputs, domain="com.microsoft", accuracy_level=4, **sizes)

    def kept(self, name: str, *dims: int | str) -> str:
        """Declare an array of the slots, and its output."""
        shape = ["batch_size", *dims]
        self.inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
        present = name.replace("past_key_values", "present").replace("past_", "present_")
        self.outputs.append(helper.make_tensor_value_info(present, TensorProto.FLOAT, shape))
        return present

    def convolve(self, x: str, layer: int, width: int) -> str:
        """Convolve rows (B, S, width) over the tokens."""
        past = f"past_conv.{layer}"
        columns = self.node("Transpose", [x], perm=[0, 2, 1])
        weights = self.constant(f"conv.{layer}", self.random(width, 1, _KERNEL))
        present = self.kept(past, width, _KERNEL - 1)
        mixed, _ = self.several(
            "CausalConvWithState",
            [columns, weights, "", past],
            [f"mixed.{layer}", present],
            activation="silu",
            domain="com.microsoft",
        )
        return self.node("Transpose", [mixed], perm=[0, 2, 1])

    def model(self) -> bytes:
        integers = {
            "input_ids": (TensorProto.INT64, ["batch_size", "sequence_length"]),
            "seqlens_k": (TensorProto.INT32, ["batch_size"]),
            "total_sequence_length": (TensorProto.INT32, []),
            "logit_rows": (TensorProto.INT64, ["rows"]),
        }
        inputs = [helper.make_tensor_value_info(name, *kind) for name, kind in integers.items()]
        logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["rows", VOCAB_SIZE])
        graph = helper.make_graph(
            self.nodes, "hybrid", inputs + self.inputs, [logits, *self.outputs], list(self.constants.values())
        )
        opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
        return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString())


def _convolution(graph: _Graph, x: str, layer: int) -> str:
    parts = [f"part.{layer}.{i}" for i in range(3)]
    graph.several("Split", [graph.product(x, 3 * _WIDTH)], parts, axis=-1, num_outputs=3)
    mixed = graph.convolve(graph.node("Mul", parts[:2]), layer, _WIDTH)
    return graph.product(graph.node("Mul", [parts[2], mixed]), _WIDTH)


def _linear_attention(graph: _Graph, x: str, layer: int) -> str:
    mixed = graph.convolve(graph.product(x, _mixed_width()), layer, _mixed_width())
    keys = _LINEAR_HEADS * _KEY_DIM
    sizes = graph.constant("mixed_sizes", np.array([keys, keys, _LINEAR_HEADS * _VALUE_DIM]))
    parts = [f"linear.{layer}.{i}" for i in range(3)]
    graph.several("Split", [graph.node("Tanh", [mixed]), sizes], parts, axis=-1)
    short = graph.node("Mul", [parts[1], graph.constant("short", np.array(0.2, np.float32))])  # at most of length 0.8
    decay = graph.node("Neg", [graph.node("Softplus", [graph.product(x, _LINEAR_HEADS)])])
    rate = graph.node("Sigmoid", [graph.product(x, _LINEAR_HEADS)])
    past = f"past_recurrent.{layer}"
    result, _ = graph.several(
        "LinearAttention",
        [parts[0], short, parts[2], past, decay, rate],
        [f"attended.{layer}", graph.kept(past, _LINEAR_HEADS, _KEY_DIM, _VALUE_DIM)],
        q_num_heads=_LINEAR_HEADS,
        kv_num_heads=_LINEAR_HEADS,
        update_rule="gated_delta",
        domain="com.microsoft",
    )
    return graph.product(result, _WIDTH, _LINEAR_HEADS * _VALUE_DIM)


def _attention(graph: _Graph, x: str, layer: int) -> str:
    query, *rest = (graph.product(x, heads * _HEAD_DIM) for heads in (_HEADS, _KV_HEADS, _KV_HEADS))
    past = [f"past_key_values.{layer}.{part}" for part in ("key", "value")]
    presents = [graph.kept(name, _KV_HEADS, "capacity", _HEAD_DIM) for name in past]
    result, *_ = graph.several(
        "GroupQueryAttention",
        [query, *rest, *past, "seqlens_k", "total_sequence_length"],
        [f"attended.{layer}", *presents],
        num_heads=_HEADS,
        kv_num_heads=_KV_HEADS,
        domain="com.microsoft",
    )
    return graph.product(result, _WIDTH, _HEADS * _HEAD_DIM)


def _mixed_width() -> int:
    return _LINEAR_HEADS * (2 * _KEY_DIM + _VALUE_DIM)
