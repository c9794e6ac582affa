"""OpenAI's own API document, which is not in this repository: LANTERN_OPENAI_DOCUMENT names a copy of it.

OpenAI publishes it under the MIT licence in its repository `openai-openapi`; the tests read it as JSON, whole or cut to
the paths that Lantern serves.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

_VARIABLE = "LANTERN_OPENAI_DOCUMENT"


def openai_document() -> Path:
    """Return the document's path; skip the test if none is named, fail if the named one is absent."""
    named = os.environ.get(_VARIABLE)
    if not named:
        pytest.skip(f"set {_VARIABLE} to OpenAI's API document as JSON to compare ours with it")
    path = Path(named).resolve()
    if not path.is_file():
        pytest.fail(f"{_VARIABLE} is {named}, which is not a file")
    return path
