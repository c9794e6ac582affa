"""Configurations for other programs: well-formed whatever the network announces."""

from __future__ import annotations

import json
import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.cli.formats import FORMATS
from appliance.discovery import Device, ServiceRecord
from appliance.remote.probe import Probe

_NASTY = 'x"\n  - {"model_name": "evil"}\n$(reboot)\'\\'


def found(name: str, model: str) -> tuple[list[Device], dict[str, Probe]]:
    device = Device(name, "lantern-a.local.", 8080, ("192.168.1.20",), ServiceRecord("a" * 16), {})
    return [device], {device.base_url: Probe("ok", (model,))}


@given(st.text() | st.just(_NASTY), st.text() | st.just(_NASTY))
def test_a_foreign_text_stays_inside_its_string(name: str, model: str) -> None:
    devices, probes = found(name, model)
    head, *deployments = FORMATS["litellm"](devices, probes).split("\n")
    assert head == "model_list:"
    [entry] = [json.loads(line.removeprefix("  - ")) for line in deployments if line]
    assert entry["model_name"] == model
    [group] = json.loads(FORMATS["prometheus"](devices, probes))
    assert group == {"targets": ["192.168.1.20:8080"], "labels": {"device": name, "id": "a" * 16}}


@pytest.mark.parametrize("form", ["env", "caddy"])
def test_a_format_without_strings_has_no_foreign_text(form: str) -> None:
    assert FORMATS[form](*found(_NASTY, _NASTY)) == FORMATS[form](*found("kitchen", "m"))


def test_the_environment_is_a_shell_command() -> None:
    text = FORMATS["env"](*found("kitchen", "m"))
    assert shlex.split(text) == ["export", "OPENAI_BASE_URL=http://192.168.1.20:8080/v1"]


def test_caddy_gets_every_device() -> None:
    devices, probes = found("kitchen", "m")
    other = Device("bath", "b.local.", 8081, ("fd00::1",), ServiceRecord("b" * 16), {})
    text = FORMATS["caddy"]([*devices, other], probes)
    assert "reverse_proxy http://192.168.1.20:8080 http://[fd00::1]:8081 {" in text
