"""pydantic-ai: an agent with a tool and a typed result."""

# mypy: ignore-errors
from __future__ import annotations

import asyncio
import os
from typing import Literal

import pydantic
from pydantic_ai import Agent, NativeOutput, ToolOutput
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

SETTINGS = {"temperature": 0, "max_tokens": 300}
MODEL = OpenAIChatModel(
    os.environ["CHAT_MODEL"], provider=OpenAIProvider(base_url=os.environ["BASE_URL"], api_key="any")
)


class Report(pydantic.BaseModel):
    city: Literal["Paris", "Rome"]
    degrees: int


async def main() -> None:
    agent = Agent(MODEL, model_settings=SETTINGS, instructions="Be brief.")
    plain = await agent.run("Say hello.")
    assert plain.output
    assert plain.usage.output_tokens > 0
    for output_type in (ToolOutput(Report), NativeOutput(Report)):
        typed = await Agent(MODEL, output_type=output_type, model_settings=SETTINGS).run("The weather in Paris?")
        assert typed.output.city in {"Paris", "Rome"}
    async with agent.run_stream("Say hello.") as stream:
        assert "".join([text async for text in stream.stream_text(delta=True)]) == plain.output


asyncio.run(main())
