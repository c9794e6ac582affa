"""Server-sent events, however the network cuts them."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.cli.sse_reader import SSEReader
from appliance.errors import LanternError

_STREAM = 'data: {"a": "é👋"}\n\n: ping\r\n\r\nevent: x\rdata:two\rdata: lines\r\rid: 7\n\ndata: [DONE]\n\n'.encode()
_EVENTS = ['{"a": "é👋"}', "two\nlines", "[DONE]"]


@given(st.lists(st.integers(0, len(_STREAM)), max_size=20))
def test_events_do_not_depend_on_where_the_bytes_are_cut(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(_STREAM)]
    reader = SSEReader()
    events = [event for start, end in itertools.pairwise(edges) for event in reader.feed(_STREAM[start:end])]
    assert events == _EVENTS


@given(st.lists(st.binary(max_size=60)))
def test_no_bytes_raise(chunks: list[bytes]) -> None:
    reader = SSEReader()
    for chunk in chunks:
        reader.feed(chunk)


def test_an_event_that_never_ends_is_an_error_before_the_memory_is_full() -> None:
    reader = SSEReader()
    for _ in range(4):
        reader.feed(b"data: " + b"x" * 1_000_000)
    with pytest.raises(LanternError, match="does not end"):
        reader.feed(b"x" * 1_000_000)


def test_an_event_without_its_empty_line_is_not_delivered() -> None:
    assert SSEReader().feed(b"data: half\n") == []
