"""A signing key, a store that trusts it, and small bundles to put in."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import BinaryIO

from appliance.bundle import Bundle, BundleStore, EncoderSpec, Manifest, SigningKey, TrustedKeys
from appliance.bundle.archive import write_archive
from appliance.bundle.folder import describe_files, write_bundle
from appliance.bundle.manifest import Source


class Workshop:
    """Everything lies below one folder of a test."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.key = SigningKey.load_or_create(root / "signing.pem")
        self.trusted = TrustedKeys.load(root / "trusted")
        self.trusted.add(self.key.public)
        self.store = BundleStore(root / "store", self.trusted)

    def make(
        self, content: bytes = b"weights", *, name: str = "tiny", key: SigningKey | None = None, built_for: str = "any"
    ) -> Path:
        folder = self.root / f"made-{len(list(self.root.iterdir()))}"
        folder.mkdir()
        (folder / "model.onnx").write_bytes(content)
        (folder / "tokenizer.json").write_bytes(b"{}")
        manifest = Manifest(
            name=name,
            model=EncoderSpec(architecture="bert", dimensions=4, max_tokens=8),
            files=describe_files(folder, ["model.onnx", "tokenizer.json"]),
            license="MIT",
            source=Source(uri="here"),
            built_for=built_for,
        )
        write_bundle(folder, manifest, key or self.key)
        return folder

    def stranger(self) -> SigningKey:
        """A key that the store does not trust."""
        return SigningKey.load_or_create(self.root / "stranger.pem")

    def pack(self, folder: Path) -> Path:
        path = folder.with_suffix(".lantern")
        with path.open("wb") as file:
            binary: BinaryIO = file
            write_archive(folder, binary)
        return path


def install_untried(store: BundleStore, folder: Path) -> Bundle:
    """Copy a bundle's folder into the store and let it serve, without a trial."""
    with store.stage() as staged:
        for path in folder.iterdir():
            shutil.copyfile(path, staged / path.name, follow_symlinks=False)
        return store.activate(store.verify(staged))


def content_of(bundle: Bundle) -> bytes:
    return bundle.path("model.onnx").read_bytes()


def snapshot(root: Path) -> dict[str, bytes | str]:
    """Every file and link below a folder, to be compared byte by byte; locks left out."""
    found: dict[str, bytes | str] = {}
    for path in sorted(root.rglob("*")):
        if path.is_symlink():
            found[str(path.relative_to(root))] = str(path.readlink())
        elif path.is_file() and path.name != ".lock":
            found[str(path.relative_to(root))] = path.read_bytes()
    return found
