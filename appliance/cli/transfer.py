"""A progress bar for an upload: live in a terminal, silent elsewhere; on standard error."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn


@contextlib.contextmanager
def transfer_bar(title: str, *, when_sent: str = "checked and tried there") -> Iterator[Callable[[int, int], None]]:
    """Show a bar until the block is left; the function takes the bytes sent and those of the whole upload."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(title, total=None)

        def show(done: int, total: int) -> None:
            said = f"{title}: {when_sent}" if done == total else title
            progress.update(task, completed=done, total=total, description=said)

        yield show
