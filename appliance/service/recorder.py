"""The recorder of the device's history: one sample each two seconds, whoever looks and however many."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from appliance.background import Lifetime, run_in_background
from appliance.host.memory import available_bytes
from appliance.host.thermal import Thermal
from appliance.models import ModelPool
from appliance.server.http.metrics import Metrics
from appliance.server.state.history import History, Sample


@dataclass(frozen=True, slots=True)
class _Machine:
    """The part of a sample that is read from the system."""

    processor_percent: float
    memory_free_bytes: int
    memory_total_bytes: int
    storage_free_bytes: int | None
    storage_total_bytes: int | None


class Recorder(Lifetime):
    """Samples the pool, the metrics and the machine while it lives; owned by the event loop."""

    def __init__(
        self, history: History, pool: ModelPool, metrics: Metrics, thermal: Callable[[], Thermal], models: Path
    ) -> None:
        """`models` is the folder whose disk is looked at."""
        self._history = history
        self._pool = pool
        self._metrics = metrics
        self._thermal = thermal
        self._models = models
        self._started_s = time.monotonic()
        self._before = (self._started_s, 0.0, 0.0)

    async def _live(self) -> AsyncIterator[None]:
        await self._sample()
        async with run_in_background(self._record(), name="recorder"):
            yield

    async def _record(self) -> None:
        while True:
            await asyncio.sleep(self._history.interval_s)
            await self._sample()

    async def _sample(self) -> None:
        machine = await asyncio.to_thread(_read_machine, self._models)
        thermal, now_s = self._thermal(), time.monotonic()
        prompt, generated = self._metrics.token_counts()
        before_s, prompt_before, generated_before = self._before
        elapsed_s = max(now_s - before_s, 1e-3)
        engines = [found for model in self._pool.loaded() if (found := model.thread.stats()) is not None]
        self._before = (now_s, prompt, generated)
        self._history.add(
            Sample(
                at_s=round(now_s - self._started_s, 2),
                prompt_tokens_per_s=round((prompt - prompt_before) / elapsed_s, 2),
                generated_tokens_per_s=round((generated - generated_before) / elapsed_s, 2),
                num_running=sum(e.num_running for e in engines),
                num_waiting=sum(e.num_waiting for e in engines),
                num_slots=sum(e.num_slots for e in engines),
                processor_percent=machine.processor_percent,
                memory_free_bytes=machine.memory_free_bytes,
                memory_total_bytes=machine.memory_total_bytes,
                models_bytes=self._pool.reserved_bytes,
                storage_free_bytes=machine.storage_free_bytes,
                storage_total_bytes=machine.storage_total_bytes,
                temperature_c=thermal.temperature_c,
                is_throttled=thermal.is_throttled,
                is_under_voltage=thermal.is_under_voltage,
            )
        )


def _read_machine(models: Path) -> _Machine:
    disk = shutil.disk_usage(models) if models.is_dir() else None
    return _Machine(
        processor_percent=psutil.cpu_percent(interval=None),
        memory_free_bytes=available_bytes(),
        memory_total_bytes=psutil.virtual_memory().total,
        storage_free_bytes=disk.free if disk is not None else None,
        storage_total_bytes=disk.total if disk is not None else None,
    )
