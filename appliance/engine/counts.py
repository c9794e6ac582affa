"""The counts of an engine since its start."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from appliance.engine.types import EngineStats


@dataclass(slots=True)
class Counts:
    """Steps and tokens; written by the engine thread. Others may read, since each count is one integer."""

    num_steps: int = 0
    num_prompt_tokens: int = 0
    num_cached_tokens: int = 0
    num_generated_tokens: int = 0
    num_drafted_tokens: int = 0
    num_accepted_tokens: int = 0

    def stats(self, *, num_slots: int, num_running: int, num_waiting: int) -> EngineStats:
        """Return them with what the engine holds now."""
        return EngineStats(num_slots=num_slots, num_running=num_running, num_waiting=num_waiting, **asdict(self))
