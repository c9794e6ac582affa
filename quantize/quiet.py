"""A block in which foreign libraries print nothing but errors."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import warnings
from collections.abc import Iterator

_TALKATIVE = ("transformers", "optimum", "torch", "accelerate", "huggingface_hub", "gguf", "root")
_SWITCHES = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TQDM_DISABLE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
}


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Suppress warnings, progress bars and log lines below errors, also while a library is imported."""
    for name, value in _SWITCHES.items():
        os.environ.setdefault(name, value)
    # Even a disabled bar starts tqdm's monitor thread, which never ends.
    importlib.import_module("tqdm").tqdm.monitor_interval = 0
    loggers = [logging.getLogger(name) for name in _TALKATIVE]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
