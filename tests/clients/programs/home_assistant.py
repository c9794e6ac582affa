"""Home Assistant's own modules of its llama_cpp integration, as they set it up and talk; its core is stood in for.

They come out of a wheel for a newer Python than this one, so they are compiled with postponed annotations.
"""

import __future__

import asyncio
import json
import os
import sys
import types
import zipfile
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import MagicMock

import httpx2

FOLDER = "homeassistant/components/llama_cpp"
CORE = [
    "homeassistant.components",
    "homeassistant.config_entries",
    "homeassistant.const",
    "homeassistant.core",
    "homeassistant.exceptions",
    "homeassistant.helpers",
    "homeassistant.helpers.entity",
    "homeassistant.helpers.httpx_client",
    "homeassistant.helpers.json",
    "probatio",
]


class HomeAssistantError(Exception):
    """The error that is shown in its dialogs."""

    def __init__(self, **said: Any) -> None:
        super().__init__(said)


@dataclass
class Content:
    """A message of a chat."""

    role: str
    content: str
    attachments: None = None


@dataclass
class ChatLog:
    """A chat, which takes what the model says."""

    content: list[Content]
    conversation_id: str = "01K0"
    llm_api: None = None
    unresponded_tool_results: bool = False
    said: list[dict[str, Any]] = field(default_factory=list)

    async def async_add_delta_content_stream(
        self, _entity: str, deltas: AsyncIterator[dict[str, Any]]
    ) -> AsyncIterator[Content]:
        self.said += [delta async for delta in deltas]
        yield Content("assistant", "".join(delta.get("content") or "" for delta in self.said))


def stand_in() -> None:
    """Put stand-ins in the places of the core's modules."""
    for name in CORE:
        sys.modules[name] = MagicMock()
    sys.modules["homeassistant.const"].CONF_API_KEY = "api_key"  # type: ignore[attr-defined]
    sys.modules["homeassistant.exceptions"].HomeAssistantError = HomeAssistantError  # type: ignore[attr-defined]
    sys.modules["homeassistant.helpers.httpx_client"].get_async_client = lambda _: httpx2.AsyncClient()  # type: ignore[attr-defined]
    sys.modules["homeassistant.helpers.entity"].Entity = type("Entity", (), {"entity_id": "conversation.lantern"})  # type: ignore[attr-defined]
    conversation = sys.modules["homeassistant.components"].conversation
    for kind in ("ToolResultContent", "AssistantContent", "SystemContent", "UserContent"):
        setattr(conversation, kind, type(kind, (), {}))


def load(wheel: zipfile.ZipFile, name: str) -> Any:
    """Run a module of the integration."""
    module = types.ModuleType(f"llama_cpp.{name}")
    module.__package__ = "llama_cpp"
    sys.modules[module.__name__] = module
    source = wheel.read(f"{FOLDER}/{name}.py")
    exec(compile(source, f"{name}.py", "exec", __future__.annotations.compiler_flag), module.__dict__)
    return module


async def main(path: str, told: dict[str, str]) -> None:
    stand_in()
    package = sys.modules["llama_cpp"] = types.ModuleType("llama_cpp")
    package.__path__ = []
    with zipfile.ZipFile(path) as wheel:
        const, api, entity = (load(wheel, name) for name in ("const", "api", "entity"))
    hass = MagicMock()
    hass.async_add_executor_job = asyncio.to_thread
    data = {const.CONF_BASE_URL: told["URL"], "api_key": told["API key"]}

    client = await api.async_create_client(hass, data)  # what its form does with what was entered
    assert told["Model"] in await api.async_list_models(client)
    await api.async_validate_completions(client, model=told["Model"], stream=False)
    await api.async_validate_completions(client, model=told["Model"], stream=True)

    for streaming in (True, False):
        entry = types.SimpleNamespace(runtime_data=client, data={**data, const.CONF_STREAMING: streaming})
        options = {const.CONF_CHAT_MODEL: told["Model"], const.CONF_MAX_TOKENS: 16}
        agent = entity.LlamaCppBaseLLMEntity(entry, types.SimpleNamespace(subentry_id="1", title="x", data=options))
        log = ChatLog([Content("system", "Be short."), Content("user", "What is the capital of France?")])
        await agent._async_handle_chat_log(log)
        sys.stdout.write("".join(delta.get("content") or "" for delta in log.said).strip() + "\0")

    refused = ""
    wrong = await api.async_create_client(hass, {**data, "api_key": "sk-wrong"})
    try:
        await api.async_list_models(wrong)
    except HomeAssistantError as err:
        refused = str(err)
    assert "invalid_auth" in refused


asyncio.run(main(sys.argv[1], json.loads(os.environ["TOLD"])))
