"""Responses and conversations in memory: bounded by bytes, least recently used first; owned by the event loop.

Each API key has a space of its own. Entries are kept as the bytes of their JSON, so that their size is known. A
journal, if there is one, is told each change; reads are answered from memory and change nothing on disk.
"""

from __future__ import annotations

import itertools
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol

CONVERSATION_PREFIX = "conv_"

_DEFAULT_BYTES = 64 << 20
_MAX_AGE_S = 30 * 86400.0
_ENTRY_BYTES = 440  # of the entry's objects, ids and places in the tables, measured
_ITEM_BYTES = 165  # of an item's id, its bytes object and its place in the index, measured


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """A response, its own input items, and its output items, each as JSON.

    A conversation is kept in the same form, its items as the input. `is_open`: the response is still being made.
    """

    id: str
    previous_id: str | None
    response: bytes
    input: tuple[bytes, ...]
    output: tuple[bytes, ...]
    item_ids: tuple[str, ...]
    is_open: bool = False

    @property
    def size_bytes(self) -> int:
        """Return the memory that the entry takes."""
        items = (*self.input, *self.output)
        return _ENTRY_BYTES + len(self.response) + sum(map(len, items)) + _ITEM_BYTES * len(items)

    @property
    def items(self) -> tuple[bytes, ...]:
        """Return the items that a next turn continues."""
        return self.input + self.output

    @property
    def is_conversation(self) -> bool:
        """Return True if this is a conversation, not a response."""
        return self.id.startswith(CONVERSATION_PREFIX)


class Journal(Protocol):
    """The writer of changes to a disk; `fault` tells why it cannot write."""

    fault: str | None

    def note(self, key_id: str, record_id: str, entry: StoredResponse | None) -> None:
        """Remember a change for the next commit; None: the entry was dropped."""

    def erase(self) -> None:
        """Let the next commit leave no trace of what was dropped."""

    async def commit(self) -> bool:
        """Write the changes so far; False if that failed, and they are to be written later."""


@dataclass(slots=True)
class _Kept:
    entry: StoredResponse
    stored_s: float
    used: int


@dataclass(slots=True)
class _Space:
    kept: OrderedDict[str, _Kept] = field(default_factory=OrderedDict)
    items: dict[str, str] = field(default_factory=dict)  # the last response that holds an item
    size_bytes: int = 0


class ResponseStore:
    """The stored responses of all keys; `max_bytes` of 0 stores nothing."""

    def __init__(
        self,
        max_bytes: int = _DEFAULT_BYTES,
        *,
        journal: Journal | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.max_bytes = max_bytes
        self._journal = journal
        self._clock = clock
        self._spaces: dict[str, _Space] = {}
        self._uses = itertools.count()

    @property
    def is_on(self) -> bool:
        """Return True if anything can be stored."""
        return self.max_bytes > 0

    @property
    def fault(self) -> str | None:
        """Return why nothing can be made durable, if that is so."""
        return self._journal.fault if self._journal is not None else None

    @property
    def size_bytes(self) -> int:
        """Return the memory of all entries."""
        return sum(space.size_bytes for space in self._spaces.values())

    def fits(self, key_id: str, size_bytes: int) -> bool:
        """Return True if an entry of this size can be stored for the key."""
        return 0 < size_bytes <= self._share(key_id)

    def put(self, key_id: str, entry: StoredResponse, *, age_s: float = 0.0) -> bool:
        """Store an entry as the most recently used one, in the place of an older version; `age_s`: stored long ago.

        False if it is larger than the key's share; an older version stays then.
        """
        size_bytes = entry.size_bytes
        if not self.fits(key_id, size_bytes):
            return False
        if (space := self._spaces.get(key_id)) is not None and entry.id in space.kept:
            self._remove(key_id, entry.id)
        space = self._spaces.setdefault(key_id, _Space())
        space.kept[entry.id] = _Kept(entry, self._clock() - age_s, next(self._uses))
        space.items.update(dict.fromkeys(entry.item_ids, entry.id))
        space.size_bytes += size_bytes
        if self._journal is not None:
            self._journal.note(key_id, entry.id, entry)
        self._forget_old()
        while space.size_bytes > self._share(key_id):
            self._drop(key_id, next(iter(space.kept)))
        while self.size_bytes > self.max_bytes:
            oldest = min(self._spaces, key=lambda key: next(iter(self._spaces[key].kept.values())).used)
            self._drop(oldest, next(iter(self._spaces[oldest].kept)))
        return True

    async def commit(self) -> bool:
        """Make the changes so far durable, if there is a journal; False if they are in memory only."""
        return self._journal is None or await self._journal.commit()

    def get(self, key_id: str, response_id: str) -> StoredResponse | None:
        """Return a response of this key, which is a use of it."""
        entry = self._get(key_id, response_id)
        return None if entry is None or entry.is_conversation else entry

    def conversation(self, key_id: str, conversation_id: str) -> StoredResponse | None:
        """Return a conversation of this key, which is a use of it."""
        entry = self._get(key_id, conversation_id)
        return entry if entry is not None and entry.is_conversation else None

    def chain(self, key_id: str, response_id: str) -> list[StoredResponse] | None:
        """Return a response and all before it, the first one first; None if one of them is no longer there."""
        self._forget_old()
        space = self._spaces.get(key_id)
        found: list[_Kept] = []
        following: str | None = response_id
        while following is not None:
            if space is None or (kept := space.kept.get(following)) is None or kept.entry.is_conversation:
                return None
            found.append(kept)
            following = kept.entry.previous_id
        assert space is not None
        found.reverse()
        for kept in found:
            self._use(space, kept)
        return [kept.entry for kept in found]

    def item(self, key_id: str, item_id: str) -> bytes | None:
        """Return a stored item of this key."""
        space = self._spaces.get(key_id)
        if space is None or (response_id := space.items.get(item_id)) is None:
            return None
        entry = self._get(key_id, response_id)
        return None if entry is None else entry.items[entry.item_ids.index(item_id)]

    def delete(self, key_id: str, response_id: str) -> bool:
        """Forget an entry at once, on disk with the next commit; False if there is none."""
        space = self._spaces.get(key_id)
        if space is None or response_id not in space.kept:
            return False
        self._drop(key_id, response_id)
        if self._journal is not None:
            self._journal.erase()
        return True

    def keep_only(self, key_ids: Iterable[str]) -> None:
        """Forget what belongs to keys that are no longer there."""
        for key_id in self._spaces.keys() - set(key_ids):
            for response_id in list(self._spaces[key_id].kept):
                self._drop(key_id, response_id)

    def _get(self, key_id: str, record_id: str) -> StoredResponse | None:
        self._forget_old()
        space = self._spaces.get(key_id)
        if space is None or (kept := space.kept.get(record_id)) is None:
            return None
        self._use(space, kept)
        return kept.entry

    def _share(self, key_id: str) -> int:
        """Return the most bytes of a key; without keys everybody shares one space."""
        return self.max_bytes // 2 if key_id else self.max_bytes

    def _use(self, space: _Space, kept: _Kept) -> None:
        kept.used = next(self._uses)
        space.kept.move_to_end(kept.entry.id)

    def _drop(self, key_id: str, response_id: str) -> None:
        self._remove(key_id, response_id)
        if self._journal is not None:
            self._journal.note(key_id, response_id, None)

    def _remove(self, key_id: str, response_id: str) -> None:
        space = self._spaces[key_id]
        entry = space.kept.pop(response_id).entry
        space.size_bytes -= entry.size_bytes
        for item_id in entry.item_ids:
            if space.items.get(item_id) == response_id:
                del space.items[item_id]
        if not space.kept:
            del self._spaces[key_id]

    def _forget_old(self) -> None:
        """Forget what was not used, and was stored long ago; looks at the least recently used ones only."""
        limit_s = self._clock() - _MAX_AGE_S
        for key_id in list(self._spaces):
            space = self._spaces[key_id]
            while space.kept and (kept := next(iter(space.kept.values()))).stored_s < limit_s:
                self._drop(key_id, kept.entry.id)
