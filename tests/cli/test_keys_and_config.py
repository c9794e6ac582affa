"""The commands of an administrator, as processes."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

from appliance.config import Config, default_toml


def lantern(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "appliance", *arguments],
        env={**os.environ, "LANTERN_HOME": str(home)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_key_is_shown_once_listed_without_its_secret_and_revoked(tmp_path: Path) -> None:
    made = lantern(tmp_path, "keys", "create", "phone", "--admin", "--rate", "60/min")
    secret = made.stdout.split()[0]
    assert secret.startswith("sk-")
    listed = lantern(tmp_path, "keys", "list").stdout
    assert "phone" in listed
    assert "administration" in listed
    assert "60/min" in listed
    assert secret not in listed
    assert lantern(tmp_path, "keys", "revoke", "phone").returncode == 0
    assert "phone" not in lantern(tmp_path, "keys", "list").stdout


def test_what_cannot_be_done_with_a_key_is_one_sentence(tmp_path: Path) -> None:
    for arguments in (["revoke", "nobody"], ["create", "../x"]):
        result = lantern(tmp_path, "keys", *arguments)
        assert result.returncode == 2
        assert result.stderr.startswith("lantern: ")
        assert result.stderr.count("\n") == 1
    assert lantern(tmp_path, "keys", "create", "x", "--rate", "0").returncode == 2


def test_the_printed_settings_are_the_defaults_and_every_one_is_explained(tmp_path: Path) -> None:
    printed = lantern(tmp_path, "config").stdout
    assert printed == default_toml()
    assert Config.model_validate(tomllib.loads(printed)) == Config()
    lines = printed.splitlines()
    for i, line in enumerate(lines):
        if " = " in line and not line.startswith("#"):
            assert lines[i - 1].startswith("# ")
            assert lines[i - 1] != "# None"


def test_a_file_of_settings_is_checked(tmp_path: Path) -> None:
    path = tmp_path / "lantern.toml"
    path.write_text(default_toml())
    assert "is valid" in lantern(tmp_path, "config", "--check", str(path)).stdout
    path.write_text("[tls]\nenabled = false\n[server]\nhttp = false\n")
    result = lantern(tmp_path, "config", "--check", str(path))
    assert result.returncode == 2
    assert "nobody could connect" in result.stderr


def test_a_reader_who_has_enough_is_no_failure_of_ours(tmp_path: Path) -> None:
    command = [sys.executable, "-u", "-m", "appliance", "config"]
    environment = {**os.environ, "LANTERN_HOME": str(tmp_path)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.close()
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (141, "")
