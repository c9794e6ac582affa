"""A float graph run piece by piece: each piece begins with the values that the one before it left.

A model is computed once, and one piece's weights are in memory at a time: the data file is mapped, never read whole.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
from numpy.typing import NDArray

from appliance.bundle.manifest import MODEL_NAME
from appliance.engine.runtime.provider import session_options
from quantize.evaluation.runners import runner_threads
from quantize.graph.edit import LOGITS, gives_logits
from quantize.graph.factors import Factors
from quantize.progress import Progress

Array = NDArray[np.generic]
Feeds = Mapping[str, Array]
Values = dict[str, Array]

_TOKENS = "input_ids"
_PAST = "past_"  # keys, values and states from before the window
_PRODUCTS = 4  # matrices of a layer; a block of this many is a layer or so


@dataclass(frozen=True, slots=True)
class Segment:
    """Neighbouring nodes of a graph: the values asked of them, and those that later nodes still need."""

    graph: bytes
    inputs: tuple[str, ...]
    wanted: tuple[str, ...]
    carried: tuple[str, ...]

    def session(self, folder: Path, *, prepack: bool = True, factors: Factors | None = None) -> ort.InferenceSession:
        """Load it; its weights stay in the data file of `folder`, and `prepack` copies them for the kernels.

        Those that have factors are smoothed in memory.
        """
        options = session_options(runner_threads())
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
        options.add_session_config_entry("session.disable_prepacking", "0" if prepack else "1")
        if factors is not None:
            scaled = dict(factors.weights_of(onnx.load_from_string(self.graph).graph, folder))
            values = [ort.OrtValue.ortvalue_from_numpy(weight) for weight in scaled.values()]
            options.add_external_initializers(list(scaled), values)
        return ort.InferenceSession(self.graph, options)

    def asking_for(self, name: str) -> Segment:
        """Ask for a value that is only carried otherwise."""
        assert name in self.carried
        return replace(self, wanted=(*self.wanted, name))


def feeds_of(folder: Path, windows: Sequence[NDArray[np.int64]]) -> list[dict[str, Array]]:
    """Return the feeds of each window as a whole, from an empty cache; they ask for the logits of the first row only.

    A window is one run of every layer, so that a recurrent state is zeros in each of them.
    """
    kept = [value for value in ir.load(folder / MODEL_NAME).graph.inputs if value.name.startswith(_PAST)]
    return [_feeds_of(window, kept) for window in windows]


def _feeds_of(window: NDArray[np.int64], kept: Sequence[ir.Value]) -> dict[str, Array]:
    length = len(window)
    feeds: dict[str, Array] = {
        _TOKENS: window[None],
        "seqlens_k": np.array([length - 1], np.int32),
        "total_sequence_length": np.array(length, np.int32),
        "logit_rows": np.zeros(1, np.int64),
    }
    empty: dict[tuple[int, ...], Array] = {}
    for value in kept:
        shape = (1, *(size if isinstance(size, int) else length for size in value.shape.dims[1:]))
        feeds[value.name] = empty.setdefault(shape, np.zeros(shape, np.float32))
    return feeds


def segments_of(
    folder: Path,
    groups: Sequence[Sequence[str]],
    wanted: Sequence[str] | None = None,
    *,
    factors: Factors | None = None,
) -> list[Segment]:
    """Cut the graph of a folder before the first value of each group but the first one.

    `wanted` are the values asked for, each of the segment that computes it; without it those of the groups.
    """
    model = ir.to_proto((factors or Factors()).load_graph(folder))
    nodes = list(model.graph.node)
    producer = {name: at for at, node in enumerate(nodes) for name in node.output if name}
    starts = [0, *(min(producer[name] for name in group) for group in groups[1:]), len(nodes)]
    asked = groups if wanted is None else _by_segment(wanted, starts, producer)
    by_text = _depending_on(nodes, _TOKENS)
    found, entering = [], set[str]()
    for index, group in enumerate(asked):
        start, stop = starts[index], starts[index + 1]
        later = {name for group in asked[index + 1 :] for name in group}
        read_later = _read_by(nodes, producer, later, by_text, stop)
        carried = {name for name in read_later if (name in producer and producer[name] < stop and name in by_text)}
        outputs = (*group, *sorted(carried - set(group)))
        if not outputs:  # nothing that is asked for comes later
            break
        found.append(_segment(model, nodes, producer, entering, outputs, tuple(group), tuple(sorted(carried))))
        entering = carried
        assert start < stop
    return found


def blocks_of(folder: Path, wanted: Sequence[str]) -> list[Segment]:
    """Cut the graph into blocks of about a layer, the head's product apart from the last of them."""
    products = [node for node in ir.load(folder / MODEL_NAME).graph if node.op_type == "MatMul"]
    head = next(node for node in products if gives_logits(node))
    names = list(dict.fromkeys(node.inputs[0].name for node in products if node is not head))
    groups = [names[at : at + _PRODUCTS] for at in range(0, len(names), _PRODUCTS)]
    return segments_of(folder, [*groups, [head.outputs[0].name, LOGITS]], wanted)


def walk(
    folder: Path,
    segments: Sequence[Segment],
    feeds: Sequence[Feeds],
    progress: Progress,
    *,
    factors: Factors | None = None,
) -> Iterator[tuple[int, int, Values]]:
    """Run all texts through one segment after the other, smoothed by the factors with which they were cut.

    Yields:
        The index of the segment, that of the text, and the values that were wanted of this segment.
    """
    carried: list[Values] = [{} for _ in feeds]
    for index, segment in enumerate(segments):
        session = segment.session(folder, factors=factors)
        names = list(dict.fromkeys([*segment.wanted, *segment.carried]))
        for at, given in enumerate(feeds):
            known = {**given, **carried[at]}
            values = session.run(names, {name: known[name] for name in segment.inputs})
            by_name = dict(zip(names, values, strict=True))
            carried[at] = {name: by_name[name] for name in segment.carried}
            yield index, at, {name: by_name[name] for name in segment.wanted}
            progress.advance_to((index + (at + 1) / len(feeds)) / len(segments))
        del session  # before the next one is loaded


def _by_segment(names: Sequence[str], starts: Sequence[int], producer: Mapping[str, int]) -> list[list[str]]:
    return [[name for name in names if start <= producer[name] < stop] for start, stop in itertools.pairwise(starts)]


def _depending_on(nodes: Sequence[onnx.NodeProto], source: str) -> set[str]:
    """Return the names of all values that change with an input."""
    found = {source}
    for node in nodes:
        if not found.isdisjoint(node.input):
            found.update(name for name in node.output if name)
    return found


def _read_by(
    nodes: Sequence[onnx.NodeProto], producer: Mapping[str, int], names: set[str], by_text: set[str], start: int
) -> set[str]:
    """Return the values that the nodes from `start` on read to give those names."""
    waiting, read = list(names), set[str]()
    while waiting:
        at = producer.get(waiting.pop())
        if at is None or at < start:
            continue
        fresh = {name for name in nodes[at].input if name} - read
        read |= fresh
        waiting += fresh
    return read & by_text


def _segment(
    model: onnx.ModelProto,
    nodes: Sequence[onnx.NodeProto],
    producer: Mapping[str, int],
    entering: set[str],
    asked: Sequence[str],
    wanted: tuple[str, ...],
    carried: tuple[str, ...],
) -> Segment:
    """Take the nodes that lead from the entering values to those asked for; values without text are made anew."""
    waiting, read, taken = list(asked), set[str](), set[int]()
    while waiting:
        name = waiting.pop()
        if name in read:
            continue
        read.add(name)
        at = producer.get(name)
        if at is not None and name not in entering and at not in taken:
            taken.add(at)
            waiting += [value for value in nodes[at].input if value]
    given = [value for value in model.graph.input if value.name in read]
    floats = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in sorted(entering & read)
    ]
    outputs = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in asked]
    weights = [tensor for tensor in model.graph.initializer if tensor.name in read]
    graph = onnx.helper.make_graph([nodes[at] for at in sorted(taken)], "segment", [*given, *floats], outputs, weights)
    whole = onnx.helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    inputs = tuple(value.name for value in graph.input)
    return Segment(whole.SerializeToString(), inputs, wanted, carried)
