"""The announcement of this device on the local network, kept true to its models, its claim and its certificate."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import AsyncIterator

from appliance import __version__
from appliance.access.keyring import KeyRing
from appliance.background import Lifetime
from appliance.config import DiscoveryConfig
from appliance.discovery.announcer import Announcer
from appliance.discovery.interfaces import reach
from appliance.discovery.record import Auth, ServiceRecord, State
from appliance.errors import DiscoveryError
from appliance.identity.device_id import host_name
from appliance.identity.own_identity import OwnIdentity
from appliance.identity.served_certificate import ServedCertificate
from appliance.models import ModelPool
from appliance.service.endpoints import Endpoints

_APIS = {"decoder": "chat", "encoder": "emb"}


class Announcing(Lifetime):
    """Announces while it lives, if the settings ask for it; owned by the event loop."""

    def __init__(
        self,
        settings: DiscoveryConfig,
        device_id: str,
        pool: ModelPool,
        keys: KeyRing,
        endpoints: Endpoints,
        certificate: ServedCertificate | None,
    ) -> None:
        self._settings = settings
        self._device_id = device_id
        self._pool = pool
        self._keys = keys
        self._endpoints = endpoints
        self._certificate = certificate
        self._announcer: Announcer | None = None
        self._alias: str | None = None
        self._alias_changed = asyncio.Event()

    @property
    def alias(self) -> str | None:
        """The short host name that this device holds now."""
        return self._alias

    async def alias_changed(self) -> None:
        """Wait until the short host name was won or lost since the last call."""
        await self._alias_changed.wait()
        self._alias_changed.clear()

    def identity(self) -> OwnIdentity:
        """Return the names and the certificate of this device, for its page."""
        return OwnIdentity(
            id=self._device_id,
            host=host_name(self._device_id),
            https_port=self._endpoints.page_port,
            alias=lambda: self._alias,
            addresses=self._addresses,
            fingerprints=lambda: self._certificate.fingerprints if self._certificate is not None else None,
        )

    def refresh(self) -> None:
        """Announce changes of the models, the claim or the certificate."""
        if self._announcer is not None:
            num_models, apis = self._models_and_apis()
            self._announcer.update(state=self._state, num_models=num_models, apis=apis, fingerprint=self._pin)

    async def _live(self) -> AsyncIterator[None]:
        if not self._settings.announce:
            yield
            return
        name = self._settings.name or f"lantern-{self._device_id[:8]}"
        port, hosts = self._endpoints.port, self._hosts
        self._announcer = Announcer(
            self._record(),
            name=name,
            port=port,
            hosts=hosts,
            short_name=self._settings.alias,
            on_short_name=self._take_alias,
        )
        async with self._announcer:
            yield

    def _record(self) -> ServiceRecord:
        num_models, apis = self._models_and_apis()
        return ServiceRecord(
            device_id=self._device_id,
            version=__version__,
            auth=Auth.NONE if self._keys.is_open else Auth.BEARER,
            apis=apis,
            num_models=num_models,
            state=self._state,
            proto=self._endpoints.protocol,
            fingerprint=self._pin,
            tls_port=self._endpoints.https_port,
        )

    def _take_alias(self, name: str | None) -> None:
        self._alias = name
        self._alias_changed.set()

    def _addresses(self) -> tuple[str, ...]:
        """Return the addresses that people can type, IPv4 first: none that needs a zone. Blocks."""
        try:
            found = [ipaddress.ip_address(text) for text in reach(self._hosts).addresses]
        except DiscoveryError:
            return ()
        return tuple(str(a) for a in sorted(found, key=lambda a: (a.version, int(a))) if not a.is_link_local)

    @property
    def _hosts(self) -> list[str]:
        return sorted({sock.getsockname()[0] for sock in self._endpoints.all})

    @property
    def _pin(self) -> str | None:
        return self._certificate.pin if self._certificate is not None else None

    @property
    def _state(self) -> State:
        """The announced state: a new device takes requests once it is claimed."""
        return State.STARTING if self._keys.is_unclaimed else State.READY

    def _models_and_apis(self) -> tuple[int, tuple[str, ...]]:
        kinds = [m.bundle.manifest.model.kind for m in self._pool.installed()]
        return len(kinds), tuple(api for kind, api in _APIS.items() if kind in kinds)
