"""The second turn of a chat, the same after a restart from the disk, and the memory of a slot, shape beside shape.

Run as `python -m tests.shapes.turns [--width 1024] [--tokens 2000] [--home FOLDER]`. Times are those of the first
token, the median of turns that alternate between the shapes; on a busy machine only their ratios mean something.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from appliance.engine.checkpoints import DISTANCE
from appliance.engine.engine import Engine
from appliance.engine.graphs.slot_arrays import layout_of
from appliance.engine.runtime.kept_slots import KeptFolder, KeptSlots
from appliance.engine.runtime.slot_archive import SlotArchive
from appliance.engine.types import Request, Sampled, SamplingParams
from tests.shapes.shapes import SHAPES, Shaped, shaped

_NEW, _ANSWER = 48, 16
_CHECKPOINT_BYTES = 256 << 20


@dataclass(frozen=True, slots=True)
class Turn:
    """The tokens of a prompt that were read, and the seconds until its first token."""

    num_read: int
    first_s: float


@dataclass(slots=True)
class Chat:
    """A chat with a model whose idle conversations go to a folder."""

    model: Shaped
    folder: Path
    num_slots: int = 2
    capacity: int = 8192
    tokens: list[int] = field(default_factory=list)
    engine: Engine = field(init=False)
    archive: SlotArchive = field(init=False)

    def __post_init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Load the model, as a service does that starts."""
        runner = self.model.runner(num_slots=self.num_slots, capacity=self.capacity, checkpoint_bytes=_CHECKPOINT_BYTES)
        kept = KeptSlots(KeptFolder(self.folder, 8 << 30), name=self.model.name, model="weights")
        self.archive = SlotArchive(kept, runner)
        self.engine = Engine(runner, archive=self.archive)
        self.archive.restore(self.engine.slots)

    def stop(self) -> None:
        """Unload it, as a service does that stops."""
        self.archive.save(self.engine.slots)

    def say(self, seed: int, num_new: int, *, drops: int = 0) -> Turn:
        """Take a turn of so many new tokens; `drops`: tokens at the end of the history that are written otherwise."""
        del self.tokens[len(self.tokens) - drops :]
        self.tokens += random.Random(seed).choices(range(3, self.model.spec.vocab_size), k=num_new)
        params = SamplingParams(temperature=0.0, max_tokens=_ANSWER)
        self.engine.add(Request("turn", tuple(self.tokens), params))
        before, begin_s, first_s = self._num_read, time.perf_counter(), 0.0
        while self.engine.has_work:
            for output in self.engine.step():
                if isinstance(output, Sampled):
                    first_s = first_s or time.perf_counter() - begin_s
                    self.tokens.append(output.token)
        return Turn(self._num_read - before, first_s)

    @property
    def _num_read(self) -> int:
        stats = self.engine.stats()
        return stats.num_prompt_tokens - stats.num_cached_tokens


def slot_growth(model: Shaped, num_tokens: int, *, num_slots: int = 4) -> tuple[float, float]:
    """Return the bytes by which each further slot made a process of its own grow, and the computed ones."""
    spawn = multiprocessing.get_context("spawn")
    with spawn.Pool(1) as pool:
        return pool.apply(_slot_growth, (model, num_tokens, num_slots))


def _slot_growth(model: Shaped, num_tokens: int, num_slots: int) -> tuple[float, float]:
    runner = model.runner(num_slots=num_slots + 1, capacity=num_tokens + 1, checkpoint_bytes=0)
    engine, process, params = Engine(runner), psutil.Process(), SamplingParams(temperature=0.0, max_tokens=1)
    sizes = []
    for slot in range(num_slots + 1):
        prompt = random.Random(slot).choices(range(3, model.spec.vocab_size), k=num_tokens)
        engine.add(Request("fill", tuple(prompt), params, cache_key=f"{slot}"))
        while engine.has_work:
            engine.step()
        sizes.append(process.memory_info().rss)  # after the first one the buffers of a chunk are there
    layout = layout_of(model.file().path.read_bytes())
    return (sizes[-1] - sizes[0]) / num_slots, layout.token_bytes() * num_tokens + layout.state_bytes


def measure(models: Sequence[Shaped], folder: Path, *, num_tokens: int, num_turns: int) -> None:
    """Print what the turns of each model cost."""
    chats = [Chat(model, folder) for model in models]
    firsts = [chat.say(1, num_tokens) for chat in chats]
    turns: list[list[Turn]] = [[] for _ in chats]
    for turn in range(num_turns):
        for i, chat in enumerate(chats):
            turns[i].append(chat.say(10 + turn, _NEW))
    for chat in chats:
        chat.stop()
        chat.start()
    after = [chat.say(99, _NEW) for chat in chats]
    plain_s = statistics.median(turn.first_s for turn in turns[0])
    for i, chat in enumerate(chats):
        first_s = statistics.median(turn.first_s for turn in turns[i])
        most_read = max(turn.num_read for turn in turns[i])
        grown, computed = slot_growth(chat.model, num_tokens)
        _tell(
            f"{chat.model.name:16} prompt: {firsts[i].num_read} read, {firsts[i].first_s:.2f} s; "
            f"turn of {_NEW}: {most_read} read, {first_s * 1e3:.0f} ms, {first_s / plain_s:.2f} x {models[0].name}; "
            f"after a restart: {after[i].num_read} read, {after[i].first_s * 1e3:.0f} ms; "
            f"slot: {grown / 1e6:.2f} MB, {grown / computed:.3f} x the computed {computed / 1e6:.2f}"
        )
        if max(most_read, after[i].num_read) > _NEW + DISTANCE:
            raise SystemExit(f"{chat.model.name} reads more than the new message and one checkpoint's distance")


def _tell(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main() -> None:
    """Read the options and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path, help="folder for the models, which are kept there")
    parser.add_argument("--width", type=int, default=1024, help="1024 makes models of about 0.3 G values")
    parser.add_argument("--tokens", type=int, default=2000, help="of the first prompt")
    parser.add_argument("--turns", type=int, default=7)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        home = args.home or Path(scratch)
        models = [shaped(home, f"{name}-{args.width}", shape(args.width)) for name, shape in SHAPES.items()]
        measure(models, Path(scratch) / "conversations", num_tokens=args.tokens, num_turns=args.turns)


if __name__ == "__main__":
    main()
