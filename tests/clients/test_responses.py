"""Clients of /v1/responses against a real server; each event and answer that they got is held against the rules."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from images.token_table import table_files
from tests.clients.conftest import RunProgram, program_runner
from tests.clients.environments import PROGRAMS, cache_folder, node_folder, python_with
from tests.clients.recorder import Exchange, Recording, recording
from tests.conftest import RunningServer
from tests.server.responses.asking import events_of
from tests.server.responses.openai_schemas import OpenAISchemas

_AGENTS, _LANGCHAIN = ["openai-agents==0.24.0"], ["langchain-openai==1.7.4"]
_TABLE_IN_CACHE = "9b5ad71b2ce5302211f9c61530b329a4922fc6a4"  # as tiktoken names it: the SHA-1 of its address
_LITELLM = ["litellm==1.106.2", "mcp==2.3.0"]


@pytest.fixture(scope="module")
def all_exchanges() -> list[Exchange]:
    """The exchanges of all clients of this module, in order."""
    return []


@pytest.fixture
def recorded(server: RunningServer, all_exchanges: list[Exchange]) -> Iterator[Recording]:
    """A proxy in front of the server; what it recorded keeps the rules of every stream and names no error of ours."""
    with recording(server.root_url) as recorded:
        yield recorded
    assert recorded.exchanges
    for exchange in recorded.exchanges:
        assert exchange.status < 500, exchange
        if exchange.is_whole and exchange.content_type == "text/event-stream":
            events_of(exchange.answer.decode())
    all_exchanges.extend(recorded.exchanges)


@pytest.fixture
def run_recorded(recorded: Recording, tmp_path: Path) -> RunProgram:
    """Runs a command that finds the proxy in its environment, and OpenAI's table of tokens without its network."""
    try:
        table = next(iter(table_files(cache_folder())))
    except OSError as err:
        pytest.skip(f"OpenAI's table of tokens, which a client loads, is not to be had here: {err}")
    (tmp_path / "tiktoken").mkdir()
    shutil.copy(table, tmp_path / "tiktoken" / _TABLE_IN_CACHE)
    return program_runner(recorded.base_url, tmp_path, TIKTOKEN_CACHE_DIR=str(tmp_path / "tiktoken"))


@pytest.mark.parametrize("version", ["2.54.0", "3.57.0"])
def test_openai_for_python(run_recorded: RunProgram, version: str) -> None:
    run_recorded([python_with(f"openai=={version}"), PROGRAMS / "responses_sdk.py", version])


@pytest.mark.parametrize("program", ["responses_node.mjs", "responses_ai_sdk.mjs"])
def test_a_node_sdk(run_recorded: RunProgram, program: str) -> None:
    folder = node_folder()
    shutil.copy(PROGRAMS / program, folder)
    run_recorded(["node", folder / program])


@pytest.mark.parametrize(
    ("program", "packages"),
    [
        ("responses_agents.py", _AGENTS),
        ("responses_langchain.py", _LANGCHAIN),
        ("responses_litellm.py", _LITELLM),
    ],
)
def test_a_python_framework(run_recorded: RunProgram, program: str, packages: list[str]) -> None:
    run_recorded([python_with(*packages), PROGRAMS / program])


def test_every_answer_to_them_is_what_openai_documents(all_exchanges: list[Exchange]) -> None:
    if not all_exchanges:  # as when `-k` chooses this test alone
        pytest.skip("no client of this module was run")
    schemas = OpenAISchemas()
    for exchange in all_exchanges:
        if exchange.status != 200 or not exchange.is_whole:
            continue
        if exchange.content_type == "text/event-stream":
            for event in events_of(exchange.answer.decode()):
                if event.get("response", {}).get("usage", 0) is None:  # as OpenAI sends it, whatever its schema has
                    del event["response"]["usage"]
                assert schemas.faults("ResponseStreamEvent", event) == []
        elif exchange.path == "/v1/responses" or exchange.method == "GET":
            name = "ResponseItemList" if exchange.path.endswith("/input_items") else "Response"
            assert schemas.faults(name, json.loads(exchange.answer)) == []
