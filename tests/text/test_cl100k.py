"""The table of OpenAI's tokens: the one that comes with a build, one from a file, and none."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from appliance.errors import InvalidRequestError
from appliance.text.cl100k import IN_PACKAGES, Cl100k, parse
from images.token_table import FOLDER, NAME, SHA256, table_files


def test_without_a_table_tokens_are_refused_with_what_to_set() -> None:
    with pytest.raises(InvalidRequestError, match=r"embeddings\.token_table") as caught:
        Cl100k(packages=[("no_such_package", "x")]).text([0], param="input")
    assert caught.value.param == "input"


def test_the_server_looks_first_where_builds_put_the_table() -> None:
    assert IN_PACKAGES[0] == (FOLDER, NAME)


def test_a_table_in_the_cache_is_used_without_the_network_and_another_one_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    (tmp_path / f"{SHA256[:16]}-{NAME}").write_bytes(b"IQ== 0\n")
    with pytest.raises(OSError, match="cannot be downloaded"):
        table_files(tmp_path)


@pytest.mark.usefixtures("wants_clients")
def test_the_published_table_gives_the_text_of_every_token(tmp_path: Path) -> None:
    table, licence = table_files(tmp_path)
    assert hashlib.sha256(table.read_bytes()).hexdigest() == SHA256
    assert "Permission is hereby granted" in licence.read_text("utf-8")
    entries = parse(table)
    assert len(entries) == len(set(entries)) == 100256
    assert {bytes([byte]) for byte in range(256)} <= set(entries)
    assert Cl100k(table).text([9906, 11, 1917, 0], param="input") == "Hello, world!"
