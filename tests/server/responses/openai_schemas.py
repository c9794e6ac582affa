"""Values held against the schemas of OpenAI's document: the part of JSON Schema that the document uses."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from tests.server.openai_document import openai_document

_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
    "null": (type(None),),
}


class OpenAISchemas:
    """The schemas of OpenAI's document by their names."""

    def __init__(self) -> None:
        self._schemas: dict[str, Any] = json.loads(openai_document().read_text("utf-8"))["components"]["schemas"]

    def faults(self, name: str, value: object) -> list[str]:
        """Return what is wrong with a value that should satisfy the named schema."""
        return list(self._faults(self._schemas[name], value, name))

    def _faults(self, schema: dict[str, Any], value: object, at: str) -> Iterator[str]:
        if "$ref" in schema:
            yield from self._faults(self._schemas[schema["$ref"].rsplit("/", 1)[1]], value, at)
            return
        for part in schema.get("allOf", ()):
            yield from self._faults(part, value, at)
        for key in ("anyOf", "oneOf"):
            if key in schema:
                found = [list(self._faults(part, value, at)) for part in schema[key]]
                if all(found):
                    yield from min(found, key=_distance)
        if "enum" in schema and value not in schema["enum"]:
            yield f"{at}: {value!r} is not among {schema['enum']} (type or value)"
        if "type" in schema and not _has_type(value, schema["type"]):
            yield f"{at}: {value!r} is no {schema['type']} (type or value)"
        if isinstance(value, dict):
            yield from self._faults_of_fields(schema, value, at)
        if isinstance(value, list) and "items" in schema:
            for i, item in enumerate(value):
                yield from self._faults(schema["items"], item, f"{at}[{i}]")

    def _faults_of_fields(self, schema: dict[str, Any], value: dict[str, Any], at: str) -> Iterator[str]:
        yield from (f"{at}: {name} is missing" for name in schema.get("required", ()) if name not in value)
        for name, part in schema.get("properties", {}).items():
            if name in value:
                yield from self._faults(part, value[name], f"{at}.{name}")


def _distance(faults: list[str]) -> tuple[int, int]:
    """Of several alternatives, the one of the right type with the fewest faults tells most."""
    return sum("(type or value)" in fault and ".type:" in fault for fault in faults), len(faults)


def _has_type(value: object, kind: str) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    return isinstance(value, _TYPES[kind])
