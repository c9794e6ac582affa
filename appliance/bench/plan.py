"""The plan of one run of the bench, from the command line."""

from __future__ import annotations

from dataclasses import dataclass

from appliance.models import EngineSettings

ENGINE_GROUPS = ("decode", "prefill", "batch")
SERVER_GROUPS = ("ready", "stream", "streams", "turn", "repeat", "schema", "embeddings", "memory")
GROUPS = ENGINE_GROUPS + SERVER_GROUPS


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A server that runs already."""

    url: str
    key: str | None = None
    chat_model: str | None = None
    embedding_model: str | None = None


@dataclass(frozen=True, slots=True)
class BenchPlan:
    """`endpoint` None: start a server; `peer` None: measure one server alone."""

    groups: tuple[str, ...]
    engine: EngineSettings
    repeat: int = 5
    is_quick: bool = False
    chat_model: str | None = None
    embedding_model: str | None = None
    endpoint: Endpoint | None = None
    peer: Endpoint | None = None

    @property
    def contexts(self) -> tuple[int, ...]:
        """The contexts of decode that fit."""
        return self._fitting((128, 512) if self.is_quick else (128, 512, 1024, 2048))

    @property
    def prompt_lengths(self) -> tuple[int, ...]:
        """The lengths of prefill that fit."""
        return self._fitting((128, 512) if self.is_quick else (128, 512, 1024))

    @property
    def stream_contexts(self) -> tuple[int, ...]:
        """The contexts of one stream over HTTP that fit."""
        return self._fitting((128,) if self.is_quick else (128, 1024))

    @property
    def num_tokens(self) -> int:
        """Tokens generated, or steps run, for one sample of a speed."""
        return 32 if self.is_quick else 64

    def wants(self, group: str) -> bool:
        """Tell if this group is measured."""
        return group in self.groups

    def _fitting(self, sizes: tuple[int, ...]) -> tuple[int, ...]:
        limit = self.engine.context_length
        return tuple(size for size in sizes if size <= limit) or (limit,)
