from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.bundle import Manifest
from appliance.errors import BundleError


def a_manifest(**changes: Any) -> dict[str, Any]:
    files = [{"name": n, "size_bytes": 1, "sha256": "0" * 64} for n in ("model.onnx", "tokenizer.json")]
    model = {"kind": "encoder", "architecture": "bert", "dimensions": 8, "max_tokens": 16}
    whole = {"format_version": 1, "name": "tiny", "model": model, "files": files, "license": "MIT"}
    return {**whole, "source": {"uri": "here"}, **changes}


def test_unknown_fields_survive() -> None:
    raw = a_manifest(future={"deep": [1, {"x": None}]})
    raw["model"]["later"] = "kept"
    again = json.loads(Manifest.from_bytes(json.dumps(raw).encode()).to_bytes())
    assert again["future"] == raw["future"]
    assert again["model"]["later"] == "kept"


def test_a_bundle_is_for_any_board_unless_it_names_one() -> None:
    assert Manifest.from_bytes(json.dumps(a_manifest()).encode()).built_for == "any"
    later = Manifest.from_bytes(json.dumps(a_manifest(built_for="a-board-of-2030")).encode())
    assert later.built_for == "a-board-of-2030"


def test_the_bytes_do_not_depend_on_the_order_of_keys() -> None:
    raw = a_manifest()
    backwards = dict(reversed(raw.items()))
    first, second = (Manifest.from_bytes(json.dumps(r).encode()) for r in (raw, backwards))
    assert first.to_bytes() == second.to_bytes()
    assert Manifest.from_bytes(first.to_bytes()) == first


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"format_version": 2}, "format 2"),
        ({"name": "../up"}, "name"),
        ({"name": ""}, "name"),
        ({"files": []}, "files"),
        ({"files": [{"name": "../x", "size_bytes": 1, "sha256": "0" * 64}]}, "files.0.name"),
        ({"files": [{"name": ".hidden", "size_bytes": 1, "sha256": "0" * 64}]}, "files.0.name"),
        ({"files": [{"name": "model.onnx", "size_bytes": -1, "sha256": "0" * 64}]}, "files.0.size_bytes"),
        ({"files": [{"name": "model.onnx", "size_bytes": 1, "sha256": "0" * 64}] * 2}, "twice"),
        ({"files": [{"name": "model.onnx", "size_bytes": 1, "sha256": "0" * 64}]}, "tokenizer.json is missing"),
        ({"model": {"kind": "painter"}}, "model"),
        ({"built_for": "pi5\n"}, "built_for"),
        ({"evaluation": {"metrics": {"kl": "low"}}}, "evaluation"),
    ],
)
def test_a_field_that_is_not_valid_is_named(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(BundleError, match=said):
        Manifest.from_bytes(json.dumps(a_manifest(**changes)).encode())


@given(st.binary(max_size=200) | st.recursive(st.none() | st.text(), st.lists).map(lambda v: json.dumps(v).encode()))
def test_foreign_bytes_are_refused_and_nothing_else(data: bytes) -> None:
    with pytest.raises(BundleError):
        Manifest.from_bytes(data)
