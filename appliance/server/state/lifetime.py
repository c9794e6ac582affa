"""The lifetime of what is stored: read from the disk before the first request, written to it after the last one."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator, Callable

from appliance.server.state.background import Background
from appliance.server.state.journal import DiskJournal
from appliance.server.state.responses import ResponseStore, StoredResponse

_LOGGER = logging.getLogger(__name__)


@contextlib.asynccontextmanager
async def kept_responses(
    store: ResponseStore,
    background: Background,
    journal: DiskJournal | None,
    interrupted: Callable[[StoredResponse], StoredResponse],
) -> AsyncIterator[None]:
    """Fill the store until the block is left, which ends what is made in the background.

    `interrupted` returns the last state of a response that was being made when the server ended.
    """
    if journal is not None:
        await _fill(store, journal, interrupted)
    try:
        yield
    finally:
        await background.stop()
        if journal is not None:
            await journal.close()


async def _fill(
    store: ResponseStore, journal: DiskJournal, interrupted: Callable[[StoredResponse], StoredResponse]
) -> None:
    kept = await journal.load()
    for found in kept:
        if not store.put(found.key_id, found.entry, age_s=found.age_s):
            journal.note(found.key_id, found.entry.id, None)
    journal.forget_unchanged(found.entry for found in kept)
    cut = [found for found in kept if found.entry.is_open]
    for found in cut:
        store.put(found.key_id, interrupted(found.entry), age_s=found.age_s)
    await store.commit()
    _LOGGER.info("%d stored responses were read, %d of them cut by the last stop", len(kept), len(cut))
