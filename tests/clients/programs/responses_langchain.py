"""LangChain with `use_responses_api`, and its embeddings as they are by default: arrays of cl100k_base."""

# mypy: ignore-errors
from __future__ import annotations

import os
from typing import Literal

import pydantic
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_openai import ChatOpenAI, OpenAIEmbeddings

SERVER = {"base_url": os.environ["BASE_URL"], "api_key": "any", "max_retries": 0}
QUESTION = HumanMessage("Tell me about the weather in Paris.")


class Report(pydantic.BaseModel):
    """The weather of a city."""

    city: Literal["Paris", "Rome"]
    degrees: int


def a_model(**settings: object) -> ChatOpenAI:
    return ChatOpenAI(
        model=os.environ["CHAT_MODEL"],
        use_responses_api=True,
        temperature=0,
        **{"max_tokens": 200, **SERVER, **settings},
    )


short = a_model(max_tokens=15)
whole = short.invoke([QUESTION])
assert whole.response_metadata["id"].startswith("resp_")
assert whole.usage_metadata["output_tokens"] == 15
chunks = list(short.stream([QUESTION]))
assert "".join(chunk.text for chunk in chunks) == whole.text
history = [QUESTION, whole, HumanMessage("And in Rome?")]
again = short.invoke(history)
assert again.usage_metadata["input_tokens"] > whole.usage_metadata["input_tokens"] + 15
chained = a_model(max_tokens=15, use_previous_response_id=True).invoke(history)
assert chained.usage_metadata["input_tokens"] == again.usage_metadata["input_tokens"]

model = a_model()
caller = model.bind_tools([Report], tool_choice="any")
called = caller.invoke([QUESTION])
assert called.tool_calls[0]["args"]["city"] in {"Paris", "Rome"}
streamed = None
for chunk in caller.stream([QUESTION]):
    streamed = chunk if streamed is None else streamed + chunk
assert [c["args"] for c in streamed.tool_calls] == [c["args"] for c in called.tool_calls]
result = ToolMessage("18 degrees", tool_call_id=called.tool_calls[0]["id"])
assert short.bind_tools([Report], tool_choice="none").invoke([QUESTION, called, result]).usage_metadata
for method in ("json_schema", "function_calling"):
    typed = model.with_structured_output(Report, method=method, strict=True).invoke([QUESTION])
    assert typed.city in {"Paris", "Rome"}

TEXTS = ["The weather in Paris.", "Ein Café, 東京 und 🦊", "a"]
by_default = OpenAIEmbeddings(model=os.environ["EMBEDDING_MODEL"], **SERVER).embed_documents(TEXTS)
as_text = OpenAIEmbeddings(model=os.environ["EMBEDDING_MODEL"], check_embedding_ctx_length=False, **SERVER)
for vector, same in zip(by_default, as_text.embed_documents(TEXTS), strict=True):
    assert all(abs(x - y) < 1e-5 for x, y in zip(vector, same, strict=True))
