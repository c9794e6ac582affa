"""Keys and values in int8, from the same weights: what the device derives where memory is short."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from appliance.bundle import Bundle, BundleStore, DecoderSpec, SigningKey, TrustedKeys, open_bundle, write_bundle
from appliance.bundle.folder import describe_files
from appliance.bundle.manifest import KV_SCALES_NAME
from appliance.engine.graphs.variants import verify_graph, with_int8_kv
from appliance.engine.runtime.kv_cache import KVCache
from appliance.engine.runtime.model_file import ModelFile
from appliance.engine.runtime.model_runner import OrtModelRunner
from appliance.engine.runtime.prepacked import prepacked
from appliance.engine.runtime.product import int4_rows_are_equal
from appliance.engine.types import StepPlan, StepVariant
from appliance.errors import ModelError
from appliance.home import Home
from tests.engine.rows import NOT_EQUAL

NUM_TOKENS = 160


def run(
    runner: OrtModelRunner, row: int, start: int, tokens: list[int], *, variant: StepVariant = "answer"
) -> NDArray[np.float32]:
    ids = np.array([tokens], np.int64)
    return runner.run(StepPlan(row, ids, np.array([start], np.int32), np.arange(len(tokens)), variant)).copy()


def slot_bytes(cache: KVCache) -> int:
    return sum(math.prod(slots.shape) * slots.dtype.itemsize for slots in cache.bound_slots(0, 1))


def a_runner(file: ModelFile, spec: DecoderSpec, *, num_slots: int = 3) -> OrtModelRunner:
    return OrtModelRunner(file, spec, num_slots=num_slots, capacity=256, num_threads=2)


@pytest.fixture(scope="module")
def tokens() -> list[int]:
    found: list[int] = np.random.default_rng(1).integers(100, 30_000, NUM_TOKENS + 8).tolist()
    return found


@pytest.fixture(scope="module")
def files(starter_home: Home, tmp_path_factory: pytest.TempPathFactory, tokens: list[int]) -> tuple[Bundle, Path]:
    """The starter's bundle with scales that its own keys and values gave, and a folder for its prepacked forms."""
    folder = tmp_path_factory.mktemp("int8")
    bundle = BundleStore(starter_home.bundles, TrustedKeys.load(starter_home.trusted_keys)).open(
        "smollm2-135m-instruct"
    )
    spec = bundle.manifest.model
    assert isinstance(spec, DecoderSpec)
    runner = a_runner(prepacked(bundle, starter_home.prepacked), spec)
    run(runner, 0, 0, tokens)
    assert isinstance(runner._cache, KVCache)
    arrays = runner._cache._arrays
    peaks = [
        np.abs(arrays[f"past_key_values.{n}.{part}"][0]).max(axis=1)
        for n in range(spec.num_layers)
        for part in ("key", "value")
    ]
    copy = folder / "bundle"
    shutil.copytree(bundle.folder, copy)
    (np.concatenate(peaks).reshape(-1) / 127).astype("<f4").tofile(copy / KV_SCALES_NAME)
    names = {f.name for f in bundle.manifest.files} | {KV_SCALES_NAME}
    manifest = bundle.manifest.model_copy(update={"files": describe_files(copy, names)})
    key, trusted = SigningKey.load_or_create(folder / "signing.pem"), TrustedKeys.load(folder / "trusted")
    trusted.add(key.public)
    write_bundle(copy, manifest, key)
    return open_bundle(copy, trusted), folder / "cache"


def test_int8_slots_take_a_quarter_and_agree_with_full_ones(files: tuple[Bundle, Path], tokens: list[int]) -> None:
    bundle, cache = files
    spec = bundle.manifest.model
    assert isinstance(spec, DecoderSpec)
    full = a_runner(prepacked(bundle, cache, use_device=False), spec)
    small = a_runner(prepacked(bundle, cache, cache_type="int8", use_device=False), spec)
    assert isinstance(full._cache, KVCache)
    assert isinstance(small._cache, KVCache)
    assert slot_bytes(small._cache) * 4 == slot_bytes(full._cache)
    expected, found = (run(runner, 0, 0, tokens) for runner in (full, small))
    assert not np.array_equal(expected, found)
    assert (expected.argmax(axis=1) == found.argmax(axis=1)).mean() > 0.8


def test_with_int8_slots_too_load_does_not_change_an_answer(files: tuple[Bundle, Path], tokens: list[int]) -> None:
    bundle, cache = files
    spec = bundle.manifest.model
    assert isinstance(spec, DecoderSpec)
    file = prepacked(bundle, cache, cache_type="int8", use_device=False)
    if file.kernels is None and not int4_rows_are_equal():
        pytest.skip(NOT_EQUAL)
    runner = a_runner(file, spec)
    width = runner.verify_width
    assert width is not None
    prompt, more = tokens[:NUM_TOKENS], tokens[NUM_TOKENS:]
    whole = run(runner, 0, 0, prompt)
    pieces = [run(runner, 1, at, prompt[at : at + size]) for at, size in ((0, 100), (100, 2), (102, NUM_TOKENS - 102))]
    assert np.array_equal(whole, np.concatenate(pieces))
    run(runner, 2, 0, prompt)
    single = [run(runner, 0, NUM_TOKENS + i, [more[i]]) for i in range(width)]
    assert np.array_equal(np.concatenate(single), run(runner, 1, NUM_TOKENS, more[:width], variant="verify"))
    together = runner.run(
        StepPlan(0, np.array([[more[0]]] * 3, np.int64), np.full(3, NUM_TOKENS, np.int32), np.arange(3))
    )
    assert all(np.array_equal(row, single[0][0]) for row in together)


def test_scales_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no GroupQueryAttention"):
        with_int8_kv(b"", np.ones(4, np.float32))
    with pytest.raises(ModelError, match="no GroupQueryAttention"):
        verify_graph(b"", 4)
