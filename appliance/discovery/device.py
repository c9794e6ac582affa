"""A device that was found, its usable URL, and the choice among several; pure.

A `Device` is made of foreign data that was checked, not believed: whoever answers on the network can claim any name.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from appliance.discovery.interfaces import IPAddress, IPInterface
from appliance.discovery.record import Auth, ServiceRecord, State
from appliance.errors import DiscoveryError

_MAX_ADDRESSES = 16
_STATE_ORDER = (State.READY, State.STARTING, State.DRAINING)


@dataclass(frozen=True, slots=True)
class Device:
    """One server on the local network; `addresses` are literals, the best for this machine first."""

    name: str
    host: str
    port: int
    addresses: tuple[str, ...]
    record: ServiceRecord
    properties: Mapping[str, str]

    @property
    def base_url(self) -> str:
        """The base URL for an OpenAI client; an address, for `.local` is not resolved everywhere."""
        return f"{self.record.proto}://{_url_host(self.addresses[0])}:{self.port}{self.record.path.rstrip('/')}"

    def secured(self) -> Device | None:
        """Return the same device by its HTTPS port; None if it speaks no TLS."""
        if self.record.proto == "https":
            return self
        if self.record.tls_port is None:
            return None
        return replace(self, port=self.record.tls_port, record=replace(self.record, proto="https", tls_port=None))

    @property
    def id(self) -> str | None:
        """The device's announced id: a hint, as everything else."""
        return self.record.device_id

    @property
    def auth(self) -> Auth:
        """The announced kind of authentication."""
        return self.record.auth

    @property
    def num_models(self) -> int:
        """The announced number of models."""
        return self.record.num_models

    @property
    def state(self) -> State:
        """The announced state."""
        return self.record.state

    @property
    def version(self) -> str | None:
        """The server's version."""
        return self.record.version

    @property
    def identity(self) -> tuple[str | None, str, int]:
        """The key that tells servers apart: a renamed one stays itself, and one with a stolen id hides no other."""
        return (self.id, self.host.lower() if self.id else self.name, self.port)

    def answers_to(self, name: str) -> bool:
        """Tell if `name` is the device's name, its host name with or without `.local`, or its id."""
        return _bare(name) in (_bare(self.name), _bare(self.host), self.id)

    def to_json(self) -> dict[str, object]:
        """Return the device as `lantern discover --json` prints it."""
        return {
            "name": self.name,
            "base_url": self.base_url,
            "host": self.host,
            "addresses": list(self.addresses),
            "port": self.port,
            "id": self.id,
            "auth": self.auth.value,
            "apis": list(self.record.apis),
            "num_models": self.num_models,
            "version": self.version,
            "state": self.state.value,
            "fingerprint": self.record.fingerprint,
        }


@dataclass(frozen=True, slots=True)
class Choice:
    """The device to talk to, and why it is this one."""

    device: Device
    why: str

    @property
    def reason(self) -> str:
        """One sentence for people."""
        return f"Using {self.device.name} at {self.device.base_url}: {self.why}."


def choose(
    devices: Sequence[Device],
    *,
    name: str | None = None,
    model: str | None = None,
    models: Mapping[str, Collection[str]] | None = None,
    known: Mapping[str, str] | None = None,
) -> Choice:
    """Pick one device; the same devices always give the same choice. One that is known goes before all others.

    Args:
        devices: what was found.
        name: only a device that answers to this name, host name or id.
        model: only a device that serves this model.
        models: the model ids by base URL, asked from the devices; needed for `model`.
        known: the names that we know devices by, by base URL, of those that proved to be the ones we know.

    Raises:
        DiscoveryError: no device fits, or several answer to `name`.
    """
    if not devices:
        raise DiscoveryError(
            "No device was found on the local network; is one running with `lantern serve --announce`?"
        )
    known = known or {}
    fitting = _named(devices, name, known) if name is not None else list(devices)
    if model is not None:
        fitting = _serving(fitting, model, models or {})
    ordered = sorted(fitting, key=lambda device: (device.base_url not in known, *_preference(device)))
    best = ordered[0]
    why = f"it is named {name!r}" if name is not None else f"it serves {model!r}" if model is not None else None
    if len(ordered) == 1:
        why = why or "it is the only one found"
    else:
        order = "by state and name, those that we know first" if known else "by state and name"
        why = f"it is the first of {len(ordered)} {order}" + (f", and {why}" if why else "")
    return Choice(best, why)


def usable_addresses(
    found: Iterable[str], networks: Sequence[IPInterface], *, loopback: bool = False
) -> tuple[str, ...]:
    """Return the addresses that can be connected to from here, best first.

    Args:
        found: literals as they were resolved; a link-local IPv6 one needs its zone.
        networks: this machine's own networks; an address within one of them is better than one behind a router.
        loopback: keep loopback addresses; a record must not lead a client back to its own machine.
    """
    ranked: list[tuple[tuple[int, int, int], str]] = []
    for text in dict.fromkeys(found):
        literal, _, zone = text.partition("%")
        try:
            ip = ipaddress.ip_address(literal)
        except ValueError:
            continue
        if _connectable(ip, zone=zone, loopback=loopback):
            named = f"{ip}%{_zone_name(zone)}" if zone and ip.is_link_local else str(ip)
            ranked.append(((_distance(ip, networks), ip.version, int(ip)), named))
    return tuple(address for _rank, address in sorted(ranked)[:_MAX_ADDRESSES])


def _named(devices: Sequence[Device], name: str, known: Mapping[str, str]) -> list[Device]:
    fitting = [device for device in devices if known and _bare(known.get(device.base_url, "")) == _bare(name)]
    fitting = fitting or [device for device in devices if device.answers_to(name)]
    if not fitting:
        names = ", ".join(sorted(device.name for device in devices))
        raise DiscoveryError(f"No device named {name!r} was found; there is {names}.")
    if len(fitting) > 1:
        urls = ", ".join(sorted(device.base_url for device in fitting))
        raise DiscoveryError(f"Several devices answer to {name!r} ({urls}); give the URL of the one that you mean.")
    return fitting


def _bare(name: str) -> str:
    return name.casefold().removesuffix(".").removesuffix(".local")


def _serving(devices: Sequence[Device], model: str, models: Mapping[str, Collection[str]]) -> list[Device]:
    fitting = [device for device in devices if model in models.get(device.base_url, ())]
    if not fitting:
        known = ", ".join(sorted({served for ids in models.values() for served in ids})) or "none that could be asked"
        raise DiscoveryError(f"No device serves the model {model!r}; the models found are: {known}.")
    return fitting


def _preference(device: Device) -> tuple[int, str, str, int]:
    return (_STATE_ORDER.index(device.state), device.name.casefold(), device.host, device.port)


def _connectable(ip: IPAddress, *, zone: str, loopback: bool) -> bool:
    if ip.is_loopback:
        return loopback
    if ip.is_unspecified or ip.is_multicast or ip.is_reserved:
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        return ip.ipv4_mapped is None and (bool(zone) or not ip.is_link_local)
    return True


def _distance(ip: IPAddress, networks: Sequence[IPInterface]) -> int:
    if ip.is_link_local:
        return 1
    return 0 if any(ip in own.network for own in networks if own.version == ip.version) else 2


def _zone_name(zone: str) -> str:
    """Return the interface's name if its number is known here: both work, one can be read."""
    try:
        return socket.if_indextoname(int(zone))
    except (ValueError, OSError, OverflowError):
        return zone


def _url_host(address: str) -> str:
    """Return the host part of a URL, its zone unchanged: aiohttp 3.14 and httpx take `%eth0`, not `%25eth0`.

    RFC 6874, which asked for the latter, was made obsolete by RFC 9844.
    """
    return f"[{address}]" if ":" in address else address
