from __future__ import annotations

import io
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.service.last_good import LastGood
from appliance.service.logs import JsonFormatter, TextFormatter, configure_logging


@pytest.fixture(autouse=True)
def _root_logger_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level


def a_record(message: str, *arguments: object, **fields: object) -> logging.LogRecord:
    record = logging.LogRecord("appliance.request", logging.INFO, "x.py", 1, message, arguments, None)
    record.fields = fields
    return record


def test_a_record_is_one_object_a_line_for_the_journal() -> None:
    line = JsonFormatter().format(a_record("GET %s", "/a\nb", status=200, key=None))
    assert "\n" not in line
    assert json.loads(line) == {
        "level": "INFO",
        "logger": "appliance.request",
        "message": "GET /a\nb",
        "status": 200,
    }


def test_a_record_is_a_readable_line_for_a_terminal_whatever_a_client_sent() -> None:
    line = TextFormatter().format(a_record("GET %s", "/\x1b[31m\r\n2026 INFO forged", status=404))
    assert line.endswith("status=404")
    assert "\x1b" not in line
    assert "\n" not in line
    assert "\r" not in line


def test_the_style_follows_the_stream(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as stream:
        status = os.fstat(stream.fileno())
        journal = {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}
        configure_logging("INFO", stream=stream, environment=journal)
        logging.getLogger("a").info("one")
        configure_logging("INFO", stream=stream, environment={"JOURNAL_STREAM": "1:1"})
        logging.getLogger("a").info("two")
    one, two = (tmp_path / "log").read_text().splitlines()
    assert json.loads(one)["message"] == "one"
    assert two.endswith("INFO a: two")
    configure_logging("WARNING", stream=(text := io.StringIO()), environment=journal)
    logging.getLogger("a").info("not at this level")
    assert not text.getvalue()


def test_the_last_good_settings_are_those_that_worked(tmp_path: Path) -> None:
    last_good, path = LastGood(tmp_path / "home"), tmp_path / "lantern.toml"

    def kept() -> str | None:
        return last_good.path.read_text() if last_good.path is not None else None

    assert kept() is None
    path.write_text("[server]\nport = 1\n")
    last_good.keep(path)
    path.write_text("nonsense")
    assert kept() == "[server]\nport = 1\n"
    last_good.keep(None)
    assert kept() == ""
