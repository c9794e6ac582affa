"""The one generation path: prompts and sampling parameters in, choices out; under every route that generates text."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from aiohttp import web

from appliance.engine.loop import TokenStream
from appliance.engine.types import Admitted, Constraint, Output, PromptComputed, Queued, Request, SamplingParams
from appliance.errors import UnavailableError
from appliance.models import ChatModel
from appliance.server.context import CONTEXT
from appliance.server.http.record import KEY_ID, RECORD, REQUEST_ID, RequestRecord
from appliance.server.v1.choice import CompletionReader, TextPiece


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt and the sampling parameters of each of its choices.

    `constraints`: the grammar of each choice, if there are any. `is_scored`: with the log probabilities of the prompt.
    `borders`: see engine.types.Request.
    """

    tokens: tuple[int, ...]
    params: Sequence[SamplingParams]
    constraints: Sequence[Constraint | None] = ()
    is_scored: bool = False
    borders: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Reading:
    """The progress of the first choice's prompt; `elapsed_s` began when the request got its slot."""

    num_prompt_tokens: int
    num_cached_tokens: int
    num_computed_tokens: int
    elapsed_s: float


@dataclass(frozen=True, slots=True)
class Origin:
    """The request that a generation belongs to, which may have ended: its id, its key, its counts, its patience."""

    request_id: str
    key_id: str
    record: RequestRecord
    max_wait_s: float

    @classmethod
    def of(cls, request: web.Request) -> Origin:
        """Return the origin of a generation that ends with its request."""
        return cls(request[REQUEST_ID], request.get(KEY_ID, ""), request[RECORD], request.app[CONTEXT].max_wait_s)


class Generation:
    """The choices of one request while they are generated; owned by its handler."""

    def __init__(
        self,
        stream: TokenStream,
        choices: dict[str, CompletionReader],
        record: RequestRecord,
        *,
        tells_progress: bool = False,
        num_prompt_tokens: int,
        max_wait_s: float,
    ) -> None:
        """Read `choices`, by the ids of their engine requests; all need a slot within `max_wait_s` from now."""
        self.choices = tuple(choices.values())
        self.num_prompt_tokens = num_prompt_tokens
        self.tells_progress = tells_progress
        self._choices = choices
        self._num_waiting = len(choices)  # for a slot
        self._stream = stream
        self.record = record
        self._max_wait_s = max_wait_s
        self._deadline_s = asyncio.get_running_loop().time() + max_wait_s

    @property
    def num_completion_tokens(self) -> int:
        """Return the tokens of all choices together."""
        return sum(choice.num_tokens for choice in self.choices)

    @property
    def num_cached_tokens(self) -> int:
        """Return the tokens of the prompt that the prefix cache has saved."""
        return max(choice.num_cached_tokens for choice in self.choices)

    async def begin(self, patience_s: float) -> None:
        """Wait for the first slot, but no longer than the patience: until then a refusal can still be a status.

        Raises:
            UnavailableError: there was no slot in time.
        """
        loop = asyncio.get_running_loop()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(min(loop.time() + patience_s, self._deadline_s)):
                await self._stream.ready()
                return
        if loop.time() >= self._deadline_s:
            raise self._busy()

    async def places(self) -> AsyncIterator[int]:
        """Yield the place of the first choice in the queue whenever it changes, until a slot is there.

        Nothing comes unless the generation tells its progress; read it before readings().

        Raises:
            UnavailableError: there was no slot in time.
        """
        async for output in self._leading(Queued):
            if isinstance(output, Queued):
                yield output.place

    async def readings(self) -> AsyncIterator[Reading]:
        """Yield the progress of the first choice's prompt: with its slot, and after each chunk; before pieces()."""
        first, begin_s = self.choices[0], 0.0
        async for output in self._leading(Admitted, PromptComputed):
            num_tokens = output.num_tokens if isinstance(output, PromptComputed) else None
            if isinstance(output, Admitted):
                self._admit(output)
                if self._choices[output.request_id] is first:
                    num_tokens, begin_s = output.num_cached_tokens, output.at_s
            if num_tokens is not None:
                yield Reading(self.num_prompt_tokens, first.num_cached_tokens, num_tokens, output.at_s - begin_s)

    async def pieces(self) -> AsyncIterator[tuple[CompletionReader, TextPiece]]:
        """Yield the text of all choices as it comes; each choice ends with a piece that has a finish reason.

        Raises:
            UnavailableError: there was no slot in time.
        """
        while True:
            await (self._slots() if self._num_waiting else self._stream.ready())
            outputs = self._stream.take()
            if not outputs:
                return
            for output in outputs:
                choice = self._choices[output.request_id]
                if choice.is_over:  # a stop string has ended it before the last token that the step brought
                    continue
                self.record.count(output)
                self._num_waiting -= isinstance(output, Admitted)
                for piece in choice.read(output):
                    if piece.finish_reason is not None:
                        self._stream.cancel(output.request_id)
                    yield choice, piece

    async def collect(self) -> list[list[TextPiece]]:
        """Read all choices to their ends; return the pieces of each."""
        collected: list[list[TextPiece]] = [[] for _ in self.choices]
        async for choice, piece in self.pieces():
            collected[choice.index].append(piece)
        return collected

    async def _leading(self, *kinds: type[Output]) -> AsyncIterator[Output]:
        """Yield the outputs up to the first one of another kind, which is left with those behind it."""
        while True:
            await (self._slots() if self._num_waiting else self._stream.ready())
            outputs = self._stream.take()
            for i, output in enumerate(outputs):
                if not isinstance(output, kinds):
                    self._stream.put_back(outputs[i:])
                    return
                yield output
            if not outputs:
                return

    def _admit(self, output: Admitted) -> None:
        self.record.count(output)
        self._num_waiting -= 1
        self._choices[output.request_id].read(output)

    async def _slots(self) -> None:
        """Wait for outputs while choices wait for slots."""
        try:
            async with asyncio.timeout_at(self._deadline_s):
                await self._stream.ready()
        except TimeoutError as err:
            raise self._busy() from err

    def _busy(self) -> UnavailableError:
        return UnavailableError(
            f"The server is busy: the request waited {self._max_wait_s:g} s without getting a slot. Try again later."
        )


@contextlib.asynccontextmanager
async def generate(
    origin: Origin,
    model: ChatModel,
    prompts: Sequence[Prompt],
    *,
    stops: Sequence[str] = (),
    visible: Sequence[str] = (),
    tells_progress: bool = False,
) -> AsyncIterator[Generation]:
    """Submit the prompts; leaving the block cancels what still runs.

    Choices are numbered prompt by prompt. `visible`: special tokens whose text is part of the completion.
    `tells_progress`: places() and readings() bring those of the first choice; both have to be read, before pieces().

    Raises:
        OverloadedError: the queue is full.
        UnavailableError: the model does not take requests.
    """
    unique = f"{origin.request_id}-{uuid.uuid4().hex[:12]}"  # clients choose the first part
    requests: list[Request] = []
    for prompt in prompts:
        constraints = prompt.constraints or [None] * len(prompt.params)
        for params, constraint in zip(prompt.params, constraints, strict=True):
            request_id = f"{unique}-{len(requests)}"
            requests.append(
                Request(
                    request_id,
                    prompt.tokens,
                    params,
                    origin.key_id,
                    constraint,
                    scores_prompt=prompt.is_scored,
                    borders=prompt.borders,
                    tells_progress=tells_progress and not requests,
                )
            )
    with model.engine.submit(*requests) as stream:
        origin.record.count_prompt(sum(len(asked.prompt) for asked in requests))
        yield Generation(
            stream,
            {r.id: CompletionReader(i, model.tokenizer, stops, visible=visible) for i, r in enumerate(requests)},
            origin.record,
            tells_progress=tells_progress,
            num_prompt_tokens=sum(len(prompt.tokens) for prompt in prompts),
            max_wait_s=origin.max_wait_s,
        )
