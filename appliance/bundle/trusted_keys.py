"""The signing keys that this machine trusts: public keys in one folder, one file each, and the same keys in memory."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from appliance.bundle.signing import key_id, public_pem, read_public_key, read_signature
from appliance.errors import BundleError, ConfigError, UnknownNameError, UntrustedSignerError
from appliance.host.files import FolderVersion, folder_version, sync_folder, write_atomically

_LOGGER = logging.getLogger(__name__)

_SUFFIX = ".pub"


class TrustedKeys:
    """The public keys whose bundles this machine runs.

    A key that is added or removed, here or by another process, counts at once: memory is compared with the folder
    before each use, and read anew only if a file changed. Methods block; any thread may call them.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read: tuple[FolderVersion | None, dict[str, Ed25519PublicKey]] = (None, {})

    @classmethod
    def load(cls, folder: Path) -> TrustedKeys:
        """Return the keys of a folder, every `*.pub` in PEM form, read at the first use; none if it is absent."""
        return cls(folder)

    def all(self) -> Mapping[str, Ed25519PublicKey]:
        """Return the keys by their ids; a damaged file is left out with a warning."""
        version, keys = self._read
        found = folder_version(self._folder, _SUFFIX)
        if found != version:
            keys = self._parse()
            self._read = found, keys
        return keys

    def add(self, public: Ed25519PublicKey) -> str:
        """Trust a key from now on, and return its id."""
        signer = key_id(public)
        if signer not in self.all():
            write_atomically(self._folder / f"{signer}{_SUFFIX}", public_pem(public))
        return signer

    def remove(self, signer: str) -> None:
        """Trust a key no longer; bundles that it signed do not load again.

        Raises:
            UnknownNameError: it was not trusted.
        """
        paths = {path.stem: path for path in self._folder.glob(f"*{_SUFFIX}")}
        if signer not in paths:
            known = ", ".join(sorted(paths)) or "none"
            raise UnknownNameError(f"The key {signer[:64]!r} is not trusted here; trusted: {known}.")
        paths[signer].unlink()
        sync_folder(self._folder)

    def verify(self, message: bytes, signature_file: bytes) -> str:
        """Verify a signature file against the bytes, and return the id of the key that made it.

        Raises:
            UntrustedSignerError: made by a key that is not trusted.
            BundleError: malformed or wrong.
        """
        signer, signature = read_signature(signature_file)
        try:
            self.require(signer).verify(signature, message)
        except InvalidSignature as err:
            raise BundleError("the bundle's signature does not match its manifest") from err
        return signer

    def require(self, signer: str) -> Ed25519PublicKey:
        """Return the key of this id.

        Raises:
            UntrustedSignerError: it is not trusted.
        """
        public = self.all().get(signer)
        if public is None:
            raise UntrustedSignerError(
                f"the bundle is signed by key {signer[:16]!r}, which is not trusted here; if its maker may run models "
                "on this device: lantern models trust FILE.pub"
            )
        return public

    def _parse(self) -> dict[str, Ed25519PublicKey]:
        keys = {}
        for path in sorted(self._folder.glob(f"*{_SUFFIX}")):
            try:
                public = read_public_key(path.read_bytes(), what=str(path))
            except ConfigError as err:
                _LOGGER.warning("a trusted key does not count: %s", err.message)
                continue
            except FileNotFoundError:
                continue
            keys[key_id(public)] = public
        return keys
