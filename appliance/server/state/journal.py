"""The journal of the response store: changes gathered on the event loop, written by a thread of its own.

A response is written before its last event is sent, so that an answer never claims more than what is kept. All that
wait at once share one transaction; without changes nothing is written.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from appliance.server.state.file import KeptResponse, StateFile
from appliance.server.state.responses import StoredResponse

_LOGGER = logging.getLogger(__name__)

_CLOCK_S = 3600.0  # the ages of what is stored may be wrong by this at each stop


class DiskJournal:
    """The journal in a file; owned by the event loop, its file by its thread."""

    def __init__(
        self,
        folder: Path,
        *,
        patience_s: float = 10.0,
        tidy_s: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Wait for the disk no longer than the patience: a card that hangs must not hold answers."""
        self.fault: str | None = None
        self._file = StateFile(folder)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="text_responses")
        self._changes: dict[tuple[str, str], StoredResponse | None] = {}
        self._lock = asyncio.Lock()
        self._patience_s = patience_s
        self._clock = clock
        self._started_s = clock()
        self._erases = False
        self._tidy_s = tidy_s
        self._tidying: asyncio.TimerHandle | asyncio.Task[bool] | None = None

    def note(self, key_id: str, record_id: str, entry: StoredResponse | None) -> None:
        """See Journal; what was dropped leaves the disk soon, even if nothing else is stored."""
        self._changes[key_id, record_id] = entry
        if entry is None and self._tidying is None:
            self._tidying = asyncio.get_running_loop().call_later(self._tidy_s, self._tidy)

    def erase(self) -> None:
        """Let the next commit leave no trace of what was dropped."""
        self._erases = True

    async def load(self) -> list[KeptResponse]:
        """Read the file, the least recently used entries first; empty if it cannot be read, which is a fault."""
        try:
            kept = await asyncio.get_running_loop().run_in_executor(self._thread, self._file.load)
        except OSError as err:
            self._failed(err)
            return []
        self._started_s = self._clock() - self._file.run_s
        return kept

    def forget_unchanged(self, entries: Iterable[StoredResponse]) -> None:
        """Drop changes that are in the file already."""
        there = {id(entry) for entry in entries}
        self._changes = {key: entry for key, entry in self._changes.items() if id(entry) not in there}

    async def commit(self) -> bool:
        """See Journal."""
        async with self._lock:
            changes, self._changes = self._changes, {}
            erases, self._erases = self._erases, False
            if not changes and not erases:
                return True
            try:
                async with asyncio.timeout(self._patience_s):
                    await asyncio.shield(
                        asyncio.get_running_loop().run_in_executor(self._thread, self._write, changes, erases)
                    )
            except (OSError, TimeoutError) as err:
                self._failed(err)
                self._take_back(changes, erases=erases)
                return False
            except BaseException:
                self._take_back(changes, erases=erases)
                raise
        if self.fault is not None:
            _LOGGER.info("responses are stored on the disk again")
            self.fault = None
        return True

    async def close(self) -> None:
        """Write what is left, and close the file."""
        tidying, self._tidying = self._tidying, None
        if tidying is not None:
            tidying.cancel()
        await self.commit()
        if self.fault is None and self._run_s - self._file.run_s > _CLOCK_S:
            with contextlib.suppress(OSError):
                await asyncio.get_running_loop().run_in_executor(self._thread, self._write, {}, False)
        await asyncio.get_running_loop().run_in_executor(self._thread, self._file.close)
        self._thread.shutdown(wait=False)

    @property
    def _run_s(self) -> float:
        """Return the seconds that the server has run, in this process and in those before it."""
        return self._clock() - self._started_s

    def _tidy(self) -> None:
        self._tidying = asyncio.create_task(self.commit())
        self._tidying.add_done_callback(self._tidied)

    def _tidied(self, _: asyncio.Task[bool]) -> None:
        self._tidying = None

    def _write(self, changes: dict[tuple[str, str], StoredResponse | None], erases: bool) -> None:
        if changes or not erases:
            self._file.write(changes, self._run_s)
        if erases:
            self._file.erase_dropped()

    def _take_back(self, changes: dict[tuple[str, str], StoredResponse | None], *, erases: bool) -> None:
        """Keep changes that were not written for the next commit; newer ones win."""
        self._changes = {**changes, **self._changes}
        self._erases = self._erases or erases

    def _failed(self, err: Exception) -> None:
        if self.fault is None:
            _LOGGER.error("responses cannot be stored: %s", err or "the disk does not answer")
        self.fault = f"responses cannot be stored: {err or 'the disk does not answer'}"
