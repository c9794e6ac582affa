"""The tools of a request, as far as reading calls needs their schemas; pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


class ToolSchemas:
    """Names of tools and types of their parameters; empty where they are not known."""

    def __init__(self, tools: Iterable[Mapping[str, Any]] = ()) -> None:
        """Read tools in OpenAI's form; what is malformed counts as not known."""
        self._properties: dict[str, Mapping[str, Any]] = {}
        for tool in tools:
            function = _mapping(tool.get("function"))
            name = function.get("name")
            if isinstance(name, str):
                self._properties[name] = _mapping(_mapping(function.get("parameters")).get("properties"))

    def allows(self, name: str) -> bool:
        """Tell if there may be such a tool."""
        return not self._properties or name in self._properties

    def knows(self, name: str) -> bool:
        """Tell if there is such a tool."""
        return name in self._properties

    def takes_text(self, name: str, parameter: str) -> bool | None:
        """Tell if a parameter is a string; None if that is not known."""
        schema = _mapping(self._properties.get(name, {}).get(parameter))
        if "type" in schema:
            return bool(schema["type"] == "string")
        options = schema.get("enum")
        if isinstance(options, list) and options:
            return all(isinstance(option, str) for option in options)
        return None


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
