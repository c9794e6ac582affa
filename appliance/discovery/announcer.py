"""The announcer: keeps the device's record on the local network true, from start to goodbye.

Lives on the event loop. One task owns the publication and compares, every poll, what is published with what should
be: the addresses of the links, the record, a name that somebody else uses. Knows nothing of HTTP and serves nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import secrets
from collections.abc import AsyncIterator, Callable, Sequence

from appliance.background import Lifetime
from appliance.discovery.alias import Alias
from appliance.discovery.claims import Claim
from appliance.discovery.interfaces import Reach, is_real_interface, only_loopback, reach
from appliance.discovery.netlink import link_changes
from appliance.discovery.publication import Publication
from appliance.discovery.record import ServiceRecord, State, instance_name
from appliance.errors import DiscoveryError

_LOGGER = logging.getLogger(__name__)

_MAX_DEFENCES = 3
_DEFENCE_WINDOW_S = 60.0
_FLUSH_DELAY_S = 1.2  # RFC 6762 section 10.2: an announcement replaces only what is older than a second


class Announcer(Lifetime):
    """Publishes one `ServiceRecord`, follows the network, and says goodbye; owned by one event loop.

    Works without a network: it announces when there is one. A name that is taken gets a number; the id in the record
    never changes. `async with Announcer(...)` starts and stops it.
    """

    def __init__(
        self,
        record: ServiceRecord,
        *,
        name: str,
        port: int,
        hosts: Sequence[str] = ("0.0.0.0", "::"),  # noqa: S104
        openai_alias: bool = False,
        short_name: str = "",
        on_short_name: Callable[[str | None], None] = lambda _: None,
        accept_interface: Callable[[str], bool] = is_real_interface,
        poll_interval_s: float = 2.0,
        ttl_s: int = 120,
    ) -> None:
        """Check everything that can be checked before a socket is open.

        Args:
            record: what to say; `device_id` is required.
            name: the instance name that people see; cleaned, and numbered where it is taken.
            port: the TCP port that the server listens on.
            hosts: the addresses that the server is bound to; a wildcard stands for all of its family.
            openai_alias: also announce the type `_openai._tcp`.
            short_name: the first label of a host name to hold beside the device's own, while no other host has it.
            on_short_name: called with that name when it is won, and with None when it is lost.
            accept_interface: which links may carry the record.
            poll_interval_s: how often the addresses are compared, beside every time that the kernel tells of a change.
            ttl_s: how long others believe in our host when they hear nothing more (RFC 6762 section 10).

        Raises:
            DiscoveryError: a record that cannot be announced, or a server that only this machine can reach.
        """
        _check(record, hosts, reaches_loopback=accept_interface("lo"))
        self._record = record
        self._wanted_name = self._name = instance_name(name)
        self._port, self._hosts = port, tuple(hosts)
        self._openai_alias = openai_alias
        self._short_name, self._on_short_name = short_name, on_short_name
        self._holding = contextlib.AsyncExitStack()
        self._accept_interface = accept_interface
        self._poll_interval_s = poll_interval_s
        self._ttl_s = ttl_s
        self._publication: Publication | None = None
        self._rival: Claim | None = None
        self._is_forgotten = False
        self._defences_s: list[float] = []
        self._published = asyncio.Event()
        self._wake = asyncio.Event()
        self._last_trouble = ""

    @property
    def name(self) -> str | None:
        """The instance name in use; None while nothing is announced."""
        return self._publication.name if self._publication is not None and self._published.is_set() else None

    @property
    def addresses(self) -> tuple[str, ...]:
        """The addresses announced now."""
        return self._publication.reach.addresses if self._publication is not None else ()

    async def announced(self) -> None:
        """Wait until the record is on the network."""
        await self._published.wait()

    def update(
        self,
        *,
        state: State | None = None,
        num_models: int | None = None,
        apis: tuple[str, ...] | None = None,
        fingerprint: str | None = None,
    ) -> None:
        """Change what the record says; sent at once where there is a network.

        Raises:
            DiscoveryError: the record cannot be announced so; the former one stays.
        """
        old = self._record
        record = dataclasses.replace(
            old,
            state=old.state if state is None else state,
            num_models=old.num_models if num_models is None else num_models,
            apis=old.apis if apis is None else apis,
            fingerprint=old.fingerprint if fingerprint is None else fingerprint,
        )
        record.to_txt()
        self._record = record
        self._wake.set()

    async def _live(self) -> AsyncIterator[None]:
        """Announce, with or without a network; at the end announce that the device drains, then say goodbye."""
        task = asyncio.create_task(self._run(), name="announcer")
        task.add_done_callback(_report_end)
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])
            if self._publication is not None and self.name is not None:
                with contextlib.suppress(DiscoveryError):
                    await self._publication.update(dataclasses.replace(self._record, state=State.DRAINING))
            await self._withdraw(goodbye=True)

    async def _run(self) -> None:
        with link_changes(self._wake.set):
            while True:
                self._wake.clear()
                try:
                    await self._reconcile()
                    self._last_trouble = ""
                except DiscoveryError as err:
                    self._log_once(err)
                    await self._withdraw(goodbye=False)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), self._poll_interval_s)

    async def _reconcile(self) -> None:
        """Bring what is published one step nearer to what should be."""
        now = await asyncio.to_thread(reach, self._hosts, accept_interface=self._accept_interface)
        if self._publication is not None and self._publication.reach != now:
            await self._withdraw(goodbye=False)
        if self._publication is None:
            if now.addresses:
                await self._publish(now)
        elif self._rival is not None:
            await self._settle(self._publication, self._rival, now)
        elif self._publication.record != self._record or self._is_forgotten:
            self._is_forgotten = False
            await self._publication.update(self._record)

    async def _publish(self, now: Reach) -> None:
        self._rival = None
        self._publication = Publication(
            self._record,
            name=self._name,
            port=self._port,
            reach=now,
            openai_alias=self._openai_alias,
            on_rival=self._note_rival,
            on_goodbye=self._note_goodbye,
            ttl_s=self._ttl_s,
        )
        await self._publication.publish()
        if self._short_name:
            await self._holding.enter_async_context(self._alias(self._publication, now))
        self._published.set()
        _LOGGER.info("Announced %r at %s, port %d", self._publication.name, ", ".join(now.addresses), self._port)

    def _alias(self, publication: Publication, now: Reach) -> Alias:
        return Alias(
            self._short_name,
            now.addresses,
            multicast=now.multicast,
            send=publication.send,
            on_change=self._on_short_name,
            ttl_s=self._ttl_s,
        )

    async def _settle(self, publication: Publication, rival: Claim, now: Reach) -> None:
        """Keep the name or leave it: the lower host does the former, unless the other one does not give way."""
        self._rival = None
        clock = asyncio.get_running_loop().time
        self._defences_s = [time_s for time_s in self._defences_s if clock() - time_s < _DEFENCE_WINDOW_S]
        if publication.claim < rival and len(self._defences_s) < _MAX_DEFENCES:
            self._defences_s.append(clock())
            _LOGGER.warning("%s claims our name %r too: defending it", rival[0], publication.name)
            await publication.update(self._record)
            await asyncio.sleep(_FLUSH_DELAY_S)
            await publication.update(self._record)
            return
        _LOGGER.warning("%s claims our name %r too: taking another", rival[0], publication.name)
        self._name = f"{self._wanted_name}-{secrets.token_hex(2)}"
        await self._withdraw(goodbye=False)
        await self._publish(now)

    async def _withdraw(self, *, goodbye: bool) -> None:
        """Close the publication; one that was interrupted in it is closed by the next call."""
        self._published.clear()
        await self._holding.aclose()
        if self._publication is not None:
            with contextlib.suppress(DiscoveryError):
                await self._publication.withdraw(goodbye=goodbye)
            self._publication = None

    def _note_rival(self, rival: Claim) -> None:
        self._rival = rival
        self._wake.set()

    def _note_goodbye(self) -> None:
        """Announce again within the second that caches keep the record for (RFC 6762 section 10.1)."""
        self._is_forgotten = True
        self._wake.set()

    def _log_once(self, err: DiscoveryError) -> None:
        """Log a lasting fault once, however often it is met."""
        if err.message != self._last_trouble:
            _LOGGER.warning("%s Trying again every %.0f s.", err.message, self._poll_interval_s)
        self._last_trouble = err.message


def _check(record: ServiceRecord, hosts: Sequence[str], *, reaches_loopback: bool) -> None:
    if only_loopback(hosts) and not reaches_loopback:
        raise DiscoveryError(f"Nobody can reach {', '.join(hosts)} from outside; bind to 0.0.0.0 to announce.")
    if record.device_id is None:
        raise DiscoveryError("A record without a device id cannot be announced.")
    record.to_txt()


def _report_end(task: asyncio.Task[None]) -> None:
    """Log the end of the task, which never ends by itself: an operator must know."""
    if not task.cancelled() and (err := task.exception()) is not None:
        _LOGGER.error("The announcer has stopped", exc_info=err)
