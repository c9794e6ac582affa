"""The browser: finds the devices on the local network, and keeps the list true while it is open.

Lives on the event loop. Whatever it hears is foreign: names are bounded in number and made printable, addresses and
TXT strings are checked, and a record that is broken costs nobody else anything. Sends no key and opens no connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
from collections.abc import Callable
from types import TracebackType
from typing import Self

import zeroconf
from zeroconf import DNSQuestionType, ServiceStateChange
from zeroconf.asyncio import AsyncServiceInfo, AsyncZeroconf

from appliance.discovery.claims import (
    BoundedBrowser,
    Claim,
    ClaimWatch,
    drop_expired_claims,
    live_claims,
    live_names,
    question_for_names,
)
from appliance.discovery.device import Device, usable_addresses
from appliance.discovery.interfaces import IPInterface, is_real_interface, local_networks, multicast_addresses
from appliance.discovery.record import SERVICE_TYPE, ServiceRecord, clean_properties, printable
from appliance.errors import DiscoveryError

_FLUSH_DELAY_S = 1.2  # RFC 6762 section 10.2: an address that was replaced lives for one second more
_ASK_AGAIN_S = 1.0  # RFC 6762 section 10.1: another holder of a record has a second to answer a goodbye
_PAUSE_S = 0.05  # between two looks at a name, however often it changes
_MAX_RESOLVING = 32
_MAX_PAUSE = 63

# A reply to a "QU" question goes to one socket only of all that share port 5353 on a machine, perhaps that of another
# program; a multicast reply reaches every one of them, at a cost of about 100 ms.
_QUESTION = DNSQuestionType.QM


class Browser:
    """The devices that are there now; `async with` opens and closes it, and one event loop owns it."""

    def __init__(
        self,
        *,
        accept_interface: Callable[[str], bool] = is_real_interface,
        resolve_timeout_s: float = 3.0,
        max_devices: int = 256,
        expiry_interval_s: float = 5.0,
    ) -> None:
        self._expiry_interval_s = expiry_interval_s
        self._expiring: asyncio.Task[None] | None = None
        self._asking: asyncio.Task[None] | None = None
        self._accept_interface = accept_interface
        self._resolve_timeout_s = resolve_timeout_s
        self._max_devices = max_devices
        self._found: dict[str, Device] = {}
        self._resolving: dict[str, asyncio.Task[None]] = {}
        self._unsettled: dict[str, asyncio.Event] = {}
        self._slots = asyncio.Semaphore(_MAX_RESOLVING)
        self._changed = asyncio.Event()
        self._zeroconf: AsyncZeroconf | None = None
        self._browser: BoundedBrowser | None = None

    async def __aenter__(self) -> Self:
        senders = await asyncio.to_thread(multicast_addresses, accept_interface=self._accept_interface)
        if not senders:
            raise DiscoveryError("This machine has no network to search for devices; connect it, or give a URL.")
        try:
            self._zeroconf = AsyncZeroconf(interfaces=list(senders))
            await self._zeroconf.zeroconf.async_wait_for_start()
        except (zeroconf.Error, OSError, RuntimeError) as err:
            raise DiscoveryError(f"Cannot search the local network: {err}.") from err
        self._browser = BoundedBrowser(
            self._zeroconf.zeroconf, SERVICE_TYPE, handlers=[self._on_change], question_type=_QUESTION
        )
        watch = ClaimWatch(self._on_claim, self._on_addresses, self._on_goodbye)
        self._zeroconf.zeroconf.async_add_listener(watch, None)
        self._expiring = asyncio.create_task(self._look_at_expired(), name="expiry")
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._browser is not None:
            await self._browser.async_cancel()
        tasks = [*self._resolving.values(), *(task for task in (self._expiring, self._asking) if task is not None)]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._zeroconf is not None:
            await self._zeroconf.async_close()
            await asyncio.sleep(0)  # its transports close in the loop's next turn, which may be the last one

    def devices(self) -> tuple[Device, ...]:
        """Return the devices present now, by name; one that is known by two names counts once."""
        distinct = {device.identity: device for device in self._found.values()}
        return tuple(sorted(distinct.values(), key=lambda device: (device.name.casefold(), device.host, device.port)))

    async def changed(self, timeout_s: float | None) -> bool:
        """Wait for the next difference in `devices()`; False when there was none in time."""
        try:
            await asyncio.wait_for(self._changed.wait(), timeout_s)
        except TimeoutError:
            return False
        self._changed.clear()
        return True

    def _on_change(
        self, zeroconf: zeroconf.Zeroconf, service_type: str, name: str, state_change: ServiceStateChange
    ) -> None:
        """Take a change of state; called by zeroconf on our loop."""
        if state_change is ServiceStateChange.Removed:
            if (running := self._resolving.pop(name, None)) is not None:
                running.cancel()
                del self._unsettled[name]
            self._note(name, None)
        elif name in self._found or self._has_room():
            self._look_again(name, is_unsettled=state_change is ServiceStateChange.Updated)

    def _on_claim(self, name: str, claim: Claim) -> None:
        """Take a host's claim to `name`; if it is news, the cache holds two answers until one has expired."""
        instance = next((known for known in self._found if known.lower() == name), None)
        if instance is not None and claim != (self._found[instance].host.lower(), self._found[instance].port):
            self._look_again(instance, is_unsettled=True)

    def _on_addresses(self, host: str, addresses: set[str]) -> None:
        """Take a host's addresses of one family; on a change, its earlier addresses expire in a second."""
        version = ipaddress.ip_address(next(iter(addresses))).version
        for name, device in self._found.items():
            if device.host.lower() == host and addresses != _literals(device, version):
                self._look_again(name, is_unsettled=True)

    def _on_goodbye(self, _name: str) -> None:
        """Ask for all names again: a pointer record is shared, and a host that keeps the name has it still.

        No more than one question a second, whatever comes (RFC 6762 section 5.2).
        """
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask_again(), name="ask again")

    async def _ask_again(self) -> None:
        await asyncio.sleep(_ASK_AGAIN_S)
        assert self._zeroconf is not None
        instance = self._zeroconf.zeroconf
        instance.async_send(question_for_names(instance.cache, SERVICE_TYPE))

    def _look_again(self, name: str, *, is_unsettled: bool) -> None:
        """Resolve a name; one task for each, which a flood of changes does not start over."""
        if name not in self._resolving:
            self._unsettled[name] = asyncio.Event()
            self._resolving[name] = task = asyncio.create_task(self._resolve(name), name="resolve")
            task.add_done_callback(lambda done: self._forget(name, done))
        if is_unsettled:
            self._unsettled[name].set()

    def _forget(self, name: str, done: asyncio.Task[None]) -> None:
        if self._resolving.get(name) is done:
            del self._resolving[name], self._unsettled[name]

    async def _resolve(self, name: str) -> None:
        """Look up the name, and again once what was replaced has left the cache, until nothing changes meanwhile."""
        news = self._unsettled[name]
        while True:
            is_unsettled = news.is_set()
            news.clear()
            found = await self._look_up(name)
            self._note(name, found or (self._found.get(name) if self._claims(name) else None))
            if not is_unsettled and not news.is_set():
                return
            await asyncio.sleep(_PAUSE_S)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(news.wait(), _FLUSH_DELAY_S)

    async def _look_at_expired(self) -> None:
        """Ask again for devices whose host has not been heard of for its time to live: no goodbye comes from the dead.

        zeroconf asks again for pointers only, which live for over an hour; hosts live for two minutes. A name whose
        host did not answer in time, as a busy one, is looked up again too, after longer and longer pauses.
        """
        pauses: dict[str, _Pause] = {}
        while True:
            await asyncio.sleep(self._expiry_interval_s)
            assert self._zeroconf is not None
            announced = live_names(self._zeroconf.zeroconf.cache, SERVICE_TYPE)
            wanting = {name for name in {*self._found, *announced} if not self._is_true(name)}
            pauses = {name: pause for name, pause in pauses.items() if name in wanting}
            for name in wanting:
                has_room = name in self._found or self._has_room()
                if has_room and pauses.setdefault(name, _Pause()).is_over():
                    self._look_again(name, is_unsettled=False)

    def _has_room(self) -> bool:
        return len(self._found) + len(self._resolving) < self._max_devices

    def _is_true(self, name: str) -> bool:
        """Tell if what is shown of a name is what a host claims."""
        device = self._found.get(name)
        return device is not None and (device.host.lower(), device.port) in self._claims(name)

    def _claims(self, name: str) -> set[Claim]:
        assert self._zeroconf is not None
        return live_claims(self._zeroconf.zeroconf.cache, name)

    async def _look_up(self, name: str) -> Device | None:
        """Look up an instance's host, port, TXT and addresses, and ask for unknown ones; None if they are no device.

        Those that never answer take turns in asking, and what is known does not wait for them.
        """
        assert self._zeroconf is not None
        instance = self._zeroconf.zeroconf
        drop_expired_claims(instance.cache, name)
        with contextlib.suppress(zeroconf.Error, ValueError):
            info = AsyncServiceInfo(SERVICE_TYPE, name)
            if not info.load_from_cache(instance):
                async with self._slots:
                    if not await info.async_request(instance, self._resolve_timeout_s * 1000, _QUESTION):
                        return None
            return self._device(info, await asyncio.to_thread(local_networks))
        return None

    def _device(self, info: AsyncServiceInfo, networks: tuple[IPInterface, ...]) -> Device | None:
        loopback = self._accept_interface("lo")
        addresses = usable_addresses(info.parsed_scoped_addresses(), networks, loopback=loopback)
        if not addresses or not info.port:
            return None
        return Device(
            name=printable(info.name.removesuffix(f".{SERVICE_TYPE}"), max_chars=63),
            host=printable(info.server or "", max_chars=255),
            port=info.port,
            addresses=addresses,
            record=ServiceRecord.from_txt(info.properties),
            properties=clean_properties(info.properties),
        )

    def _note(self, name: str, device: Device | None) -> None:
        if self._found.get(name) == device:
            return
        self._found.pop(name, None)
        if device is not None:
            self._found[name] = device
        self._changed.set()


class _Pause:
    """Rounds to sit out before a name is looked up again: none, one, three, seven, at most 63."""

    def __init__(self) -> None:
        self._length = self._left = 0

    def is_over(self) -> bool:
        """Count a round; true if the name is to be looked up in it."""
        if self._left > 0:
            self._left -= 1
            return False
        self._length = self._left = min(2 * self._length + 1, _MAX_PAUSE)
        return True


def _literals(device: Device, version: int) -> set[str]:
    """Return the device's addresses of a family, without their zones."""
    literals = (address.partition("%")[0] for address in device.addresses)
    return {literal for literal in literals if ipaddress.ip_address(literal).version == version}
