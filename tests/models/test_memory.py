"""In which way a model is loaded, by the memory that there is."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from onnx import helper

from appliance.models.memory import needs_of
from tests.models.device import SETTINGS, Device, names


def test_int8_keys_and_values_are_taken_where_float_ones_do_not_fit(device: Device) -> None:
    for name in "ab":
        device.install(name, has_scales=True)
    full, small = (need.num_bytes for need in needs_of(device.store.open("a"), SETTINGS))

    async def main() -> None:
        pool = device.pool(preload=("a", "b"), memory_bytes=full + small)
        await pool.start()
        assert (names(pool), sorted(device.cache_types)) == (["a", "b"], ["float32", "int8"])
        assert pool.reserved_bytes == full + small
        await pool.close()

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
    needs = needs_of(device.store.open("a"), SETTINGS)
    fast, plain = (need.num_bytes for need in needs)
    assert (fast - plain, [need.fast_prompts for need in needs]) == (4096 * 256, [True, False])
    assert needs_of(device.store.open("a"), replace(SETTINGS, fast_prompts=False)) == needs[1:]

    async def main() -> None:
        pool = device.pool(preload=("a", "b"), memory_bytes=fast + plain)
        await pool.start()
        assert (names(pool), sorted(device.fast_prompts)) == (["a", "b"], [False, True])
        await pool.close()

    asyncio.run(main())


def a_product_of(num_inputs: int, num_outputs: int) -> bytes:
    """A graph with stored weights, whose bytes are elsewhere."""
    sizes = {"K": num_inputs, "N": num_outputs, "bits": 4, "block_size": 32}
    node = helper.make_node("MatMulNBits", ["x", "codes", "scales"], ["y"], domain="com.microsoft", **sizes)
    head = helper.make_node("MatMulNBits", ["y", "codes", "scales"], ["logits"], domain="com.microsoft", **sizes)
    return bytes(helper.make_model(helper.make_graph([node, head], "g", [], [])).SerializeToString())
