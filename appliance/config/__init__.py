"""The settings of the appliance, validated once and frozen afterwards. Knows nothing of what uses them."""

from appliance.config.loading import default_toml, load_config
from appliance.config.sections import (
    Config,
    DiscoveryConfig,
    EngineConfig,
    ResponsesConfig,
    ServerConfig,
    TlsConfig,
)

__all__ = [
    "Config",
    "DiscoveryConfig",
    "EngineConfig",
    "ResponsesConfig",
    "ServerConfig",
    "TlsConfig",
    "default_toml",
    "load_config",
]
