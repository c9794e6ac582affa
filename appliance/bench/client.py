"""One OpenAI-compatible server as a stopwatch sees it: when each event of a stream came, and how many tokens it was.

Knows nothing of what is measured. Extensions that a server may refuse are named by the caller, see probe.py.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import aiohttp

from appliance.bench.errors import BenchError, RefusalError
from appliance.remote.patience import ASKED_FOR

_MAX_REASON_CHARS = 160
_MAX_TOKENS = 1 << 31
_CONNECT_S = ASKED_FOR.connect_s + ASKED_FOR.handshake_s
_READ_BUFFER_BYTES = 1 << 20  # no event of a stream is longer

Message = Mapping[str, str]


@dataclass(slots=True)
class Answer:
    """A streamed answer with its times on the monotonic clock; filled by the client, then only read."""

    begin_s: float
    first_text_s: float | None = None
    first_event_s: float | None = None
    last_event_s: float = 0.0
    num_prompt_tokens: int | None = None
    num_tokens_told: int | None = None
    pieces: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """The text of the answer."""
        return "".join(self.pieces)

    @property
    def num_tokens(self) -> int:
        """Tokens as the server counts them, else pieces of text."""
        return self.num_tokens_told or len(self.pieces)

    @property
    def first_token_s(self) -> float:
        """Seconds from sending the request to the first text."""
        first_s = self.first_text_s or self.first_event_s or self.last_event_s
        return first_s - self.begin_s

    @property
    def rate(self) -> float | None:
        """Tokens per second after the first one; None where there are too few to tell."""
        span_s = self.last_event_s - self.begin_s - self.first_token_s
        return (self.num_tokens - 1) / span_s if self.num_tokens > 1 and span_s > 0 else None


class OpenAIClient:
    """Requests to one server, each over a connection of its own; `async with` owns them."""

    def __init__(self, url: str, *, key: str | None = None, idle_timeout_s: float = 300.0) -> None:
        """`url` may leave out the `/v1` at its end."""
        self.base_url = f"{url.rstrip('/').removesuffix('/v1')}/v1"
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._limits = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S, sock_read=idle_timeout_s)
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        # A kept connection that the server closes while the other one has its turn would look like a lost one.
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(force_close=True, limit=0),
            timeout=self._limits,
            headers=self._headers,
            read_bufsize=_READ_BUFFER_BYTES,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def model_ids(self) -> list[str]:
        """Return the ids that `GET /models` lists.

        Raises:
            BenchError: nobody answers, or not as an OpenAI server does.
        """
        body = await self._request("GET", "models")
        entries = body.get("data")
        if not isinstance(entries, list):
            raise BenchError(f"{self.base_url} does not answer as an OpenAI server; is the URL right?")
        return [e["id"] for e in entries if isinstance(e, dict) and isinstance(e.get("id"), str)]

    async def chat(self, model: str, messages: Sequence[Message], **options: Any) -> Answer:
        """Stream one answer to its end; greedy.

        Raises:
            RefusalError: the server refuses, or fails in the midst.
            BenchError: the connection is lost.
        """
        assert self._session is not None
        body = {"model": model, "messages": list(messages), "temperature": 0, "stream": True, **options}
        answer = Answer(time.perf_counter())
        try:
            async with self._session.post(f"{self.base_url}/chat/completions", json=body) as response:
                if response.status != 200:
                    raise self._refusal(response.status, await response.read())
                async for line in response.content:
                    if line.startswith(b"data:"):
                        _take_event(answer, line[5:].strip(), time.perf_counter())
                    elif line.startswith(b"error:"):  # some servers name the event instead
                        raise RefusalError(response.status, _reason(line[6:].strip()))
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as err:
            raise self._lost(err) from err
        return answer

    async def embed(self, model: str, texts: Sequence[str]) -> int:
        """Have texts embedded; how many vectors came back.

        Raises:
            RefusalError: the server cannot, or not these.
            BenchError: the connection is lost.
        """
        body = await self._request("POST", "embeddings", {"model": model, "input": list(texts)})
        vectors = body.get("data")
        return len(vectors) if isinstance(vectors, list) else 0

    async def _request(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        assert self._session is not None
        try:
            async with self._session.request(method, f"{self.base_url}/{path}", json=body) as response:
                content = await response.read()
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as err:
            raise self._lost(err) from err
        if response.status != 200:
            raise self._refusal(response.status, content)
        return _object(content)

    def _refusal(self, status: int, content: bytes) -> RefusalError | BenchError:
        if status in {401, 403}:
            return BenchError(
                f"{self.base_url} refuses ({status}); give its key with --key, or --against-key for the peer."
            )
        return RefusalError(status, _reason(content))

    def _lost(self, err: Exception) -> BenchError:
        if isinstance(err, aiohttp.InvalidURL):
            return BenchError(f"{self.base_url} is not a URL; write it like http://127.0.0.1:8080.")
        if isinstance(err, aiohttp.ClientConnectorError):
            return BenchError(f"nothing answers at {self.base_url}; start the server there, or correct the URL.")
        why = "no answer in time" if isinstance(err, TimeoutError) else str(err) or type(err).__name__
        return BenchError(f"the connection to {self.base_url} was lost: {why}.")


def _take_event(answer: Answer, data: bytes, now_s: float) -> None:
    """Take one event of the stream; a chunk may bring text, the end, the usage, or an error."""
    if data == b"[DONE]":
        return
    chunk = _object(data)
    if "error" in chunk:
        raise RefusalError(200, _reason(data))
    usage = chunk.get("usage")
    if isinstance(usage, dict):
        answer.num_prompt_tokens = _count(usage.get("prompt_tokens"))
        answer.num_tokens_told = _count(usage.get("completion_tokens"))
    choices = chunk.get("choices")
    for choice in choices if isinstance(choices, list) else ():
        answer.first_event_s = answer.first_event_s or now_s
        answer.last_event_s = now_s
        delta = choice.get("delta") if isinstance(choice, dict) else None
        texts = [delta.get("content"), delta.get("reasoning_content")] if isinstance(delta, dict) else []
        text = next((text for text in texts if isinstance(text, str) and text), None)
        if text is not None:
            answer.first_text_s = answer.first_text_s or now_s
            answer.pieces.append(text)


def _count(value: object) -> int | None:
    """Return a number of tokens that a server may have counted."""
    return value if isinstance(value, int) and 0 <= value <= _MAX_TOKENS else None


def _object(content: bytes) -> dict[str, Any]:
    try:
        parsed = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return parsed if isinstance(parsed, dict) else {}


def _reason(content: bytes) -> str:
    """Return the message of OpenAI's error object, or the beginning of any other body."""
    body = _object(content)
    error = body.get("error", body.get("message", body.get("detail")))
    message = error.get("message") if isinstance(error, dict) else error
    text = message if isinstance(message, str) else content.decode("utf-8", "replace")
    return " ".join(text.split())[:_MAX_REASON_CHARS] or "no reason given"
