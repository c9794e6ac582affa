"""jinja2 as chat templates expect it, with bounds that its own sandbox lacks: time, length, and large products.

An instance is shared by threads; what belongs to one rendering is thread-local.
"""

from __future__ import annotations

import json
import math
import re
import threading
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import Template, TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

_NOT_ASCII = re.compile(r"[^\x00-\x7f]")


class RequestRefusedError(TemplateError):
    """The template called raise_exception: the messages are not what it was made for."""


class RenderLimitError(TemplateError):
    """A rendering took more time, or became longer, than is allowed."""


class _Rendering(threading.local):
    """The rendering of one thread; outside of a rendering, as while compiling, nothing is bounded."""

    deadline = math.inf
    marks = ""


class Sandbox(ImmutableSandboxedEnvironment):
    """Compiles and renders chat templates like the library that they were written for."""

    intercepted_binops = frozenset({"*"})

    def __init__(self, *, max_characters: int, timeout_s: float, now: Callable[[], datetime]) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, loopcontrols])
        self._max_characters = max_characters
        self._timeout_s = timeout_s
        self._rendering = _Rendering()
        self.filters["tojson"] = self._to_json
        self.globals["raise_exception"] = _refuse
        self.globals["strftime_now"] = lambda form: now().strftime(form)

    def render(self, template: Template, variables: Mapping[str, object], *, marks: str = "") -> str:
        """Render piece by piece, stopping where a bound is passed.

        Args:
            template: compiled here.
            variables: what the template sees.
            marks: characters that come out as they are, even where others are escaped.

        Raises:
            RenderLimitError: longer or slower than allowed.
        """
        self._rendering.marks = marks
        self._rendering.deadline = time.monotonic() + self._timeout_s
        pieces: list[str] = []
        length = 0
        try:
            for piece in template.generate(variables):
                pieces.append(piece)
                length += len(piece)
                self._check_length(length)
                self._check_time()
        finally:
            self._rendering.deadline = math.inf
        return "".join(pieces)

    def call(self, *args: Any, **kwargs: Any) -> Any:
        """Check the clock at every call in a template, as the next two do."""
        self._check_time()
        return super().call(*args, **kwargs)

    def getitem(self, obj: Any, argument: Any) -> Any:
        """Check the clock at every subscript in a template."""
        self._check_time()
        return super().getitem(obj, argument)

    def getattr(self, obj: Any, attribute: str) -> Any:
        """Check the clock at every attribute in a template."""
        self._check_time()
        return super().getattr(obj, attribute)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Bound every product, which a few characters of a template can make arbitrarily large."""
        for sequence, count in ((left, right), (right, left)):
            if isinstance(sequence, str | list | tuple) and isinstance(count, int):
                self._check_length(len(sequence) * count)
        return super().call_binop(context, operator, left, right)

    def _check_length(self, length: int) -> None:
        if length > self._max_characters:
            raise RenderLimitError(f"the prompt is longer than {self._max_characters} characters")

    def _check_time(self) -> None:
        if time.monotonic() > self._rendering.deadline:
            raise RenderLimitError(f"it takes longer than {self._timeout_s:g} s")

    def _to_json(
        self,
        value: Any,
        ensure_ascii: bool = False,
        indent: int | str | None = None,
        separators: tuple[str, str] | None = None,
        sort_keys: bool = False,
    ) -> str:
        """Serialize for the filter `tojson`, with the signature that templates use; jinja2's own would escape HTML."""
        text = json.dumps(value, ensure_ascii=False, indent=indent, separators=separators, sort_keys=sort_keys)
        return _NOT_ASCII.sub(self._escaped, text) if ensure_ascii else text

    def _escaped(self, match: re.Match[str]) -> str:
        return match[0] if match[0] in self._rendering.marks else json.dumps(match[0])[1:-1]


class _GenerationTag(Extension):
    """`{% generation %}`: marks the assistant's text for training, and means nothing here."""

    tags = {"generation"}  # noqa: RUF012  # jinja2 declares it as a set

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


def _refuse(message: str) -> NoReturn:
    raise RequestRefusedError(message)
