"""`lantern update` against a machine that was installed by hand, and so takes no update of its whole system."""

from __future__ import annotations

from pathlib import Path

import pytest

from appliance.__main__ import main
from appliance.home import Home
from tests.conftest import a_config, serving

_KEY = "an-administration-key"


def test_a_machine_without_an_image_says_how_it_is_updated(
    starter_home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = tmp_path / "lantern-9.9.9-raspberry-pi.raucb"
    bundle.write_bytes(b"whatever")
    home = Home(tmp_path / "home")
    home.root.mkdir()
    home.bundles.symlink_to(starter_home.bundles)
    home.trusted_keys.parent.mkdir()
    home.trusted_keys.symlink_to(starter_home.trusted_keys)
    with serving(a_config(server={"keys": [_KEY]}, models={"preload": []}), home) as running:
        assert main(["update", "push", str(bundle), "--device", running.base_url, "--key", _KEY]) != 0
        assert main(["update", "show", "--device", running.base_url, "--key", _KEY]) != 0
    assert capsys.readouterr().err.count("not started from an image") == 2


def test_a_file_that_is_not_there_is_named_before_anything_is_sent(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["update", "push", "/absent.raucb", "--device", "http://127.0.0.1:9"]) == 2
    assert "/absent.raucb" in capsys.readouterr().err
