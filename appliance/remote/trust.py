"""Trust in a found device: the pin that it proved, compared with the remembered one.

A record is a hint that anybody on the network can send. So a device that answers to a name that we know has to show
the certificate that we know, or it is refused.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from appliance.discovery.device import Device
from appliance.errors import TrustError
from appliance.remote.known_devices import KnownDevice, KnownDevices
from appliance.remote.patience import ONE_OF_MANY, Patience
from appliance.remote.pinned_tls import read_pin

_MAX_ADDRESSES = 4


class Standing(StrEnum):
    """The trust in a found device; `plain` is one without TLS, which can prove nothing."""

    KNOWN = "known"
    NEW = "new"
    PLAIN = "plain"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A device as it is best talked to, over TLS where it speaks it, and how it stands with us.

    `found` is the device as it was announced; `entry` what we know of it; `problem` says why it is refused.
    """

    device: Device
    found: Device
    standing: Standing
    pin: str | None = None
    entry: KnownDevice | None = None
    problem: str = ""

    def answers_to(self, name: str) -> bool:
        """Tell if it is called so by itself or by us."""
        return self.device.answers_to(name) or (self.entry is not None and self.entry.answers_to(name))


async def examine(
    devices: Sequence[Device], known: KnownDevices, *, patience: Callable[[Device], Patience] = lambda _: ONE_OF_MANY
) -> list[Candidate]:
    """Shake hands with every device at once, and judge what it shows; `patience` tells how long each is waited for."""
    return list(await asyncio.gather(*(_examine(device, known, patience(device)) for device in devices)))


def judge(found: Device, pin: str | None, known: KnownDevices) -> Candidate:
    """Judge a device by the certificate that it proved to have, or by having none."""
    device = found.secured() or found
    if pin is not None and (entry := known.with_pin(pin)) is not None:
        return Candidate(device, found, Standing.KNOWN, pin, entry)
    if namesakes := known.named(device.name, device.host, device.id):
        return _refused(device, found, _changed(device, pin, namesakes[0]))
    if pin is None:
        return Candidate(device, found, Standing.PLAIN)
    if device.record.fingerprint not in (None, pin):
        return _refused(device, found, f"{_called(device)} shows another certificate than its record names.")
    return Candidate(device, found, Standing.NEW, pin)


async def _examine(found: Device, known: KnownDevices, patience: Patience) -> Candidate:
    """Ask at every address: a rogue may have added its own to the host name, and some may lead nowhere from here."""
    secured = found.secured()
    if secured is None:
        return judge(found, None, known)
    addresses = secured.addresses[:_MAX_ADDRESSES]
    answers = await _answers(addresses, secured.port, known, patience)
    pins = {address: pin for address, pin in answers.items() if isinstance(pin, str)}
    if not pins:
        problems = dict.fromkeys(answer.message for answer in answers.values() if isinstance(answer, TrustError))
        return _refused(secured, found, f"{_called(secured)} cannot be checked: {' '.join(problems)}")
    best = next((address for address, pin in pins.items() if known.with_pin(pin)), next(iter(pins)))
    return judge(replace(found, addresses=(best, *(a for a in found.addresses if a != best))), pins[best], known)


async def _answers(
    addresses: Sequence[str], port: int, known: KnownDevices, patience: Patience
) -> dict[str, str | TrustError]:
    """Ask all addresses at once, until each has answered, or one has shown a certificate that we know."""
    asking = [asyncio.create_task(_pin_at(address, port, patience)) for address in addresses]
    answers: dict[str, str | TrustError] = {}
    try:
        for task in asyncio.as_completed(asking):
            address, answer = await task
            answers[address] = answer
            if isinstance(answer, str) and known.with_pin(answer) is not None:
                break
    finally:
        for unanswered in asking:
            unanswered.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
    return {address: answers[address] for address in addresses if address in answers}


async def _pin_at(address: str, port: int, patience: Patience) -> tuple[str, str | TrustError]:
    try:
        return address, await read_pin(address, port, patience=patience)
    except TrustError as err:
        return address, err


def _refused(device: Device, found: Device, problem: str) -> Candidate:
    return Candidate(device, found, Standing.REFUSED, problem=problem)


def _called(device: Device) -> str:
    return f"{device.name!r} at {device.base_url}"


def _changed(device: Device, pin: str | None, entry: KnownDevice) -> str:
    what = "shows another certificate than" if pin is not None else "speaks no TLS, unlike"
    return (
        f"{_called(device)} {what} the device known as {entry.name!r} since {entry.first_seen}: another may pose as "
        "it, so nothing was sent. If yours was set up anew, accept it with: "
        f"lantern discover --forget --device {entry.identity}"
    )
