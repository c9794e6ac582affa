from __future__ import annotations

import asyncio

import pytest

from appliance.background import run_in_background


def test_work_goes_on_beside_a_block_and_ends_with_it() -> None:
    done: list[str] = []

    async def work() -> None:
        done.append("began")
        try:
            await asyncio.Event().wait()
        finally:
            done.append("ended")

    async def main() -> None:
        async with run_in_background(work()):
            await asyncio.sleep(0)
            assert done == ["began"]
        assert done == ["began", "ended"]

    asyncio.run(main())


def test_what_work_raises_is_raised_where_the_block_is_left() -> None:
    async def work() -> None:
        raise ValueError("broken")

    async def main() -> None:
        async with run_in_background(work()):
            await asyncio.sleep(0)

    with pytest.raises(ValueError, match="broken"):
        asyncio.run(main())
