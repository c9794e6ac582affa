"""Tool calls out of a model's text, while it comes; pure, one parser for one stream."""

from appliance.text.tool_calls.events import ArgumentsDelta, CallEnd, CallStart, Event, TextDelta, ToolCallParser
from appliance.text.tool_calls.formats import FORMAT_NAMES, format_for_template, make_parser, visible_markers

__all__ = [
    "FORMAT_NAMES",
    "ArgumentsDelta",
    "CallEnd",
    "CallStart",
    "Event",
    "TextDelta",
    "ToolCallParser",
    "format_for_template",
    "make_parser",
    "visible_markers",
]
