"""Objects that list their properties are closed to others, since small models go on inventing keys where they may.

What satisfies a closed schema satisfies the original one.
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
    """The schema with `additionalProperties: false` wherever that takes nothing away that it names.

    Where allOf stands anywhere within, one branch might name what another leaves out, so all stays as it is.
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
    if isinstance(schema.get("properties"), dict) and not schema.keys() & (_OPENING | _COMBINING):
        result["additionalProperties"] = False
    return result


def _closed_any(value: object) -> object:
    return _closed(value) if isinstance(value, dict) else value


def _has_all_of(value: object) -> bool:
    if isinstance(value, list):
        return any(_has_all_of(item) for item in value)
    return isinstance(value, Mapping) and ("allOf" in value or any(_has_all_of(item) for item in value.values()))
