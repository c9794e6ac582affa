"""One publication: our records on one set of links, from probing to goodbye.

A publication is never moved to other addresses: the announcer withdraws it and makes the next, which probes
again with an empty cache. That is one mechanism for a new address, a new network and a name that was lost. Lives on the
event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator

import zeroconf
from zeroconf import DNSOutgoing, DNSQuestionType, ServiceStateChange  # type: ignore[attr-defined]  # as in claims
from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo, AsyncZeroconf

from appliance.discovery.claims import Claim, ClaimWatch
from appliance.discovery.interfaces import Reach
from appliance.discovery.record import OPENAI_ALIAS, SERVICE_TYPE, ServiceRecord
from appliance.errors import DiscoveryError
from appliance.identity.device_id import host_name


class Publication:
    """A zeroconf instance with our records in it; owned by the announcer's task."""

    def __init__(
        self,
        record: ServiceRecord,
        *,
        name: str,
        port: int,
        reach: Reach,
        openai_alias: bool,
        on_rival: Callable[[Claim], None],
        on_goodbye: Callable[[], None],
        ttl_s: int,
    ) -> None:
        self.reach = reach
        self.record = record
        self._port = port
        self._ttl_s = ttl_s
        self._host = f"{host_name(record.device_id or '')}."
        self._names = dict.fromkeys([SERVICE_TYPE, record.http_type] + [OPENAI_ALIAS] * openai_alias, name)
        self._zeroconf: AsyncZeroconf | None = None
        self._on_rival = on_rival
        self._report_goodbye = on_goodbye
        self._watched: frozenset[str] = frozenset()

    @property
    def name(self) -> str:
        """The instance name of our own type, after any renaming."""
        return self._names[SERVICE_TYPE]

    @property
    def claim(self) -> Claim:
        """Return the claim that our own SRV records make."""
        return (self._host, self._port)

    async def publish(self) -> None:
        """Open the sockets, probe for the names, and announce; names that are taken get a number.

        Raises:
            DiscoveryError: no socket on port 5353, or the network went away meanwhile.
        """
        with _wrapped("announce"):
            self._zeroconf = AsyncZeroconf(interfaces=list(self.reach.multicast))
            await self._zeroconf.zeroconf.async_wait_for_start()
            infos = [self._info(type_) for type_ in self._names]
            async with self._asking(self._zeroconf):
                registering = [self._zeroconf.async_register_service(info, allow_name_change=True) for info in infos]
                announcing = await asyncio.gather(*registering)
            self._names = {info.type: info.name.removesuffix(f".{info.type}") for info in infos}
            subtype = self._subtype_info()
            announcing.append(await self._zeroconf.async_register_service(subtype, cooperating_responders=True))
            self._watched = frozenset(info.name.lower() for info in infos)
            self._zeroconf.zeroconf.async_add_listener(ClaimWatch(self._on_claim, on_goodbye=self._on_goodbye), None)
            await asyncio.gather(*announcing)

    async def update(self, record: ServiceRecord) -> None:
        """Announce `record` in the place of the former one; with the same one this defends the names."""
        assert self._zeroconf is not None
        self.record = record
        with _wrapped("update"):
            infos = [*map(self._info, self._names), self._subtype_info()]
            announcing: list[Awaitable[object]] = [await self._zeroconf.async_update_service(info) for info in infos]
            await asyncio.gather(*announcing)

    def send(self, message: DNSOutgoing) -> None:
        """Multicast a message on every link; without effect once the publication is withdrawn."""
        if self._zeroconf is not None:
            self._zeroconf.zeroconf.async_send(message)

    async def withdraw(self, *, goodbye: bool) -> None:
        """Close the sockets.

        Args:
            goodbye: tell every cache to forget the records. Not for a name that was lost: its pointer record is the
                winner's as well.
        """
        if (instance := self._zeroconf) is None:
            return
        self._watched = frozenset()  # our own goodbye is none to answer
        if not goodbye:
            instance.zeroconf.registry.async_remove(instance.zeroconf.registry.async_get_service_infos())
        with _wrapped("withdraw"):
            await instance.async_close()
        self._zeroconf = None

    def _on_claim(self, name: str, claim: Claim) -> None:
        """Give up a name that another host claims later: resolvers probe only once."""
        if name in self._watched and claim != self.claim:
            self._on_rival(claim)

    def _on_goodbye(self, name: str) -> None:
        """Report that another host took back a name that is ours too: caches forget the pointer, which is shared."""
        if name in self._watched:
            self._report_goodbye()

    def _asking(self, instance: AsyncZeroconf) -> AsyncServiceBrowser:
        """Ask all holders of names to answer by multicast while zeroconf probes.

        Its own probes ask for unicast replies, and where several programs share port 5353 these may reach another one.
        """
        return AsyncServiceBrowser(
            instance.zeroconf, list(self._names), handlers=[_ignore], question_type=DNSQuestionType.QM
        )

    def _info(self, type_: str) -> AsyncServiceInfo:
        return AsyncServiceInfo(
            type_,
            f"{self._names[type_]}.{type_}",
            port=self._port,
            properties=dict(self.record.to_txt()),
            server=self._host,
            parsed_addresses=list(self.reach.addresses),
            host_ttl=self._ttl_s,
        )

    def _subtype_info(self) -> AsyncServiceInfo:
        """Return a second pointer to the web service's instance.

        python-zeroconf 0.154 keeps one registration for each instance name, so that a type and its subtype exclude
        one another; under a key of its own the subtype is told apart, and SRV and TXT come from the main one.
        """
        info = self._info(self.record.http_type)
        info.type = self.record.openai_subtype
        info.key = f"{info.key}/subtype"
        return info


def _ignore(zeroconf: zeroconf.Zeroconf, service_type: str, name: str, state_change: ServiceStateChange) -> None:
    """Do nothing: the answers count by being in zeroconf's cache."""


@contextlib.contextmanager
def _wrapped(doing: str) -> Iterator[None]:
    """Turn what zeroconf raises into our own error."""
    try:
        yield
    except (zeroconf.Error, OSError, RuntimeError) as err:
        raise DiscoveryError(f"Cannot {doing} the service on the local network: {err or type(err).__name__}.") from err
