"""A type for each degree of trust: a signed manifest, and a bundle of which every byte was verified."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from appliance.bundle import Bundle, TrustedKeys, open_bundle, verify_manifest
from appliance.bundle.folder import describe_bundle, read_verified
from appliance.errors import BundleError, UntrustedSignerError
from tests.bundle.workshop import Workshop

_ROOT = Path(__file__).parents[2]


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    return Workshop(tmp_path)


def test_a_manifest_alone_is_no_bundle(workshop: Workshop) -> None:
    made = workshop.make(b"weights")
    (made / "model.onnx").write_bytes(b"weighty")
    signed = describe_bundle(made, workshop.trusted)
    assert not isinstance(signed, Bundle)
    assert not hasattr(signed, "path")
    with pytest.raises(BundleError, match="damaged"):
        open_bundle(made, workshop.trusted)
    with pytest.raises(BundleError, match="damaged"):
        read_verified(made, signed.entry("model.onnx"))
    assert read_verified(made, signed.entry("tokenizer.json")) == b"{}"


def test_both_have_the_digest_of_the_bytes_that_were_signed(workshop: Workshop) -> None:
    made = workshop.make()
    data = (made / "manifest.json").read_bytes().replace(b'"license":', b'  "license" :')
    (made / "manifest.json").write_bytes(data)
    (made / "manifest.sig").write_bytes(workshop.key.sign(data))
    bundle = open_bundle(made, workshop.trusted)
    assert bundle.digest == describe_bundle(made, workshop.trusted).digest
    assert bundle.digest == verify_manifest(data, bundle.signature, workshop.trusted).digest
    assert bundle.digest != verify_manifest(*_signed_anew(workshop, bundle), workshop.trusted).digest


def _signed_anew(workshop: Workshop, bundle: Bundle) -> tuple[bytes, bytes]:
    data = bundle.manifest.to_bytes()
    return data, workshop.key.sign(data)


def test_only_full_verification_makes_a_bundle() -> None:
    """Nowhere else in the program is the class called; `moved_to` follows a rename."""
    found = set()
    for package in ("appliance", "quantize", "images"):
        for path in (_ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Bundle":
                    found.add(path.relative_to(_ROOT))
    assert found == {Path("appliance/bundle/folder.py")}


def test_a_key_is_trusted_in_the_file_and_in_memory_at_once(workshop: Workshop) -> None:
    stranger, by_command = workshop.stranger(), TrustedKeys.load(workshop.root / "trusted")
    made = workshop.make(key=stranger)
    with pytest.raises(UntrustedSignerError):
        workshop.trusted.verify(b"x", stranger.sign(b"x"))
    signer = workshop.trusted.add(stranger.public)
    assert workshop.trusted.verify(b"x", stranger.sign(b"x")) == signer
    assert signer in by_command.all()
    assert open_bundle(made, by_command).signer == signer
    by_command.remove(signer)
    with pytest.raises(UntrustedSignerError):
        workshop.trusted.require(signer)


def test_a_damaged_file_of_a_key_is_replaced_when_the_key_is_trusted_again(workshop: Workshop) -> None:
    [path] = (workshop.root / "trusted").iterdir()
    path.write_bytes(b"not a key")
    assert dict(workshop.trusted.all()) == {}
    workshop.trusted.add(workshop.key.public)
    assert workshop.trusted.all().keys() == {path.stem}
