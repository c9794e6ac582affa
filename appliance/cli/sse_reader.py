"""Server-sent events out of bytes, however they were cut; pure. Format: the HTML standard, section 9.2.6."""

from __future__ import annotations

import codecs
import re

from appliance.errors import LanternError

_MAX_PENDING_CHARS = 4 * 1024 * 1024
_LINE_END = re.compile(r"\r\n|\n|\r")


class SSEReader:
    """Collects the `data` of events; comments, ids and other fields are skipped."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")("replace")
        self._pending = ""
        self._data: list[str] = []

    def feed(self, chunk: bytes) -> list[str]:
        """Return the data of every event that `chunk` completes.

        Raises:
            LanternError: an event that never ends.
        """
        self._pending += self._decoder.decode(chunk)
        events: list[str] = []
        start = 0
        for end in _LINE_END.finditer(self._pending):
            if end.group() == "\r" and end.end() == len(self._pending):
                break  # perhaps the first half of a CRLF
            self._take_line(self._pending[start : end.start()], events)
            start = end.end()
        self._pending = self._pending[start:]
        if len(self._pending) + sum(map(len, self._data)) > _MAX_PENDING_CHARS:
            raise LanternError("The server sends an event that does not end.")
        return events

    def _take_line(self, line: str, events: list[str]) -> None:
        if line:
            field, _, value = line.partition(":")
            if field == "data":
                self._data.append(value.removeprefix(" "))
        elif self._data:
            events.append("\n".join(self._data))
            self._data = []
