"""The wire side of `lantern chat`: plain OpenAI over aiohttp, streamed; foreign answers become sentences."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import aiohttp

from appliance.cli.sse_reader import SSEReader
from appliance.discovery.record import printable
from appliance.errors import LanternError
from appliance.remote.session import session_to
from appliance.remote.target import Target

_MAX_ERROR_BYTES = 64 * 1024
_MAX_LIST_BYTES = 4 * 1024 * 1024
_MAX_SENTENCE_CHARS = 600
_MAX_TOKENS = 1 << 31


class ChatError(LanternError):
    """The server refused, failed, or could not be reached; the message is what to show."""


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of the conversation."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Piece:
    """The content of one event: text, or in the last one the number of tokens generated."""

    text: str = ""
    num_tokens: int | None = None


class ChatClient:
    """One server, who has to be the one that we know; `async with` opens and closes the connection."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._base_url = target.base_url.rstrip("/")
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = session_to(self._target)
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def models(self) -> list[Mapping[str, object]]:
        """Return the entries of `GET /models`.

        Raises:
            ChatError: no answer, a refusal, or something that is no list of models.
        """
        assert self._session is not None
        try:
            async with self._session.get(f"{self._base_url}/models", allow_redirects=False) as response:
                body = await _read(response, _MAX_LIST_BYTES)
        except (aiohttp.ClientError, OSError, TimeoutError) as err:
            raise _unreachable(self._base_url, err) from err
        if response.status != 200:
            raise ChatError(_refusal(response.status, body))
        entries = _object(body).get("data")
        if not isinstance(entries, list):
            raise ChatError(f"{self._base_url} does not answer as an OpenAI server; is the URL right?")
        known = [entry for entry in entries if isinstance(entry, dict) and isinstance(entry.get("id"), str)]
        return [entry | {"id": _encodable(entry["id"])} for entry in known]

    async def stream(
        self, messages: Sequence[Message], *, model: str, temperature: float | None = None
    ) -> AsyncGenerator[Piece, None]:
        """Generate an answer. Leaving early closes the connection, so that the server frees the slot.

        Raises:
            ChatError: no answer, a refusal, or an error in the midst of the stream.
        """
        assert self._session is not None
        request: dict[str, object] = {
            "model": model,
            "messages": [{"role": message.role, "content": message.content} for message in messages],
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if temperature is not None:
            request["temperature"] = temperature
        try:
            url = f"{self._base_url}/chat/completions"
            async with self._session.post(url, json=request, allow_redirects=False) as response:
                try:
                    async for piece in _pieces(response):
                        yield piece
                finally:
                    response.close()
        except (aiohttp.ClientError, OSError, TimeoutError) as err:
            raise _unreachable(self._base_url, err) from err


async def _pieces(response: aiohttp.ClientResponse) -> AsyncGenerator[Piece, None]:
    """Yield the events of a stream up to `[DONE]`."""
    if response.status != 200:
        raise ChatError(_refusal(response.status, await _read(response, _MAX_ERROR_BYTES)))
    reader = SSEReader()
    async for chunk in response.content.iter_any():
        for event in reader.feed(chunk):
            if event == "[DONE]":
                return
            yield _piece(event)
    raise ChatError("The server ended the answer in its midst.")


def _piece(event: str) -> Piece:
    chunk = _object(event.encode())
    if "error" in chunk:
        raise ChatError(_sentence(chunk["error"]) or "The server failed while it answered.")
    usage, choices = chunk.get("usage"), chunk.get("choices")
    num_tokens = usage.get("completion_tokens") if isinstance(usage, dict) else None
    choice = choices[0] if isinstance(choices, list) and choices else None
    delta = choice.get("delta") if isinstance(choice, dict) else None
    text = delta.get("content") if isinstance(delta, dict) else None
    is_count = isinstance(num_tokens, int) and 0 <= num_tokens <= _MAX_TOKENS
    return Piece(_encodable(text) if isinstance(text, str) else "", num_tokens if is_count else None)


def _encodable(text: str) -> str:
    """Replace halves of surrogate pairs, which JSON can say and no terminal can show."""
    return text.encode("utf-8", "replace").decode()


async def _read(response: aiohttp.ClientResponse, max_bytes: int) -> bytes:
    body = b""
    while len(body) < max_bytes and (more := await response.content.read(max_bytes - len(body))):
        body += more
    return body


def _object(body: bytes) -> dict[str, object]:
    try:
        parsed = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return parsed if isinstance(parsed, dict) else {}


def _refusal(status: int, body: bytes) -> str:
    """Return the sentence of OpenAI's error object, or one about the status alone."""
    sentence = _sentence(_object(body).get("error")) or "it gives no reason; is the URL right?"
    hint = " Give the key with --key or LANTERN_API_KEY." if status == 401 else ""
    return f"The server refuses ({status}): {sentence}{hint}"


def _sentence(error: object) -> str | None:
    message = error.get("message") if isinstance(error, dict) else error
    return printable(message, max_chars=_MAX_SENTENCE_CHARS) if isinstance(message, str) and message else None


def _unreachable(base_url: str, err: Exception) -> ChatError:
    why = "no answer in time" if isinstance(err, TimeoutError) else str(err) or type(err).__name__
    return ChatError(f"{base_url} cannot be reached: {why}.")
