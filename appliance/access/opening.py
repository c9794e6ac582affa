"""The access to one server: its keys, in files and in memory, its claim, and the commands on this machine."""

from __future__ import annotations

import logging
import secrets
from dataclasses import dataclass
from pathlib import Path

from appliance.access.claim import Claimant, Claiming
from appliance.access.claim_code import ClaimCode
from appliance.access.keyring import KeyRing
from appliance.access.keystore import ApiKey, KeyStore, NewKey, Role
from appliance.config import ServerConfig
from appliance.errors import ConfigError, ConflictError
from appliance.home import Home

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Access:
    """The keys of one run: a change is in the files and in memory when its method returns.

    `local_key` is new in each run, for users that may read LANTERN_HOME. Methods block; any thread may call them.
    """

    ring: KeyRing
    store: KeyStore
    claiming: Claiming
    local_key: str

    def create_key(self, name: str, *, role: Role = Role.INFERENCE, rate: int | None = None) -> NewKey:
        """Create a key, which the server accepts from now on.

        Raises:
            ConfigError: the name or the rate is not valid.
            ConflictError: the name is taken.
        """
        new = self.store.create(name, role=role, rate=rate)
        self.ring.read()
        return new

    def set_rate(self, name: str, rate: int | None) -> ApiKey:
        """Give a key another rate, which counts from now on.

        Raises:
            UnknownNameError: no key has this name.
        """
        changed = self.store.set_rate(name, rate)
        self.ring.read()
        return changed

    def revoke_key(self, name: str) -> None:
        """Revoke a key, which the server refuses from now on.

        Raises:
            UnknownNameError: no key has this name.
            ConflictError: it is the last administration key, which only a command on the device may revoke.
        """
        administrators = [key.name for key in self.store.all() if key.role is Role.ADMINISTRATION]
        if administrators == [name]:
            raise ConflictError(
                f"{name} is the last key for administration, and nobody could make another; make one first, or revoke "
                "it by command on the device."
            )
        self.store.revoke(name)
        self.ring.read()

    def claim(self, claimant: Claimant) -> NewKey:
        """Create the first administration key, which the server accepts from now on.

        Raises:
            ClaimedError: the device is claimed.
            ClaimCodeError: a client on another machine that does not know the code.
            ClaimAttemptsError: too many wrong codes within a minute.
            ConfigError: the name is not valid.
            ConflictError: the name is taken.
        """
        new = self.claiming.claim(claimant)
        self.ring.read()
        return new


def open_access(server: ServerConfig, home: Home, *, is_exposed: bool, reopen_claim: bool = False) -> Access:
    """Read the keys. A server that the network can reach needs one, unless it is open by its settings or claimable.

    Raises:
        ConfigError: no key exists, and the settings do not say that none is needed.
    """
    store = KeyStore(home.api_keys)
    claiming = Claiming(
        store,
        home.claimed,
        is_enabled=server.claimable or reopen_claim,
        has_fixed_key=bool(server.keys),
        is_reopened=reopen_claim,
        ticket=Path(server.claim_file) if server.claim_file else None,
        code=ClaimCode(home.claim_code, preset=server.claim_code) if server.claim == "code" else None,
    )
    if claiming.is_enabled:
        claiming.start()
    must = is_exposed and not server.allow_open
    if must and not server.keys and not store.all() and not claiming.is_enabled:
        raise ConfigError(
            "The network can reach this server and there is no key, so anybody could use it; make one with: "
            "lantern keys create NAME, set LANTERN_API_KEY, or say --no-auth if that is what you want."
        )
    local_key = secrets.token_urlsafe(32)
    ring = KeyRing(
        server.keys,
        store=store,
        required=must or (claiming.is_enabled and not server.allow_open),
        is_claimable=claiming.is_enabled,
        local_key=local_key,
    )
    return Access(ring, store, claiming, local_key)
