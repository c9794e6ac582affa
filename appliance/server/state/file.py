"""The stored responses on disk: one SQLite file, private, which a cut or a power failure leaves whole.

Every method blocks. No reader of the server comes here: memory has everything, and this file what a restart needs.
Commits are not synced one by one (WAL, synchronous NORMAL): the kernel gathers them, which spares the card, and a power
failure loses at most the last ones, never the file.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from appliance.host.files import make_folder
from appliance.server.state.responses import StoredResponse

_LOGGER = logging.getLogger(__name__)

_FORMAT = 1
_NAME = "responses-{}.db"
_SIDES = ("", "-wal", "-shm", "-journal")
_MAX_WAL_BYTES = 4 << 20

_TABLES = """
CREATE TABLE IF NOT EXISTS record (
    number INTEGER PRIMARY KEY, key_id TEXT NOT NULL, id TEXT NOT NULL, previous_id TEXT, is_open INTEGER NOT NULL,
    stored_s REAL NOT NULL, num_input INTEGER NOT NULL, body BLOB NOT NULL, UNIQUE (key_id, id)
) STRICT;
CREATE TABLE IF NOT EXISTS clock (number INTEGER PRIMARY KEY CHECK (number = 0), run_s REAL NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS item (
    record INTEGER NOT NULL REFERENCES record (number) ON DELETE CASCADE, place INTEGER NOT NULL, id TEXT NOT NULL,
    body BLOB NOT NULL, PRIMARY KEY (record, place)
) STRICT, WITHOUT ROWID;
"""

Changes = Mapping[tuple[str, str], StoredResponse | None]
"""The entry, or None where it was dropped, by key id and id."""


@dataclass(frozen=True, slots=True)
class KeptResponse:
    """An entry as the file has it, with its age."""

    key_id: str
    entry: StoredResponse
    age_s: float


class StateFile:
    """The file, used by one thread at a time.

    Ages are counted in `run_s`, the seconds that the server has run: without a battery a board's time of day jumps.
    """

    def __init__(self, folder: Path) -> None:
        self.run_s = 0.0  # as the file has it
        self._folder = folder
        self._path = folder / _NAME.format(_FORMAT)
        self._connection: sqlite3.Connection | None = None

    def load(self) -> list[KeptResponse]:
        """Return everything, the least recently used first; a damaged file is replaced by an empty one.

        Raises:
            OSError: the folder or the file cannot be used.
        """
        for other in sorted(self._folder.glob(_NAME.format("*"))):
            if other != self._path:
                _LOGGER.warning("%s is of another version and is ignored", other)
        try:
            return self._read()
        except sqlite3.OperationalError as err:
            raise OSError(f"{self._path}: {err}") from err
        except (sqlite3.DatabaseError, ValueError) as err:
            _LOGGER.warning("%s is damaged (%s); stored responses begin anew", self._path, err)
            self.close()
            self._unlink()
        try:
            return self._read()
        except sqlite3.Error as err:
            raise OSError(f"{self._path}: {err}") from err

    def write(self, changes: Changes, run_s: float) -> None:
        """Write changes, made after the server has run for so long, in one transaction; erase what is dropped.

        Raises:
            OSError: the disk is full or broken; nothing of the changes was written.
        """
        try:
            connection = self._open()
            with connection:
                for (key_id, record_id), entry in changes.items():
                    if entry is None:
                        connection.execute("DELETE FROM record WHERE key_id = ? AND id = ?", (key_id, record_id))
                    else:
                        _put(connection, key_id, entry, run_s)
                connection.execute("INSERT OR REPLACE INTO clock (number, run_s) VALUES (0, ?)", (run_s,))
            self.run_s = run_s
        except sqlite3.Error as err:
            self.close()
            raise OSError(f"{self._path}: {err}") from err

    def erase_dropped(self) -> None:
        """Let no dropped text stay in the log of changes either.

        Raises:
            OSError: the disk is full or broken.
        """
        try:
            self._open().execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except sqlite3.Error as err:
            raise OSError(f"{self._path}: {err}") from err

    def close(self) -> None:
        """Close the file, which folds the log of changes into it."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(sqlite3.Error):
                connection.close()

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            make_folder(self._folder)
            os.close(os.open(self._path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
            connection = sqlite3.connect(self._path, check_same_thread=False)
            self._connection = connection
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute("PRAGMA secure_delete = ON")
            connection.execute("PRAGMA foreign_keys = ON")
            connection.execute(f"PRAGMA journal_size_limit = {_MAX_WAL_BYTES}")
            connection.executescript(_TABLES)
        return self._connection

    def _read(self) -> list[KeptResponse]:
        connection = self._open()
        (self.run_s,) = connection.execute("SELECT coalesce(max(run_s), 0.0) FROM clock").fetchone()
        items: dict[int, list[tuple[str, bytes]]] = {}
        for number, item_id, body in connection.execute("SELECT record, id, body FROM item ORDER BY record, place"):
            items.setdefault(number, []).append((item_id, body))
        found = []
        for row in connection.execute(
            "SELECT number, key_id, id, previous_id, is_open, stored_s, num_input, body FROM record ORDER BY number"
        ):
            number, key_id, record_id, previous_id, is_open, stored_s, num_input, body = row
            own = items.get(number, [])
            bodies = tuple(body for _, body in own)
            json.loads(body)
            entry = StoredResponse(
                id=record_id,
                previous_id=previous_id,
                response=body,
                input=bodies[:num_input],
                output=bodies[num_input:],
                item_ids=tuple(item_id for item_id, _ in own),
                is_open=bool(is_open),
            )
            found.append(KeptResponse(key_id, entry, self.run_s - stored_s))
        return _by_use(found)

    def _unlink(self) -> None:
        remove_files(self._folder, only=self._path.name)


def remove_files(folder: Path, *, only: str | None = None) -> int:
    """Remove the files of stored responses, of every version unless one is named; return how many there were."""
    names = [only] if only is not None else [path.name for path in folder.glob(_NAME.format("*"))]
    num_removed = 0
    for name in names:
        for side in _SIDES:
            with contextlib.suppress(FileNotFoundError):
                (folder / f"{name}{side}").unlink()
                num_removed += not side
    return num_removed


def _by_use(found: list[KeptResponse]) -> list[KeptResponse]:
    """Order entries as the last use of their chains: a use is not written, and a turn is one of all before it."""
    last = {(kept.key_id, kept.entry.id): place for place, kept in enumerate(found)}
    for kept in reversed(found):
        previous = (kept.key_id, kept.entry.previous_id or "")
        if previous in last:
            last[previous] = max(last[previous], last[kept.key_id, kept.entry.id])
    order = sorted(range(len(found)), key=lambda place: (last[found[place].key_id, found[place].entry.id], place))
    return [found[place] for place in order]


def _put(connection: sqlite3.Connection, key_id: str, entry: StoredResponse, run_s: float) -> None:
    """Write an entry; of its items, those that differ from the ones before."""
    (number,) = connection.execute(
        "INSERT INTO record (key_id, id, previous_id, is_open, stored_s, num_input, body) VALUES (?, ?, ?, ?, ?, ?, ?) "
        "ON CONFLICT (key_id, id) DO UPDATE SET previous_id = excluded.previous_id, is_open = excluded.is_open, "
        "stored_s = excluded.stored_s, num_input = excluded.num_input, body = excluded.body RETURNING number",
        (key_id, entry.id, entry.previous_id, entry.is_open, run_s, len(entry.input), entry.response),
    ).fetchone()
    there = [row[0] for row in connection.execute("SELECT id FROM item WHERE record = ? ORDER BY place", (number,))]
    num_same = next(_differences(there, entry.item_ids), min(len(there), len(entry.item_ids)))
    if num_same < len(there):
        connection.execute("DELETE FROM item WHERE record = ? AND place >= ?", (number, num_same))
    connection.executemany(
        "INSERT INTO item (record, place, id, body) VALUES (?, ?, ?, ?)",
        [(number, place, entry.item_ids[place], entry.items[place]) for place in range(num_same, len(entry.item_ids))],
    )


def _differences(one: list[str], other: tuple[str, ...]) -> Iterator[int]:
    return (i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
