"""In which way a model is loaded, by the memory that there is."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
from onnx import helper

from appliance.bundle import BundleStore, EncoderSpec, TrustedKeys
from appliance.bundle.manifest import MODEL_NAME
from appliance.engine.graphs.attention import ATTENTION_BYTES
from appliance.engine.graphs.slot_arrays import layout_of
from appliance.engine.runtime.kv_cache import KVCache
from appliance.engine.runtime.prepacked import FormBytes
from appliance.home import Home
from appliance.models import EngineSettings
from appliance.models.loaded import EmbeddingModel
from appliance.models.loading import load_model
from appliance.models.memory import needs_of, slots_bytes
from tests.engine.hybrid import SPEC, hybrid_graph, hybrid_runner, state_bytes, token_bytes
from tests.models.device import SETTINGS, Device, names


def test_int8_keys_and_values_are_taken_where_float_ones_do_not_fit(device: Device) -> None:
    for name in "ab":
        device.install(name, has_scales=True)
    full, small = (need.num_bytes for need in needs_of(device.store.open("a"), SETTINGS))

    async def main() -> None:
        pool = device.pool(preload=("a", "b"), memory_bytes=full + small)
        async with pool:
            assert (names(pool), sorted(device.cache_types)) == (["a", "b"], ["float32", "int8"])
            assert pool.reserved_bytes == full + small

    asyncio.run(main())


def test_a_gpu_that_may_be_used_has_a_context_to_pay_for(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    device.install("a", has_scales=True)
    bundle = device.store.open("a")
    plain = needs_of(bundle, SETTINGS)
    monkeypatch.setattr("appliance.models.memory.accelerators", lambda: ["CUDAExecutionProvider"])
    assert [more.num_bytes - less.num_bytes for more, less in zip(needs_of(bundle, SETTINGS), plain, strict=True)] == [
        512 << 20,
        512 << 20,
    ]
    assert needs_of(bundle, replace(SETTINGS, use_device=False)) == plain


def test_prompts_get_weights_of_their_own_only_where_there_is_room(device: Device) -> None:
    for name in "ab":
        device.install(name, content=a_product_of(256, 4096))
    bundle = device.store.open("a")
    needs = needs_of(bundle, SETTINGS, graph=device.store.read(bundle, MODEL_NAME))
    fast, plain = (need.num_bytes for need in needs)
    assert (fast - plain, [need.fast_prompts for need in needs]) == (4096 * 256, [True, False])
    assert needs_of(bundle, SETTINGS) == needs[1:]

    async def main() -> None:
        pool = device.pool(preload=("a", "b"), memory_bytes=fast + plain)
        async with pool:
            assert (names(pool), sorted(device.fast_prompts)) == (["a", "b"], [False, True])

    asyncio.run(main())


def test_weights_that_the_kernels_read_are_counted_as_they_are_packed(device: Device) -> None:
    bundle = device.install("a", content=a_product_of(256, 4096))
    graph = device.store.read(bundle, MODEL_NAME)
    _, plain = needs_of(bundle, SETTINGS, graph=graph)
    [packed] = needs_of(bundle, SETTINGS, graph=graph, forms=FormBytes(answers=10 << 20, prompts=0))
    assert packed.num_bytes - plain.num_bytes == (10 << 20) - bundle.manifest.loaded_bytes
    both, alone = needs_of(bundle, SETTINGS, graph=graph, forms=FormBytes(answers=10 << 20, prompts=7 << 20))
    assert both.num_bytes - alone.num_bytes == 7 << 20
    assert alone == packed
    other, _ = needs_of(bundle, SETTINGS, graph=graph, forms=FormBytes(prompts=3 << 20))
    assert other.num_bytes - plain.num_bytes == 3 << 20


def test_a_model_with_states_needs_room_for_those_of_slots_and_of_checkpoints(device: Device) -> None:
    bundle = device.install("a", content=hybrid_graph())
    graph = device.store.read(bundle, MODEL_NAME)
    [*_, some, without] = needs_of(bundle, replace(SETTINGS, checkpoint_bytes=3 * state_bytes() + 1), graph=graph)
    none = needs_of(bundle, replace(SETTINGS, checkpoint_bytes=0), graph=graph)[-1].num_bytes
    assert (some.num_bytes - none, without.num_bytes) == (3 * state_bytes(), none)
    assert [need.settings(SETTINGS).checkpoint_bytes > 0 for need in (some, without)] == [True, False]
    more_slots = replace(SETTINGS, num_slots=3, checkpoint_bytes=0)
    assert needs_of(bundle, more_slots, graph=graph)[-1].num_bytes - none == state_bytes() + 256 * token_bytes()


def test_the_memory_of_full_slots_is_the_computed_one_within_a_twentieth(tmp_path: Path) -> None:
    spec = SPEC.model_copy(update={"context_length": 1 << 14})
    settings = EngineSettings(num_slots=16, context_length=1 << 14, checkpoint_bytes=400 * state_bytes())
    computed = slots_bytes(layout_of(hybrid_graph()), spec, settings, "float32")
    runner = hybrid_runner(tmp_path, num_slots=16, capacity=1 << 14, num_checkpoints=400)
    assert isinstance(runner._cache, KVCache)
    assert runner._state is not None
    before = psutil.Process().memory_info().rss
    for array in [*runner._cache._arrays.values(), *runner._state._arrays.values()]:
        array[:] = np.ones((), array.dtype)
    assert psutil.Process().memory_info().rss - before == pytest.approx(computed, rel=0.05)


def test_a_text_model_needs_room_for_the_scores_of_its_longest_text(device: Device) -> None:
    bundle = device.install("a", kind="encoder", max_tokens=4096)
    graph = text_attention_of(12)
    [unread] = needs_of(bundle, SETTINGS)
    needs = needs_of(bundle, SETTINGS, graph=graph)
    assert [need.max_text_tokens for need in needs] == [4096, 2048, 1024, 512]
    assert [need.num_bytes - unread.num_bytes for need in needs] == [
        (12 + 2) * 4096 * 4096 * 4 - ATTENTION_BYTES,
        (12 + 2) * 2048 * 2048 * 4 - ATTENTION_BYTES,
        (12 + 2) * 1024 * 1024 * 4 - ATTENTION_BYTES,
        0,  # within the memory that every model has for attention
    ]
    [damaged] = needs_of(bundle, SETTINGS, graph=b"no graph")
    assert damaged == unread
    short = device.install("b", kind="encoder", max_tokens=256)
    assert needs_of(short, SETTINGS, graph=graph) == needs_of(short, SETTINGS)


def test_a_text_model_takes_shorter_texts_where_its_longest_ones_do_not_fit(device: Device) -> None:
    device.install("a", kind="encoder", max_tokens=4096, content=text_attention_of(12))
    bundle = device.store.open("a")
    needs = needs_of(bundle, SETTINGS, graph=device.store.read(bundle, MODEL_NAME))

    async def main(memory_bytes: int) -> int:
        async with device.pool(preload=("a",), memory_bytes=memory_bytes) as pool:
            [model] = pool.loaded()
            assert isinstance(model, EmbeddingModel)
            assert pool.context_length(bundle) == model.spec.max_tokens
            return model.spec.max_tokens

    assert [asyncio.run(main(need.num_bytes)) for need in needs] == [4096, 2048, 1024, 512]


def test_a_loaded_text_model_has_the_limit_that_its_memory_allows(starter_home: Home, tmp_path: Path) -> None:
    bundle = BundleStore(starter_home.bundles, TrustedKeys.load(starter_home.trusted_keys)).open("all-minilm-l6-v2")
    published = bundle.manifest.model
    assert isinstance(published, EncoderSpec)
    for limit, expected in ((None, published.max_tokens), (64, 64), (100_000, published.max_tokens)):
        settings = EngineSettings(max_text_tokens=limit)
        model = load_model(bundle, settings, cache=starter_home.prepacked, on_failure=lambda err: None)
        assert isinstance(model, EmbeddingModel)
        assert model.spec.max_tokens == expected


def text_attention_of(num_heads: int) -> bytes:
    """A graph whose attention has so many heads."""
    inputs = {"num_heads": num_heads}
    node = helper.make_node("MultiHeadAttention", ["q", "k", "v"], ["y"], domain="com.microsoft", **inputs)
    return bytes(helper.make_model(helper.make_graph([node], "g", [], [])).SerializeToString())


def a_product_of(num_inputs: int, num_outputs: int) -> bytes:
    """A graph with stored weights, whose bytes are elsewhere."""
    sizes = {"K": num_inputs, "N": num_outputs, "bits": 4, "block_size": 32}
    node = helper.make_node("MatMulNBits", ["x", "codes", "scales"], ["y"], domain="com.microsoft", **sizes)
    head = helper.make_node("MatMulNBits", ["y", "codes", "scales"], ["logits"], domain="com.microsoft", **sizes)
    return bytes(helper.make_model(helper.make_graph([node, head], "g", [], [])).SerializeToString())
