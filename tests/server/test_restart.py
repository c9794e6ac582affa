"""A chat over a restart of the service, with what the model remembers of it on the disk."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import httpx2
import pytest

from appliance.home import Home
from tests.conftest import RunningServer, a_config, serving

MODEL = "smollm2-135m-instruct"
STORY = "A lighthouse keeper counts the ships that pass in the night, and one night there are none. " * 12

Message = dict[str, str]


@pytest.fixture
def home(starter_home: Home) -> Iterator[Home]:
    yield starter_home
    shutil.rmtree(starter_home.conversations, ignore_errors=True)


def ask(server: RunningServer, messages: list[Message]) -> tuple[str, int, int]:
    """Return the answer, the tokens of the prompt, and the part of them that was not read."""
    body = {"model": MODEL, "messages": messages, "max_tokens": 24, "temperature": 0}
    answer = httpx2.post(f"{server.base_url}/chat/completions", json=body, timeout=60.0).json()
    usage = answer["usage"]
    text: str = answer["choices"][0]["message"]["content"]
    return text, usage["prompt_tokens"], usage["prompt_tokens_details"]["cached_tokens"]


def next_turn(text: str) -> list[Message]:
    return [*first_turn(), {"role": "assistant", "content": text}, {"role": "user", "content": "And then?"}]


def first_turn() -> list[Message]:
    return [{"role": "user", "content": f"{STORY}Go on."}]


def test_a_chat_goes_on_after_a_restart_as_if_there_had_been_none(home: Home) -> None:
    with_disk = a_config(models={"preload": [MODEL], "conversations_mib": 256})
    without = a_config(models={"preload": [MODEL]})
    with serving(without, home) as server:
        text, num_prompt, _ = ask(server, first_turn())
        expected, _, num_cached = ask(server, next_turn(text))
    assert not home.conversations.exists()
    with serving(with_disk, home) as server:
        assert ask(server, first_turn())[0] == text
    with serving(with_disk, home) as server:
        assert ask(server, next_turn(text))[::2] == (expected, num_cached)
        assert num_cached >= num_prompt
    assert list(home.conversations.iterdir())
    with serving(without, home):
        assert not home.conversations.exists()
