"""A process of the proofs' environment that publishes random models: it loads transformers 5 once for all of them."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tests.quantize.proof.environment import proof_python

_PROGRAM = Path(__file__).with_name("publish.py")


@dataclass(frozen=True, slots=True)
class Publisher:
    """The process, and the file with what it says."""

    process: subprocess.Popen[str]
    errors: Path

    @classmethod
    @contextlib.contextmanager
    def started(cls, errors: Path) -> Iterator[Publisher]:
        """Start the process; skip the test where nobody installed transformers 5."""
        command = [str(proof_python()), "-I", str(_PROGRAM)]
        with (
            errors.open("w") as file,
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=file, text=True) as process,
        ):
            yield cls(process, errors)

    def publish(self, folder: Path, config: dict[str, Any], *, is_nested: bool, rows: Sequence[np.ndarray]) -> None:
        """Write a random model of this configuration into a new folder, and logits.npz for rows of tokens (S,)."""
        folder.mkdir()
        request = {"config": config, "is_nested": is_nested, "rows": [row.tolist() for row in rows]}
        (folder / "request.json").write_text(json.dumps(request))
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{folder}\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == f"{folder}\n", self.errors.read_text()[-2000:]
