"""The keys of one JSON object or metadata block: each is read, known not to matter, or refused by name.

A key that changes the model is required. A key that a published checkpoint may leave out is accepted only with the
value that its absence means. So a lost or renamed key never gives another model.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from appliance.errors import QuantizeError

_SHOWN_CHARACTERS = 60
_LEAST_KERNEL = 2  # a convolution over one token keeps no state


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object of a file.

    Raises:
        QuantizeError: absent or not a JSON object.
    """
    value = read_json_value(path)
    if not isinstance(value, dict):
        raise QuantizeError(f"{path.name} is not a JSON object; copy the checkpoint again")
    return value


def read_json_value(path: Path) -> Any:
    """Return the JSON value of a file.

    Raises:
        QuantizeError: absent, not JSON, or an object that names a key twice.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_unique)
    except (FileNotFoundError, IsADirectoryError) as err:
        raise QuantizeError(f"the checkpoint has no {path.name}") from err
    except _RepeatedKey as err:
        raise QuantizeError(f"{path.name} names {err.args[0]!r} twice; keep the right one") from err
    except (ValueError, RecursionError) as err:
        raise QuantizeError(f"{path.name} is not JSON; copy the checkpoint again") from err


class _RepeatedKey(Exception):
    """A JSON object with one key twice."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        raise _RepeatedKey(next(name for name in names if names.count(name) > 1))
    return found


def shown(value: object) -> str:
    """Return a value as a message shows it, cut where it is long."""
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..."


class Fields:
    """One object's keys; null counts as absent. `left_out` refuses every key that was not asked for.

    `defaulted` names the absent keys for which a default was taken.
    """

    def __init__(self, raw: Mapping[str, Any], where: str, family: str) -> None:
        self.where = where
        self.family = family
        self.defaulted: list[str] = []
        self._raw = raw
        self._known: set[str] = set()

    def has(self, name: str) -> bool:
        """Return True if the key is there and not null."""
        return self._raw.get(name) is not None

    def names(self) -> frozenset[str]:
        """Return all keys, also those that are null."""
        return frozenset(self._raw)

    def value(self, name: str) -> Any:
        """Return the key's value, or None; the caller checks it."""
        self._known.add(name)
        return self._raw.get(name)

    def _or_default(self, name: str, default: Any) -> Any:
        value = self.value(name)
        if value is None and default is not None:
            self.defaulted.append(name)
        return default if value is None else value

    def count(self, name: str, default: int | None = None) -> int:
        """Return a positive whole number."""
        value = self._or_default(name, default)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise QuantizeError(f"{name} in {self.where} is {shown(value)}; a positive number is needed")
        return value

    def number(self, name: str, *, least: float = 0.0) -> float:
        """Return a finite number above `least`."""
        value = self.value(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value <= least:
            raise QuantizeError(f"{name} in {self.where} is {shown(value)}; a number above {least:g} is needed")
        return float(value)

    def flag(self, name: str, default: bool | None = None) -> bool:
        """Return true or false."""
        value = self._or_default(name, default)
        if not isinstance(value, bool):
            raise QuantizeError(f"{name} in {self.where} is {shown(value)}; true or false is needed")
        return value

    def choice(self, name: str, known: Collection[str], default: str | None = None) -> str:
        """Return a word out of the known ones."""
        value = self._or_default(name, default)
        if not isinstance(value, str) or value not in known:
            listed = " and ".join(sorted(known))
            only = f"only {next(iter(known))!r} is known" if len(known) == 1 else f"known are {listed}"
            raise QuantizeError(f"{name} in {self.where} is {shown(value)}; {only}")
        return value

    def token(self, name: str, vocab_size: int) -> int | None:
        """Return a token's id within the vocabulary, or None."""
        value = self.value(name)
        if value is not None:
            self.check_token(name, value, vocab_size)
        return value if isinstance(value, int) else None

    def tokens(self, name: str, vocab_size: int) -> tuple[int, ...]:
        """Return the ids of one token or of several."""
        value = self.value(name)
        found = value if isinstance(value, list) else [] if value is None else [value]
        for token in found:
            self.check_token(name, token, vocab_size)
        return tuple(found)

    def check_token(self, name: str, value: object, vocab_size: int) -> None:
        """Refuse an id that the vocabulary does not have."""
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < vocab_size:
            raise QuantizeError(
                f"{name} in {self.where} is {shown(value)}; token ids of this model go from 0 to {vocab_size - 1}"
            )

    def fixed(self, name: str, known: object) -> None:
        """Accept absence or this one value, which means the same."""
        value = self.value(name)
        if value is not None and (value != known or isinstance(value, bool) is not isinstance(known, bool)):
            raise QuantizeError(f"{name} in {self.where} is {shown(value)}; only {shown(known)} is known")

    def absent(self, name: str) -> None:
        """Accept absence, null, false, zero or an empty value."""
        if value := self.value(name):
            raise QuantizeError(f"{self.where} sets {name} to {shown(value)}; such models are not known yet")

    def kernel(self, name: str) -> int:
        """Return the tokens that a convolution sees.

        Raises:
            QuantizeError: absent, or so few that it keeps no state.
        """
        size = self.count(name)
        if size < _LEAST_KERNEL:
            raise QuantizeError(f"{name} in {self.where} is {size}; at least {_LEAST_KERNEL} is needed")
        return size

    def is_written_since(self, since: tuple[int, int]) -> bool:
        """Return True if the transformers that wrote the file is not older, so that a key's absence is a loss."""
        match = re.match(r"(\d+)\.(\d+)", str(self.value("transformers_version") or ""))
        return match is not None and (int(match[1]), int(match[2])) >= since

    def missing(self, name: str, why: str) -> QuantizeError:
        """Return the refusal of an absent key."""
        return QuantizeError(f"{self.where} has no {name}, {why}; add it as the model was trained")

    def left_out(self, ignored: Mapping[str, str]) -> dict[str, str]:
        """Return the reasons of the keys that are there and not needed.

        Raises:
            QuantizeError: a key is neither read nor known not to matter.
        """
        reasons: dict[str, str] = {}
        for name, value in self._raw.items():
            if name in self._known:
                continue
            if name not in ignored:
                raise QuantizeError(
                    f"{self.where} has {name!r}: {shown(value)}, which is not known for {self.family}; "
                    "remove the key if the model computes the same without it"
                )
            reasons[name] = ignored[name]
        return reasons
