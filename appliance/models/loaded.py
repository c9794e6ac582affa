"""The parts of a loaded model, and the settings with which models run on this board."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self

from appliance.bundle import Bundle, DecoderSpec, EncoderSpec, RerankerSpec, SignedManifest
from appliance.config import EngineConfig
from appliance.engine.loop import AsyncEngine
from appliance.engine.runtime.grammar import GrammarCompiler
from appliance.engine.runtime.kept_slots import KeptFolder
from appliance.engine.runtime.kv_cache import CacheType
from appliance.engine.texts.embedder import TokenPair
from appliance.engine.texts.loop import AsyncTextModel
from appliance.engine.worker import Worker
from appliance.text.template import ChatTemplate
from appliance.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """The settings of models on this board; `max_waiting` requests are queued beyond the slots.

    `num_threads` and `spinning`: None takes the values that were measured when the model was first loaded here.
    `kv_cache`: auto takes float32 if the memory allows it. `fast_prompts`: with weights of their own for prompts, if
    that is faster here and the memory allows it. `use_device`: on a GPU, if one gives the same logits faster.
    `use_kernels`: with Lantern's own kernels, if they are faster here. `checkpoint_bytes`: the most memory of a
    model for recurrent states that are kept within prompts. `conversations`: the folder of idle ones, None for none.
    `max_text_tokens`: the longest text of an embedding model or reranker; None for what its bundle says.
    """

    num_slots: int = 4
    context_length: int = 2048
    num_threads: int | None = None
    spinning: bool | None = None
    max_waiting: int = 32
    kv_cache: CacheType | Literal["auto"] = "auto"
    fast_prompts: bool = True
    use_device: bool = True
    use_kernels: bool = True
    checkpoint_bytes: int = 256 << 20
    conversations: KeptFolder | None = None
    max_text_tokens: int | None = None

    @classmethod
    def of(cls, config: EngineConfig) -> Self:
        """Return the settings of a configuration."""
        return cls(
            num_slots=config.slots,
            context_length=config.context_length,
            num_threads=config.threads or None,
            spinning=None if config.spinning == "auto" else config.spinning,
            max_waiting=config.queue,
            kv_cache=config.kv_cache,
            fast_prompts=config.fast_prompts,
            use_device=config.device == "auto",
            use_kernels=config.kernels,
            checkpoint_bytes=config.checkpoints_mib << 20,
        )


@dataclass(frozen=True, slots=True)
class ChatModel:
    """A loaded decoder with its text side."""

    bundle: Bundle
    spec: DecoderSpec
    tokenizer: Tokenizer
    template: ChatTemplate | None
    grammars: GrammarCompiler
    engine: AsyncEngine

    @property
    def thread(self) -> Worker:
        """Return the thread that computes."""
        return self.engine


@dataclass(frozen=True, slots=True)
class EmbeddingModel:
    """A loaded encoder with its text side."""

    bundle: Bundle
    spec: EncoderSpec
    tokenizer: Tokenizer
    embedder: AsyncTextModel[Sequence[int]]

    @property
    def thread(self) -> Worker:
        """Return the thread that computes."""
        return self.embedder


@dataclass(frozen=True, slots=True)
class RerankModel:
    """A loaded cross-encoder with its text side."""

    bundle: Bundle
    spec: RerankerSpec
    tokenizer: Tokenizer
    reranker: AsyncTextModel[TokenPair]

    @property
    def thread(self) -> Worker:
        """Return the thread that computes."""
        return self.reranker


LoadedModel = ChatModel | EmbeddingModel | RerankModel


@dataclass(frozen=True, slots=True)
class ListedModel:
    """An id that a request may name, and the bundle behind it."""

    id: str
    bundle: SignedManifest
