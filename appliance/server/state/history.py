"""The last minutes of the device, sampled by the service and read by everybody who looks; owned by the event loop."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

INTERVAL_S = 2.0
_MOST = 300  # ten minutes


@dataclass(frozen=True, slots=True)
class Sample:
    """The device at one moment; rates are those since the sample before. `at_s` counts from the start of the server.

    `storage_free_bytes` and `storage_total_bytes` are None while the folder of the models does not exist.
    """

    at_s: float
    prompt_tokens_per_s: float
    generated_tokens_per_s: float
    num_running: int
    num_waiting: int
    num_slots: int
    processor_percent: float
    memory_free_bytes: int
    memory_total_bytes: int
    models_bytes: int
    storage_free_bytes: int | None
    storage_total_bytes: int | None
    temperature_c: float | None
    is_throttled: bool
    is_under_voltage: bool


class History:
    """A ring of samples."""

    def __init__(self, most: int = _MOST, interval_s: float = INTERVAL_S) -> None:
        self._samples: deque[Sample] = deque(maxlen=most)
        self.interval_s = interval_s

    @property
    def last(self) -> Sample | None:
        """The latest sample; None before the first one."""
        return self._samples[-1] if self._samples else None

    def add(self, sample: Sample) -> None:
        """Add a sample, and forget the oldest one of a full ring."""
        self._samples.append(sample)

    def since(self, at_s: float) -> Iterator[Sample]:
        """Yield the samples after this time, the oldest first."""
        return (sample for sample in self._samples if sample.at_s > at_s)
