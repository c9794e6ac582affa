from __future__ import annotations

import asyncio

from tests.models.device import Device


def test_the_first_id_of_the_list_is_of_a_model_to_chat_with(device: Device) -> None:
    device.install("a", kind="encoder")
    device.install("b")
    device.install("c")

    async def listed(aliases: dict[str, str]) -> list[str]:
        async with device.pool(aliases=aliases) as pool:
            return [model.id for model in pool.listed()]

    assert asyncio.run(listed({})) == ["b", "c", "a"]
    assert asyncio.run(listed({"default": "c", "any": "a"})) == ["c", "b", "a", "any", "default"]
