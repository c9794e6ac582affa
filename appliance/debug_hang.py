"""A fault on request, to prove the watchdog: LANTERN_DEBUG_HANG names what hangs from a SIGUSR1 on."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping

from appliance.engine.types import Request, SamplingParams
from appliance.errors import ConfigError
from appliance.models import ChatModel, EmbeddingModel, ModelPool

_FOREVER_S = 86_400

_hung: list[asyncio.Task[object]] = []  # the loop itself keeps no task alive


class _StuckTokens(tuple[int, ...]):
    """Whoever asks for its length never comes back, but for the loop, which sorts by it first."""

    def __len__(self) -> int:
        if threading.current_thread() is not threading.main_thread():
            threading.Event().wait()
        return 1


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
    """From the next SIGUSR1 on, an engine's thread, an embedder's or the event loop stands still.

    Raises:
        ConfigError: none of the three.
    """
    actions: dict[str, Callable[[], None]] = {
        "engine": lambda: _hang_engine(pool),
        "embedder": lambda: _hang_embedder(pool),
        "loop": lambda: time.sleep(_FOREVER_S),
    }
    if what not in actions:
        raise ConfigError(f"LANTERN_DEBUG_HANG is {what!r}; it may be {', '.join(actions)}.")
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, actions[what])


def _hang_engine(pool: ModelPool) -> None:
    model = next(m for m in pool.loaded() if isinstance(m, ChatModel))
    params = SamplingParams(max_tokens=1, logit_bias=_Stuck())
    model.engine.submit(Request("debug-hang", (model.spec.eos_token_ids[0],), params))


def _hang_embedder(pool: ModelPool) -> None:
    model = next(m for m in pool.loaded() if isinstance(m, EmbeddingModel))
    _hung.append(asyncio.get_running_loop().create_task(model.embedder.embed([_StuckTokens((0,))])))
