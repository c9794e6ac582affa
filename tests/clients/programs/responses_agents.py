"""openai-agents as its examples use it: responses, by the environment alone; a session, a tool, a stream."""

# mypy: ignore-errors
from __future__ import annotations

import asyncio
import contextlib
import os
from typing import Literal

import pydantic
from agents import (
    Agent,
    ModelBehaviorError,
    ModelSettings,
    Runner,
    RunResult,
    SQLiteSession,
    StopAtTools,
    function_tool,
    set_tracing_disabled,
)

set_tracing_disabled(True)
os.environ["OPENAI_BASE_URL"] = os.environ["BASE_URL"]
CHAT = os.environ["CHAT_MODEL"]
GREEDY = ModelSettings(temperature=0, max_tokens=200)
FORCED = GREEDY.resolve(ModelSettings(tool_choice="required"))


class Report(pydantic.BaseModel):
    city: Literal["Paris", "Rome"]
    weather: Literal["sunny", "rainy"]


class Reply(pydantic.BaseModel):
    """An answer that ends, however the small model would go on: the framework fails at an incomplete one."""

    text: Literal["You are welcome.", "It is sunny.", "Goodbye."]


@function_tool
def get_weather(city: Literal["Paris", "Rome"]) -> str:
    """The weather of a city."""
    return f"Sunny in {city}."


async def complete(agent: Agent, text: str) -> RunResult:
    """Ask in the default settings, which sample, until an answer has ended before the context did."""
    while True:
        with contextlib.suppress(ModelBehaviorError):
            return await Runner.run(agent, text)


async def main() -> None:
    plain = await complete(Agent("plain", model=CHAT), "Say hello.")
    assert plain.final_output
    assert plain.last_response_id.startswith("resp_")

    session = SQLiteSession("one")
    once = Agent(
        "once", model=CHAT, model_settings=FORCED, tools=[get_weather], reset_tool_choice=True, output_type=Reply
    )
    first = await Runner.run(once, "The weather in Paris?", session=session)
    assert first.final_output  # the result went back to the model
    kinds = [item.get("type", "message") for item in await session.get_items()]
    assert kinds[:3] == ["message", "function_call", "function_call_output"]
    talker = Agent("talker", model=CHAT, model_settings=GREEDY, output_type=Reply)
    second = await Runner.run(talker, "Thank you.", session=session)
    assert second.final_output
    assert second.raw_responses[0].usage.input_tokens > plain.raw_responses[0].usage.input_tokens + 20

    chained = await Runner.run(talker, "Go on.", previous_response_id=second.last_response_id)
    assert chained.raw_responses[0].usage.input_tokens > second.raw_responses[0].usage.input_tokens

    typed = await Runner.run(
        Agent("typed", model=CHAT, model_settings=GREEDY, output_type=Report), "The weather in Paris?"
    )
    assert typed.final_output.city in {"Paris", "Rome"}

    stop = StopAtTools(stop_at_tool_names=["get_weather"])
    caller = Agent("caller", model=CHAT, model_settings=FORCED, tools=[get_weather], tool_use_behavior=stop)
    streamed = Runner.run_streamed(caller, "The weather in Paris?")
    assert [event async for event in streamed.stream_events()]
    assert streamed.final_output in {"Sunny in Paris.", "Sunny in Rome."}


asyncio.run(main())
