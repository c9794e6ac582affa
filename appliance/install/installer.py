"""Installs, removals and rollbacks, each as a whole: what the device's API and the command on the device both call.

Methods block, and hold the store's lock while they change it. Knows nothing of which models are loaded; whoever serves
looks at the store again afterwards.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from appliance.bundle import Bundle, BundleStore, Manifest
from appliance.bundle.archive import BundleArchive
from appliance.bundle.uploads import Uploads
from appliance.errors import BundleError, InsufficientMemoryError, ModelNotFoundError, UnavailableError
from appliance.host.memory import available_bytes
from appliance.install.trial import TrialLimits, try_bundle
from appliance.models.loaded import EngineSettings
from appliance.models.memory import MARGIN_BYTES, needed_bytes

_KEPT_VERSIONS = 2  # the one that serves, and the one to go back to
_TRIAL_BASE_BYTES = 96 << 20  # measured: 75 MiB of interpreter and libraries
_TRIAL_FACTOR = 2.25  # measured: 2.1 times the weights, which onnxruntime packs anew and does not map


@dataclass(frozen=True, slots=True)
class Installed:
    """One installed model; `problem` says why it cannot be loaded, where that is known."""

    name: str
    digest: str | None
    versions: tuple[str, ...]
    bundle: Bundle | None
    problem: str | None = None

    def to_json(self) -> dict[str, Any]:
        """What the API and the command say of it."""
        told: dict[str, Any] = {"name": self.name, "digest": self.digest, "versions": list(self.versions)}
        if self.bundle is not None:
            manifest = self.bundle.manifest
            told |= {
                "kind": manifest.model.kind,
                "version": manifest.version,
                "size_bytes": manifest.size_bytes,
                "license": manifest.license,
                "source": manifest.source.uri,
                "signer": self.bundle.signer,
            }
        return told


class Installer:
    """Everything that changes one store. `held_bytes`: what our own loaded models take and would give back."""

    def __init__(
        self,
        store: BundleStore,
        settings: EngineSettings,
        *,
        limits: TrialLimits | None = None,
        free_bytes: Callable[[], int] = available_bytes,
        held_bytes: Callable[[], int] = lambda: 0,
    ) -> None:
        self.store = store
        self.uploads = Uploads(store)
        self._settings = settings
        self._limits = limits or TrialLimits()
        self._free_bytes = free_bytes
        self._held_bytes = held_bytes
        self._trial: subprocess.Popen[bytes] | None = None
        self._is_stopping = False

    def stop(self) -> None:
        """End a trial that is under way, and with it its install, and begin none any more; from any thread."""
        self._is_stopping = True
        if self._trial is not None:
            self._trial.kill()

    def sweep(self) -> None:
        """Remove what an interrupted change left behind."""
        with self.store.writing():
            self.store.sweep()
            self.uploads.sweep()

    def list(self) -> list[Installed]:
        """What is installed, sorted by name."""
        return [self._describe(name) for name in self.store.names()]

    def trial_bytes(self, manifest: Manifest) -> int:
        """What the trial of a bundle takes of memory."""
        return _TRIAL_BASE_BYTES + max(int(_TRIAL_FACTOR * manifest.loaded_bytes), manifest.loading_bytes)

    def check_memory(self, bundle: Bundle) -> None:
        """Refuse what this device cannot hold even when every other model is unloaded.

        Raises:
            InsufficientMemoryError: with the numbers.
        """
        room = self._free_bytes() + self._held_bytes() - MARGIN_BYTES
        needed = max(needed_bytes(bundle, self._settings), self.trial_bytes(bundle.manifest))
        if needed > room:
            raise InsufficientMemoryError(
                f"{bundle.name} needs {needed >> 20} MiB of memory to be tried, and to be served with "
                f"{self._settings.num_slots} slots of {self._settings.context_length} tokens; "
                f"{max(0, room) >> 20} MiB could be made free, so nothing has changed"
            )

    def install(self, folder: Path) -> Bundle:
        """Install a folder that lies on the store's file system, which it leaves.

        Raises:
            BundleError: it does not verify, or fails its trial; nothing has changed.
            InsufficientMemoryError: this device cannot hold it.
            ConflictError: another change is under way.
        """
        with self.store.writing():
            return self._install(folder)

    def install_file(self, path: Path) -> Bundle:
        """Install an archive or a bundle's folder, copied into the store first.

        Raises:
            BundleError: what `path` leads to is no bundle, or a damaged or hostile one.
            StorageFullError: it does not fit.
        """
        with self.store.writing():
            if path.is_dir():
                return self._install_copy(path)
            try:
                file = path.open("rb")
            except OSError as err:
                raise BundleError(f"{path} cannot be read: {err.strerror}") from err
            with file:
                archive = BundleArchive(file)
                manifest = archive.manifest(self.store.trusted)
                with self.store.stage(manifest.size_bytes) as staged:
                    archive.extract(staged)
                    return self._install(staged)

    def rollback(self, name: str) -> Bundle:
        """Let the version before this one serve.

        Raises:
            ModelNotFoundError: not installed.
            BundleError: there is no older version, or it is damaged.
        """
        with self.store.writing():
            self._check_installed(name)
            return self.store.rollback(name)

    def remove(self, name: str) -> None:
        """Uninstall every version, and forget the model's aliases.

        Raises:
            ModelNotFoundError: not installed.
        """
        with self.store.writing():
            self._check_installed(name)
            self.store.remove(name)
            self.store.aliases.forget_model(name)

    def set_alias(self, alias: str, model: str) -> None:
        """Let an alias stand for an installed model.

        Raises:
            ModelNotFoundError: the model is not installed.
            ConfigError: the alias is not valid, or the name of a model.
        """
        with self.store.writing():
            self._check_installed(model)
            if alias in self.store.names():
                raise BundleError(f"{alias} is the name of a model, and cannot be an alias")
            self.store.aliases.set(alias, model)

    def remove_alias(self, alias: str) -> None:
        """Forget an alias.

        Raises:
            ConfigError: there is none.
        """
        with self.store.writing():
            self.store.aliases.remove(alias)

    def _install(self, folder: Path) -> Bundle:
        bundle = self.store.install(folder, accept=self._accept)
        self.store.prune(bundle.name, keep=_KEPT_VERSIONS)
        return bundle

    def _install_copy(self, folder: Path) -> Bundle:
        size_bytes = sum(p.lstat().st_size for p in folder.iterdir())
        with self.store.stage(size_bytes) as staged:
            for path in folder.iterdir():
                if path.is_symlink() or not path.is_file():
                    raise BundleError(f"{path} is not a regular file")
                shutil.copyfile(path, staged / path.name, follow_symlinks=False)
            return self._install(staged)

    def _accept(self, bundle: Bundle) -> None:
        self.check_memory(bundle)
        try:
            try_bundle(bundle.folder, bundle.manifest, self._limits, on_start=self._trial_starts)
        except BundleError as err:
            if self._is_stopping:
                raise UnavailableError("the server is stopping; install it again when it runs") from err
            raise
        finally:
            self._trial = None

    def _trial_starts(self, child: subprocess.Popen[bytes]) -> None:
        self._trial = child
        if self._is_stopping:
            child.kill()

    def _check_installed(self, name: str) -> None:
        if name not in (names := self.store.names()):
            known = ", ".join(names) or "none"
            raise ModelNotFoundError(f"The model {name[:100]!r} is not installed here; installed: {known}.")

    def _describe(self, name: str) -> Installed:
        digest, versions = self.store.active(name), tuple(self.store.versions(name))
        try:
            return Installed(name, digest, versions, self.store.describe(name))
        except BundleError as err:
            return Installed(name, digest, versions, None, err.message)
