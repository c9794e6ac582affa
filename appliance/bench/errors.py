"""Errors of a measurement."""

from __future__ import annotations

from appliance.errors import LanternError


class BenchError(LanternError):
    """A server that cannot be reached, does not start, or is no OpenAI server; nothing can be measured."""

    code = "bench_error"
    exit_code = 6


class RefusalError(LanternError):
    """A server answered, but not with what was asked for: the row says so and the other rows go on."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.answer_status = status
