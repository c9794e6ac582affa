"""Devices as other people's resolvers see them: Avahi, systemd-resolved, and Node's bonjour-service."""

from __future__ import annotations

from tests.discovery.resolvers import Avahi, Resolved
from tests.lan import Lan

_TEXTS = ("txtvers=1", "path=/v1", "id=00112233aabbccdd", "st=ready")


def test_avahi_resolves_every_type(ipv4_lan: Lan, avahi: Avahi) -> None:
    ipv4_lan.node(ipv4_lan.a, "announce").event("announced")
    for type_ in ("_lantern._tcp", "_http._tcp", "_openai._sub._http._tcp"):
        [line] = {
            line
            for line in avahi.resolve(type_, "10.77.0.1").splitlines()
            if ";10.77.0.1;" in line and ";IPv4;" in line
        }
        assert ";lantern-00112233.local;10.77.0.1;8080;" in line
        assert all(f'"{text}"' in line for text in _TEXTS)


def test_resolvectl_resolves_the_host_the_service_and_the_subtype(ipv4_lan: Lan, resolved: Resolved) -> None:
    ipv4_lan.node(ipv4_lan.a, "announce").event("announced")
    assert "10.77.0.1" in resolved.host("lantern-00112233.local")
    service = resolved.service("Küche", "_lantern._tcp")
    assert "lantern-00112233.local:8080" in service
    assert "10.77.0.1" in service
    assert all(text in service for text in _TEXTS)
    for type_, instance in (
        ("_lantern._tcp", "_lantern._tcp.local"),
        ("_http._tcp", "_http._tcp.local"),
        ("_openai._sub._http._tcp", "_http._tcp.local"),
    ):
        assert f".{instance}" in resolved.instances(type_, instance).partition("PTR")[2]
