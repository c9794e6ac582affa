"""Several asynchronous iterators as one, each item as soon as it comes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TypeVar

T = TypeVar("T")


async def merged(sources: list[AsyncIterator[T]]) -> AsyncIterator[T]:
    """The items of all sources; the first failure ends them all and is raised here."""
    if len(sources) == 1:
        async for item in sources[0]:
            yield item
        return
    items: asyncio.Queue[T | None] = asyncio.Queue()

    async def forward(source: AsyncIterator[T]) -> None:
        try:
            async for item in source:
                items.put_nowait(item)
        finally:
            items.put_nowait(None)

    tasks = [asyncio.create_task(forward(source)) for source in sources]
    try:
        num_open = len(tasks)
        while num_open:
            entry = await items.get()
            if entry is None:
                num_open -= 1
            else:
                yield entry
        for task in tasks:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
