"""OpenAI's vocabulary cl100k_base, of which only the way back is needed: token ids become the text they stand for.

LangChain and others send embeddings' inputs as its ids, whatever the model is called. The table is the file that OpenAI
publishes: from a setting, as it was added when Lantern was built (images/token_table.py), or out of another package.
"""

from __future__ import annotations

import base64
import gzip
import importlib.util
import threading
from array import array
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

from appliance.errors import ConfigError, InvalidRequestError

_SPECIAL = {
    100257: b"<|endoftext|>",
    100258: b"<|fim_prefix|>",
    100259: b"<|fim_middle|>",
    100260: b"<|fim_suffix|>",
    100276: b"<|endofprompt|>",
}
IN_PACKAGES = (
    ("lantern_tables", "cl100k_base.tiktoken"),
    ("bpe_openai", "data/cl100k_base.tiktoken.gz"),
    ("tiktoken_ext", "data/cl100k_base.tiktoken"),
    ("litellm", "litellm_core_utils/tokenizers/9b5ad71b2ce5302211f9c61530b329a4922fc6a4"),
)


class Cl100k:
    """The table, read when it is first needed; safe on several threads, never on the event loop."""

    def __init__(self, path: Path | None = None, *, packages: Sequence[tuple[str, str]] = IN_PACKAGES) -> None:
        """`path`: the table as published, plain or as .gz; None looks in these packages, each with the file's name."""
        self._path = path
        self._packages = packages
        self._lock = threading.Lock()
        self._bytes = b""
        self._ends = array("I")

    def text(self, tokens: Sequence[int], *, param: str) -> str:
        """Return the text of the tokens; half a character at an end of it is replaced.

        Raises:
            InvalidRequestError: there is no table, or a token is not in it.
        """
        with self._lock:
            if not self._ends:
                self._read(param)
        return b"".join(self._token(token, param) for token in tokens).decode("utf-8", "replace")

    def _token(self, token: int, param: str) -> bytes:
        if token in _SPECIAL:
            return _SPECIAL[token]
        if not 0 <= token < len(self._ends):
            raise InvalidRequestError(f"Invalid '{param}': {token} is no token of cl100k_base.", param=param)
        return self._bytes[self._ends[token - 1] if token else 0 : self._ends[token]]

    def _read(self, param: str) -> None:
        path = self._path or _installed(self._packages)
        if path is None:
            raise InvalidRequestError(
                f"Invalid '{param}': token arrays are read as cl100k_base, and this device has no table of it. "
                'Send text, name the table in the setting embeddings.token_table, or set embeddings.token_ids = "own" '
                "if the tokens are those of the model.",
                param=param,
            )
        try:
            entries = parse(path)
        except ConfigError as err:
            raise InvalidRequestError(f"Invalid '{param}': {err}", param=param) from err
        self._bytes = b"".join(entries)
        self._ends = array("I", accumulate(len(entry) for entry in entries))


def parse(path: Path) -> list[bytes]:
    """Return the bytes of each token of a table in OpenAI's form: lines of base64 and the token's id.

    Raises:
        ConfigError: the file cannot be read, or is no such table.
    """
    try:
        data = path.read_bytes()
        lines = (gzip.decompress(data) if path.suffix == ".gz" else data).split(b"\n")
        pairs = [line.split() for line in lines if line]
        entries = [base64.b64decode(word, validate=True) for word, _ in pairs]
        is_ordered = [int(number) for _, number in pairs] == list(range(len(pairs)))
    except (OSError, ValueError, EOFError) as err:
        raise ConfigError(f"{path} is no table of tokens ({err}); set embeddings.token_table to another.") from err
    if not entries or not is_ordered:
        raise ConfigError(f"{path} is no table of tokens in order; set embeddings.token_table to another.")
    return entries


def _installed(packages: Sequence[tuple[str, str]]) -> Path | None:
    for package, name in packages:
        spec = importlib.util.find_spec(package)
        for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
            if (Path(folder) / name).is_file():
                return Path(folder) / name
    return None
