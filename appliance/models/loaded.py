"""What a loaded model consists of, and how models run on this board."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Self

from appliance.bundle import Bundle, DecoderSpec, EncoderSpec, RerankerSpec
from appliance.config import EngineConfig
from appliance.engine.constraint import GrammarCompiler
from appliance.engine.embed_loop import AsyncEmbedder, AsyncReranker
from appliance.engine.kv_cache import CacheType
from appliance.engine.loop import AsyncEngine
from appliance.text.template import ChatTemplate
from appliance.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """How models run on this board; `max_waiting` requests are queued beyond the slots.

    `num_threads` and `spinning`: None takes what was measured when the model was first loaded here. `kv_cache`: auto
    takes float32 where the memory allows it. `fast_prompts`: with weights of their own for prompts, where that is
    faster here and the memory allows it. `use_device`: a GPU, where one computes what the processor does, sooner.
    """

    num_slots: int = 4
    context_length: int = 2048
    num_threads: int | None = None
    spinning: bool | None = None
    max_waiting: int = 32
    kv_cache: CacheType | Literal["auto"] = "auto"
    fast_prompts: bool = True
    use_device: bool = True

    @classmethod
    def of(cls, config: EngineConfig) -> Self:
        """As the user's settings say."""
        return cls(
            num_slots=config.slots,
            context_length=config.context_length,
            num_threads=config.threads or None,
            spinning=None if config.spinning == "auto" else config.spinning,
            max_waiting=config.queue,
            kv_cache=config.kv_cache,
            fast_prompts=config.fast_prompts,
            use_device=config.device == "auto",
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


@dataclass(frozen=True, slots=True)
class EmbeddingModel:
    """A loaded encoder with its text side."""

    bundle: Bundle
    spec: EncoderSpec
    tokenizer: Tokenizer
    embedder: AsyncEmbedder


@dataclass(frozen=True, slots=True)
class RerankModel:
    """A loaded cross-encoder with its text side."""

    bundle: Bundle
    spec: RerankerSpec
    tokenizer: Tokenizer
    reranker: AsyncReranker


LoadedModel = ChatModel | EmbeddingModel | RerankModel


@dataclass(frozen=True, slots=True)
class ListedModel:
    """What GET /v1/models shows: an id, and the bundle that answers to it."""

    id: str
    bundle: Bundle
    aliases: tuple[str, ...] = field(default=())
