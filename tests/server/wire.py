"""Requests for the shared server, good and changed, and the shape of every error."""

from __future__ import annotations

import json
from typing import Any

import httpx2
from hypothesis import strategies as st

from tests.conftest import RunningServer

MODEL = "smollm2-135m-instruct"
GOOD: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def post(server: RunningServer, path: str, content: bytes, **headers: str) -> httpx2.Response:
    return httpx2.post(
        f"{server.root_url}{path}", content=content, headers={"content-type": "application/json", **headers}, timeout=30
    )


def chat(server: RunningServer, **changes: Any) -> httpx2.Response:
    return post(server, "/v1/chat/completions", json.dumps({**GOOD, **changes}).encode())


def assert_error(response: httpx2.Response, status: int, code: str | None = None, param: str | None = None) -> str:
    assert response.status_code == status, response.text
    assert response.headers["x-request-id"]
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert isinstance(error["message"], str)
    assert error["code"] is None or isinstance(error["code"], str)
    if code is not None:
        assert error["code"] == code
    if param is not None:
        assert error["param"] == param
    message: str = error["message"]
    return message
