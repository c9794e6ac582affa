"""LlamaIndex over its class for servers that are like OpenAI's."""

# mypy: ignore-errors
import os
from typing import Literal

import pydantic
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.prompts import PromptTemplate
from llama_index.core.tools import FunctionTool
from llama_index.embeddings.openai_like import OpenAILikeEmbedding
from llama_index.llms.openai_like import OpenAILike

SERVER = {"api_base": os.environ["BASE_URL"], "api_key": "any", "max_retries": 0}
MODEL = {"model": os.environ["CHAT_MODEL"], "is_chat_model": True, "is_function_calling_model": True}
QUESTION = ChatMessage(role="user", content="Tell me about the weather in Paris.")


class Report(pydantic.BaseModel):
    """A report."""

    city: Literal["Paris", "Rome"]
    degrees: int


def get_weather(city: Literal["Paris", "Rome"]) -> str:
    """The weather of a city."""
    return f"Sunny in {city}."


llm = OpenAILike(**MODEL, **SERVER, temperature=0, max_tokens=60)
whole = llm.chat([QUESTION])
assert whole.message.content
assert "".join(part.delta for part in llm.stream_chat([QUESTION])) == whole.message.content
assert llm.complete("Say hello.").text

tool = FunctionTool.from_defaults(get_weather)
answer = llm.chat_with_tools([tool], user_msg=QUESTION, tool_required=True)
(call,) = llm.get_tool_calls_from_response(answer)
assert call.tool_name == "get_weather"
assert call.tool_kwargs["city"] in {"Paris", "Rome"}

report = llm.structured_predict(Report, PromptTemplate("Report on the weather in Paris."))
assert report.city in {"Paris", "Rome"}

text = OpenAILike(**{**MODEL, "is_chat_model": False}, **SERVER, temperature=0, max_tokens=5)
assert text.complete("One, two,").text

embedding = OpenAILikeEmbedding(model_name=os.environ["EMBEDDING_MODEL"], **SERVER)
assert len(embedding.get_text_embedding("a")) == len(embedding.get_text_embedding_batch(["a", "b"])[1]) == 384
