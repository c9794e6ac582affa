"""The server opens no connection on behalf of a request: a listener that every request points at hears nothing."""

from __future__ import annotations

import select
import socket
from typing import Any

import httpx2
import pytest

from tests.conftest import RunningServer

MODEL = "smollm2-135m-instruct"


def pointing_at(url: str) -> list[dict[str, Any]]:
    image = {"type": "image_url", "image_url": {"url": url}}
    file = {"type": "file", "file": {"file_data": url}}
    schema = {"type": "object", "properties": {"a": {"$ref": f"{url}#/a"}}}
    parameters = {"$schema": url, "$id": url, **schema}
    return [
        {"messages": [{"role": "user", "content": [image]}]},
        {"messages": [{"role": "user", "content": [file]}]},
        {"messages": [{"role": "user", "content": f"Read {url}"}], "max_tokens": 2},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}, "max_tokens": 2},
        {"tools": [{"type": "function", "function": {"name": "x", "parameters": parameters}}], "max_tokens": 2},
        {"tools": [{"type": "mcp", "server_url": url, "server_label": "x"}], "max_tokens": 2},
        {"model": url},
        {"metadata": {"callback": url}, "max_tokens": 1},
    ]


@pytest.mark.parametrize("which", range(8))
def test_no_request_makes_the_server_connect_to_somebody(server: RunningServer, which: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as canary:
        url = f"http://127.0.0.1:{canary.getsockname()[1]}/x"
        body = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], **pointing_at(url)[which]}
        headers = {"origin": url, "referer": url, "x-forwarded-for": "127.0.0.1", "forwarded": f"host={url}"}
        answer = httpx2.post(f"{server.base_url}/chat/completions", json=body, headers=headers, timeout=60)
        assert answer.status_code < 500
        assert not select.select([canary], [], [], 0.2)[0]
