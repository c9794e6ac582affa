"""instructor: typed answers by tools, by a schema and by plain JSON mode."""

# mypy: ignore-errors
from __future__ import annotations

import os
from typing import Literal

import instructor
import openai
import pydantic

MODEL = os.environ["CHAT_MODEL"]
QUESTION = [{"role": "user", "content": "Jason, who is 25, lives in Paris."}]


class Person(pydantic.BaseModel):
    city: Literal["Paris", "Rome"]
    age: int = pydantic.Field(ge=0, le=150)


client = openai.OpenAI(base_url=os.environ["BASE_URL"], api_key="any", max_retries=0)
for mode in (
    instructor.Mode.TOOLS,
    instructor.Mode.TOOLS_STRICT,
    instructor.Mode.JSON_SCHEMA,
):
    typed = instructor.from_openai(client, mode=mode)
    person = typed.chat.completions.create(
        model=MODEL, messages=QUESTION, response_model=Person, temperature=0, max_tokens=200, max_retries=1
    )
    assert isinstance(person, Person), mode
    *_, last = typed.chat.completions.create_partial(
        model=MODEL, messages=QUESTION, response_model=Person, temperature=0, max_tokens=200, max_retries=1
    )
    assert last.age == person.age, mode
