"""What a person sees of long work: a live line in a terminal, plain lines elsewhere. All of it goes to stderr."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TaskProgressColumn, TextColumn, TimeElapsedColumn


class StageProgress:
    """The stages of one run; used as a context manager, by one thread."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._live: Progress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live = Progress(
                SpinnerColumn(finished_text="✓"),
                TextColumn("{task.description}"),
                BarColumn(bar_width=30),
                TaskProgressColumn(),
                TimeElapsedColumn(),
                console=self._console,
            )
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    @contextlib.contextmanager
    def stage(self, title: str) -> Iterator[None]:
        """Show that this work is under way until the block is left."""
        started = time.monotonic()
        if self._live is None:
            self._console.print(f"{title} ...", highlight=False, soft_wrap=True)
            yield
            self._console.print(f"{title}: {time.monotonic() - started:.1f} s", highlight=False, soft_wrap=True)
            return
        self._task = self._live.add_task(title, total=None)
        yield
        self._live.update(self._task, total=1.0, completed=1.0)
        self._task = None

    def advance_to(self, fraction: float) -> None:
        """How much of the current stage is done, 0 to 1; only a terminal shows it."""
        if self._live is not None and self._task is not None:
            self._live.update(self._task, total=1.0, completed=min(fraction, 1.0))

    def note(self, text: str) -> None:
        """One line that stays."""
        self._console.print(text, highlight=False, soft_wrap=True)
