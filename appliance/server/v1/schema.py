"""JSON Schemas that are put inside of one of ours: references keep their targets, and the part at fault is found."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

_VALUES = frozenset({"const", "enum", "default", "examples", "example", "required", "type"})
_MAPS = frozenset({"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"})
_IDENTITIES = frozenset({"$id", "$anchor", "$dynamicAnchor", "$schema"})
_PLACE = "#/$defs/schema"
_LOOK_AROUND = ("(?=", "(?!", "(?<=", "(?<!")

Refusal = Callable[[Mapping[str, Any]], str | None]


def moved(schema: Mapping[str, Any], to: str) -> dict[str, Any]:
    """Return the schema for a place inside of another one, such as `#/$defs/arguments`, to which its references lead.

    Identities are left out, since they would be the base of the references; what they name is found by its place.
    """
    places: dict[str, str] = {}
    _collect_identities(schema, "", places)
    return _moved(schema, to, places)


def at(pointer: str, schema: Mapping[str, Any]) -> object:
    """Return the part of a schema at a JSON pointer; None if there is none."""
    part: object = schema
    for token in pointer.split("/")[1:]:
        name = token.replace("~1", "/").replace("~0", "~")
        if isinstance(part, Mapping):
            part = part.get(name)
        elif isinstance(part, list) and name.isdecimal() and int(name) < len(part):
            part = part[int(name)]
        else:
            return None
    return part


def fault(schema: Mapping[str, Any], refusal: Refusal) -> tuple[str, str]:
    """Return the path of the smallest part of a schema that is refused, and the reason."""
    inner = moved(schema, _PLACE)

    def refused(pointer: str) -> str | None:
        return refusal({"$ref": f"{_PLACE}{pointer}", "$defs": {"schema": inner}})

    pointer, reason = "", refused("")
    seen: set[str] = set()
    while pointer not in seen:
        seen.add(pointer)
        for child in _leading_on(pointer, inner):
            found = refused(child) if child not in seen else None
            if found is not None:
                pointer, reason = child, found
                break
    return f"#{pointer}", (reason or "it cannot be enforced").replace(_PLACE.removeprefix("#"), "")


def without_look_around(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return the schema without the patterns that no automaton can follow; pydantic writes one for each Decimal."""
    kept = {key: value for key, value in schema.items() if not (key == "pattern" and _looks_around(value))}
    patterns = kept.get("patternProperties")
    if isinstance(patterns, Mapping):
        kept["patternProperties"] = {name: part for name, part in patterns.items() if not _looks_around(name)}
    return _with_parts(kept, without_look_around)


def _looks_around(pattern: object) -> bool:
    return isinstance(pattern, str) and any(sign in pattern for sign in _LOOK_AROUND)


def _moved(schema: Mapping[str, Any], to: str, places: Mapping[str, str]) -> dict[str, Any]:
    kept = {key: value for key, value in schema.items() if not (key in _IDENTITIES and isinstance(value, str))}
    dynamic = kept.get("$dynamicRef")
    if isinstance(dynamic, str) and "$ref" not in kept:
        kept["$ref"] = kept.pop("$dynamicRef")
    if isinstance(kept.get("$ref"), str):
        kept["$ref"] = _target(kept["$ref"], to, places)
    return _with_parts(kept, lambda part: _moved(part, to, places))


def _target(reference: str, to: str, places: Mapping[str, str]) -> str:
    base, _, fragment = reference.partition("#")
    if reference in places:
        return to + places[reference]
    if (not base or base in places) and (not fragment or fragment.startswith("/")):
        return to + places.get(base, "") + fragment
    return reference


def _collect_identities(schema: Mapping[str, Any], pointer: str, places: dict[str, str]) -> None:
    for key, prefix in (("$id", ""), ("$anchor", "#"), ("$dynamicAnchor", "#")):
        if isinstance(schema.get(key), str):
            places.setdefault(prefix + schema[key].removesuffix("#"), pointer)
    for child, part in _parts(schema, pointer):
        _collect_identities(part, child, places)


def _leading_on(pointer: str, schema: Mapping[str, Any]) -> Iterator[str]:
    """Yield the pointers of the parts below one, and of the part that it refers to."""
    part = at(pointer, schema)
    if not isinstance(part, Mapping):
        return
    if isinstance(part.get("$ref"), str) and part["$ref"].startswith(_PLACE):
        target = part["$ref"].removeprefix(_PLACE)
        if at(target, schema) is not None:
            yield target
    yield from (child for child, _ in _parts(part, pointer) if "$defs" not in child and "/definitions/" not in child)


def _parts(schema: Mapping[str, Any], pointer: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the schemas within a schema with their pointers; values such as those of `enum` are none."""
    for key, value in schema.items():
        if key in _VALUES:
            continue
        place = f"{pointer}/{_escaped(key)}"
        if isinstance(value, list):
            yield from ((f"{place}/{i}", item) for i, item in enumerate(value) if isinstance(item, Mapping))
        elif key in _MAPS and isinstance(value, Mapping):
            named = ((f"{place}/{_escaped(name)}", item) for name, item in value.items())
            yield from ((name, item) for name, item in named if isinstance(item, Mapping))
        elif isinstance(value, Mapping):
            yield place, value


def _with_parts(schema: Mapping[str, Any], change: Callable[[Mapping[str, Any]], dict[str, Any]]) -> dict[str, Any]:
    """Return a copy in which the schemas directly within a schema are changed."""

    def changed(value: object) -> object:
        return change(value) if isinstance(value, Mapping) else value

    result = dict(schema)
    for key, value in schema.items():
        if key in _VALUES:
            continue
        if isinstance(value, list):
            result[key] = [changed(item) for item in value]
        elif key in _MAPS and isinstance(value, Mapping):
            result[key] = {name: changed(item) for name, item in value.items()}
        else:
            result[key] = changed(value)
    return result


def _escaped(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")
