"""Pairs of sentences that people have rated, and the correlation of a model's cosines with those ratings."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from appliance.errors import QuantizeError

_FIELDS = ("sentence1", "sentence2", "score")
_FEWEST = 10


@dataclass(frozen=True, slots=True)
class RatedPair:
    """Two sentences, and their similarity on any scale."""

    first: str
    second: str
    rating: float


def read_rated_pairs(path: Path) -> list[RatedPair]:
    """Read .jsonl, .csv or .tsv: fields sentence1, sentence2 and score, or three columns in this order without a head.

    Raises:
        QuantizeError: absent, another form, or too few pairs.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            lines = _objects(file) if path.suffix == ".jsonl" else _columns(file, has_tabs=path.suffix == ".tsv")
            pairs = [RatedPair(str(first), str(second), float(str(rating))) for first, second, rating in lines]
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as err:
        raise QuantizeError(f"{path.name} is no file of rated sentence pairs: sentence1, sentence2, score") from err
    if len(pairs) < _FEWEST:
        raise QuantizeError(f"{path.name} holds {len(pairs)} rated pairs; at least {_FEWEST} are needed")
    return pairs


def spearman(pairs: Sequence[RatedPair], embed: Callable[[Sequence[str]], NDArray[np.float32]]) -> float:
    """Return the correlation of the ranks of cosines and ratings."""
    vectors = embed([text for pair in pairs for text in (pair.first, pair.second)])
    cosines = (vectors[0::2] * vectors[1::2]).sum(axis=1)
    ratings = np.array([pair.rating for pair in pairs])
    return float(np.corrcoef(ranks(cosines), ranks(ratings))[0, 1])


def ranks(values: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return ranks from 0; equal values share the mean of their ranks."""
    ordered = np.sort(values)
    first, last = np.searchsorted(ordered, values, "left"), np.searchsorted(ordered, values, "right")
    return np.asarray((first + last - 1) / 2, np.float64)


def _objects(lines: Iterator[str]) -> Iterator[tuple[object, ...]]:
    for line in lines:
        if line.strip():
            entry = json.loads(line)
            yield tuple(entry[field] for field in _FIELDS)


def _columns(lines: Iterator[str], *, has_tabs: bool) -> Iterator[tuple[object, ...]]:
    rows = csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE) if has_tabs else csv.reader(lines)
    places = [0, 1, 2]
    for number, row in enumerate(rows):
        if number == 0 and set(_FIELDS) <= set(row):
            places = [row.index(field) for field in _FIELDS]
        elif row:
            if len(row) <= max(places):
                raise ValueError(f"line {number + 1} has {len(row)} columns")
            yield tuple(row[place] for place in places)
