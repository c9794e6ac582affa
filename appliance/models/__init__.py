"""Which bundles are installed, which of them are loaded, and what each of them needs."""

from appliance.models.loaded import ChatModel, EmbeddingModel, EngineSettings, ListedModel, LoadedModel, RerankModel
from appliance.models.pool import ModelPool, PoolSettings

__all__ = [
    "ChatModel",
    "EmbeddingModel",
    "EngineSettings",
    "ListedModel",
    "LoadedModel",
    "ModelPool",
    "PoolSettings",
    "RerankModel",
]
