"""What is counted of one request: times, tokens, the key's id; never what it said. Owned by its handler."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from aiohttp import web

from appliance.engine.loop import TokenStream
from appliance.engine.types import Request, StepOutput
from appliance.server.metrics import Metrics


@dataclass(slots=True)
class RequestRecord:
    """Counts of one request while it runs."""

    metrics: Metrics
    started_s: float = field(default_factory=time.monotonic)
    key_id: str = ""
    num_prompt_tokens: int = 0
    num_cached_tokens: int = 0
    num_generated_tokens: int = 0
    wait_s: float | None = None
    first_token_s: float | None = None

    def watch(self, stream: TokenStream, request: Request) -> TokenStream:
        """Count what this stream brings, at the moment it arrives."""
        self.num_prompt_tokens += len(request.prompt)
        self.metrics.tokens.labels("prompt").inc(len(request.prompt))
        generated = self.metrics.tokens.labels("generated")
        last_s: float | None = None

        def saw(output: StepOutput) -> None:
            nonlocal last_s
            now_s = time.monotonic()
            if output.num_cached_tokens is not None:
                self._admitted(output.num_cached_tokens, now_s)
            if output.token is None or output.is_prompt:
                return
            self.num_generated_tokens += 1
            generated.inc()
            if last_s is not None:
                self.metrics.inter_token_s.observe(now_s - last_s)
            elif self.first_token_s is None:
                self.first_token_s = now_s - self.started_s
                self.metrics.first_token_s.observe(self.first_token_s)
            last_s = now_s

        stream.on_output = saw
        return stream

    def fields(self) -> dict[str, object]:
        """What goes into the request's line of the log."""
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

    def _admitted(self, num_cached: int, now_s: float) -> None:
        self.num_cached_tokens += num_cached
        self.metrics.tokens.labels("cached").inc(num_cached)
        if self.wait_s is None:
            self.wait_s = now_s - self.started_s
            self.metrics.wait_s.observe(self.wait_s)


RECORD = web.RequestKey("record", RequestRecord)


def _ms(seconds: float | None) -> int | None:
    return None if seconds is None else round(1e3 * seconds)
