"""Checkpoints come from a hub by its real client: resumed, pinned to a commit, and found again without a network."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.errors import QuantizeError
from quantize.recipe import SourcePart
from quantize.sources.source import Source, resolve
from tests.quantize.sources.fake_hub import COMMIT, FakeHub, serving

_NAME = "someone/tiny"
_CHUNK_BYTES = 10 << 20  # what the client writes at once
_WEIGHTS = bytes(range(256)) * (_CHUNK_BYTES // 100)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    files = {
        "config.json": b"{}",
        "1_Pooling/config.json": b"{}",
        "model.safetensors": _WEIGHTS,
        "README.md": b"---\nlicense: mit\n---\n",
        "pytorch_model.bin": b"not wanted",
        "onnx/config.json": b"not wanted",
    }
    with serving(FakeHub(_NAME, files)) as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield running


def test_a_snapshot_holds_what_is_needed_and_is_pinned_to_its_commit(hub: FakeHub, tmp_path: Path) -> None:
    source = fetched(tmp_path)
    assert (source.uri, source.revision) == ("hf:someone/tiny", COMMIT)
    names = {path.relative_to(source.path).as_posix() for path in source.path.rglob("*") if path.is_file()}
    assert names == {"config.json", "1_Pooling/config.json", "model.safetensors", "README.md"}
    assert (source.path / "model.safetensors").read_bytes() == _WEIGHTS


def test_a_download_that_broke_off_goes_on_where_it_stopped(hub: FakeHub, tmp_path: Path) -> None:
    hub.cut_after_bytes = 2 * _CHUNK_BYTES
    with pytest.raises(QuantizeError, match="the next run resumes the download"):
        fetched(tmp_path)
    hub.cut_after_bytes = None
    source = fetched(tmp_path)
    assert (source.path / "model.safetensors").read_bytes() == _WEIGHTS
    assert hub.downloads_of("model.safetensors") == [None, f"bytes={2 * _CHUNK_BYTES}-"]
    assert hub.downloads_of("README.md") == [None]


def test_offline_finds_what_was_fetched_before_and_asks_nobody(hub: FakeHub, tmp_path: Path) -> None:
    before = fetched(tmp_path)
    hub.requests.clear()
    assert fetched(tmp_path, offline=True) == before
    assert hub.requests == []


def test_offline_without_a_copy_says_so(hub: FakeHub, tmp_path: Path) -> None:
    with pytest.raises(QuantizeError, match="is not in the cache; run once without --offline"):
        fetched(tmp_path, offline=True)
    assert hub.requests == []


def test_a_hub_that_is_down_leaves_the_copy_usable(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = fetched(tmp_path)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert fetched(tmp_path) == before
    with pytest.raises(QuantizeError, match="the hub is not reachable and someone/other is not in the cache"):
        fetched(tmp_path, name="someone/other")


def test_a_gated_model_asks_for_a_token_and_takes_it_from_the_environment(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.gated_without_token = True
    with pytest.raises(QuantizeError, match="is gated: accept its terms"):
        fetched(tmp_path)
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    fetched(tmp_path)
    assert hub.requests[-1][3] == "Bearer hf_test"


def test_a_model_or_revision_that_is_not_there_is_named(hub: FakeHub, tmp_path: Path) -> None:
    with pytest.raises(QuantizeError, match="the hub has no model someone/absent"):
        fetched(tmp_path, name="someone/absent")
    with pytest.raises(QuantizeError, match="has no revision 'v9'"):
        fetched(tmp_path, revision="v9")


def fetched(cache: Path, *, name: str = _NAME, revision: str | None = None, offline: bool = False) -> Source:
    return resolve(SourcePart(uri=name, revision=revision), cache, offline=offline)
