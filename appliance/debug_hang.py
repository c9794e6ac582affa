"""A fault on request, to prove the watchdog: where LANTERN_DEBUG_HANG says `engine` or `loop`, and at a SIGUSR1."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import Iterator, Mapping

from appliance.engine.types import Request, SamplingParams
from appliance.errors import ConfigError
from appliance.models import ChatModel, ModelPool

_FOREVER_S = 86_400


class _Stuck(Mapping[int, float]):
    """Whoever reads it never comes back."""

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[int]:
        threading.Event().wait()
        yield 0

    def __getitem__(self, key: int) -> float:
        return 0.0


def hang_on_signal(what: str, pool: ModelPool) -> None:
    """From the next SIGUSR1 on, the engine thread or the event loop stands still.

    Raises:
        ConfigError: neither of the two.
    """
    actions = {"engine": lambda: _hang_engine(pool), "loop": lambda: time.sleep(_FOREVER_S)}
    if what not in actions:
        raise ConfigError(f"LANTERN_DEBUG_HANG is {what!r}; it may be engine or loop.")
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, actions[what])


def _hang_engine(pool: ModelPool) -> None:
    model = next(m for m in pool.loaded() if isinstance(m, ChatModel))
    params = SamplingParams(max_tokens=1, logit_bias=_Stuck())
    model.engine.submit(Request("debug-hang", (model.spec.eos_token_ids[0],), params))
