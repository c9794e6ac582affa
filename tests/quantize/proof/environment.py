"""The environment with transformers 5, which `make proof` installs outside the clone."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from tests.clients.environments import cache_folder

_HERE = Path(__file__).parent


def proof_python() -> Path:
    """Return the environment's Python; skip the test where nobody installed it."""
    digest = hashlib.sha256((_HERE / "requirements.lock").read_bytes()).hexdigest()[:16]
    folder = cache_folder() / f"proof-{digest}"
    if not (folder / "complete").is_file():
        pytest.skip("transformers 5 is not installed by itself; `make proof` does that")
    return folder / "bin" / "python"
