"""Two API documents side by side: which fields an object may have, and of which types."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

_COMBINATIONS = ("anyOf", "oneOf", "allOf")
_TYPE_OF = {str: "string", bool: "boolean", int: "integer", float: "number", type(None): "null"}


@dataclass
class Shape:
    """The values that a schema allows, all alternatives together."""

    types: set[str] = field(default_factory=set)
    fields: dict[str, list[Any]] = field(default_factory=dict)
    items: list[Any] = field(default_factory=list)
    always: set[str] | None = None


class Document:
    """An OpenAPI document whose references are followed."""

    def __init__(self, content: dict[str, Any]) -> None:
        self._schemas: dict[str, Any] = content["components"]["schemas"]

    def shape(self, *schemas: Any) -> Shape:
        """The union of some schemas."""
        shape = Shape()
        for schema in schemas:
            for part in self._parts(schema):
                self._add(shape, part)
        return shape

    def _parts(self, schema: Any) -> Iterator[dict[str, Any]]:
        if "$ref" in schema:
            yield from self._parts(self._schemas[schema["$ref"].rsplit("/", 1)[1]])
            return
        yield schema
        for key in _COMBINATIONS:
            for part in schema.get(key, ()):
                yield from self._parts(part)

    def _add(self, shape: Shape, part: dict[str, Any]) -> None:
        found = part.get("type", [])
        shape.types |= {found} if isinstance(found, str) else set(found)
        if "type" not in part:
            shape.types |= {_TYPE_OF[type(value)] for value in part.get("enum", [])}
            shape.types |= {"object"} if "properties" in part else set()
        for name, schema in part.get("properties", {}).items():
            shape.fields.setdefault(name, []).append(schema)
        if "items" in part:
            shape.items.append(part["items"])
        if "properties" in part:
            always = set(part.get("required", ()))
            shape.always = always if shape.always is None else shape.always & always


def is_marked(schemas: list[Any]) -> bool:
    """Return True for a field that OpenAI does not have, or one that is only there to be refused."""
    return any(s.get("x-lantern-extension") or s.get("type") == "null" for s in schemas)


def covers(types: set[str], others: set[str]) -> bool:
    """Return True if a value of the other types is always of these types; every integer is a number."""
    return others <= types | ({"integer"} if "number" in types else set())
