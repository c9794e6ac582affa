"""Devices that a gateway takes in, and LiteLLM's configuration for them."""

from __future__ import annotations

import json

import pytest

from appliance.cli.gateway import wants
from appliance.discovery.device import Device
from appliance.discovery.record import ServiceRecord
from appliance.errors import ConfigError
from appliance.remote.gateway.fleet import Deployment
from appliance.remote.gateway.litellm import configuration, find_litellm
from appliance.remote.trust import Candidate, Standing

_DEVICE = Device("kitchen", "lantern-aaaaaaaa.local.", 8443, ("10.0.0.1",), ServiceRecord("a" * 16), {})


@pytest.mark.parametrize("standing", [Standing.NEW, Standing.PLAIN])
def test_a_device_that_nobody_knows_is_taken_in_when_it_is_named_or_all_are(standing: Standing) -> None:
    candidate = Candidate(_DEVICE, _DEVICE, standing)
    assert not wants(candidate, None, everyone=False)
    assert not wants(candidate, ["bath"], everyone=False)
    assert wants(candidate, ["bath", "Kitchen"], everyone=False)
    assert wants(candidate, None, everyone=True)


def test_a_known_device_is_taken_in_unless_others_are_named() -> None:
    candidate = Candidate(_DEVICE, _DEVICE, Standing.KNOWN)
    assert wants(candidate, None, everyone=False)
    assert not wants(candidate, ["bath"], everyone=False)


def test_equal_models_of_two_devices_share_the_load_and_no_key_is_in_the_file() -> None:
    deployments = [Deployment("m", name, f"http://127.0.0.1:{port}/v1") for name, port in (("a", 1), ("b", 2))]
    settings = json.loads(configuration(deployments))
    assert [entry["model_name"] for entry in settings["model_list"]] == ["m", "m"]
    assert {entry["model_info"]["id"] for entry in settings["model_list"]} == {"a/m", "b/m"}
    keys = {entry["litellm_params"]["api_key"] for entry in settings["model_list"]}
    assert all(key.startswith("os.environ/") for key in keys | {settings["general_settings"]["master_key"]})


def test_a_gateway_without_litellm_says_how_to_get_it() -> None:
    with pytest.raises(ConfigError, match=r"lantern-appliance\[gateway\]"):
        find_litellm("/nonexistent/litellm")
