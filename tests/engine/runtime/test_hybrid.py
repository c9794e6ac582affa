"""Recurrent layers on onnxruntime's own operators: states in place, in batches, at checkpoints, in memory."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from appliance.engine.engine import Engine
from appliance.engine.graphs.slot_arrays import layout_of
from appliance.engine.graphs.variants import verify_graph, with_fp16_kv, with_int8_kv
from appliance.engine.runtime.gpu_kv_cache import DeviceKVCache
from appliance.engine.runtime.kv_cache import KVCache
from appliance.engine.runtime.model_file import ModelFile
from appliance.engine.runtime.model_runner import OrtModelRunner
from appliance.engine.runtime.provider import CPU
from appliance.engine.runtime.recurrence import Values, in_place_fault, multi_token_fault
from appliance.engine.runtime.tuning import decoder_feeds
from appliance.engine.scheduler import Scheduler
from appliance.engine.types import Admitted, Sampled, StepPlan
from appliance.errors import ModelError
from tests.engine.asking import a_request, a_text, answers_of, num_read
from tests.engine.hybrid import SPEC, hybrid_graph, hybrid_runner, state_bytes, token_bytes

Tokens = NDArray[np.int64]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hybrid")


def read(runner: OrtModelRunner, slot: int, tokens: list[int], past: int = 0) -> NDArray[np.float32]:
    ids, past_lens = np.array([tokens], np.int64), np.array([past], np.int32)
    return runner.run(StepPlan(slot, ids, past_lens, np.arange(len(tokens)), "prompt")).copy()


@pytest.mark.parametrize("num_rows", [1, 3])
@pytest.mark.parametrize("num_tokens", [1, 2, 3, 64])
def test_a_state_in_place_is_bit_for_bit_the_one_in_memory_of_its_own(
    folder: Path, num_tokens: int, num_rows: int
) -> None:
    """The kernels may overwrite what they read; nothing in their documentation says so."""
    if num_rows > 1 and num_tokens > 1:
        num_rows = 1  # the engine never runs chunks together
    runner = hybrid_runner(folder)
    for slot in range(num_rows):
        read(runner, slot, a_text(slot, 40))
    plain = ort.InferenceSession(str(folder / "hybrid-3.onnx"), providers=[CPU])
    past = {bound.past: array(runner, bound.past)[:num_rows].copy() for bound in runner._bound_slots(0, num_rows)}
    ids = np.array([a_text(9 + slot, num_tokens) for slot in range(num_rows)], np.int64)
    steps = {
        "input_ids": ids,
        "seqlens_k": np.full(num_rows, 40 + num_tokens - 1, np.int32),
        "total_sequence_length": np.array(40 + num_tokens, np.int32),
        "logit_rows": np.arange(ids.size),
    }
    names = [output.name for output in plain.get_outputs()]
    expected = dict(zip(names, plain.run(None, {**steps, **past}), strict=True))
    logits = runner.run(StepPlan(0, ids, np.full(num_rows, 40, np.int32), np.arange(ids.size)))
    assert np.array_equal(logits, expected["logits"])
    for bound in runner._bound_slots(0, num_rows):
        found, wanted = array(runner, bound.past)[:num_rows], expected[bound.present]
        assert np.array_equal(found[:, :, : wanted.shape[2]], wanted), bound.past


def array(runner: OrtModelRunner, name: str) -> NDArray[np.generic]:
    assert isinstance(runner._cache, KVCache)
    assert runner._state is not None
    return {**runner._cache._arrays, **runner._state._arrays}[name]


def test_operators_that_write_before_they_read_are_found_out() -> None:
    def overwritten(session: ort.InferenceSession, feeds: Values, expected: Values) -> Values:
        spoilt = np.zeros_like(feeds["past_recurrent"])
        return dict(zip(expected, session.run(list(expected), {**feeds, "past_recurrent": spoilt}), strict=True))

    assert in_place_fault() is None
    assert in_place_fault(overwritten) == "attended"


def test_chunks_however_cut_give_the_same_bits(folder: Path) -> None:
    runner = hybrid_runner(folder)
    tokens = a_text(1, 200)
    whole = read(runner, 0, tokens)
    for cuts in ([0, 100, 102, 200], [0, 3, 10, 12, 200], [0, 64, 128, 200]):
        parts = [read(runner, 1, tokens[a:b], a) for a, b in itertools.pairwise(cuts)]
        assert np.array_equal(whole, np.concatenate(parts))


@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_batched_answers_are_the_isolated_ones_token_for_token(folder: Path, temperature: float) -> None:
    @settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(seed=st.integers(0, 10_000), num_slots=st.integers(1, 4), num_checkpoints=st.sampled_from([0, 2, 16]))
    def batched_equals_isolated(seed: int, num_slots: int, num_checkpoints: int) -> None:
        rng = random.Random(seed)
        stems = [a_text(seed + i, 150) for i in range(2)]
        requests = [
            a_request(
                f"r{i}",
                rng.choice(stems)[: rng.randrange(151)] + a_text(seed + 10 + i, rng.randrange(2, 80)),
                num_new=rng.randrange(1, 25),
                temperature=temperature,
                seed=rng.randrange(1000),
            )
            for i in range(6)
        ]
        isolated = {r.id: answers_of(Engine(hybrid_runner(folder)), r)[r.id] for r in requests}
        runner = hybrid_runner(folder, num_slots=num_slots, num_checkpoints=num_checkpoints)
        engine = Engine(runner, Scheduler(chunk_size=16, idle_chunk_size=64))
        waiting, cut = list(requests), ""
        batched: dict[str, list[int]] = {r.id: [] for r in requests}
        while waiting or engine.has_work:
            if waiting and rng.random() < 0.4:
                engine.add(waiting.pop(0))
            if not cut and rng.random() < 0.02:
                engine.cancel(cut := rng.choice(requests[: len(requests) - len(waiting)] or requests).id)
            for output in engine.step():
                if isinstance(output, Sampled):
                    batched[output.request_id].append(output.token)
        for name, tokens in batched.items():
            assert tokens == isolated[name][: len(tokens) if name == cut else None]

    batched_equals_isolated()


def test_a_second_turn_a_shared_beginning_and_choices_read_only_what_is_new(folder: Path) -> None:
    engine = Engine(hybrid_runner(folder))
    system = a_text(1, 300)
    first = [*system, *a_text(2, 200)]
    answer = answers_of(engine, a_request("1", first))["1"]
    assert num_read(engine) == 500

    second = [*first, *answer, *a_text(3, 40)]
    found = answers_of(engine, a_request("2", second))["2"]
    assert num_read(engine) == 500 + 41  # and the last token of the answer, which was sampled and never computed
    assert found == answers_of(Engine(hybrid_runner(folder)), a_request("2", second))["2"]

    other = [*system, *a_text(4, 60)]
    found = answers_of(engine, a_request("3", other))["3"]
    assert num_read(engine) == 541 + 60 + 300 - 256  # the nearest checkpoint; the next one starts at the border itself
    assert found == answers_of(Engine(hybrid_runner(folder)), a_request("3", other))["3"]
    answers_of(engine, a_request("4", [*system, *a_text(5, 60)]))
    assert num_read(engine) == 645 + 60

    choices = [a_request(f"c{i}", other, temperature=0.8, seed=i) for i in range(3)]
    found_choices = answers_of(engine, *choices)
    assert num_read(engine) == 705 + 3 * 8  # the slot of this prompt is there, although the last one had its beginning
    assert found_choices == {c.id: answers_of(Engine(hybrid_runner(folder)), c)[c.id] for c in choices}


def test_a_slot_after_a_cancelled_request_has_the_state_of_its_tokens(folder: Path) -> None:
    engine = Engine(hybrid_runner(folder, num_slots=2))
    prompt = a_text(1, 200)
    engine.add(a_request("cut", prompt, num_new=50))
    for _ in range(20):
        outputs = engine.step()
    engine.cancel("cut")
    assert outputs
    longer = [*prompt, *a_text(2, 30)]
    assert answers_of(engine, a_request("next", longer)) == answers_of(
        Engine(hybrid_runner(folder)), a_request("next", longer)
    )


def test_the_graph_tells_the_memory_of_a_slot() -> None:
    layout = layout_of(hybrid_graph())
    assert [array.past for array in layout.kv] == ["past_key_values.2.key", "past_key_values.2.value"]
    assert {array.past for array in layout.states} == {
        *(f"past_conv.{layer}" for layer in (0, 1, 3)),
        *(f"past_recurrent.{layer}" for layer in (1, 3)),
    }
    assert (layout.state_bytes, layout.token_bytes()) == (state_bytes(), token_bytes())


def test_a_state_without_a_fixed_shape_is_refused_by_name(tmp_path: Path) -> None:
    graph = hybrid_graph()
    assert graph.count(b"past_recurrent.1") > 1
    with pytest.raises(ModelError, match=r"past_conv\.0 has no fixed shape"):
        layout_of(_with_free_columns(graph))


def _with_free_columns(graph: bytes) -> bytes:
    import onnx

    model = onnx.load_from_string(graph)
    next(i for i in model.graph.input if i.name == "past_conv.0").type.tensor_type.shape.dim[2].dim_param = "columns"
    return bytes(model.SerializeToString())


def test_gpus_refuse_a_state_by_name() -> None:
    with pytest.raises(ModelError, match=r"recurrent state, past_conv\.0"):
        with_fp16_kv(hybrid_graph())
    with pytest.raises(ModelError, match=r"no recurrent state such as past_conv\.0"):
        DeviceKVCache(layout_of(hybrid_graph()), num_slots=1, capacity=64, provider=CPU)


@pytest.mark.parametrize("operator", [b"LinearAttention", b"CausalConvWithState"])
def test_a_state_of_another_operator_gets_no_verify_graph(operator: bytes) -> None:
    other = hybrid_graph().replace(operator, operator[:-1] + b"X")
    with pytest.raises(ModelError, match=f"{operator[:-1].decode()}X.* cannot be taken up again"):
        verify_graph(other, 6)


def test_operators_that_take_several_tokens_otherwise_are_found_out() -> None:
    def off(session: ort.InferenceSession, feeds: Values, expected: Values) -> Values:
        found = {name: value.copy() for name, value in expected.items()}
        found["present_conv"][0, 0, 0] += 1
        return found

    assert multi_token_fault() is None
    assert multi_token_fault(off) == "present_conv"


def test_int8_keys_and_values_go_with_states(tmp_path: Path) -> None:
    graph = hybrid_graph()
    num_scales = token_bytes() // 4
    small = with_int8_kv(graph, np.full(num_scales, 0.02, np.float32))
    path = tmp_path / "int8.onnx"
    path.write_bytes(small)
    assert layout_of(small).token_bytes() * 4 == token_bytes()
    runner = OrtModelRunner(ModelFile(path), SPEC, num_slots=2, capacity=256, num_threads=1)
    expected, found = (read(r, 0, a_text(1, 100)) for r in (hybrid_runner(tmp_path), runner))
    assert not np.array_equal(expected, found)
    assert (expected.argmax(axis=1) == found.argmax(axis=1)).mean() > 0.8
    with pytest.raises(ModelError, match="do not fit 1 layers"):
        with_int8_kv(graph, np.full(num_scales * 4, 0.02, np.float32))


def test_measurements_feed_states_too(folder: Path) -> None:
    hybrid_runner(folder)
    session = ort.InferenceSession(str(folder / "hybrid-3.onnx"), providers=[CPU])
    [logits, *_] = session.run(None, decoder_feeds(session, num_past=0, num_new=7))
    assert np.isfinite(logits).all()


def test_the_first_output_tells_the_tokens_that_were_not_read(folder: Path) -> None:
    engine = Engine(hybrid_runner(folder))
    answers_of(engine, a_request("1", a_text(1, 400)))
    engine.add(a_request("2", [*a_text(1, 390), *a_text(2, 20)]))
    first = engine.step()[0]
    assert isinstance(first, Admitted)
    assert first.num_cached_tokens == 256
