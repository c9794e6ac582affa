from __future__ import annotations

from pathlib import Path

import pytest

from appliance.config import Config, load_config
from appliance.errors import ConfigError


def test_flags_win_over_the_environment_and_that_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "lantern.toml"
    path.write_text('[server]\nport = 1\nhost = "file"\n[engine]\nslots = 2\n')
    environment = {"LANTERN_SERVER_PORT": "2", "LANTERN_ENGINE_SPINNING": "true", "LANTERN_HOME": "/x"}
    config = load_config(path, environment=environment, flags={("server", "port"): 3})
    assert (config.server.port, config.server.host, config.engine.slots, config.engine.spinning) == (3, "file", 2, True)


def test_without_anything_the_defaults_hold() -> None:
    assert load_config(None, environment={}) == Config()


def test_a_key_from_the_environment_is_added() -> None:
    assert load_config(None, environment={"LANTERN_API_KEY": "sk-12345678"}).server.keys == ["sk-12345678"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[server]\nport = 99999", "server.port is 99999.*65535"),
        ('[server]\nport = "80"', "server.port is '80'"),
        ("[server]\nprot = 80", "no setting server.prot"),
        ("[severs]\n", "no setting severs"),
        ("port = 80", "outside a section"),
        ("[server", "not valid TOML"),
        ('[log]\nlevel = "LOUD"', "log.level is 'LOUD'.*'debug'"),
        ("[engine]\nslots = 0", "engine.slots is 0"),
    ],
)
def test_a_bad_setting_is_named_with_what_is_allowed(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "lantern.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=said):
        load_config(path, environment={})


def test_a_key_that_is_not_valid_is_not_shown(tmp_path: Path) -> None:
    path = tmp_path / "lantern.toml"
    path.write_text('[server]\nkeys = ["s3cret"]')
    with pytest.raises(ConfigError) as caught:
        load_config(path, environment={})
    assert "s3cret" not in caught.value.message


def test_a_missing_file_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path / "absent.toml", environment={})
