"""The counts of one request: times, tokens, the key's id; never its text. Owned by its handler."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from aiohttp import web

from appliance.engine.types import Admitted, Output, Sampled
from appliance.server.http.metrics import Metrics


@dataclass(slots=True)
class RequestRecord:
    """The counts of one request while it runs, which go into its line of the log and into the metrics."""

    metrics: Metrics
    started_s: float = field(default_factory=time.monotonic)
    key_id: str = ""
    num_prompt_tokens: int = 0
    num_cached_tokens: int = 0
    num_generated_tokens: int = 0
    wait_s: float | None = None
    first_token_s: float | None = None
    _last_token_s: dict[str, float] = field(default_factory=dict)  # of each choice

    def count_prompt(self, num_tokens: int) -> None:
        """Count the tokens that a model has to read."""
        self.num_prompt_tokens += num_tokens
        self.metrics.prompt_tokens.inc(num_tokens)

    def count(self, output: Output) -> None:
        """Count an output of the engine, at the time at which it came."""
        match output:
            case Sampled(request_id=request_id, at_s=at_s):
                self._count_token(request_id, at_s)
            case Admitted(num_cached_tokens=num_cached_tokens, at_s=at_s):
                self._count_admission(num_cached_tokens, at_s)

    @property
    def last_token_s(self) -> float | None:
        """Return the time of the last token of any choice since the beginning."""
        return max(self._last_token_s.values()) - self.started_s if self._last_token_s else None

    def fields(self) -> dict[str, object]:
        """Return the fields of the request's line of the log."""
        counts: dict[str, object] = {}
        if self.num_prompt_tokens:
            counts = {
                "prompt_tokens": self.num_prompt_tokens,
                "cached_tokens": self.num_cached_tokens,
                "generated_tokens": self.num_generated_tokens,
                "wait_ms": _ms(self.wait_s),
                "first_token_ms": _ms(self.first_token_s),
            }
        return {"key": self.key_id or None, "duration_ms": _ms(time.monotonic() - self.started_s), **counts}

    def _count_token(self, request_id: str, at_s: float) -> None:
        self.num_generated_tokens += 1
        self.metrics.generated_tokens.inc()
        last_s = self._last_token_s.get(request_id)
        self._last_token_s[request_id] = at_s
        if last_s is not None:
            self.metrics.inter_token_s.observe(at_s - last_s)
        elif self.first_token_s is None:
            self.first_token_s = at_s - self.started_s
            self.metrics.first_token_s.observe(self.first_token_s)

    def _count_admission(self, num_cached_tokens: int, at_s: float) -> None:
        self.num_cached_tokens += num_cached_tokens
        self.metrics.cached_tokens.inc(num_cached_tokens)
        if self.wait_s is None:
            self.wait_s = at_s - self.started_s
            self.metrics.wait_s.observe(self.wait_s)


RECORD = web.RequestKey("record", RequestRecord)
REQUEST_ID = web.RequestKey("request_id", str)
KEY_ID = web.RequestKey("key_id", str)


def _ms(seconds: float | None) -> int | None:
    return None if seconds is None else round(1e3 * seconds)
