"""Installs, removals and rollbacks, each of them whole or not at all; the API and the commands on the device call them.

Methods block, and hold the store's lock while they change it. Knows nothing of loaded models: the server refreshes its
pool afterwards.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from appliance.bundle import Bundle, BundleStore, Manifest, SignedManifest
from appliance.bundle.archive import BundleArchive
from appliance.bundle.manifest import MODEL_NAME, REPORT_NAME
from appliance.bundle.uploads import Upload, Uploads
from appliance.errors import BundleError, ConflictError, InsufficientMemoryError, ModelNotFoundError, UnavailableError
from appliance.host.memory import available_bytes
from appliance.install.trial import Trial, TrialLimits
from appliance.models.loaded import EngineSettings
from appliance.models.memory import MARGIN_BYTES, needed_bytes

_KEPT_VERSIONS = 2  # the active one, and the one that a rollback activates
_TRIAL_BASE_BYTES = 96 << 20  # measured: 75 MiB of interpreter and libraries
_TRIAL_FACTOR = 2.6  # measured: 2.1 to 2.57 times the weights, since onnxruntime copies them into packed ones


@dataclass(frozen=True, slots=True)
class InstalledModel:
    """One installed model; `problem` is the reason if its active version is not trusted or damaged."""

    name: str
    digest: str | None
    versions: tuple[str, ...]
    bundle: SignedManifest | None
    problem: str | None = None


class Installer:
    """The changes of one store. `held_bytes` returns the memory that unloading our own models would free."""

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
        self._trial: Trial | None = None
        self._is_stopping = False

    def stop(self) -> None:
        """End a running trial, and with it its install, and begin no other one; from any thread."""
        self._is_stopping = True
        if self._trial is not None:
            self._trial.stop()

    def sweep(self) -> None:
        """Remove the remains of an interrupted change."""
        with self.store.writing():
            self.store.sweep()
            self.uploads.sweep()

    def list(self) -> list[InstalledModel]:
        """Return the installed models, sorted by name."""
        return [self._describe(name) for name in self.store.names()]

    def trial_bytes(self, manifest: Manifest) -> int:
        """Return the memory that the trial of a bundle needs."""
        return _TRIAL_BASE_BYTES + int(_TRIAL_FACTOR * manifest.loaded_bytes)

    def check_memory(self, bundle: Bundle) -> None:
        """Refuse a model that does not fit even if every other model is unloaded.

        Raises:
            InsufficientMemoryError: with the numbers.
        """
        room = self._free_bytes() + self._held_bytes() - MARGIN_BYTES
        needed = max(needed_bytes(bundle, self._settings, graph=_graph_of(bundle)), self.trial_bytes(bundle.manifest))
        if needed > room:
            raise InsufficientMemoryError(
                f"{bundle.name} needs {needed >> 20} MiB of memory to be tried, and to be served with "
                f"{self._settings.num_slots} slots of {self._settings.context_length} tokens; "
                f"{max(0, room) >> 20} MiB could be made free, so nothing has changed"
            )

    def complete_upload(self, upload_id: str) -> Upload:
        """Return an upload whose bytes have all arrived.

        Raises:
            UploadNotFoundError: there is no such upload.
            ConflictError: bytes are missing.
        """
        upload = self.uploads.get(upload_id)
        if missing := upload.missing_bytes:
            raise ConflictError(f"{missing} bytes of {upload.manifest.name} are still to be sent")
        return upload

    def install_upload(self, upload: Upload) -> Bundle:
        """Install a complete upload; its damaged files are removed, so that they are sent again.

        Raises:
            BundleError: it does not verify, or fails its trial; nothing has changed.
            InsufficientMemoryError: this device cannot hold it.
            ConflictError: another change is under way.
        """
        try:
            with self.store.writing():
                bundle = self._install(upload.folder)
        except BundleError:
            self.uploads.drop_damaged(upload)
            raise
        if upload.folder.is_dir():  # the store held exactly this bundle
            self.uploads.remove(upload.id)
        return bundle

    def install_file(self, path: Path) -> Bundle:
        """Copy an archive or a bundle's folder into the store, and install it.

        Raises:
            BundleError: `path` is no bundle, or a damaged or hostile one.
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
                manifest = archive.manifest(self.store.trusted).manifest
                with self.store.stage(manifest.size_bytes) as staged:
                    archive.extract(staged)
                    return self._install(staged)

    def rollback(self, name: str) -> Bundle:
        """Activate the version before the active one.

        Raises:
            ModelNotFoundError: not installed.
            BundleError: no older version, or a damaged one.
        """
        with self.store.writing():
            self._check_installed(name)
            return self.store.rollback(name)

    def remove(self, name: str) -> None:
        """Uninstall every version of a model, and remove its aliases.

        Raises:
            ModelNotFoundError: not installed.
        """
        with self.store.writing():
            self._check_installed(name)
            self.store.remove(name)
            self.store.aliases.forget_model(name)

    def report(self, name: str) -> bytes:
        """Read the report of the active version, a page of HTML.

        Raises:
            ModelNotFoundError: not installed, or without a report.
            BundleError: damaged.
        """
        self._check_installed(name)
        bundle = self.store.describe(name)
        if not bundle.has(REPORT_NAME):
            raise ModelNotFoundError(f"The bundle of {name} holds no report.")
        return self.store.read(bundle, REPORT_NAME)

    def set_alias(self, alias: str, model: str) -> None:
        """Point an alias to an installed model.

        Raises:
            ModelNotFoundError: the model is not installed.
            ConfigError: the alias is not valid.
            BundleError: the alias is the name of a model.
        """
        with self.store.writing():
            self._check_installed(model)
            if alias in self.store.names():
                raise BundleError(f"{alias} is the name of a model, and cannot be an alias")
            self.store.aliases.set(alias, model)

    def remove_alias(self, alias: str) -> None:
        """Remove an alias.

        Raises:
            UnknownNameError: no alias has this name.
        """
        with self.store.writing():
            self.store.aliases.remove(alias)

    def _install(self, staged: Path) -> Bundle:
        """Verify, try, activate; a bundle that the store holds already was tried before."""
        verified = self.store.verify(staged)
        if not self.store.holds(verified):
            self.check_memory(verified)
            self._try(verified)
        installed = self.store.activate(verified)
        self.store.prune(installed.name, keep=_KEPT_VERSIONS)
        return installed

    def _install_copy(self, folder: Path) -> Bundle:
        size_bytes = sum(p.lstat().st_size for p in folder.iterdir())
        with self.store.stage(size_bytes) as staged:
            for path in folder.iterdir():
                if path.is_symlink() or not path.is_file():
                    raise BundleError(f"{path} is not a regular file")
                shutil.copyfile(path, staged / path.name, follow_symlinks=False)
            return self._install(staged)

    def _try(self, bundle: Bundle) -> None:
        self._trial = trial = Trial(bundle, self._limits)
        if self._is_stopping:
            trial.stop()
        try:
            trial.run()
        except BundleError as err:
            if self._is_stopping:
                raise UnavailableError("the server is stopping; install it again when it runs") from err
            raise
        finally:
            self._trial = None

    def _check_installed(self, name: str) -> None:
        if name not in (names := self.store.names()):
            known = ", ".join(names) or "none"
            raise ModelNotFoundError(f"The model {name[:100]!r} is not installed here; installed: {known}.")

    def _describe(self, name: str) -> InstalledModel:
        digest, versions = self.store.active(name), tuple(self.store.versions(name))
        try:
            return InstalledModel(name, digest, versions, self.store.describe(name))
        except BundleError as err:
            return InstalledModel(name, digest, versions, None, err.message)


def _graph_of(bundle: Bundle) -> bytes:
    """Return the graph, which tells the memory of slots or long texts; the trial refuses one that cannot be read."""
    return bundle.path(MODEL_NAME).read_bytes()
