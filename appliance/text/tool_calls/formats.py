"""Tool-call notations by model family, detected from the chat template; the manifest may name another."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from appliance.errors import BundleError
from appliance.text.tool_calls import gemma, json_formats, pythonic, tagged_parameters
from appliance.text.tool_calls.events import ToolCallParser
from appliance.text.tool_calls.machine import CallMachine
from appliance.text.tool_calls.schemas import ToolSchemas


@dataclass(frozen=True, slots=True)
class _Format:
    """A notation: its parser, and the markers that are special tokens in some vocabularies."""

    parser: type[CallMachine]
    markers: tuple[str, ...] = ()


_TOOL_CALL_TAGS = (json_formats.TOOL_CALL, json_formats.END_TOOL_CALL)
_PARAMETER_TAGS = (tagged_parameters.END_FUNCTION, tagged_parameters.END_PARAMETER)

_FORMATS: Mapping[str, _Format] = {
    "hermes": _Format(json_formats.TaggedJsonParser, _TOOL_CALL_TAGS),
    "llama3": _Format(json_formats.BareJsonParser, (json_formats.PYTHON_TAG,)),
    "mistral": _Format(json_formats.MistralParser, (json_formats.MISTRAL_MARKER, "[ARGS]", "[CALL_ID]")),
    "pythonic": _Format(pythonic.PythonicParser, pythonic.OPENINGS + pythonic.CLOSINGS),
    "gemma": _Format(gemma.GemmaParser, gemma.OPENINGS + gemma.CLOSINGS + gemma.QUOTES),
    "qwen3_coder": _Format(tagged_parameters.TaggedParametersParser, _TOOL_CALL_TAGS + _PARAMETER_TAGS),
    "generic": _Format(json_formats.BareJsonParser),
}

# The first whose marker a template holds; the more telling ones come first.
_MARKERS: tuple[tuple[str, str], ...] = (
    (tagged_parameters.FUNCTION, "qwen3_coder"),
    *((opening, "gemma") for opening in gemma.OPENINGS),
    (json_formats.MISTRAL_MARKER, "mistral"),
    *((opening, "pythonic") for opening in pythonic.OPENINGS),
    ("[func_name1(", "pythonic"),
    ("List of tools: ", "pythonic"),  # LFM2's and LFM2.5's, which do not show how a call looks
    (json_formats.TOOL_CALL, "hermes"),
    (json_formats.PYTHON_TAG, "llama3"),
    ('{"name": function name, "parameters":', "llama3"),
)

FORMAT_NAMES: tuple[str, ...] = tuple(_FORMATS)


def format_for_template(source: str) -> str:
    """Return the name of the format that a chat template speaks of; "generic" if it speaks of none."""
    return next((name for marker, name in _MARKERS if marker in source), "generic")


def make_parser(name: str, tools: Iterable[Mapping[str, Any]] = ()) -> ToolCallParser:
    """Make a parser for one stream.

    Args:
        name: one of FORMAT_NAMES.
        tools: the request's tools in OpenAI's form; they tell calls without markers from other text, and numbers
            from strings where the notation does not.

    Raises:
        BundleError: no such format.
    """
    return _format(name).parser(ToolSchemas(tools))


def visible_markers(name: str) -> tuple[str, ...]:
    """Return texts that the parser must see although they may be special tokens.

    Raises:
        BundleError: no such format.
    """
    return _format(name).markers


def _format(name: str) -> _Format:
    try:
        return _FORMATS[name]
    except KeyError as err:
        raise BundleError(f"the tool-call format {name!r} is unknown; use one of {', '.join(FORMAT_NAMES)}") from err
