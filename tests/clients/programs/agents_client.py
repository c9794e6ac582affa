"""openai-agents over chat completions: a forced tool, a typed result, a stream."""

# mypy: ignore-errors
from __future__ import annotations

import asyncio
import os
from typing import Literal

import pydantic
from agents import (
    Agent,
    ModelSettings,
    OpenAIChatCompletionsModel,
    Runner,
    StopAtTools,
    function_tool,
    set_tracing_disabled,
)
from openai import AsyncOpenAI

set_tracing_disabled(True)


class Report(pydantic.BaseModel):
    city: Literal["Paris", "Rome"]
    degrees: int


@function_tool
def get_weather(city: Literal["Paris", "Rome"]) -> str:
    """The weather of a city."""
    return f"Sunny in {city}."


async def main() -> None:
    client = AsyncOpenAI(base_url=os.environ["BASE_URL"], api_key="any", max_retries=0)
    model = OpenAIChatCompletionsModel(os.environ["CHAT_MODEL"], client)
    settings = ModelSettings(temperature=0, max_tokens=200, include_usage=True)
    forced = settings.resolve(ModelSettings(tool_choice="required"))

    plain = await Runner.run(Agent("plain", model=model, model_settings=settings), "Say hello.")
    assert plain.final_output

    stop = StopAtTools(stop_at_tool_names=["get_weather"])
    caller = Agent("caller", model=model, model_settings=forced, tools=[get_weather], tool_use_behavior=stop)
    assert (await Runner.run(caller, "The weather in Paris?")).final_output in {"Sunny in Paris.", "Sunny in Rome."}

    once = Agent("once", model=model, model_settings=forced, tools=[get_weather], reset_tool_choice=True)
    assert (await Runner.run(once, "The weather in Paris?")).final_output  # the result went back to the model

    typed = Agent("typed", model=model, model_settings=settings, output_type=Report)
    assert (await Runner.run(typed, "The weather in Paris?")).final_output.city in {"Paris", "Rome"}

    both = Agent("both", model=model, model_settings=settings, tools=[get_weather], output_type=Report)
    assert (await Runner.run(both, "The weather in Paris?")).final_output.city in {"Paris", "Rome"}

    streamed = Runner.run_streamed(caller, "The weather in Paris?")
    assert [event async for event in streamed.stream_events()]
    assert streamed.final_output


asyncio.run(main())
