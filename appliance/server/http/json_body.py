"""The JSON value of a request body, or a 400 that names the fault."""

from __future__ import annotations

import json
import math
import re
from typing import NoReturn

from appliance.errors import InvalidRequestError

MAX_NESTING = 64
MAX_CONTAINERS = 100_000  # millions of them hold the interpreter for seconds, on any thread

_EXACT = 1 << 53  # beyond it doubles leave integers out

_TOKENS = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[{]|[\]}]', re.DOTALL)
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


def parse_json(body: bytes) -> object:
    """Parse strictly (RFC 8259): no NaN or Infinity, bounded nesting and number of containers, no lone surrogates.

    Raises:
        InvalidRequestError: with one sentence for the author of the request.
    """
    if not body.strip():
        raise InvalidRequestError("The request has no body; send a JSON object.", code="invalid_json")
    _check_containers(body)
    try:
        value = json.loads(body, parse_constant=_refuse_constant, parse_float=_number)
    except UnicodeDecodeError as err:
        raise InvalidRequestError("The request body is not UTF-8.", code="invalid_json") from err
    except (ValueError, RecursionError) as err:
        raise InvalidRequestError(f"The request body is not valid JSON: {err}", code="invalid_json") from err
    if _SURROGATE.search(body):
        _check_surrogates(value)
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise InvalidRequestError(f"The request body is not valid JSON: {name} is not a JSON number.", code="invalid_json")


def _number(text: str) -> float:
    """Refuse JSON numbers that no double holds, such as 1e999; read 2.0 as an integer, as JSON Schema does."""
    value = float(text)
    if math.isinf(value):
        raise InvalidRequestError(f"The request body has a number that is too large: {text[:40]}.", code="invalid_json")
    return int(value) if value.is_integer() and abs(value) <= _EXACT else value


def _check_containers(body: bytes) -> None:
    """Bound the number and the nesting of arrays and objects; brackets within strings do not count."""
    if body.count(b"[") + body.count(b"{") <= MAX_NESTING:
        return
    depth = num_containers = 0
    for match in _TOKENS.finditer(body):
        first = match.group()[:1]
        if first in b"[{":
            depth += 1
            num_containers += 1
            if depth > MAX_NESTING:
                raise _refused(f"is nested more than {MAX_NESTING} levels deep")
            if num_containers > MAX_CONTAINERS:
                raise _refused(f"has more than {MAX_CONTAINERS} arrays and objects")
        elif first in b"]}":
            depth -= 1


def _refused(reason: str) -> InvalidRequestError:
    return InvalidRequestError(f"The request body {reason}.", code="invalid_json")


def _check_surrogates(value: object) -> None:
    """Refuse a lone surrogate, which is no character; called only for values with an escaped surrogate."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as err:
        raise InvalidRequestError(
            "The request body has a lone surrogate, which is not a character.", code="invalid_json"
        ) from err
