"""The TXT strings: what we send fits and comes back, what others send never raises and is never believed."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.discovery.record import (
    MAX_TXT_BYTES,
    Auth,
    ServiceRecord,
    State,
    clean_properties,
    instance_name,
    printable,
    txt_size_bytes,
)
from appliance.errors import DiscoveryError

_RECORDS = st.builds(
    ServiceRecord,
    device_id=st.from_regex(r"[0-9a-f]{16}", fullmatch=True),
    version=st.none() | st.from_regex(r"[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}", fullmatch=True),
    auth=st.sampled_from(Auth),
    apis=st.sampled_from([(), ("chat",), ("emb",), ("chat", "emb")]),
    num_models=st.integers(0, 9999),
    state=st.sampled_from(State),
    proto=st.sampled_from(["http", "https"]),
    path=st.from_regex(r"/[A-Za-z0-9/_-]{0,32}", fullmatch=True),
    fingerprint=st.none() | st.from_regex(r"[0-9a-f]{64}", fullmatch=True),
    tls_port=st.none() | st.integers(1, 65535),
)
_KEYS = st.sampled_from(
    [b"txtvers", b"path", b"proto", b"auth", b"api", b"models", b"id", b"ver", b"fp", b"st", b"PATH"]
)
_FOREIGN = st.dictionaries(_KEYS | st.binary(max_size=20), st.none() | st.binary(max_size=255), max_size=40)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u202e]")


@given(_RECORDS)
def test_what_is_announced_is_what_is_read(record: ServiceRecord) -> None:
    txt = record.to_txt()
    assert ServiceRecord.from_txt(dict(txt)) == record
    assert next(iter(txt.items())) == (b"txtvers", b"1")
    assert all(len(key) <= 9 for key in txt)
    assert txt_size_bytes(txt) <= MAX_TXT_BYTES


@given(_FOREIGN)
def test_foreign_strings_give_a_record_that_we_could_have_sent(txt: dict[bytes, bytes | None]) -> None:
    record = ServiceRecord.from_txt(txt)
    assert ServiceRecord.from_txt(dict(record.to_txt())) == record


@given(_FOREIGN)
def test_foreign_strings_are_safe_to_print(txt: dict[bytes, bytes | None]) -> None:
    for key, value in clean_properties(txt).items():
        assert re.fullmatch(r"[a-z0-9_-]{1,9}", key)
        assert not _CONTROL.search(value)
        value.encode()


_BAD_PATHS = [b"/../etc", b"v1", b"/v1?x=1", b"/v1#", b"http://evil.example", b"/" + b"a" * 40, b"/v1\r\n", b"", None]


@pytest.mark.parametrize("path", _BAD_PATHS)
def test_a_path_of_another_form_is_not_taken(path: bytes | None) -> None:
    assert ServiceRecord.from_txt({b"path": path}).path == "/v1"


def test_the_longest_record_fits() -> None:
    record = ServiceRecord(
        device_id="f" * 16,
        version="9" * 32,
        apis=("abcdefghijkl",) * 6,
        num_models=9999,
        state=State.STARTING,
        proto="https",
        path="/" + "p" * 32,
        fingerprint="f" * 64,
        tls_port=65535,
    )
    assert txt_size_bytes(record.to_txt()) <= MAX_TXT_BYTES


def test_a_record_of_a_later_format_keeps_no_field() -> None:
    assert ServiceRecord.from_txt({b"txtvers": b"2", b"path": b"/v2", b"models": b"7"}) == ServiceRecord(None)


def test_a_field_that_no_reader_would_accept_is_not_announced() -> None:
    with pytest.raises(DiscoveryError, match="cannot be announced"):
        ServiceRecord("not-an-id").to_txt()


@given(st.text(max_size=200))
def test_any_text_becomes_one_label_with_room_for_a_suffix(text: str) -> None:
    name = instance_name(text)
    assert 1 <= len(name.encode()) <= 56
    assert "." not in name
    assert not _CONTROL.search(name)


@given(st.text())
def test_printable_text_has_no_control_characters(text: str) -> None:
    assert not _CONTROL.search(printable(text))
