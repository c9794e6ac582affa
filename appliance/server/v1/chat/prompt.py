"""The prompt of a chat request: its turns rendered and encoded, and the grammars of its choices."""

from __future__ import annotations

from dataclasses import dataclass

from appliance.engine.runtime.reasoning import ReasoningForm
from appliance.engine.types import Constraint
from appliance.errors import ContextLengthError, InvalidRequestError
from appliance.models import ChatModel
from appliance.server.v1.chat.borders import turn_borders
from appliance.server.v1.chat.grammar import constraints_for
from appliance.server.v1.chat.history import turns_of
from appliance.server.v1.chat.tools import ToolUse, tool_use
from appliance.server.v1.chat.wire import ChatRequest
from appliance.server.v1.tokens import MAX_CHARACTERS_PER_TOKEN
from appliance.server.v1.turn import Turn
from appliance.server.v1.turns import num_characters, render_turns
from appliance.text.prompt import RenderedPrompt
from appliance.text.reasoning import ReasoningMarks, ReasoningSplitter, marks_for_template, opens_reasoning
from appliance.text.tool_calls import visible_markers

_NO_REASONING = frozenset({"none", "minimal"})


@dataclass(frozen=True, slots=True)
class ChatPlan:
    """A chat request ready for the engine: the prompt, the grammar of each choice, and the way to read the answers.

    `marks`: those of reasoning, if the model's template knows it. `borders`: see engine.types.Request.
    """

    prompt: tuple[int, ...]
    tools: ToolUse | None
    constraints: tuple[Constraint | None, ...]
    marks: ReasoningMarks | None
    starts_inside_reasoning: bool
    borders: tuple[int, ...] = ()

    @property
    def visible(self) -> tuple[str, ...]:
        """Return the special tokens whose text is needed to read the answers."""
        markers: tuple[str, ...] = self.marks.texts if self.marks is not None else ()
        if self.tools is not None and not self.tools.reads_generic_form:
            markers += visible_markers(self.tools.format)
        return markers

    def splitter(self) -> ReasoningSplitter | None:
        """Return what parts the reasoning of one choice from its content; None if there is no reasoning."""
        if self.marks is None:
            return None
        return ReasoningSplitter(self.marks, starts_inside=self.starts_inside_reasoning)


def plan_chat(model: ChatModel, wire: ChatRequest) -> ChatPlan:
    """Render, encode and compile; takes milliseconds, so never on the event loop.

    Raises:
        ContextLengthError: the prompt leaves no room for an answer.
        InvalidRequestError: a message, a tool or a schema is not valid.
    """
    tools = tool_use(wire, model.template)
    turns = turns_of(wire.messages)
    rendered = _render(model, wire, turns, tools)
    prompt = model.tokenizer.encode_rendered(rendered)
    model.engine.check(len(prompt))
    constraints = constraints_for(wire, turns, tools, model.grammars)
    marks = _marks_of(model)
    starts_inside = marks is not None and opens_reasoning(rendered.text, marks)
    if marks is not None:
        constraints = tuple(_around_reasoning(model, wire, c, marks, is_open=starts_inside) for c in constraints)
    borders = turn_borders(model.tokenizer, rendered, prompt, turns) if model.engine.keeps_states else ()
    return ChatPlan(prompt, tools, constraints, marks, starts_inside, borders)


def _marks_of(model: ChatModel) -> ReasoningMarks | None:
    if model.template is None:
        return None
    return marks_for_template(model.template.source, model.tokenizer.special_tokens)


def _around_reasoning(
    model: ChatModel, wire: ChatRequest, constraint: Constraint | None, marks: ReasoningMarks, *, is_open: bool
) -> Constraint | None:
    """Limit the reasoning; a schema or a call is part of the answer, not of open reasoning before it."""
    budget = wire.reasoning_limit
    if budget is None and (constraint is None or not is_open):
        return constraint
    closing = model.tokenizer.encode_rendered(RenderedPrompt(marks.end))
    form = ReasoningForm(marks.opening.encode(), marks.end.encode(), closing, is_open, budget)
    return model.grammars.reasoning(form, constraint)


def _render(model: ChatModel, wire: ChatRequest, turns: list[Turn], tools: ToolUse | None) -> RenderedPrompt:
    if model.template is None:
        raise InvalidRequestError(f"The model `{wire.model}` has no chat template.", param="model")
    length, limit = num_characters(turns), model.engine.capacity
    if length > limit * MAX_CHARACTERS_PER_TOKEN:
        raise ContextLengthError(
            f"This model's maximum context length is {limit} tokens. However, your messages resulted in "
            f"more than that ({length} characters). Please reduce the length of the messages.",
            param="messages",
        )
    extra = dict(wire.chat_template_kwargs or {})
    if wire.reasoning_effort is not None:
        extra.setdefault("reasoning_effort", wire.reasoning_effort)
        extra.setdefault("enable_thinking", wire.reasoning_effort not in _NO_REASONING)
    if "enable_thinking" in extra:
        extra.setdefault("thinking", extra["enable_thinking"])  # Granite's name for the switch
    return render_turns(
        model.template,
        turns,
        instructions=tools.instructions() if tools is not None else None,
        tools=tools.for_template() if tools is not None else None,
        extra=extra,
    )
