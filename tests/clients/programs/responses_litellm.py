"""LiteLLM's `responses()`, plain, streamed, chained and with a tool."""

# mypy: ignore-errors
from __future__ import annotations

import json
import os

import litellm

SERVER = {
    "model": f"openai/{os.environ['CHAT_MODEL']}",
    "api_base": os.environ["BASE_URL"],
    "api_key": "any",
    "num_retries": 0,
}
QUESTION = "Tell me about the weather in Paris."
CITY = {"type": "object", "properties": {"city": {"enum": ["Paris", "Rome"]}}, "required": ["city"]}
TOOL = {"type": "function", "name": "get_weather", "parameters": CITY}


def text_of(response):
    return "".join(part.text for item in response.output if item.type == "message" for part in item.content)


whole = litellm.responses(input=QUESTION, temperature=0, max_output_tokens=20, **SERVER)
assert whole.usage.output_tokens == 20
events = list(litellm.responses(input=QUESTION, temperature=0, max_output_tokens=20, stream=True, **SERVER))
assert "".join(e.delta for e in events if e.type == "response.output_text.delta") == text_of(whole)
assert events[-1].response.incomplete_details.reason == "max_output_tokens"  # its own last event, whatever ours is

again = litellm.responses(input="And in Rome?", previous_response_id=whole.id, max_output_tokens=4, **SERVER)
assert again.usage.input_tokens > whole.usage.input_tokens + 15
kept = litellm.get_responses(
    response_id=again.id, custom_llm_provider="openai", api_base=SERVER["api_base"], api_key="any"
)
assert text_of(kept) == text_of(again)

for stream in (False, True):
    answer = litellm.responses(input=QUESTION, tools=[TOOL], tool_choice="required", stream=stream, **SERVER)
    response = list(answer)[-1].response if stream else answer
    call = next(item for item in response.output if item.type == "function_call")
    assert json.loads(call.arguments)["city"] in {"Paris", "Rome"}

for kind, arguments in (
    (litellm.ContextWindowExceededError, {"input": "word " * 5000}),
    (litellm.NotFoundError, {"input": QUESTION, "model": "openai/none"}),
    (litellm.BadRequestError, {"input": QUESTION, "temperature": 9}),
):
    try:
        litellm.responses(**{**SERVER, **arguments})
    except kind:
        continue
    raise AssertionError(f"{kind} was expected")
