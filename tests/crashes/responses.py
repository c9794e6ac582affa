"""The stored responses of a server: written, changed, dropped, erased, and read again, in the file of the real code."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from appliance.server.state.file import StateFile
from appliance.server.state.responses import StoredResponse

STORED = "store"
"""A step that the kernel writes when it likes: a cut may lose it, with those right before it, and nothing else."""

_FOLDER = "responses"
_KEYS = ("kitchen", "office")
_MOST = 12


def response_steps(root: Path, _material: Path, draw: random.Random) -> Iterator[str]:
    """Store responses of two keys, finish and drop some; every few steps erase what was dropped, or start again."""
    file, there, run_s = StateFile(root / _FOLDER), dict[tuple[str, str], StoredResponse](), 0.0
    file.load()
    yield STORED
    for number in range(1 << 30):
        run_s += draw.randrange(1, 600)
        changes: dict[tuple[str, str], StoredResponse | None] = {}
        for _ in range(draw.randrange(1, 3)):
            key = draw.choice(_KEYS)
            changes[key, f"resp_{number % _MOST}"] = _response(number, draw)
        if there and draw.random() < 0.5:
            changes[draw.choice(sorted(there))] = None
        file.write(changes, run_s)
        for place, entry in changes.items():
            if entry is None:
                del there[place]
            else:
                there[place] = entry
        yield STORED
        if number % 4 == 1:
            file.erase_dropped()
            yield "erase"
        if number % 4 == 3:
            file.close()
            file = StateFile(root / _FOLDER)
            file.load()
            yield "start again"


def stored_responses(root: Path, _material: Path) -> dict[str, object]:
    """Load the file as a start does, and store one more response in it."""
    file, complaints = StateFile(root / _FOLDER), _Complaints()
    with contextlib.closing(file), complaints.listening():
        found = [
            [kept.key_id, kept.entry.id, round(kept.age_s), kept.entry.is_open, _digest(kept.entry)]
            for kept in file.load()
        ]
        after = replace(_response(0, random.Random(0)), id="resp_after")
        file.write({("kitchen", after.id): after}, file.run_s + 1)
        assert len(file.load()) == len(found) + 1
    assert not complaints.texts, f"a cut must not damage the file: {complaints.texts}"
    return {"responses": sorted(found, key=json.dumps)}


class _Complaints(logging.Handler):
    """The warnings of the code that reads the file: it replaces a damaged one by an empty one."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        logger = logging.getLogger("appliance.server.state.file")
        logger.addHandler(self)
        try:
            yield
        finally:
            logger.removeHandler(self)


def _response(number: int, draw: random.Random) -> StoredResponse:
    bodies = tuple(json.dumps({"text": draw.randbytes(draw.randrange(20, 1500)).hex()}).encode() for _ in range(2))
    return StoredResponse(
        id=f"resp_{number % _MOST}",
        previous_id=None,
        response=json.dumps({"number": number}).encode(),
        input=bodies[:1],
        output=bodies[1:],
        item_ids=(f"item_{number}_in", f"item_{number}_out"),
        is_open=draw.random() < 0.2,
    )


def _digest(entry: StoredResponse) -> str:
    return hashlib.sha256(repr((entry.response, entry.items, entry.item_ids)).encode()).hexdigest()[:12]
