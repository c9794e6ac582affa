"""One response while it is generated: pieces of text become events and items, the end is stored and told."""

from __future__ import annotations

from collections.abc import Iterator

from appliance.models import ChatModel
from appliance.server.context import ServerContext
from appliance.server.state.responses import StoredResponse
from appliance.server.v1.chat.logprobs import token_logprob
from appliance.server.v1.chat.message import MessageReader
from appliance.server.v1.choice import TextPiece
from appliance.server.v1.generation import Generation
from appliance.server.v1.response import timings_of
from appliance.server.v1.responses.answer import Answer, usage_of
from appliance.server.v1.responses.events import Event, Output
from appliance.server.v1.responses.kept import appended, without_items
from appliance.server.v1.responses.plan import ResponsePlan, to_json
from appliance.server.v1.responses.response import Response, Status
from appliance.server.v1.responses.wire import ResponseRequest


class Run:
    """The one choice of a response; owned by its handler, or by its task in the background."""

    def __init__(
        self,
        context: ServerContext,
        key_id: str,
        wire: ResponseRequest,
        model: ChatModel,
        planned: ResponsePlan,
        answer: Answer,
        generation: Generation,
    ) -> None:
        self.answer = answer
        self.generation = generation
        self._context = context
        self._key_id = key_id
        self._planned = planned
        self._tokenizer = model.tokenizer
        self._message = MessageReader(0, planned.plan.tools, planned.plan.splitter())
        sealer = context.sealer if wire.includes("reasoning.encrypted_content") else None
        as_summary = answer.base["reasoning"]["summary"] is not None
        self.output = Output(as_summary=as_summary, sealer=sealer, custom=planned.offer.custom)
        self._appended: tuple[str, frozenset[str]] | None = None  # of a conversation: its id, the ids of the items

    def read(self, piece: TextPiece) -> Iterator[Event]:
        """Take the next piece; yield its events, with the last piece also those of the open item's end."""
        for delta in self._message.read(piece):
            logprobs = [token_logprob(record, self._tokenizer) for record in delta.logprobs]
            yield from self.output.read(delta, logprobs)
        if piece.finish_reason is not None:
            yield from self.output.finish(is_cut=piece.finish_reason == "length")

    def end(self, status: Status | None = None) -> Response:
        """Return the response with its output: completed or incomplete, unless another status is given."""
        status = status or ("incomplete" if self._message.finish_reason == "length" else "completed")
        usage = usage_of(self.generation, self._message.num_reasoning_tokens)
        response = self.answer.ended(status, self.output.items, usage, is_stored=self.answer.base["store"])
        response["timings"] = timings_of(self.generation)
        return response

    async def keep(self, response: Response) -> None:
        """Store a response that has ended, if that was asked for; it tells afterwards what really happened."""
        store, wants = self._context.responses, response["store"]
        is_in_conversation = "conversation" in response and response["status"] in {"completed", "incomplete"}
        if not wants and not is_in_conversation:
            return
        store.keep_only(self._context.keys.key_ids)
        entry = self._entry(response)
        if is_in_conversation and not self._append(response["conversation"]["id"], entry):
            del response["conversation"]
            entry = self._entry(response)  # what is stored is what is answered
        is_stored = wants and store.put(self._key_id, entry)
        if (is_stored or self._appended is not None) and not await store.commit():
            if self._appended is not None:
                del response["conversation"]
            self.forget()
            is_stored = False
        response["store"] = is_stored

    async def open(self) -> bool:
        """Store the response before its end, so that it is found after a restart; False if it cannot be stored."""
        store = self._context.responses
        store.keep_only(self._context.keys.key_ids)
        if not store.put(self._key_id, self._entry(self.answer.begun("queued"), is_open=True)):
            return False
        try:
            is_durable = await store.commit()
        except BaseException:
            self.forget()
            raise
        if not is_durable:
            self.forget()
        return is_durable

    def forget(self) -> None:
        """Take back what was stored: it was not answered, or is not durable."""
        store = self._context.responses
        store.delete(self._key_id, self.answer.id)
        if self._appended is not None:
            conversation_id, item_ids = self._appended
            self._appended = None
            if (conversation := store.conversation(self._key_id, conversation_id)) is not None:
                store.put(self._key_id, without_items(conversation, item_ids))

    def _append(self, conversation_id: str, entry: StoredResponse) -> bool:
        """Add the request's items and the answer's to the conversation as it is now."""
        store = self._context.responses
        conversation = store.conversation(self._key_id, conversation_id)
        if conversation is None:
            return False
        grown = appended(conversation, entry.items, entry.item_ids)
        if not store.put(self._key_id, grown):
            return False
        self._appended = conversation_id, frozenset(grown.item_ids[len(conversation.item_ids) :])
        return True

    def _entry(self, response: Response, *, is_open: bool = False) -> StoredResponse:
        return StoredResponse(
            id=response["id"],
            previous_id=response["previous_response_id"],
            response=to_json({**response, "output": []}),
            input=self._planned.items,
            output=tuple(to_json(item) for item in response["output"]),
            item_ids=(*self._planned.item_ids, *(item["id"] for item in response["output"])),
            is_open=is_open,
        )
