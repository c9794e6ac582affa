"""Targets of requests: base URL, expected certificate and permitted key; found by name, or given as a URL.

The rules of who gets a key are here and nowhere else. A device that was found gets one only over TLS, and only when we
know its certificate, or when this is the first use of one that the user named or that is the only one. What the user
typed as a URL is taken at its word; over https its certificate is remembered in the same way.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from appliance.discovery.device import Choice, Device, choose
from appliance.discovery.record import Auth
from appliance.discovery.search import browse
from appliance.errors import ConfigError, TrustError
from appliance.home import Home, lantern_home
from appliance.remote.api_keys import clean_key, find_key
from appliance.remote.known_devices import KnownDevice, KnownDevices
from appliance.remote.patience import ASKED_FOR, ONE_OF_MANY, Patience
from appliance.remote.pinned_tls import read_pin
from appliance.remote.probe import probe
from appliance.remote.trust import Candidate, Standing, examine

_LOGGER = logging.getLogger(__name__)

_SETTLE_S = 0.6
_MODELS_TIMEOUT_S = 10.0  # the choice hangs on the answer, also on that of a busy device


@dataclass(frozen=True, slots=True)
class Target:
    """One server: connect to it with `pin` where it has one, and say `key` to nobody else.

    `identity` is what keyrings and known devices call it; `reason` is a sentence for the user.
    """

    name: str
    identity: str
    base_url: str
    pin: str | None
    key: str | None
    reason: str

    @property
    def root_url(self) -> str:
        """Scheme, host and port."""
        return "/".join(self.base_url.split("/", 3)[:3])


@dataclass(frozen=True, slots=True)
class Selection:
    """One device among those that were found; `may_have_key` tells whether it is sure enough whose it is."""

    candidate: Candidate
    choice: Choice
    known: KnownDevices
    may_have_key: bool


async def target_named(
    name: str | None = None,
    *,
    model: str | None = None,
    key: str | None = None,
    timeout_s: float = 3.0,
    home: Home | None = None,
) -> Target:
    """Search the network, choose one device, and make sure who it is.

    Args:
        name: its name, host name or id; without one the first by what we know, state and name.
        model: only a device that serves this model.
        key: instead of the one in the environment or the keyring.
        timeout_s: how long to search at most.
        home: whose known devices count.

    Raises:
        DiscoveryError: nothing was found, or nothing that fits.
        TrustError: it is not who it says it is, or a key would go to a device that nobody named.
        ConfigError: the known devices cannot be read, or the key is none.
    """
    selection = await select(name, model=model, key=key, timeout_s=timeout_s, home=home)
    return await asyncio.to_thread(settle, selection, key)


async def select(
    name: str | None = None,
    *,
    model: str | None = None,
    key: str | None = None,
    timeout_s: float = 3.0,
    home: Home | None = None,
) -> Selection:
    """Select as `target_named` does, without remembering anything, and without a key.

    Raises:
        DiscoveryError: nothing was found, or nothing that fits.
        TrustError: it is not who it says it is.
    """
    known = await asyncio.to_thread(KnownDevices.load, (home or lantern_home()).known_devices)
    devices, examined = await _search(name, known, timeout_s)
    candidates = _without_refused(examined, name)
    meant = [c for c in candidates if name is not None and c.answers_to(name)]
    is_first_use = len(meant) == 1 if name is not None else len(devices) == 1 and not known.all

    def may_have_key(candidate: Candidate) -> bool:
        return candidate.entry is not None or (candidate.standing is Standing.NEW and is_first_use)

    served = None
    if model is not None:
        asked = meant or candidates
        answers = await asyncio.gather(*(_models(c, key if may_have_key(c) else "") for c in asked))
        served = {c.device.base_url: ids for c, ids in zip(asked, answers, strict=True)}
    chosen, choice = _choose(candidates, name=name, model=model, served=served)
    return Selection(chosen, choice, known, may_have_key(chosen))


def preferred(candidates: Sequence[Candidate]) -> Candidate:
    """Return the device that is taken when none is named.

    Raises:
        DiscoveryError: there is none that is not refused.
    """
    return _choose([c for c in candidates if c.standing is not Standing.REFUSED])[0]


def _choose(
    candidates: Sequence[Candidate],
    *,
    name: str | None = None,
    model: str | None = None,
    served: Mapping[str, tuple[str, ...]] | None = None,
) -> tuple[Candidate, Choice]:
    names = {c.device.base_url: c.entry.name for c in candidates if c.entry is not None}
    choice = choose([c.device for c in candidates], name=name, model=model, models=served, known=names)
    return next(c for c in candidates if c.device is choice.device), choice


async def target_at(url: str, *, key: str | None = None, home: Home | None = None) -> Target:
    """Return the server at a URL that the user typed; an `https` one has to show its remembered certificate.

    Raises:
        TrustError: it does not answer in TLS, or shows another certificate.
        ConfigError: no URL, or a key that is none.
    """
    base_url = normalized(url)
    parts = urlsplit(base_url)
    if parts.scheme == "http":
        return await asyncio.to_thread(_plain_target, base_url, parts.netloc, key)
    known = await asyncio.to_thread(KnownDevices.load, (home or lantern_home()).known_devices)
    pin = await read_pin(parts.hostname or "", parts.port or 443)
    return await asyncio.to_thread(_settle_url, base_url, parts.netloc, pin, known, key)


def normalized(url: str) -> str:
    """Normalize a base URL as people type it: the scheme and `/v1` may be left out.

    Raises:
        ConfigError: it is none.
    """
    full = url if "://" in url else f"http://{url}"
    if not re.fullmatch(r"https?://[^/?#\s@]+(/[^?#\s]*)?", full):
        raise ConfigError(f"{url!r} is no base URL; give one like http://192.168.1.20:8080/v1.")
    full = full.rstrip("/")
    return full if full.count("/") > 2 else f"{full}/v1"


def settle(selection: Selection, key: str | None = None) -> Target:
    """Return the chosen device with its key; remember it if it is new. Reads files: call it on a thread.

    Raises:
        TrustError: a key would go to a device that is not sure enough.
        ConfigError: the known devices cannot be written, or the key is none.
    """
    candidate, device = selection.candidate, selection.candidate.device
    entry, base_url = candidate.entry, device.base_url
    identity = entry.identity if entry else device.id or urlsplit(base_url).netloc
    if entry is None and candidate.pin is not None and selection.may_have_key:
        entry = _remember(selection.known, identity, candidate.pin, device.name)
    wanted = _key(key, identity, entry) if device.auth is not Auth.NONE else None
    if wanted is not None and not selection.may_have_key:
        raise TrustError(_why_no_key(device, candidate.standing))
    _LOGGER.info("%s", selection.choice.reason)
    return Target(device.name, identity, base_url, candidate.pin, wanted, selection.choice.reason)


def _settle_url(base_url: str, authority: str, pin: str, known: KnownDevices, key: str | None) -> Target:
    entry = known.with_pin(pin)
    if entry is None and (former := known.named(authority)):
        raise TrustError(
            f"{authority} shows another certificate than on {former[0].first_seen}: another may pose as it, so nothing "
            f"was sent. If it was set up anew, accept it with: lantern discover --forget --device {former[0].identity}"
        )
    entry = entry or _remember(known, authority, pin, authority)
    return Target(entry.name, entry.identity, base_url, pin, _key(key, entry.identity, entry), f"Using {base_url}.")


def _plain_target(base_url: str, authority: str, key: str | None) -> Target:
    return Target(authority, authority, base_url, None, _key(key, authority, None), f"Using {base_url}.")


def _key(given: str | None, identity: str, entry: KnownDevice | None) -> str | None:
    return clean_key(given) if given is not None else find_key(identity, *([entry.name] if entry else []))


def _remember(known: KnownDevices, identity: str, pin: str, name: str) -> KnownDevice:
    _LOGGER.info("First use of %r: its certificate is remembered, %s", name, pin)
    return known.remember(identity, pin, name=name)


def _why_no_key(device: Device, standing: Standing) -> str:
    if standing is Standing.PLAIN:
        return (
            f"{device.name!r} asks for a key and speaks no TLS, so anybody could read the key or pose as the device. "
            f"Switch on HTTPS there (tls.enabled), or give its URL yourself to send the key all the same."
        )
    return f"{device.name!r} asks for a key and is not known here yet; give its name to trust it from now on."


def _without_refused(candidates: Sequence[Candidate], name: str | None) -> list[Candidate]:
    """Return the devices that are not refused.

    Raises:
        TrustError: only refused ones are what is meant.
    """
    refused = [c for c in candidates if c.standing is Standing.REFUSED]
    good = [c for c in candidates if c.standing is not Standing.REFUSED]
    for candidate in refused:
        _LOGGER.warning("%s", candidate.problem)
    meant = [c for c in refused if name is None or c.answers_to(name)]
    if meant and not any(name is None or c.answers_to(name) for c in good):
        raise TrustError(meant[0].problem)
    return good


async def _search(name: str | None, known: KnownDevices, timeout_s: float) -> tuple[list[Device], list[Candidate]]:
    """Search until there is enough, and go on while all that would be enough is refused.

    A rogue may answer first: the true device repeats its records once a second only (RFC 6762 section 6).
    """
    loop = asyncio.get_running_loop()
    deadline_s = loop.time() + timeout_s
    found: tuple[list[Device], list[Candidate]] = ([], [])
    refused: list[Device] = []
    while True:
        remaining_s = max(0.0, deadline_s - loop.time())
        devices = await browse(timeout_s=remaining_s, settle_s=_SETTLE_S, enough=_enough(name, known, refused))
        if devices or not found[0]:
            found = devices, await examine(devices, known, patience=_patience(name, known, devices))
        refused = [d for d, c in zip(*found, strict=True) if c.standing is Standing.REFUSED]
        if not refused or _enough(name, known, refused)(found[0]) or loop.time() >= deadline_s:
            return found


def _patience(name: str | None, known: KnownDevices, devices: Sequence[Device]) -> Callable[[Device], Patience]:
    """Tell how long to wait for a device: long for the one that is named, those that are known, or the only one."""
    ids = _ids(name, known)

    def patience(device: Device) -> Patience:
        is_meant = device.id in ids or (len(devices) == 1 if name is None else device.answers_to(name))
        return ASKED_FOR if is_meant else ONE_OF_MANY

    return patience


def _enough(name: str | None, known: KnownDevices, refused: Sequence[Device]) -> Callable[[list[Device]], bool]:
    """Tell when to stop listening: a known device is waited for, so that the choice does not depend on speed."""
    ids = _ids(name, known)

    def enough(found: list[Device]) -> bool:
        usable = [device for device in found if device not in refused]
        if ids:
            return any(device.id in ids for device in usable)
        return any(name is None or device.answers_to(name) for device in usable)

    return enough


def _ids(name: str | None, known: KnownDevices) -> set[str]:
    return {entry.identity for entry in (known.all if name is None else known.named(name))}


async def _models(candidate: Candidate, key: str | None) -> tuple[str, ...]:
    """Ask a device for its models; an empty key asks without one."""
    identity = candidate.entry.identity if candidate.entry else candidate.device.id or ""
    said = await asyncio.to_thread(_key, key, identity, candidate.entry)
    answer = await probe(candidate.device.base_url, pin=candidate.pin, key=said, timeout_s=_MODELS_TIMEOUT_S)
    return answer.models or ()
