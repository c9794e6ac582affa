"""Devices that this machine knows: their certificates' pins, remembered on first use, as ssh keeps known_hosts.

One small text file that a person can read and edit, written whole or not at all. Pure but for that file: call `load`
and what writes on a thread.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from appliance.discovery.record import printable
from appliance.errors import ConfigError
from appliance.host.files import locked, write_atomically
from appliance.identity.device_id import host_name

_HEADER = """\
# The devices that this machine knows, one a line: id or address, pin of its certificate, first seen, name.
# A device with another certificate gets no key; `lantern discover --forget NAME` removes a line.
"""
_PIN = re.compile(r"sha256//[A-Za-z0-9+/]{43}=")
_IDENTITY = re.compile(r"[0-9A-Za-z.:%\[\]_-]{1,300}")


@dataclass(frozen=True, slots=True)
class KnownDevice:
    """One device: its announced id, or host and port where it was only ever reached by a URL."""

    identity: str
    pin: str
    first_seen: str
    name: str

    def answers_to(self, name: str) -> bool:
        """Tell if `name` is the name, the id, the host name or the address of the device."""
        bare = _bare(name)
        return bare in (_bare(self.name), _bare(self.identity)) or (
            re.fullmatch(r"[0-9a-f]{16}", self.identity) is not None and bare == _bare(host_name(self.identity))
        )


class KnownDevices:
    """The file and what was read from it; make one for each look, for other programs write it too."""

    def __init__(self, path: Path, devices: tuple[KnownDevice, ...]) -> None:
        self._path = path
        self._devices = devices

    @classmethod
    def load(cls, path: Path) -> KnownDevices:
        """Read the file; one that is absent knows nobody.

        Raises:
            ConfigError: it cannot be read, or a line of it is not of the form: to skip it would be to trust anew.
        """
        return cls(path, _read(path))

    @property
    def all(self) -> tuple[KnownDevice, ...]:
        """In the order that they were first seen."""
        return self._devices

    def named(self, *names: str | None) -> tuple[KnownDevice, ...]:
        """Those that answer to any of these."""
        return tuple(d for d in self._devices if any(name and d.answers_to(name) for name in names))

    def with_pin(self, pin: str) -> KnownDevice | None:
        """Return the device with this certificate."""
        return next((device for device in self._devices if device.pin == pin), None)

    def remember(self, identity: str, pin: str, *, name: str) -> KnownDevice:
        """Add a device, or give the one with this id a new name; a pin is never replaced.

        Raises:
            ConfigError: the file cannot be written, or the id is known with another pin.
        """
        assert _IDENTITY.fullmatch(identity)
        assert _PIN.fullmatch(pin)
        shown_name = " ".join(printable(name, max_chars=63).split())
        with self._changing() as devices:
            known = devices.get(identity)
            if known is not None and known.pin != pin:
                raise ConfigError(f"{identity} is known with another pin in {self._path}.")
            first_seen = known.first_seen if known else datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%MZ")
            devices[identity] = device = KnownDevice(identity, pin, first_seen, shown_name)
        return device

    def forget(self, name: str) -> tuple[KnownDevice, ...]:
        """Remove every device that answers to `name`; the next use of one is a first use.

        Raises:
            ConfigError: the file cannot be written.
        """
        with self._changing() as devices:
            gone = tuple(device for device in devices.values() if device.answers_to(name))
            for device in gone:
                del devices[device.identity]
        return gone

    @contextmanager
    def _changing(self) -> Iterator[dict[str, KnownDevice]]:
        """Yield the devices by identity, read again under a lock, and write them when the block ends."""
        try:
            with locked(self._path.with_name(f".{self._path.name}.lock")):
                devices = {device.identity: device for device in _read(self._path)}
                before = dict(devices)
                yield devices
                if devices != before:
                    lines = "".join(f"{d.identity} {d.pin} {d.first_seen} {d.name}\n" for d in devices.values())
                    write_atomically(self._path, (_HEADER + lines).encode())
                self._devices = tuple(devices.values())
        except OSError as err:
            raise ConfigError(f"The known devices cannot be kept in {self._path}: {err.strerror}.") from err


def _read(path: Path) -> tuple[KnownDevice, ...]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return ()
    except (OSError, ValueError) as err:
        raise ConfigError(f"The known devices cannot be read from {path}: {err}.") from err
    return tuple(_parse(path, number, line) for number, line in enumerate(lines, 1) if line.strip() and line[0] != "#")


def _parse(path: Path, number: int, line: str) -> KnownDevice:
    identity, pin, first_seen, name = [*line.split(maxsplit=3), "", "", "", ""][:4]
    if not _IDENTITY.fullmatch(identity) or not _PIN.fullmatch(pin):
        raise ConfigError(f"Line {number} of {path} is no known device: {line[:80]!r}; mend or remove it.")
    return KnownDevice(identity, pin, first_seen, name.strip() or identity)


def _bare(name: str) -> str:
    return name.casefold().removesuffix(".").removesuffix(".local")
