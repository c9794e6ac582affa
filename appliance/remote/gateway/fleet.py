"""The devices that a gateway stands before: who they are, whether they answer, what they serve, and a relay to each.

Lives on the event loop, in one task. A device that leaves, or does not answer twice, has its relay shut at once, which
is all that a router needs; it is taken off the list only after a while, for most come back.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from appliance.discovery.browser import Browser
from appliance.discovery.device import Choice, Device
from appliance.discovery.record import State
from appliance.errors import TrustError
from appliance.home import Home, lantern_home
from appliance.remote.gateway.relay import Relay
from appliance.remote.known_devices import KnownDevices
from appliance.remote.probe import Probe, probe
from appliance.remote.target import Selection, Target, settle
from appliance.remote.trust import Candidate, Standing, examine

_LOGGER = logging.getLogger(__name__)

_MAX_MISSES = 2
_SERVING = {"ok", "degraded", "ready"}


@dataclass(frozen=True, slots=True)
class Deployment:
    """One model at one device, as a router reaches it."""

    model: str
    device: str
    base_url: str


@dataclass(slots=True)
class _Member:
    """A device that was taken in; owned by the fleet's task."""

    found: Device
    target: Target
    relay: Relay
    models: tuple[str, ...] = ()
    num_misses: int = 0
    last_seen_s: float = 0.0


class Fleet:
    """Follows the devices that are wanted; `async with` starts and stops it."""

    def __init__(
        self,
        is_wanted: Callable[[Candidate], bool],
        *,
        home: Home | None = None,
        interval_s: float = 2.0,
        linger_s: float = 600.0,
    ) -> None:
        """`linger_s` is how long a device that left stays on the list; `token` is what its relays ask for."""
        self._is_wanted = is_wanted
        self.token = secrets.token_hex(16)
        self._home = home or lantern_home()
        self._interval_s = interval_s
        self._linger_s = linger_s
        self._members: dict[str, _Member] = {}
        self._changed = asyncio.Event()
        self._browser = Browser()
        self._task: asyncio.Task[None] | None = None
        self._stack = contextlib.AsyncExitStack()
        self._complaints: set[str] = set()

    def deployments(self) -> tuple[Deployment, ...]:
        """Return the routes, also to devices that may come back; in an order that never changes."""
        return tuple(
            Deployment(model, identity, member.relay.base_url)
            for identity, member in sorted(self._members.items())
            for model in sorted(member.models)
        )

    def num_open(self) -> int:
        """Return the number of devices that take requests now."""
        return sum(member.relay.is_open for member in self._members.values())

    async def changed(self) -> None:
        """Wait until `deployments()` is another one."""
        await self._changed.wait()
        self._changed.clear()

    async def __aenter__(self) -> Self:
        await self._stack.enter_async_context(self._browser)
        self._task = asyncio.create_task(self._follow(), name="fleet")
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        await self._stack.aclose()

    async def _follow(self) -> None:
        while True:
            before = self.deployments()
            await self._take_in(self._browser.devices())
            await asyncio.gather(*(self._check(identity, member) for identity, member in self._members.items()))
            self._drop_the_lost()
            if self.deployments() != before:
                self._changed.set()
            await self._browser.changed(self._interval_s)

    async def _take_in(self, devices: tuple[Device, ...]) -> None:
        """Meet devices that are new or have changed their address; the others were met."""
        met = [member.found for member in self._members.values()]
        strangers = [device for device in devices if not any(_is_same_place(device, one) for one in met)]
        known = await asyncio.to_thread(KnownDevices.load, self._home.known_devices)
        for candidate in await examine(strangers, known):
            if candidate.standing is Standing.REFUSED:
                self._complain(candidate.problem)
            elif self._is_wanted(candidate):
                await self._meet(candidate, known)

    async def _meet(self, candidate: Candidate, known: KnownDevices) -> None:
        selection = Selection(candidate, Choice(candidate.device, "it is part of the fleet"), known, may_have_key=True)
        if candidate.standing is Standing.PLAIN:
            selection = Selection(candidate, selection.choice, known, may_have_key=False)
        try:
            target = await asyncio.to_thread(settle, selection)
        except TrustError as err:
            self._complain(err.message)
            return
        if (member := self._members.get(target.identity)) is not None:
            former, member.found, member.target = member.target, candidate.found, target
            if (target.base_url, target.pin, target.key) != (former.base_url, former.pin, former.key):
                await member.relay.retarget(target)
            return
        relay = await self._stack.enter_async_context(Relay(target, token=self.token, neighbours=self._serving))
        self._members[target.identity] = _Member(candidate.found, target, relay)
        _LOGGER.info("%s joins, at %s", target.name, target.base_url)

    def _serving(self, model: str) -> list[Relay]:
        """Return the relays of the devices that serve a model now, the least busy first."""
        able = [m.relay for m in self._members.values() if m.relay.is_open and model in m.models]
        return sorted(able, key=lambda relay: relay.num_forwarding)

    async def _check(self, identity: str, member: _Member) -> None:
        """Ask for health and models, and open or shut the relay."""
        target = member.target
        answer = await probe(target.base_url, pin=target.pin, key=target.key)
        is_leaving = any(
            device.id == member.found.id and device.state is State.DRAINING for device in self._browser.devices()
        )
        self._judge(member, answer, is_leaving=is_leaving)

    def _judge(self, member: _Member, answer: Probe, *, is_leaving: bool) -> None:
        was_open, name = member.relay.is_open, member.target.name
        if not answer.answers:
            member.num_misses += 1
            if member.num_misses >= _MAX_MISSES:
                member.relay.shut(abort=True)
        else:
            member.num_misses = 0
            member.last_seen_s = asyncio.get_running_loop().time()
            member.models = answer.models if answer.models is not None else member.models
            if answer.state in _SERVING and not is_leaving:
                member.relay.open()
            else:
                member.relay.shut(abort=False)
        if was_open != member.relay.is_open:
            _LOGGER.warning("%s %s", name, "takes requests again" if member.relay.is_open else "takes no requests")

    def _drop_the_lost(self) -> None:
        """Forget what is served by devices that have been away for long; their relays answer that nobody is there."""
        now_s = asyncio.get_running_loop().time()
        for member in self._members.values():
            if member.models and now_s - member.last_seen_s > self._linger_s:
                member.models = ()
                _LOGGER.warning("%s has been away for long and leaves the list", member.target.name)

    def _complain(self, problem: str) -> None:
        """Log each fault once, however often it is met."""
        if problem not in self._complaints:
            _LOGGER.warning("%s", problem)
        self._complaints.add(problem)


def _is_same_place(one: Device, other: Device) -> bool:
    """Tell if a device's place and pin are unchanged; the order of its addresses is ours."""

    def place(device: Device) -> tuple[object, ...]:
        record = device.record
        return device.id, device.name, frozenset(device.addresses), device.port, record.tls_port, record.fingerprint

    return place(one) == place(other)
