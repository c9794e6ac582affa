"""The sockets that a server starts with, and the certificate for those with TLS, in both modes."""

from __future__ import annotations

import logging
from pathlib import Path

from appliance.config import Config
from appliance.errors import ConfigError
from appliance.home import Home
from appliance.identity.certificate import device_certificate
from appliance.identity.served_certificate import ServedCertificate
from appliance.service.endpoints import Endpoints, open_endpoints

_LOGGER = logging.getLogger(__name__)

Entrance = tuple[Endpoints, ServedCertificate | None]
"""Bound sockets, and the certificate, if some of them speak TLS."""


def open_entrance(config: Config, home: Home, name: str) -> Entrance:
    """Open the sockets of the settings, with their certificate or the device's own.

    Raises:
        ConfigError: an address or a certificate that cannot be used.
    """
    endpoints = open_endpoints(config)
    if not endpoints.https:
        return endpoints, None
    try:
        certificate, key = Path(config.tls.certificate), Path(config.tls.key)
        if not config.tls.certificate:
            certificate = key = device_certificate(home.tls, host_name=name)
        return endpoints, ServedCertificate(certificate, key)
    except BaseException:
        endpoints.close()
        raise


def open_safely(config: Config, home: Home, name: str) -> Entrance:
    """Open plain HTTP in any case, for /health, and HTTPS with the device's own certificate if that is possible.

    Raises:
        ConfigError: an address that cannot be used.
    """
    server = config.server.model_copy(update={"http": True})
    plain = config.model_copy(update={"server": server, "tls": config.tls.model_copy(update={"enabled": False})})
    secure = plain.model_copy(update={"tls": config.tls.model_copy(update={"enabled": True})})
    try:
        path = device_certificate(home.tls, host_name=name)
        certificate = ServedCertificate(path, path)
        return open_endpoints(secure), certificate
    except (ConfigError, OSError) as err:
        _LOGGER.warning("there is no HTTPS: %s", err)
    return open_endpoints(plain), None
