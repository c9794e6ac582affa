"""A fault on request, to prove the watchdog: LANTERN_DEBUG_HANG names the thread that hangs from a SIGUSR1 on."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import Callable
from functools import partial

from appliance.errors import ConfigError
from appliance.models import ModelPool

_FOREVER_S = 86_400


def hang_on_signal(what: str, pool: ModelPool) -> None:
    """Let an engine's thread, an embedder's or the event loop hang from the next SIGUSR1 on.

    Raises:
        ConfigError: `what` is none of the three.
    """
    actions: dict[str, Callable[[], None]] = {
        "engine": partial(_hang_thread, pool, "decoder"),
        "embedder": partial(_hang_thread, pool, "encoder"),
        "loop": partial(time.sleep, _FOREVER_S),
    }
    if what not in actions:
        raise ConfigError(f"LANTERN_DEBUG_HANG is {what!r}; it may be {', '.join(actions)}.")
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, actions[what])


def _hang_thread(pool: ModelPool, kind: str) -> None:
    model = next(m for m in pool.loaded() if m.bundle.manifest.model.kind == kind)
    model.thread.tell(threading.Event().wait)
