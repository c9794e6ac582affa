"""LANTERN_HOME: the folder of bundles, keys and caches; nothing of it belongs into the repository."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import platformdirs


@dataclass(frozen=True, slots=True)
class Home:
    """The folders below one root; none is made until something is written to it."""

    root: Path

    def settings_file(self, chosen: Path | None = None) -> Path | None:
        """Return the file of the settings: the chosen one, else `lantern.toml` here; None if neither is there."""
        default = self.root / "lantern.toml"
        return chosen or (default if default.exists() else None)

    @property
    def bundles(self) -> Path:
        """The bundle store."""
        return self.root / "bundles"

    @property
    def trusted_keys(self) -> Path:
        """Public keys whose bundles run here."""
        return self.root / "keys" / "trusted"

    @property
    def signing_key(self) -> Path:
        """The private key that signs bundles built here."""
        return self.root / "keys" / "signing.pem"

    @property
    def api_keys(self) -> Path:
        """The keys that clients may use, hashed."""
        return self.root / "keys" / "api"

    @property
    def keys_used(self) -> Path:
        """The times at which keys were last used."""
        return self.root / "keys" / "used.json"

    @property
    def sealing_key(self) -> Path:
        """The key that seals the reasoning which clients keep for us."""
        return self.root / "keys" / "sealing.key"

    @property
    def responses(self) -> Path:
        """The stored responses, if they are kept on the disk."""
        return self.root / "responses"

    @property
    def conversations(self) -> Path:
        """Keys, values and states of idle conversations, if they are kept on the disk."""
        return self.root / "conversations"

    @property
    def claimed(self) -> Path:
        """Remembers that somebody claimed this device."""
        return self.root / "keys" / "claimed.json"

    @property
    def claim_code(self) -> Path:
        """The code that a claim from another machine needs; there while the device can be claimed."""
        return self.root / "keys" / "claim-code"

    @property
    def running(self) -> Path:
        """The run file: the running server's address, and the key with which commands on this machine administer it."""
        return self.root / "running.json"

    @property
    def leave_safe_mode(self) -> Path:
        """There while safe mode ends because an administrator said so; lantern-recover.service looks for it."""
        return self.root / "leave-safe-mode"

    @property
    def tls(self) -> Path:
        """The device's own certificate and its key."""
        return self.root / "keys" / "tls.pem"

    @property
    def known_devices(self) -> Path:
        """The certificate pins of the devices that this machine has talked to."""
        return self.root / "known_devices"

    @property
    def updates(self) -> Path:
        """An update of the whole system on its way in."""
        return self.root / "update"

    @property
    def cache(self) -> Path:
        """Files that can be made again: downloads, stages of the pipeline, prepacked weights."""
        return self.root / "cache"

    @property
    def prepacked(self) -> Path:
        """Models as onnxruntime packed them for this processor."""
        return self.cache / "prepacked"


def lantern_home() -> Home:
    """Return `$LANTERN_HOME`, else the platform's folder for user data."""
    return Home(Path(os.environ.get("LANTERN_HOME") or platformdirs.user_data_path("lantern")).expanduser())
