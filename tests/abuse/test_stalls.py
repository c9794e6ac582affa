"""The heaviest requests that are taken: each is answered or refused, and the loop serves others meanwhile.

The canary asks for /health all the time; the promise is that it is never kept waiting for 3 s by what somebody sent.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
import pytest

from tests.conftest import RunningServer

pytestmark = pytest.mark.alone

MODEL, ENCODER = "smollm2-135m-instruct", "all-minilm-l6-v2"
_STALL_S = 3.0
_MIB = 1 << 20


def chat(**changes: Any) -> bytes:
    body = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1, **changes}
    return json.dumps(body).encode()


def schema(value: object) -> bytes:
    return chat(response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": value}})


def nested(depth: int) -> object:
    value: object = {"type": "string"}
    for _ in range(depth):
        value = {"type": "object", "properties": {"a": value}, "required": ["a"]}
    return value


def doubling(depth: int) -> object:
    definitions: dict[str, object] = {"d0": {"type": "string"}}
    for i in range(1, depth):
        both = {"$ref": f"#/$defs/d{i - 1}"}
        definitions[f"d{i}"] = {"type": "object", "properties": {"a": both, "b": both}, "required": ["a", "b"]}
    return {"$defs": definitions, "$ref": f"#/$defs/d{depth - 1}"}


CHAT, EMBED, RAW = "/v1/chat/completions", "/v1/embeddings", "/v1/completions"
HEAVY: dict[str, tuple[str, Callable[[], bytes]]] = {
    "a prompt of 15 MiB": (CHAT, lambda: chat(messages=[{"role": "user", "content": "lantern " * (15 * _MIB // 8)}])),
    "a prompt of one letter": (CHAT, lambda: chat(messages=[{"role": "user", "content": "a" * (15 * _MIB)}])),
    "a prompt of emoji": (CHAT, lambda: chat(messages=[{"role": "user", "content": "🏮" * (3 * _MIB)}])),
    "marks that combine": (CHAT, lambda: chat(messages=[{"role": "user", "content": "e" + "\u0301" * _MIB}])),
    "a hundred thousand messages": (CHAT, lambda: chat(messages=[{"role": "user", "content": "x"}] * 99_000)),
    "ten thousand levels": (CHAT, lambda: b'{"model":' + b"[" * 10_000 + b"]" * 10_000 + b"}"),
    "millions of brackets": (CHAT, lambda: b'{"model":[' + b"[]," * (4 * _MIB) + b"[]]}"),
    "a million keys": (CHAT, lambda: b"{" + b",".join(b'"k%d":1' % i for i in range(_MIB)) + b"}"),
    "a number of a million digits": (CHAT, lambda: b'{"model":' + b"9" * _MIB + b"}"),
    "a huge n": (CHAT, lambda: chat(n=10**18)),
    "a hundred thousand stops": (CHAT, lambda: chat(stop=["x" * 20] * 100_000)),
    "a bias for everything": (CHAT, lambda: chat(logit_bias={str(i): 1 for i in range(49_000)})),
    "two thousand tools": (
        CHAT,
        lambda: chat(tools=[{"type": "function", "function": {"name": f"f{i}"}} for i in range(2000)]),
    ),
    "a deep schema": (CHAT, lambda: schema(nested(30))),
    "a doubling schema": (CHAT, lambda: schema(doubling(40))),
    "a schema that never ends": (CHAT, lambda: schema({"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"})),
    "an enumeration of 100,000": (CHAT, lambda: schema({"enum": [f"value-{i}" for i in range(100_000)]})),
    "a pattern that explodes": (CHAT, lambda: schema({"type": "string", "pattern": "^(((a+)+)+)+$"})),
    "a pattern that counts": (CHAT, lambda: schema({"type": "string", "pattern": "^(a{1,1000}){1,1000}$"})),
    "a pattern of alternatives": (CHAT, lambda: schema({"type": "string", "pattern": "|".join("ab" * 5000)})),
    "items without number": (CHAT, lambda: schema({"type": "array", "items": {}, "minItems": 10**9})),
    "a long property": (CHAT, lambda: schema({"type": "object", "properties": {"x" * _MIB: {"type": "string"}}})),
    "2048 long texts": (EMBED, lambda: json.dumps({"model": ENCODER, "input": ["light " * 1000] * 2048}).encode()),
    "a text of 15 MiB": (EMBED, lambda: json.dumps({"model": ENCODER, "input": "light " * (15 * _MIB // 6)}).encode()),
    "a million tokens": (EMBED, lambda: json.dumps({"model": ENCODER, "input": [7] * _MIB}).encode()),
    "a thousand prompts": (RAW, lambda: json.dumps({"model": MODEL, "prompt": ["x"] * 1000, "n": 8}).encode()),
    "nothing but blanks": (CHAT, lambda: b" " * (16 * _MIB)),
}


@contextmanager
def canary(server: RunningServer) -> Iterator[list[float]]:
    """Return the time of each look at /health."""
    stop, looked, times_s = threading.Event(), threading.Event(), list[float]()

    def look() -> None:
        with httpx2.Client(timeout=60) as client:
            while not stop.is_set():
                started_s = time.monotonic()
                assert client.get(f"{server.root_url}/health").status_code == 200
                times_s.append(time.monotonic() - started_s)
                looked.set()
                stop.wait(0.01)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        assert looked.wait(60)
        yield times_s
    finally:
        stop.set()
        thread.join(60)


@pytest.mark.parametrize("name", HEAVY)
def test_a_heavy_request_is_answered_or_refused_and_nobody_waits_for_it(server: RunningServer, name: str) -> None:
    path, make = HEAVY[name]
    body = make()
    with canary(server) as times_s:
        answer = httpx2.post(
            f"{server.root_url}{path}", content=body, headers={"content-type": "application/json"}, timeout=120
        )
    assert answer.status_code == 200 or 400 <= answer.status_code < 500, answer.text[:300]
    assert set(answer.json()) == {"error"} if answer.status_code != 200 else "error" not in answer.json()
    assert max(times_s) < _STALL_S
    after = httpx2.post(f"{server.base_url}/chat/completions", json=json.loads(chat()), timeout=60)
    assert after.status_code == 200
