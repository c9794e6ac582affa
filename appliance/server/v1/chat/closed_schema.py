"""Closed schemas: objects that list their properties take no others, since small models go on inventing keys.

A value that satisfies a closed schema satisfies the original one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_OPENING = frozenset({"additionalProperties", "patternProperties", "unevaluatedProperties", "propertyNames"})
_COMBINING = frozenset({"allOf", "anyOf", "oneOf", "not", "if", "$ref", "$dynamicRef", "dependentSchemas"})
_MAPS = ("properties", "$defs", "definitions")
_SCHEMAS = ("items", "additionalProperties")
_LISTS = ("anyOf", "oneOf", "prefixItems")


def closed(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return the schema with `additionalProperties: false` where that forbids no named property.

    A schema with allOf stays as it is: one branch might name a property that another leaves out.
    """
    return dict(schema) if _has_all_of(schema) else _closed(schema)


def _closed(schema: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(schema)
    for key in _MAPS:
        if isinstance(schema.get(key), dict):
            result[key] = {name: _closed_any(value) for name, value in schema[key].items()}
    for key in _SCHEMAS:
        if key in schema:
            result[key] = _closed_any(schema[key])
    for key in _LISTS:
        if isinstance(schema.get(key), list):
            result[key] = [_closed_any(value) for value in schema[key]]
    if _is_whole(schema) and not schema.keys() & (_OPENING | _COMBINING):
        result["additionalProperties"] = False
    return result


def _is_whole(schema: Mapping[str, Any]) -> bool:
    """Return True if the schema lists all properties that it requires."""
    properties, required = schema.get("properties"), schema.get("required", [])
    if not isinstance(properties, dict) or not isinstance(required, list):
        return False
    return all(isinstance(name, str) and name in properties for name in required)


def _closed_any(value: object) -> object:
    return _closed(value) if isinstance(value, dict) else value


def _has_all_of(value: object) -> bool:
    if isinstance(value, list):
        return any(_has_all_of(item) for item in value)
    return isinstance(value, Mapping) and ("allOf" in value or any(_has_all_of(item) for item in value.values()))
