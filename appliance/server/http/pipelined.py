"""Requests that arrive one behind the other (RFC 9112, section 9.3.2), told apart before they are parsed."""

from __future__ import annotations

import re

_HEAD_END = b"\r\n\r\n"
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,9})[ \t]*(?=\r\n|$)")
_MAX_PIPELINED = 64


def by_request(data: bytes) -> list[bytes]:
    """Return the bytes that begin with a request in parts of one request each; the last part is what is left."""
    parts: list[bytes] = []
    start = 0
    while len(parts) < _MAX_PIPELINED and (end := data.find(_HEAD_END, start)) >= 0:
        head = data[start:end].lower()
        length = _LENGTH.search(head)
        if b"transfer-encoding" in head or (b"content-length" in head and length is None):
            break
        after = end + len(_HEAD_END) + (int(length[1]) if length is not None else 0)
        if after >= len(data):
            break
        parts.append(data[start:after])
        start = after
    return [*parts, data[start:]]
