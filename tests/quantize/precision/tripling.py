"""A worker for tests: it multiplies numbers, and fails in every way on request."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import NoReturn

from appliance.errors import QuantizeError
from quantize.precision.workers import Message, serve


def start(setup: Message) -> Callable[[Message], Message]:
    """Return the function that multiplies by the setup's factor."""

    def run(task: Message) -> Message:
        if "ask" in task:
            return _ANSWERS[task["ask"]]()
        number = task["number"] + 0
        return {"number": setup["factor"] * number}

    return run


def _threads() -> Message:
    import torch

    print("a library that talks")  # noqa: T201
    return {"threads": torch.get_num_threads()}


def _die() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def _refuse() -> NoReturn:
    raise QuantizeError("the weights are damaged")


def _hang() -> NoReturn:
    while True:
        signal.pause()


_ANSWERS: dict[str, Callable[[], Message]] = {"threads": _threads, "die": _die, "refuse": _refuse, "hang": _hang}

if __name__ == "__main__":
    serve(start)
