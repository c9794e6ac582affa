"""The requests of Codex 0.171 as they were recorded: every field and every kind of tool, with texts of our own."""

from __future__ import annotations

from typing import Any

from tests.conftest import RunningServer
from tests.server.responses.asking import MODEL, events_of, post

FUNCTION: dict[str, Any] = {
    "type": "function",
    "name": "exec_command",
    "description": "Run a command.",
    "strict": False,
    "parameters": {
        "type": "object",
        "properties": {
            "cmd": {"type": "string", "description": "The command."},
            "sandbox_permissions": {"type": "string", "enum": ["use_default", "require_escalated"]},
            "prefix_rule": {"type": "array", "items": {"type": "string"}},
            "yield_time_ms": {"type": "number"},
        },
        "required": ["cmd"],
        "additionalProperties": False,
    },
}
TOOLS = [
    FUNCTION,
    {"type": "function", "name": "get_goal", "description": "The goal.", "strict": False, "parameters": {
        "type": "object", "properties": {}, "required": [], "additionalProperties": False}},
    {"type": "namespace", "name": "multi_agent_v1", "description": "Agents.", "tools": [FUNCTION]},
    {"type": "custom", "name": "apply_patch", "description": "A patch.", "format": {
        "type": "grammar", "syntax": "lark", "definition": 'start: "a"'}},
    {"type": "local_shell"},
    {"type": "tool_search", "execution": "client"},
    {"type": "web_search", "external_web_access": False},
    {"type": "image_generation", "output_format": "png"},
]  # fmt: skip


def said(role: str, *texts: str) -> dict[str, Any]:
    parts = [{"type": "output_text" if role == "assistant" else "input_text", "text": text} for text in texts]
    return {"type": "message", "id": "msg_540d0ba4-6291-5ae1-8f46-21c3ef36b8f1", "role": role, "content": parts}


FIRST = [said("developer", "You are an agent."), said("developer", "Ask first."), said("user", "<env/>", "Go."),
         said("user", "Say hello.")]  # fmt: skip


def asked(server: RunningServer, items: list[dict[str, Any]], **fields: Any) -> tuple[list[dict[str, Any]], str]:
    """Return the events and the header about tools that were left out."""
    request: dict[str, Any] = {
        "model": MODEL,
        "stream": True,
        "input": items,
        "tools": TOOLS,
        "tool_choice": "auto",
        "parallel_tool_calls": True,
        "reasoning": {"summary": "auto"},
        "store": False,
        "include": ["reasoning.encrypted_content"],
        "prompt_cache_key": "01a22360-3bb3-7d11-9a0e-1ec156a24263",
        "client_metadata": {"root_turn_id": "01a22360"},
        "max_output_tokens": 24,
    }
    answer = post(server, **{**request, **fields})
    assert answer.status_code == 200, answer.text
    return events_of(answer.text), answer.headers["x-lantern-ignored-tools"]


def test_functions_and_the_custom_tool_are_offered_and_the_rest_is_named(server: RunningServer) -> None:
    events, ignored = asked(server, FIRST)
    assert ignored == "namespace, local_shell, tool_search, web_search, image_generation"
    last = events[-1]["response"]
    assert [tool["name"] for tool in last["tools"]] == ["exec_command", "get_goal", "apply_patch"]
    assert last["store"] is False


def test_the_second_turn_has_the_call_and_its_result(server: RunningServer) -> None:
    only = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "get_goal"}]}
    events, _ = asked(server, FIRST, tool_choice=only)
    # Codex reads items from their done events, not from the last one, and sends them back without a status.
    items = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    call = next(item for item in items if item["type"] == "function_call")
    assert (call["name"], call["arguments"]) == ("get_goal", "{}")
    sent_back = [{key: value for key, value in item.items() if key != "status"} for item in items]
    result = {"type": "function_call_output", "call_id": call["call_id"], "output": "None."}
    events, _ = asked(server, [*FIRST, *sent_back, result], tool_choice="auto")
    assert events[-1]["response"]["usage"]["output_tokens"] > 0
