"""Progress of long work for a person: a live line in a terminal, plain lines elsewhere. All of it goes to stderr."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import psutil
from rich import progress as bars
from rich.console import Console
from rich.text import Text

_INTERVAL_S = 30.0  # between two lines of a stage
_MINUTE_S = 60.0
_SMALLEST_FRACTION = 0.01  # from which the time left can be told

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Progress:
    """The finished fraction of some work, told to a listener; the work can be a part of a larger one."""

    listener: Callable[[float], None]
    start: float = 0.0
    share: float = 1.0

    def advance_to(self, fraction: float) -> None:
        """Report that this fraction of the work is done, from 0 to 1."""
        self.listener(self.start + self.share * min(fraction, 1.0))

    def part(self, start: float, stop: float) -> Progress:
        """Return the progress of the part that lies between two fractions of this work."""
        return Progress(self.listener, self.start + self.share * start, self.share * (stop - start))

    def parts(self, count: int) -> list[Progress]:
        """Return the progress of equal parts that follow one another."""
        return [self.part(index / count, (index + 1) / count) for index in range(count)]

    def together(self, *shares: float) -> list[Progress]:
        """Return the progress of parts that run at once, each a share of this work."""
        done = dict.fromkeys(range(len(shares)), 0.0)

        def listener(index: int) -> Callable[[float], None]:
            def tell(fraction: float) -> None:
                done[index] = fraction
                self.advance_to(sum(share * done[at] for at, share in enumerate(shares)))

            return tell

        return [Progress(listener(index)) for index in range(len(shares))]


SILENT = Progress(lambda _: None)


def memory_bytes() -> int:
    """Return the resident memory of this process and its children, without mapped files, which they share."""
    mine, total = psutil.Process(), 0
    for process in (mine, *mine.children(recursive=True)):
        with contextlib.suppress(psutil.Error):
            found = process.memory_info()
            total += found.rss - getattr(found, "shared", 0)
    return total


class StageProgress:
    """The display of one run's stages; used as a context manager, by one thread.

    Args:
        console: stderr if None.
        clock: seconds, monotonic.
        interval_s: the time between two lines of a stage, if the console is no terminal.
        memory: the bytes that the run takes now.
    """

    def __init__(
        self,
        console: Console | None = None,
        *,
        clock: Clock = time.monotonic,
        interval_s: float = _INTERVAL_S,
        memory: Callable[[], int] = memory_bytes,
    ) -> None:
        self._console = console or Console(stderr=True)
        self._clock = clock
        self._interval_s = interval_s
        self._memory = memory
        self._live: bars.Progress | None = None

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live = bars.Progress(
                bars.SpinnerColumn(finished_text="✓"),
                bars.TextColumn("{task.description}"),
                bars.BarColumn(bar_width=30),
                bars.TaskProgressColumn(),
                bars.TimeElapsedColumn(),
                _LeftColumn(),
                _MemoryColumn(self._memory, self._clock),
                console=self._console,
                get_time=self._clock,
            )
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    @contextlib.contextmanager
    def stage(self, title: str) -> Iterator[Progress]:
        """Show a stage until the block is left; the block receives its progress."""
        live = self._live
        if live is None:
            started = self._clock()
            self.note(f"{title} ...")
            with _Lines(title, self.note, self._clock, self._interval_s, self._memory) as lines:
                yield Progress(lines.advance_to)
            self.note(f"{title}: {self._clock() - started:.1f} s")
            return
        task = live.add_task(title, total=None)
        yield Progress(lambda fraction: live.update(task, total=1.0, completed=fraction))
        live.update(task, total=1.0, completed=1.0)

    def note(self, text: str) -> None:
        """Print one line that stays."""
        self._console.print(text, highlight=False, soft_wrap=True)


class _Lines:
    """The lines of one stage in a log, one an interval: from its own thread, for work may report nothing for long."""

    def __init__(
        self, title: str, note: Callable[[str], None], clock: Clock, interval_s: float, memory: Callable[[], int]
    ) -> None:
        self._title, self._note, self._clock, self._memory = title, note, clock, memory
        self._interval_s = interval_s
        self._started = self._said = clock()
        self._fraction = 0.0
        self._lock = threading.Lock()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._tick, name="progress", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self._done.set()
        self._thread.join()

    def advance_to(self, fraction: float) -> None:
        """Note the fraction, and print a line if one is due."""
        with self._lock:
            self._fraction = fraction
        self._print_if_due()

    def _tick(self) -> None:
        while not self._done.wait(self._interval_s):
            self._print_if_due()

    def _print_if_due(self) -> None:
        with self._lock:
            now = self._clock()
            if now - self._said < self._interval_s:
                return
            self._said, fraction = now, self._fraction
        elapsed_s = now - self._started
        left_s = _left_s(fraction, elapsed_s)
        done = f"{_duration(elapsed_s)} so far" if left_s is None else f"{fraction:.0%}, {_duration(left_s)} left"
        self._note(f"{self._title}: {done}, {_gigabytes(self._memory())}")


class _LeftColumn(bars.ProgressColumn):
    """The time that a stage still takes, once it can be told."""

    def render(self, task: bars.Task) -> Text:
        left_s = None if task.finished else _left_s(task.completed, task.elapsed or 0.0)
        return Text("" if left_s is None else f"{_duration(left_s)} left")


class _MemoryColumn(bars.ProgressColumn):
    """The memory of a stage that runs, looked up once a second: rich asks ten times, for every line."""

    def __init__(self, memory: Callable[[], int], clock: Clock) -> None:
        super().__init__()
        self._memory, self._clock = memory, clock
        self._asked_at: float | None = None
        self._shown = ""

    def render(self, task: bars.Task) -> Text:
        if task.finished:
            return Text("")
        now = self._clock()
        if self._asked_at is None or now - self._asked_at >= 1.0:
            self._asked_at, self._shown = now, _gigabytes(self._memory())
        return Text(self._shown)


def _left_s(fraction: float, elapsed_s: float) -> float | None:
    return elapsed_s * (1 - fraction) / fraction if fraction >= _SMALLEST_FRACTION else None


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 2 * _MINUTE_S else f"{seconds / _MINUTE_S:.0f} min"


def _gigabytes(size_bytes: int) -> str:
    return f"{size_bytes / 1e9:.1f} GB"
