"""The log: one JSON object a line for the journal, readable lines for a terminal; control characters are escaped.

A record may carry `extra={"fields": {...}}`: ids, sizes, codes and durations, never content.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Mapping
from typing import TextIO

_CONTROL = {c: f"\\x{c:02x}" for c in (*range(32), *range(127, 160)) if c not in (9, 10)} | {
    0x2028: "\\u2028",
    0x2029: "\\u2029",
}


def configure_logging(
    level: str, *, style: str = "auto", stream: TextIO | None = None, environment: Mapping[str, str] = os.environ
) -> None:
    """Send the log to one stream; style auto is JSON if the stream goes to the journal."""
    stream = stream or sys.stderr
    is_json = style == "json" or (style == "auto" and _goes_to_journal(stream, environment))
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter() if is_json else TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)


class TextFormatter(logging.Formatter):
    """A format of time, level, logger, message, then the fields as NAME=VALUE."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """Return one line, with any arguments."""
        pairs = [f"{key}={value}" for key, value in _fields(record).items() if value is not None]
        return " ".join([super().formatMessage(record), *pairs]).replace("\n", "\\n").translate(_CONTROL)


class JsonFormatter(logging.Formatter):
    """A format of one object a line; the journal adds the time."""

    def format(self, record: logging.LogRecord) -> str:
        """Return level, logger, message, the fields, and a traceback if there is one."""
        entry: dict[str, object] = {"level": record.levelname, "logger": record.name, "message": record.getMessage()}
        entry |= {key: value for key, value in _fields(record).items() if value is not None}
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry)


def _fields(record: logging.LogRecord) -> dict[str, object]:
    fields = getattr(record, "fields", None)
    return fields if isinstance(fields, dict) else {}


def _goes_to_journal(stream: TextIO, environment: Mapping[str, str]) -> bool:
    """Compare the stream with JOURNAL_STREAM, the device and inode of the journal's socket (systemd.exec(5))."""
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return environment.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"
