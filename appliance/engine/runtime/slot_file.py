"""The keys, values and states of one slot as bytes: what an idle conversation needs to go on in another process.

    magic and format   LANTERN-SLOT 1
    header             its length (8 bytes, little endian), then JSON: model, owner, tokens, checkpoints, and name,
                       type and shape of each array
    arrays             their bytes, one after the other
    checksum           BLAKE2b of all before it, 32 bytes

Nothing of a file is believed before its checksum was verified, and nothing then that does not fit the model.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from appliance.engine.archive import Conversation

_MAGIC = b"LANTERN-SLOT 1\n"
_LENGTH_BYTES, _CHECKSUM_BYTES = 8, 32
_MOST_HEADER_BYTES = 8 << 20
_DTYPES = ("float32", "int8")

Arrays = Mapping[str, NDArray[np.generic]]


class SlotFileError(Exception):
    """The bytes are no slot of this model; the message tells why."""


@dataclass(frozen=True, slots=True)
class KeptState:
    """The state after the first `num_tokens` tokens of a slot."""

    num_tokens: int
    arrays: Arrays


@dataclass(frozen=True, slots=True)
class KeptSlot:
    """The tokens of an idle slot, whose owner's requests alone may reuse them.

    `arrays`: keys and values (kv_heads, tokens, head_dim) and states behind the last token, by the graph's inputs.
    """

    model: str
    cache_key: str
    tokens: tuple[int, ...]
    arrays: Arrays
    checkpoints: tuple[KeptState, ...] = ()


def to_parts(slot: KeptSlot) -> Iterator[bytes | memoryview]:
    """Yield the bytes of a slot piece by piece, the checksum last."""
    groups = [slot.arrays, *(kept.arrays for kept in slot.checkpoints)]
    header = json.dumps(
        {
            "model": slot.model,
            "cache_key": slot.cache_key,
            "tokens": slot.tokens,
            "checkpoints": [kept.num_tokens for kept in slot.checkpoints],
            "arrays": [[[name, a.dtype.name, a.shape] for name, a in group.items()] for group in groups],
        }
    ).encode()
    checksum = hashlib.blake2b(digest_size=_CHECKSUM_BYTES)
    pieces: Iterator[bytes | memoryview] = iter([_MAGIC, len(header).to_bytes(_LENGTH_BYTES, "little"), header])
    for piece in pieces:
        checksum.update(piece)
        yield piece
    for group in groups:
        for array in group.values():
            data = np.ascontiguousarray(array).data.cast("B")
            checksum.update(data)
            yield data
    yield checksum.digest()


def read_conversation(file: BinaryIO, model: str) -> Conversation:
    """Return what the header of a file says, which is unverified.

    Raises:
        SlotFileError: there is no header, or it is of another format or of another model.
    """
    begin = file.read(len(_MAGIC) + _LENGTH_BYTES)
    if len(begin) < len(_MAGIC) + _LENGTH_BYTES or begin[: len(_MAGIC)] != _MAGIC:
        raise SlotFileError("it has another format")
    length = int.from_bytes(begin[len(_MAGIC) :], "little")
    if not 0 < length <= _MOST_HEADER_BYTES:
        raise SlotFileError("its header has an impossible length")
    try:
        raw = _header(file.read(length), model)
        tokens, lengths = _numbers(raw["tokens"]), _numbers(raw["checkpoints"])
        return Conversation(str(raw["cache_key"]), tuple(tokens), tuple(lengths))
    except (ValueError, KeyError, TypeError, RecursionError) as err:
        raise SlotFileError(f"its header is not valid: {err}") from err


def from_bytes(data: memoryview, model: str) -> KeptSlot:
    """Return the slot in a file's bytes; its arrays are views of them.

    Raises:
        SlotFileError: it is cut, damaged, of another format or of another model.
    """
    start = len(_MAGIC) + _LENGTH_BYTES
    if len(data) < start + _CHECKSUM_BYTES or bytes(data[: len(_MAGIC)]) != _MAGIC:
        raise SlotFileError("it has another format")
    body, checksum = data[:-_CHECKSUM_BYTES], data[-_CHECKSUM_BYTES:]
    if hashlib.blake2b(body, digest_size=_CHECKSUM_BYTES).digest() != bytes(checksum):
        raise SlotFileError("its checksum is wrong: it is cut or damaged")
    length = int.from_bytes(data[len(_MAGIC) : start], "little")
    if not 0 < length <= min(_MOST_HEADER_BYTES, len(body) - start):
        raise SlotFileError("its header has an impossible length")
    try:
        raw = _header(bytes(body[start : start + length]), model)
        return _slot_of(raw, body[start + length :])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as err:
        raise SlotFileError(f"its header is not valid: {err}") from err


def _header(data: bytes, model: str) -> dict[str, object]:
    raw = json.loads(data)
    if not isinstance(raw, dict):
        raise TypeError("an object is expected")
    if raw["model"] != model:
        raise SlotFileError("it belongs to another version of the model, or to another form of it")
    return raw


def _numbers(values: object) -> list[int]:
    if not isinstance(values, list):
        raise TypeError("lists are expected")
    if not all(type(number) is int and number >= 0 for number in values):  # True is no number
        raise TypeError("numbers are expected")
    return values


def _slot_of(raw: dict[str, object], data: memoryview) -> KeptSlot:
    tokens, lengths, groups = _numbers(raw["tokens"]), _numbers(raw["checkpoints"]), raw["arrays"]
    if not isinstance(groups, list):
        raise TypeError("lists are expected")
    arrays, offset = [], 0
    for group in groups:
        found: dict[str, NDArray[np.generic]] = {}
        for name, dtype, shape in group:
            if dtype not in _DTYPES or not all(isinstance(dim, int) and dim >= 0 for dim in shape):
                raise ValueError(f"the array {name} has an unknown form")
            end = offset + math.prod(shape) * np.dtype(dtype).itemsize
            found[str(name)] = np.frombuffer(data[offset:end], dtype).reshape(shape)
            offset = end
        arrays.append(found)
    if offset != len(data) or len(arrays) != 1 + len(lengths):
        raise ValueError("the arrays do not fill the file")
    kept = tuple(KeptState(n, a) for n, a in zip(lengths, arrays[1:], strict=True))
    return KeptSlot(str(raw["model"]), str(raw["cache_key"]), tuple(tokens), arrays[0], kept)
