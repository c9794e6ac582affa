"""Reading streams of tokens to their ends."""

from __future__ import annotations

from collections.abc import Iterable

from appliance.engine.loop import TokenStream
from appliance.engine.types import Output, Sampled


async def read_all(stream: TokenStream) -> list[Output]:
    """Return all outputs, up to the end of the stream."""
    read: list[Output] = []
    await stream.ready()
    while outputs := stream.take():
        read += outputs
        await stream.ready()
    return read


def tokens_of(outputs: Iterable[Output]) -> list[int]:
    """Return the sampled tokens among outputs."""
    return [output.token for output in outputs if isinstance(output, Sampled)]
