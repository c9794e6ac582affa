"""The pool of models: installed bundles, loaded models, and their memory."""

from appliance.models.loaded import ChatModel, EmbeddingModel, EngineSettings, ListedModel, LoadedModel, RerankModel
from appliance.models.pool import ModelPool
from appliance.models.residence import PoolSettings

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
