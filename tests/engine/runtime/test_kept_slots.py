"""Idle conversations on the disk: a model that starts again goes on, and a file that is not whole changes nothing."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import random
import stat
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from appliance.engine.engine import Engine
from appliance.engine.runtime.kept_slots import KeptFolder, KeptSlots, check
from appliance.engine.runtime.model_runner import OrtModelRunner
from appliance.engine.runtime.slot_archive import SlotArchive
from appliance.engine.runtime.slot_file import KeptSlot, SlotFileError, from_bytes
from appliance.engine.types import Finished, Request, Sampled, SamplingParams
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
        num_slots: int = 4,
        num_checkpoints: int = 16,
    ) -> None:
        self.root = root
        self.folder = folder or KeptFolder(root / "conversations", limit)
        self.runner = hybrid_runner(root, kind=kind, num_slots=num_slots, num_checkpoints=num_checkpoints)
        self.archive = SlotArchive(KeptSlots(self.folder, name=name, model=model), self.runner)
        self.engine = Engine(self.runner, archive=self.archive)
        self.archive.restore(self.engine.slots)

    def answer(self, prompt: list[int], *, key: str = "alice", num_new: int = 12) -> list[int]:
        params = SamplingParams(temperature=0.0, max_tokens=num_new)
        self.engine.add(Request("r", tuple(prompt), params, cache_key=key))
        tokens = []
        while self.engine.has_work:
            tokens += [o.token for o in self.engine.step() if isinstance(o, Sampled)]
        return tokens

    def unload(self) -> None:
        self.archive.save(self.engine.slots)

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


def test_a_conversation_that_lost_its_slot_comes_back_from_the_disk(tmp_path: Path) -> None:
    device = Device(tmp_path, num_slots=2)
    chats = [a_text(i, 300) for i in range(5)]
    for chat in chats:
        chat += device.answer(chat)
        device.archive.finish()
    assert len(device.files) == 3  # two are in their slots
    for i, chat in enumerate(chats):
        before = device.num_read
        chat += a_text(20 + i, 30)
        answer = device.answer(chat)
        assert answer == Device(tmp_path / "fresh").answer(chat)
        assert device.num_read == before + 31  # and the last token of the answer, which was sampled and never computed
        chat += answer
        device.archive.finish()
    device.unload()
    assert len(device.files) == 5  # of each conversation the last state
    again = Device(tmp_path, num_slots=2)
    for chat in chats:
        again.answer([*chat, 5, 6, 7])
        again.archive.finish()
    assert again.num_read == 5 * 4


def test_a_conversation_that_is_still_being_written_comes_back_at_once(tmp_path: Path) -> None:
    device = Device(tmp_path, num_slots=1)
    with device.folder.lock:  # the disk does not go on
        chat = a_text(1, 300)
        chat += device.answer(chat)
        device.answer(a_text(2, 300))
        before = device.num_read
        found = device.answer([*chat, *a_text(3, 30)])
        assert device.num_read == before + 31
    device.archive.finish()
    assert found == Device(tmp_path / "fresh").answer([*chat, *a_text(3, 30)])


def test_other_requests_go_on_while_one_waits_for_the_disk(tmp_path: Path) -> None:
    device = Device(tmp_path, num_slots=2)
    chats = [a_text(i, 300) for i in range(3)]
    for chat in chats:
        chat += device.answer(chat)
        device.archive.finish()
    arrival = threading.Event()

    class Slow(KeptSlots):
        def read(self, path: Path, runner: OrtModelRunner) -> KeptSlot | None:
            arrival.wait()
            return super().read(path, runner)

    device.archive._kept = Slow(device.folder, name="tiny", model="weights")
    params = SamplingParams(temperature=0.0, max_tokens=12)
    for name, prompt in (("back", [*chats[0], *a_text(8, 30)]), ("other", [*chats[2], *a_text(9, 30)])):
        device.engine.add(Request(name, tuple(prompt), params, cache_key="alice"))
    ended: list[str] = []
    while device.engine.has_work:
        ended += [o.request_id for o in device.engine.step() if isinstance(o, Finished)]
        if ended == ["other"]:
            arrival.set()
    assert ended == ["other", "back"]


def test_a_request_that_leaves_while_its_conversation_is_read_leaves_nothing(tmp_path: Path) -> None:
    device = Device(tmp_path, num_slots=1)
    chat = a_text(1, 300)
    chat += device.answer(chat)
    device.answer(a_text(2, 300))
    device.archive.finish()
    params = SamplingParams(temperature=0.0, max_tokens=12)
    device.engine.add(Request("left", (*chat, *a_text(3, 30)), params, cache_key="alice"))
    device.engine.step()
    device.engine.cancel("left")
    assert not device.engine.has_work
    prompt = [*chat, *a_text(4, 30)]
    before = device.num_read
    assert device.answer(prompt) == Device(tmp_path / "fresh").answer(prompt)
    assert device.num_read == before + 31


@pytest.mark.parametrize("num_checkpoints", [0, 16])
def test_an_edited_message_of_a_conversation_on_the_disk_starts_at_a_state_if_there_is_one(
    tmp_path: Path, num_checkpoints: int
) -> None:
    device = Device(tmp_path, num_slots=1, num_checkpoints=num_checkpoints)
    chat = a_text(1, 300)
    chat += device.answer(chat)
    device.answer(a_text(2, 300))
    device.archive.finish()
    edited = [*chat[:296], *a_text(3, 30)]
    before = device.num_read
    assert device.answer(edited) == Device(tmp_path / "fresh").answer(edited)
    assert device.num_read - before == (30 + 4 if num_checkpoints else len(edited))
    device.archive.finish()


@given(seed=st.integers(0, 10_000), num_slots=st.integers(1, 3), limit=st.sampled_from([300_000, LIMIT]))
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_answers_are_those_without_an_archive_whatever_is_asked(
    tmp_path: Path, seed: int, num_slots: int, limit: int
) -> None:
    rng = random.Random(seed)
    root = Path(tempfile.mkdtemp(dir=tmp_path))
    chats = [a_text(seed + i, rng.randrange(60, 200)) for i in range(4)]
    fresh = hybrid_runner(tmp_path)
    device = Device(root, num_slots=num_slots, limit=limit)
    for turn in range(10):
        chat = rng.choice(chats)
        del chat[rng.choice([len(chat), rng.randrange(40, len(chat) + 1)]) :]
        chat += a_text(seed + 50 + turn, rng.randrange(2, 60))
        key = rng.choice(["alice", "alice", "bob"])
        answer = device.answer(chat, key=key, num_new=6)
        request = Request("r", tuple(chat), SamplingParams(temperature=0.0, max_tokens=6))
        engine = Engine(fresh)
        engine.add(request)
        expected = []
        while engine.has_work:
            expected += [o.token for o in engine.step() if isinstance(o, Sampled)]
        assert answer == expected
        chat += answer
        if rng.random() < 0.2:
            device.unload()
            device = Device(root, num_slots=num_slots, limit=limit)
        assert sum(path.stat().st_size for path in device.files) <= limit
    device.archive.finish()


@pytest.mark.parametrize("change", ["cut", "flipped", "of another model", "gone"])
def test_a_file_beyond_the_slots_that_cannot_be_used_is_ignored_with_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, change: str
) -> None:
    device = Device(tmp_path, num_slots=1)
    chat = a_text(1, 300)
    chat += device.answer(chat)
    device.answer(a_text(2, 300))
    device.unload()
    path = device.archive._kept.path_of("alice", chat[:-1])
    data = bytearray(path.read_bytes())
    if change == "of another model":
        data = bytearray(bytes(data).replace(b"weights", b"Weights", 1))
    stamp = path.stat().st_mtime_ns
    path.write_bytes(_cut(data) if change == "cut" else _flipped(data) if change == "flipped" else data)
    os.utime(path, ns=(stamp, stamp))
    device = Device(tmp_path, num_slots=1)
    if change == "gone":
        path.unlink()
    prompt = [*chat, *a_text(3, 30)]
    assert device.answer(prompt) == Device(tmp_path / "fresh").answer(prompt)
    assert device.num_read == len(prompt)
    ignored = [r.getMessage() for r in caplog.records if "is ignored" in r.getMessage()]
    assert len(ignored) == (0 if change == "gone" else 1)
    assert not path.exists()
    device.archive.finish()


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
    kept = KeptSlots(KeptFolder(root / "conversations", LIMIT), name="tiny", model="weights")
    SlotArchive(kept, short).restore(Engine(short).slots)
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
            check(from_bytes(memoryview(body + hashlib.blake2b(body, digest_size=32).digest()), "weights"), runner)

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
