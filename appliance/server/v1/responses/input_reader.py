"""The input of a custom tool out of the arguments that hold it, `{"input": "..."}`, while they come."""

from __future__ import annotations

import json
import re

_BEGIN = re.compile(r'\s*\{\s*"input"\s*:\s*"')
_ESCAPE = re.compile(r'\\(?:u[0-9A-Fa-f]{4}|["\\/bfnrt])')
_HIGH = re.compile(r"[\ud800-\udbff]\Z")


class InputReader:
    """The string while it is read; text in another form than that has no input."""

    def __init__(self) -> None:
        self._held = ""
        self._is_open = False
        self._is_over = False
        self._high = ""  # the first half of a character beyond the basic plane

    def push(self, text: str) -> str:
        """Take the next text, cut anywhere; return the part of the input that it brings."""
        if self._is_over:
            return ""
        self._held += text
        if not self._is_open:
            begin = _BEGIN.match(self._held)
            if begin is None:
                return ""
            self._is_open, self._held = True, self._held[begin.end() :]
        return self._decoded()

    def _decoded(self) -> str:
        parts = [self._high]
        self._high = ""
        at = 0
        while at < len(self._held):
            char = self._held[at]
            if char == '"':
                self._is_over = True
                break
            if char != "\\":
                end = min((i for i in (self._held.find('"', at), self._held.find("\\", at)) if i >= 0), default=None)
                parts.append(self._held[at:end])
                at = len(self._held) if end is None else end
                continue
            escape = _ESCAPE.match(self._held, at)
            if escape is None:
                break
            parts.append(json.loads(f'"{escape[0]}"'))
            at = escape.end()
        self._held = self._held[at:]
        decoded = "".join(parts)
        if not self._is_over and _HIGH.search(decoded):
            decoded, self._high = decoded[:-1], decoded[-1]
        return decoded.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
