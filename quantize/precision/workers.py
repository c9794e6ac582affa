"""Worker processes, one BLAS thread each unless they set more: tasks and results are lines of JSON.

Arrays lie in files that both map.

A worker ignores Ctrl-C, which its parent hears: leaving the context ends all workers at once. A worker whose parent is
gone ends after its task.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self, cast

from appliance.errors import QuantizeError

Message = Mapping[str, Any]

_ROOT = Path(__file__).parents[2]  # from which a worker imports what this process has imported
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


class WorkerDiedError(QuantizeError):
    """A worker that ended by itself or was ended, as the system does when memory is short."""


class Workers:
    """Some processes that run one task at a time each; owned by one thread, and used as a context manager.

    Args:
        module: a module whose `__main__` part calls `serve`.
        setup: the first line for each worker.
        count: the number of processes.
        title: the work's name in messages.
    """

    def __init__(self, module: str, setup: Message, count: int, title: str) -> None:
        self._module = module
        self._setup = setup
        self._count = count
        self._title = title
        self._waiting: deque[Message] = deque()
        self._idle: list[_Worker] = []
        self._busy = selectors.DefaultSelector()

    def __enter__(self) -> Self:
        try:
            for _ in range(self._count):
                worker = _Worker(self._module, self._title)
                self._idle.append(worker)
                worker.send(self._setup)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self._end()

    @property
    def num_pending(self) -> int:
        """The number of tasks without a result."""
        return len(self._waiting) + len(self._busy.get_map())

    def submit(self, task: Message) -> None:
        """Give a task to an idle worker, or to the next one that is."""
        self._waiting.append(task)
        self._dispatch()

    def next_result(self) -> Message:
        """Wait for one result.

        Raises:
            QuantizeError: the task was refused, or its worker died.
            OSError: the worker could not write.
        """
        key, _ = self._busy.select()[0]
        worker = cast("_Worker", key.data)
        self._busy.unregister(key.fileobj)
        self._idle.append(worker)  # also after a task that was refused
        result = worker.receive()
        self._dispatch()
        return result

    def _dispatch(self) -> None:
        while self._waiting and self._idle:
            worker = self._idle.pop()
            self._busy.register(worker.replies, selectors.EVENT_READ, worker)
            worker.send(self._waiting.popleft())

    def _end(self) -> None:
        busy = [cast("_Worker", key.data) for key in self._busy.get_map().values()]
        for worker in [*self._idle, *busy]:
            worker.end()
        self._busy.close()


class Inline:
    """The same for work that is not worth a process: each task runs here when its result is asked for."""

    def __init__(self, run: Callable[[Message], Message]) -> None:
        self._run = run
        self._waiting: deque[Message] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self._waiting.clear()

    @property
    def num_pending(self) -> int:
        """The number of tasks without a result."""
        return len(self._waiting)

    def submit(self, task: Message) -> None:
        """Keep a task."""
        self._waiting.append(task)

    def next_result(self) -> Message:
        """Run the task that was kept first."""
        return self._run(self._waiting.popleft())


def serve(start: Callable[[Message], Callable[[Message], Message]]) -> None:
    """Run tasks in a worker until its parent closes the pipe; `start` gets the setup and returns the function."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # a library that prints must not cut a reply in two
    run = start(json.loads(sys.stdin.readline()))
    for line in sys.stdin:
        try:
            reply: Message = {"result": run(json.loads(line))}
        except QuantizeError as err:
            reply = {"refused": err.message}
        except OSError as err:
            reply = {"errno": err.errno, "strerror": err.strerror or str(err)}
        print(json.dumps(reply), file=replies, flush=True)


class _Worker:
    """One process and its pipes."""

    def __init__(self, module: str, title: str) -> None:
        self._title = title
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - `end` closes it
        paths = [str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        self._process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-P", "-m", module],
            env={**os.environ, **_ONE_THREAD, "PYTHONPATH": os.pathsep.join(paths)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            process_group=0,  # a terminal's Ctrl-C goes to the parent alone
        )

    @property
    def replies(self) -> IO[bytes]:
        """The pipe with one line for each task."""
        assert self._process.stdout is not None
        return self._process.stdout

    def send(self, message: Message) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError as err:
            raise self._died() from err

    def receive(self) -> Message:
        line = self.replies.readline()
        if not line.endswith(b"\n"):
            raise self._died()
        reply = json.loads(line)
        if "refused" in reply:
            raise QuantizeError(reply["refused"])
        if "errno" in reply:
            raise OSError(reply["errno"], reply["strerror"])
        result: Message = reply["result"]
        return result

    def end(self) -> None:
        self._process.kill()
        # A message that the worker never read is still in the pipe's buffer.
        with contextlib.suppress(BrokenPipeError), self._process:
            pass
        self._said.close()

    def _died(self) -> WorkerDiedError:
        code = self._process.wait()
        if code < 0:
            short = ", as when memory is short" if code == -signal.SIGKILL else ""
            return WorkerDiedError(
                f"a worker of {self._title} was ended by {signal.Signals(-code).name}{short}; run the build again"
            )
        self._said.seek(0)
        last = self._said.read().decode("utf-8", "replace").strip().splitlines() or ["it said nothing"]
        return WorkerDiedError(f"a worker of {self._title} ended with code {code}: {last[-1]}")
