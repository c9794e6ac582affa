"""Renders a conversation with the model's own chat template; safe on any thread, never on the event loop.

Templates come from installed bundles only, yet they run in a sandbox and within bounds. Owns no tokens: it gives text
and says which of it a user wrote, where that matters.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from jinja2 import Template, TemplateError
from jinja2.exceptions import SecurityError

from appliance.errors import BundleError, InvalidRequestError
from appliance.text.arguments import arguments_object, arguments_text
from appliance.text.conventions import conventions_of
from appliance.text.marks import UserMarks
from appliance.text.prompt import RenderedPrompt
from appliance.text.sandbox import RenderLimitError, RequestRefusedError, Sandbox
from appliance.text.specials import SpecialSpellings

Message = Mapping[str, Any]
Tool = Mapping[str, Any]

_RENDER_ERRORS = (TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError)
_OWN_NAMES = frozenset({"messages", "tools", "add_generation_prompt", "bos_token", "eos_token"})
_PROBE: tuple[Message, ...] = ({"role": "user", "content": "Hello"},)


class TemplateRefusalError(InvalidRequestError):
    """The template does not take these messages; it may take the same words in another form."""


class ChatTemplate:
    """One compiled template. `conventions`: the messages that it takes as they are."""

    def __init__(
        self,
        source: str,
        special_tokens: Iterable[str],
        *,
        bos_token: str = "",
        eos_token: str = "",
        max_characters: int = 4_000_000,
        timeout_s: float = 5.0,
        now: Callable[[], datetime] = datetime.now,
    ) -> None:
        """Compile and try the template.

        Args:
            source: the bundle's chat_template.jinja.
            special_tokens: the texts of the tokenizer's special tokens, which nothing a user sends may become.
            bos_token: what the template knows by this name.
            eos_token: likewise.
            max_characters: the longest prompt that is rendered.
            timeout_s: the longest time that one rendering takes.
            now: the local time that templates may write into a prompt.

        Raises:
            BundleError: the template does not compile, or fails on a single short message.
        """
        self.source = source
        self._spellings = SpecialSpellings(special_tokens)
        self._tokens = {"bos_token": bos_token, "eos_token": eos_token}
        self._sandbox = Sandbox(max_characters=max_characters, timeout_s=timeout_s, now=now)
        self._template = self._compiled()
        self._takes_arguments_as_text = self._wants_text_arguments()
        self.conventions = conventions_of(self._tried)

    @property
    def supports_tools(self) -> bool:
        """True if the template mentions tools; else they have to be described in a message."""
        return re.search(r"\btools\b", self.source) is not None

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Tool] | None = None,
        add_generation_prompt: bool = True,
        extra: Mapping[str, object] | None = None,
    ) -> RenderedPrompt:
        """Write a conversation as the model was taught to read it.

        Args:
            messages: in OpenAI's form, contents as the template takes them; arguments of tool calls as any text.
            tools: in OpenAI's form; none and an empty list are the same.
            add_generation_prompt: end where the assistant's answer begins.
            extra: further variables, such as `enable_thinking`.

        Raises:
            TemplateRefusalError: the template refuses these messages, or cannot render them.
            InvalidRequestError: a variable is the template's own, or the rendering takes too much.
        """
        sent: dict[str, object] = dict(extra or {})
        for name in sent.keys() & (_OWN_NAMES | self._sandbox.globals.keys()):
            raise InvalidRequestError(f"the template variable {name!r} cannot be set", param="chat_template_kwargs")
        try:
            sent["messages"] = [self._with_arguments(message) for message in messages]
            if tools:
                sent["tools"] = list(tools)
            marks = UserMarks(self._spellings, self.source, sent)
            variables = {name: marks.mark(value) for name, value in sent.items()} | self._tokens
            variables["add_generation_prompt"] = add_generation_prompt
            return marks.resolve(self._sandbox.render(self._template, variables, marks=marks.characters))
        except (RenderLimitError, SecurityError) as err:
            raise InvalidRequestError(_complaint(err), param="messages") from err
        except _RENDER_ERRORS as err:
            raise TemplateRefusalError(_complaint(err), param="messages") from err

    def _tried(self, messages: Sequence[Message], tools: Sequence[Tool]) -> str | None:
        """Render without a user's marks; None if the template refuses."""
        variables: dict[str, object] = {"messages": [self._with_arguments(message) for message in messages]}
        variables |= self._tokens | {"add_generation_prompt": True} | ({"tools": list(tools)} if tools else {})
        try:
            return self._sandbox.render(self._template, variables)
        except _RENDER_ERRORS:
            return None

    def _compiled(self) -> Template:
        try:
            template = self._sandbox.from_string(self.source)
            self._sandbox.render(template, {**self._tokens, "messages": _PROBE, "add_generation_prompt": True})
        except RequestRefusedError:
            pass  # it may want more than one message
        except (*_RENDER_ERRORS, SyntaxError) as err:
            raise BundleError(f"the chat template does not work: {_first_line(err)}; build the bundle again") from err
        return template

    def _wants_text_arguments(self) -> bool:
        """Tell if the template fails on a tool call whose arguments are an object: some take them as JSON text."""
        if "arguments" not in self.source:
            return False
        call = {"id": "000000000", "type": "function", "function": {"name": "f", "arguments": {}}}
        messages = [*_PROBE, {"role": "assistant", "content": "", "tool_calls": [call]}]
        try:
            self._sandbox.render(self._template, {**self._tokens, "messages": messages})
        except TypeError:
            return True
        except _RENDER_ERRORS:
            return False
        return False

    def _with_arguments(self, message: Message) -> Message:
        """Return the message with the arguments of its calls as the template takes them: objects, or their text."""
        calls = message.get("tool_calls")
        if not isinstance(calls, Sequence):
            return message
        changed = []
        for call in calls:
            function = call.get("function") if isinstance(call, Mapping) else None
            text = function.get("arguments") if isinstance(function, Mapping) else None
            if function is None or not isinstance(text, str):
                changed.append(call)
                continue
            arguments = arguments_text(text) if self._takes_arguments_as_text else arguments_object(text)
            changed.append({**call, "function": {**function, "arguments": arguments}})
        return {**message, "tool_calls": changed}


def _complaint(err: BaseException) -> str:
    if isinstance(err, RequestRefusedError):
        return f"the model's chat template refuses these messages: {_first_line(err)}"
    if isinstance(err, RenderLimitError):
        return f"the prompt cannot be rendered: {_first_line(err)}"
    if isinstance(err, SecurityError):
        return "the model's chat template tried what its sandbox forbids"
    return f"the model's chat template cannot render these messages: {_first_line(err)}"


def _first_line(err: BaseException) -> str:
    lines = str(err).splitlines()
    return lines[0][:200] if lines else type(err).__name__
