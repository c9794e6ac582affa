"""Codex itself against a real server: it speaks nothing but streamed responses, and offers tools of many types."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from appliance.home import Home
from tests.clients.conftest import program_runner
from tests.clients.environments import npm_packages
from tests.clients.recorder import Exchange, recording
from tests.conftest import a_config, serving
from tests.server.responses.asking import events_of

_PACKAGE = "@openai/codex@0.171.0"
_CONFIG = """
model = "smollm2-135m-instruct"
model_provider = "lantern"
approval_policy = "never"
sandbox_mode = "read-only"
model_instructions_file = "{folder}/instructions.txt"

[model_providers.lantern]
name = "Lantern"
base_url = "{base_url}"
wire_api = "responses"
env_key = "OPENAI_API_KEY"
request_max_retries = 0
stream_max_retries = 0
"""
_DONE = "data: [DONE]\n\n"
_QUESTION = "Say hello."


def _asked(starter_home: Home, tmp_path: Path, *, context_length: int) -> tuple[str, list[Exchange]]:
    """Return the words of Codex after one question, and what it exchanged with the server."""
    codex = npm_packages(_PACKAGE) / ".bin" / "codex"
    (tmp_path / "instructions.txt").write_text("Answer in one short sentence. Call no tool.", "utf-8")
    config = a_config(engine={"context_length": context_length})
    with serving(config, starter_home) as server, recording(server.root_url) as recorded:
        text = _CONFIG.format(base_url=recorded.base_url, folder=tmp_path)
        (tmp_path / "config.toml").write_text(text, "utf-8")
        run = program_runner(recorded.base_url, tmp_path, CODEX_HOME=str(tmp_path))
        words = f'"{codex}" exec --skip-git-repo-check "{_QUESTION}" 2>&1 || true'
        said = run(["sh", "-c", words])
    return said, [exchange for exchange in recorded.exchanges if exchange.path == "/v1/responses"]


@pytest.mark.slow
def test_codex_gets_an_answer_and_every_event_that_it_waits_for(starter_home: Home, tmp_path: Path) -> None:
    said, exchanges = _asked(starter_home, tmp_path, context_length=8192)
    assert exchanges, said
    request = json.loads(exchanges[0].request)
    assert (request["stream"], request["store"]) == (True, False)
    assert {tool["type"] for tool in request["tools"]} > {"function"}
    for exchange in exchanges:
        assert exchange.status == 200, exchange.answer
        answer = exchange.answer.decode().removesuffix(_DONE) + _DONE  # Codex leaves after the last event
        assert events_of(answer)[-1]["type"] in {"response.completed", "response.incomplete"}, said
    assert "ERROR" not in said


def test_codex_understands_that_its_prompt_is_too_long(starter_home: Home, tmp_path: Path) -> None:
    said, exchanges = _asked(starter_home, tmp_path, context_length=1024)
    assert exchanges[0].status == 400
    assert json.loads(exchanges[0].answer)["error"]["code"] == "context_length_exceeded"
    assert "ran out of room in the model's context window" in said
