"""A server's abilities, found out by asking: its models, the fields that it takes, the longest prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from appliance.bench.client import Answer, Message, OpenAIClient
from appliance.bench.errors import BenchError, RefusalError
from appliance.bench.prompts import TokenRate, words
from appliance.errors import ModelNotFoundError

_BAD_FIELD = frozenset({400, 422})
_WANTED: Mapping[str, Any] = {"stream_options": {"include_usage": True}, "ignore_eos": True}


@dataclass(frozen=True, slots=True)
class Target:
    """One server under load, with the models and the optional fields that it takes; `pid` where it runs here."""

    label: str
    client: OpenAIClient
    chat_model: str | None
    embedding_model: str | None
    options: Mapping[str, Any]
    pid: int | None = None

    async def chat(
        self, messages: Sequence[Message], max_tokens: int, *, may_end: bool = False, **options: Any
    ) -> Answer:
        """Ask for one greedy answer of `max_tokens`; `may_end` allows fewer, else the server is asked to go on.

        Raises:
            RefusalError: the server has no chat model, or does not take this.
            BenchError: the connection is lost.
        """
        if self.chat_model is None:
            raise RefusalError(404, "this server has no model that chats")
        taken = {name: value for name, value in self.options.items() if not (may_end and name == "ignore_eos")}
        return await self.client.chat(self.chat_model, messages, max_tokens=max_tokens, **taken, **options)

    async def embed(self, texts: Sequence[str]) -> None:
        """Have texts embedded.

        Raises:
            RefusalError: the server has no embedding model, does not take these, or leaves some out.
            BenchError: the connection is lost.
        """
        if self.embedding_model is None:
            raise RefusalError(404, "this server has no model that embeds")
        num_vectors = await self.client.embed(self.embedding_model, texts)
        if num_vectors != len(texts):
            raise RefusalError(200, f"{num_vectors} vectors came back for {len(texts)} texts")

    async def token_rate(self) -> TokenRate:
        """Measure how many tokens a prompt of words has; a plain guess where the server does not count."""
        counts = []
        for num_words in (20, 120):
            answer = await self.chat([user(words(num_words, "rate", num_words))], 1)
            counts.append((num_words, answer.num_prompt_tokens or num_words + 20))
        return TokenRate.of(counts[0], counts[1])


def user(text: str) -> Message:
    """Return a message of the user."""
    return {"role": "user", "content": text}


async def find_target(
    label: str,
    client: OpenAIClient,
    *,
    chat_model: str | None = None,
    embedding_model: str | None = None,
    pid: int | None = None,
) -> Target:
    """Try the models that were named, else those that the server lists.

    Raises:
        BenchError: nobody answers, or nothing there can chat or embed.
        ModelNotFoundError: a named model is refused.
    """
    try:
        listed = await client.model_ids()
    except RefusalError as err:
        raise BenchError(f"{client.base_url} does not list its models ({err.message}); is the URL right?") from err
    found_chat = await _find_chat(client, [chat_model] if chat_model else listed)
    if isinstance(found_chat, RefusalError) and chat_model:
        raise _not_found(client, chat_model, listed, found_chat)
    candidates = [embedding_model] if embedding_model else list(dict.fromkeys([*filter(None, [chat_model]), *listed]))
    found_embedding = await _find_embedding(client, candidates)
    if isinstance(found_embedding, RefusalError) and embedding_model:
        raise _not_found(client, embedding_model, listed, found_embedding)
    if isinstance(found_chat, RefusalError) and isinstance(found_embedding, RefusalError):
        raise BenchError(
            f"{client.base_url} has no model that can be measured; it lists: {_names(listed)}. "
            f"It says: {found_chat.message}"
        )
    model, options = (None, {}) if isinstance(found_chat, RefusalError) else found_chat
    encoder = None if isinstance(found_embedding, RefusalError) else found_embedding
    return Target(label, client, model, encoder, options, pid)


async def _find_chat(client: OpenAIClient, candidates: Sequence[str]) -> tuple[str, dict[str, Any]] | RefusalError:
    """Return the first model that chats, with the optional fields that are not refused; else the last refusal."""
    refusal = RefusalError(404, "there is no model")
    for model in candidates:
        for fields in (("stream_options", "ignore_eos"), ("stream_options",), ()):
            options = {name: _WANTED[name] for name in fields}
            try:
                await client.chat(model, [user("Hello.")], max_tokens=1, **options)
            except RefusalError as err:
                refusal = err
                if err.answer_status not in _BAD_FIELD:
                    break
            else:
                return model, options
    return refusal


async def _find_embedding(client: OpenAIClient, candidates: Sequence[str]) -> str | RefusalError:
    refusal = RefusalError(404, "there is no model")
    for model in candidates:
        try:
            if await client.embed(model, ["light"]) == 1:
                return model
        except RefusalError as err:
            refusal = err
    return refusal


def _not_found(client: OpenAIClient, model: str, listed: Sequence[str], refusal: RefusalError) -> ModelNotFoundError:
    return ModelNotFoundError(
        f"{client.base_url} cannot use the model {model!r}; it lists: {_names(listed)}. It says: {refusal.message}"
    )


def _names(listed: Sequence[str]) -> str:
    return ", ".join(listed) or "none"
