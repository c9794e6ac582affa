"""The places in the queue of the requests that ask for them; owned by the engine thread."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from appliance.engine.types import Queued, Sequence


class Places:
    """The last told place of each waiting request that asks; empty, and false, if none does."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._told: dict[str, int | None] = {}

    def __bool__(self) -> bool:
        return bool(self._told)

    def watch(self, request_id: str) -> None:
        """Tell the place of a request from now on."""
        self._told[request_id] = None

    def forget(self, request_id: str) -> None:
        """Tell the place of a request no more: it has a slot, or has left."""
        self._told.pop(request_id, None)

    def changed(self, waiting: list[Sequence]) -> Iterator[Queued]:
        """Yield the places that are not as they were told; `waiting` is in the order in which slots are given."""
        for place, sequence in enumerate(waiting, start=1):
            request_id = sequence.request.id
            if request_id in self._told and self._told[request_id] != place:
                self._told[request_id] = place
                yield Queued(request_id, place, self._clock())
