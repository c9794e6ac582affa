"""Idle conversations on the disk: a model that starts again goes on, and a file that is not whole changes nothing."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import random
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.engine.engine import Engine
from appliance.engine.runtime.kept_slots import KeptFolder, KeptSlots, _check
from appliance.engine.runtime.model_runner import OrtModelRunner
from appliance.engine.runtime.slot_file import SlotFileError, from_bytes
from appliance.engine.types import Request, Sampled, SamplingParams
from tests.engine.hybrid import VOCAB_SIZE, hybrid_runner

LIMIT = 64 << 20


class Device:
    """A model that is loaded and unloaded; the folder stays."""

    def __init__(
        self,
        root: Path,
        *,
        limit: int = LIMIT,
        model: str = "weights",
        name: str = "tiny",
        folder: KeptFolder | None = None,
        kind: type[OrtModelRunner] = OrtModelRunner,
    ) -> None:
        self.root = root
        self.folder = folder or KeptFolder(root / "conversations", limit)
        self.kept = KeptSlots(self.folder, name=name, model=model)
        self.runner = hybrid_runner(root, kind=kind)
        self.engine = Engine(self.runner)
        self.kept.restore(self.engine, self.runner)

    def answer(self, prompt: list[int], *, key: str = "alice", num_new: int = 12) -> list[int]:
        params = SamplingParams(temperature=0.0, max_tokens=num_new)
        self.engine.add(Request("r", tuple(prompt), params, cache_key=key))
        tokens = []
        while self.engine.has_work:
            tokens += [o.token for o in self.engine.step() if isinstance(o, Sampled)]
        return tokens

    def unload(self) -> None:
        self.kept.save(self.engine, self.runner)

    @property
    def files(self) -> list[Path]:
        return sorted(self.folder.path.glob("*/*.slot"))

    @property
    def num_read(self) -> int:
        return self.engine.stats().num_prompt_tokens - self.engine.stats().num_cached_tokens


def a_text(seed: int, length: int) -> list[int]:
    return random.Random(seed).choices(range(1, VOCAB_SIZE), k=length)


@pytest.fixture
def chat(tmp_path: Path) -> tuple[Path, list[int]]:
    """A conversation that is on the disk: the folder, and all of its tokens."""
    device = Device(tmp_path)
    prompt = a_text(1, 400)
    answer = device.answer(prompt)
    device.unload()
    assert len(device.files) == 1
    return tmp_path, [*prompt, *answer]


def test_a_chat_goes_on_after_a_restart_without_reading_its_prompt(chat: tuple[Path, list[int]]) -> None:
    root, history = chat
    second = [*history, *a_text(2, 30)]
    device = Device(root)
    found = device.answer(second)
    assert device.num_read == 31  # and the last token of the answer, which was sampled and never computed
    assert found == Device(root / "fresh").answer(second)


def test_checkpoints_at_borders_go_on_too(chat: tuple[Path, list[int]]) -> None:
    root, history = chat
    other = [*history[:395], *a_text(3, 30)]
    device = Device(root)
    found = device.answer(other)
    assert device.num_read == 30 + 3  # the end of the first prompt, less eight tokens
    assert found == Device(root / "fresh").answer(other)


def test_another_key_gets_nothing_of_it(chat: tuple[Path, list[int]]) -> None:
    root, history = chat
    device = Device(root)
    device.answer([*history, *a_text(2, 30)], key="bob")
    assert device.num_read == len(history) + 30


def test_a_revoked_keys_conversations_leave_the_disk(
    chat: tuple[Path, list[int]], caplog: pytest.LogCaptureFixture
) -> None:
    root, history = chat
    owners = ["", "alice"]
    folder = KeptFolder(root / "conversations", LIMIT, lambda: owners)
    device = Device(root, folder=folder)
    device.answer([*history, *a_text(2, 30)])
    owners.remove("alice")
    device.unload()
    assert device.files == []

    device = Device(root)
    device.answer([*history, *a_text(2, 30)])
    device.unload()
    assert len(device.files) == 1
    assert Device(root, folder=folder).files == []
    assert "its key was revoked" in caplog.text


def _cut(data: bytearray) -> bytes:
    return bytes(data[:-100])


def _emptied(_: bytearray) -> bytes:
    return b""


def _of_a_later_version(data: bytearray) -> bytes:
    return bytes(data.replace(b"LANTERN-SLOT 1", b"LANTERN-SLOT 2", 1))


def _flipped(data: bytearray) -> bytes:
    data[len(data) // 2] ^= 1
    return bytes(data)


@pytest.mark.parametrize("change", [_cut, _emptied, _of_a_later_version, _flipped])
def test_a_file_that_is_not_whole_is_ignored_with_one_line(
    chat: tuple[Path, list[int]], caplog: pytest.LogCaptureFixture, change: Callable[[bytearray], bytes]
) -> None:
    root, history = chat
    [path] = Device(root).files
    path.write_bytes(change(bytearray(path.read_bytes())))
    second = [*history, *a_text(2, 30)]
    with caplog.at_level(logging.WARNING):
        device = Device(root)
    assert [
        record.getMessage().startswith(f"The conversation kept in {path} is ignored") for record in caplog.records
    ] == [True]
    assert device.answer(second) == Device(root / "fresh").answer(second)
    assert device.num_read == len(second)
    assert not path.exists()


def test_any_single_changed_byte_is_noticed(chat: tuple[Path, list[int]]) -> None:
    root, history = chat
    [path] = Device(root).files
    whole = path.read_bytes()
    rng = random.Random(4)
    for _ in range(40):
        damaged = bytearray(whole)
        damaged[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        device = Device(root)
        device.answer([*history, *a_text(2, 10)], num_new=1)
        assert device.num_read == len(history) + 10


def test_a_file_of_other_weights_or_another_form_is_ignored(
    chat: tuple[Path, list[int]], caplog: pytest.LogCaptureFixture
) -> None:
    root, history = chat
    device = Device(root, model="other weights")
    device.answer([*history, *a_text(2, 30)])
    assert device.num_read == len(history) + 30
    assert "another version of the model" in caplog.text


def test_a_file_that_is_valid_but_fits_no_slot_is_ignored(
    chat: tuple[Path, list[int]], caplog: pytest.LogCaptureFixture
) -> None:
    root, _ = chat
    short = hybrid_runner(root, capacity=128)
    KeptSlots(KeptFolder(root / "conversations", LIMIT), name="tiny", model="weights").restore(Engine(short), short)
    assert "do not fit a slot of 128" in caplog.text


def test_the_folder_is_private_and_stays_within_its_size(tmp_path: Path) -> None:
    device = Device(tmp_path)
    for i in range(4):
        device.answer(a_text(i, 300))
    device.unload()
    [one, *_] = sizes = [path.stat().st_size for path in device.files]
    assert len(sizes) == 4
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in device.files)
    assert stat.S_IMODE(device.folder.path.stat().st_mode) == 0o700

    small = Device(tmp_path, limit=2 * one + one // 2)
    assert small.engine.slots.num_reusable(tuple(a_text(3, 300)), "alice") > 0
    small.unload()
    assert sum(path.stat().st_size for path in small.files) <= small.folder.limit_bytes
    again = Device(tmp_path)
    reusable = [again.engine.slots.num_reusable(tuple(a_text(i, 300)), "alice") > 0 for i in range(4)]
    assert reusable == [False, False, True, True]  # those that were used last


def test_the_oldest_conversations_of_other_models_make_room(tmp_path: Path) -> None:
    first = Device(tmp_path, name="first")
    first.answer(a_text(1, 300))
    first.unload()
    [path] = first.files
    os.utime(path, (1, 1))
    second = Device(tmp_path, name="second", limit=path.stat().st_size * 3 // 2)
    second.answer(a_text(2, 300))
    second.unload()
    assert [file.parent.name for file in second.files] == ["second"]


def test_what_a_killed_process_was_writing_is_removed(chat: tuple[Path, list[int]]) -> None:
    root, _ = chat
    unfinished = root / "conversations" / "tiny" / ".new-1234"
    unfinished.write_bytes(b"half")
    assert len(Device(root).files) == 1
    assert not unfinished.exists()


_ODD = st.recursive(
    st.none() | st.integers(-(2**70), 2**70) | st.text(max_size=5) | st.booleans(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def test_a_header_of_any_kind_under_a_right_checksum_is_refused_and_breaks_nothing(
    chat: tuple[Path, list[int]],
) -> None:
    [path] = Device(chat[0]).files
    data, runner = path.read_bytes()[:-32], hybrid_runner(chat[0])
    start = data.index(b"{")
    header = json.loads(data[start : start + int.from_bytes(data[start - 8 : start], "little")])
    arrays = data[start + int.from_bytes(data[start - 8 : start], "little") :]

    @settings(max_examples=150, deadline=None)
    @given(name=st.sampled_from(["model", "tokens", "checkpoints", "arrays"]), value=_ODD)
    def refused(name: str, value: object) -> None:
        raw = json.dumps({**header, name: value}).encode()
        body = data[: start - 8] + len(raw).to_bytes(8, "little") + raw + arrays
        with pytest.raises(SlotFileError):
            _check(from_bytes(memoryview(body + hashlib.blake2b(body, digest_size=32).digest()), "weights"), runner)

    refused()


def test_a_folder_that_cannot_be_written_costs_the_conversation_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    device = Device(tmp_path)
    device.answer(a_text(1, 300))
    blocked = tmp_path / "conversations"
    blocked.write_bytes(b"in the way")
    device.unload()
    assert "are not kept" in caplog.text


def test_short_conversations_are_not_written(tmp_path: Path) -> None:
    device = Device(tmp_path)
    device.answer(a_text(1, 20))
    device.unload()
    assert device.files == []


class RunnerElsewhere(OrtModelRunner):
    """A runner as one on a GPU."""

    def slot_arrays(self, slot: int, num_tokens: int) -> None:
        """Return nothing: there is no memory of this process."""


def test_a_runner_whose_slots_lie_elsewhere_keeps_nothing(tmp_path: Path) -> None:
    device = Device(tmp_path, kind=RunnerElsewhere)
    device.answer(a_text(1, 300))
    device.unload()
    assert device.files == []
