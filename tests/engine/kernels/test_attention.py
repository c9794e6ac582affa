"""Attention of our own, beside onnxruntime's; that every processor gives the same bits, test_families.py tells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from appliance.engine.kernels import DOMAIN, KernelLibrary

pytestmark = pytest.mark.slow

Arrays = dict[str, NDArray[Any]]
CAPACITY = 300
STOCK = "GroupQueryAttention"


@dataclass(frozen=True)
class Form:
    """The heads of a layer; `rotated` channels of each are turned."""

    heads: int = 6
    kv_heads: int = 2
    width: int = 64
    rotated: int = 64
    window: int = -1
    is_packed: bool = True

    def session(
        self, library: KernelLibrary, operator: str = "GroupAttention", num_threads: int = 1
    ) -> ort.InferenceSession:
        """Load a graph of one operator."""
        vectors = ["query", "", ""] if self.is_packed else ["query", "key", "value"]
        tables = ["cos", "sin"] if self.rotated else ["", ""]
        inputs = [*vectors, "past_key", "past_value", "seqlens_k", "total_sequence_length", *tables]
        outputs = ["y", "present_key", "present_value"]
        domain = "com.microsoft" if operator == STOCK else DOMAIN
        attributes = {
            "num_heads": self.heads,
            "kv_num_heads": self.kv_heads,
            "scale": 0.11,
            "do_rotary": int(self.rotated > 0),
        }
        node = helper.make_node(operator, inputs, outputs, domain=domain, local_window_size=self.window, **attributes)
        whole = {"seqlens_k", "total_sequence_length"}
        graph = helper.make_graph(
            [node],
            "one",
            [
                helper.make_tensor_value_info(name, TensorProto.INT32 if name in whole else TensorProto.FLOAT, None)
                for name in inputs
                if name
            ],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        )
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = num_threads, 4
        library.register(options)
        opsets = [helper.make_opsetid("", 18), helper.make_opsetid(domain, 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()
        return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def feeds(self, past: list[int], num_new: int, seed: int = 3) -> Arrays:
        """Return random inputs of texts that have so many tokens each."""
        random = np.random.default_rng(seed)

        def randoms(*shape: int) -> NDArray[np.float32]:
            return random.normal(0, 1, shape).astype(np.float32)

        channels, kv_channels = self.heads * self.width, self.kv_heads * self.width
        made: Arrays = {
            name: randoms(len(past), self.kv_heads, CAPACITY, self.width) for name in ("past_key", "past_value")
        }
        if self.is_packed:
            made["query"] = randoms(len(past), num_new, channels + 2 * kv_channels)
        else:
            made["query"] = randoms(len(past), num_new, channels)
            made |= {name: randoms(len(past), num_new, kv_channels) for name in ("key", "value")}
        if self.rotated:
            angles = np.outer(np.arange(CAPACITY), 1 / 100 ** np.linspace(0, 1, self.rotated // 2))
            made |= {"cos": np.cos(angles).astype(np.float32), "sin": np.sin(angles).astype(np.float32)}
        return made | lengths(past, num_new)


def lengths(past: list[int], num_new: int) -> Arrays:
    totals = np.array(past, np.int32) + np.int32(num_new)
    return {"seqlens_k": totals - 1, "total_sequence_length": np.asarray(totals.max(), np.int32)}


FORMS = [
    Form(),
    Form(heads=4, kv_heads=4, rotated=32),
    Form(heads=7, kv_heads=1, width=128, rotated=128, is_packed=False),
    Form(heads=10, kv_heads=2, width=72, rotated=0),
    Form(heads=6, kv_heads=2, window=16, is_packed=False),
]


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize(
    ("past", "num_new"), [([0], 1), ([0], 37), ([150], 5), ([41], 130), ([0, 299, 17], 1)], ids=str
)
def test_attention_is_that_of_onnxruntime(library: KernelLibrary, form: Form, past: list[int], num_new: int) -> None:
    feeds = form.feeds(past, num_new)
    ours, stock = (form.session(library, operator, 2).run(None, feeds) for operator in ("GroupAttention", STOCK))
    np.testing.assert_allclose(ours[0], stock[0], rtol=1e-4, atol=2e-6)
    for kept, expected in zip(ours[1:], stock[1:], strict=True):
        for text, begin in enumerate(past):
            end = begin + num_new
            np.testing.assert_allclose(kept[text, :, :end], expected[text, :, :end], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("begin", [0, 90])
def test_tokens_at_once_have_the_bits_of_single_ones(library: KernelLibrary, form: Form, begin: int) -> None:
    count = 23
    feeds = form.feeds([begin], count)
    together, *kept = form.session(library, num_threads=2).run(None, feeds)
    alone = form.session(library)
    for i in range(count):
        vectors = {name: feeds[name][:, i : i + 1] for name in ("query", "key", "value") if name in feeds}
        one, *past = alone.run(None, feeds | vectors | lengths([begin + i], 1))
        feeds |= dict(zip(("past_key", "past_value"), past, strict=True))
        assert np.array_equal(one[0, 0], together[0, i])
    for name, after in zip(("past_key", "past_value"), kept, strict=True):
        assert np.array_equal(after[:, :, : begin + count], feeds[name][:, :, : begin + count])


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_texts_beside_each_other_have_the_bits_of_one_alone(library: KernelLibrary, form: Form) -> None:
    past = [0, 290, 33, 34]
    feeds = form.feeds(past, 1)
    together = form.session(library, num_threads=2).run(None, feeds)[0]
    alone = form.session(library)
    names = [name for name in feeds if name in ("query", "key", "value", "past_key", "past_value")]
    for text, begin in enumerate(past):
        own = feeds | {name: feeds[name][text : text + 1] for name in names} | lengths([begin], 1)
        assert np.array_equal(alone.run(None, own)[0][0], together[text])


def test_keys_and_values_may_be_written_where_they_were_read(library: KernelLibrary) -> None:
    form = Form()
    session, feeds = form.session(library, num_threads=2), form.feeds([200, 7], 1)
    expected = session.run(None, feeds)
    binding = session.io_binding()
    kept = {}
    for name, value in feeds.items():
        if name in ("past_key", "past_value"):
            kept[name] = ort.OrtValue.ortvalue_from_numpy(value)
            binding.bind_ortvalue_input(name, kept[name])
            binding.bind_ortvalue_output(name.replace("past", "present"), kept[name])
        else:
            binding.bind_cpu_input(name, value)
    binding.bind_output("y")
    session.run_with_iobinding(binding)
    assert np.array_equal(binding.get_outputs()[-1].numpy(), expected[0])
    for text, end in enumerate((201, 8)):
        assert np.array_equal(kept["past_key"].numpy()[text, :, :end], expected[1][text, :, :end])
        assert np.array_equal(kept["past_value"].numpy()[text, :, :end], expected[2][text, :, :end])


def test_what_lies_behind_the_tokens_of_a_text_does_not_count(library: KernelLibrary) -> None:
    form = Form()
    session, feeds = form.session(library), form.feeds([20], 3)
    expected = session.run(None, feeds)[0]
    for name in ("past_key", "past_value"):
        feeds[name][:, :, 20:] = np.nan
    assert np.array_equal(session.run(None, feeds)[0], expected)


@pytest.mark.parametrize("name", ["past_key", "past_value"])
def test_a_vector_that_is_no_number_shows(library: KernelLibrary, name: str) -> None:
    form = Form()
    feeds = form.feeds([20, 20], 1)
    feeds[name][1, 0, 5] = np.nan
    y = form.session(library).run(None, feeds)[0].reshape(2, 2, -1)
    assert np.isfinite(y[0]).all()
    assert np.isnan(y[1, 0]).all()
    assert np.isfinite(y[1, 1]).all()


def test_scores_of_any_size_give_weights(library: KernelLibrary) -> None:
    form = Form(rotated=0)
    feeds = form.feeds([40], 1)
    feeds["query"] *= 1e4
    ours, stock = (form.session(library, operator).run(None, feeds)[0] for operator in ("GroupAttention", STOCK))
    np.testing.assert_allclose(ours, stock, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"query": (1, 1, 641)}, "channels of queries is 641"),
        ({"past_key": (1, 3, CAPACITY, 64)}, "heads of past keys is 3"),
        ({"past_value": (1, 2, CAPACITY - 1, 64)}, "number of past values"),
        ({"cos": (CAPACITY, 40), "sin": (CAPACITY, 40)}, "angles of a position is 40"),
        ({"cos": (9, 32), "sin": (9, 32)}, "tokens of a text is 11"),
    ],
    ids=lambda value: "" if isinstance(value, str) else ", ".join(value),
)
def test_other_shapes_are_refused(library: KernelLibrary, changed: dict[str, tuple[int, ...]], message: str) -> None:
    form = Form()
    feeds = form.feeds([10], 1) | {name: np.zeros(shape, np.float32) for name, shape in changed.items()}
    with pytest.raises(Exception, match=message):
        form.session(library).run(None, feeds)


@pytest.mark.parametrize("past", [-2, CAPACITY])
def test_a_text_of_more_tokens_than_there_is_room_for_is_refused(library: KernelLibrary, past: int) -> None:
    form = Form()
    feeds = form.feeds([0], 1) | lengths([past], 1)
    with pytest.raises(Exception, match=f"tokens of a text is {past + 1}"):
        form.session(library).run(None, feeds)


def test_heads_of_another_number_of_channels_are_refused(library: KernelLibrary) -> None:
    form = Form(width=60, rotated=0)
    with pytest.raises(Exception, match="channels of a head is 60"):
        form.session(library).run(None, form.feeds([1], 1))
