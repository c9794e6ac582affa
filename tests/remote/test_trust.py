"""Refused and known devices; no device sees a key before its certificate was the right one."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import aiohttp
import httpx2
import pytest

from appliance.discovery.device import Device
from appliance.discovery.record import ServiceRecord
from appliance.errors import TrustError
from appliance.home import Home
from appliance.remote import KnownDevices, open_device
from appliance.remote.patience import Patience
from appliance.remote.pinned_tls import PinnedContext, read_pin
from appliance.remote.trust import Standing, examine, judge

from .conftest import KEY, Recorder, StartRecorder


def standing(device: Device, known: KnownDevices) -> tuple[Standing, str]:
    [candidate] = asyncio.run(examine([device], known))
    return candidate.standing, candidate.problem


def test_the_pin_that_is_read_is_the_certificates(start_recorder: StartRecorder) -> None:
    server = start_recorder("kitchen")
    assert asyncio.run(read_pin("127.0.0.1", server.port)) == server.pin
    assert server.said == b""


def test_a_port_without_tls_is_an_error_that_says_so() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as thread:
        answered = thread.submit(_answer_in_plain, server)
        with pytest.raises(TrustError, match="does not answer in TLS"):
            asyncio.run(read_pin("127.0.0.1", server.getsockname()[1]))
        answered.result()


def _answer_in_plain(server: socket.socket) -> None:
    connection, _ = server.accept()
    with connection, contextlib.suppress(ConnectionError):
        connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        while connection.recv(4096):
            pass


def test_a_server_that_never_shakes_hands_is_said_to_be_there() -> None:
    patience = Patience(connect_s=60.0, handshake_s=0.2)
    with socket.create_server(("127.0.0.1", 0)) as server, pytest.raises(TrustError, match=r"is there.*within 0\.2 s"):
        asyncio.run(read_pin("127.0.0.1", server.getsockname()[1], patience=patience))


def test_an_address_that_takes_no_connection_is_given_up_before_a_handshake_would_be() -> None:
    patience = Patience(connect_s=0.2, handshake_s=3600.0)
    with (
        full_server() as port,
        pytest.raises(TrustError, match=r"localhost, port \d+, takes no connection within 0\.2 s; "),
    ):
        asyncio.run(read_pin("localhost", port, patience=patience))


@contextlib.contextmanager
def full_server() -> Iterator[int]:
    """Listen, with no room for one more connection: the kernel drops what asks for one."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        port = server.getsockname()[1]
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(("127.0.0.1", port))
        yield port


def test_a_silent_address_does_not_keep_a_device_waiting_that_is_known(
    start_recorder: StartRecorder, home: Home
) -> None:
    server = start_recorder("kitchen")
    known = KnownDevices.load(home.known_devices)
    known.remember("a" * 16, server.pin, name="kitchen")
    found = replace(server.device(), addresses=("127.0.0.2", "127.0.0.1"))
    with socket.create_server(("127.0.0.2", server.port)):
        examining = examine([found], known, patience=lambda _: Patience(connect_s=3600.0, handshake_s=3600.0))
        [candidate] = asyncio.run(asyncio.wait_for(examining, 60.0))
    assert candidate.standing is Standing.KNOWN
    assert candidate.device.addresses == ("127.0.0.1", "127.0.0.2")


def test_what_was_tried_is_said_of_every_address(home: Home) -> None:
    known = KnownDevices.load(home.known_devices)
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    record = ServiceRecord("a" * 16, proto="https")
    found = Device("kitchen", "lantern-aaaaaaaa.local.", port, ("127.0.0.1", "127.0.0.2"), record, {})
    is_refused, problem = standing(found, known)
    assert is_refused is Standing.REFUSED
    assert all(f"127.0.0.{end}, port {port}, takes no connection" in problem for end in (1, 2))


def ask_with_aiohttp(server: Recorder, context: ssl.SSLContext) -> int:
    async def ask() -> int:
        connector = aiohttp.TCPConnector(ssl=context)
        session = aiohttp.ClientSession(connector=connector, headers={"Authorization": KEY})
        async with session, session.get(f"{server.url}/models") as response:
            return response.status

    return asyncio.run(ask())


def ask_with_httpx(server: Recorder, context: ssl.SSLContext) -> int:
    with httpx2.Client(verify=context, headers={"Authorization": KEY}) as client:
        return client.get(f"{server.url}/models").status_code


def ask_with_async_httpx(server: Recorder, context: ssl.SSLContext) -> int:
    async def ask() -> int:
        async with httpx2.AsyncClient(verify=context, headers={"Authorization": KEY}) as client:
            return (await client.get(f"{server.url}/models")).status_code

    return asyncio.run(ask())


@pytest.mark.parametrize("ask", [ask_with_aiohttp, ask_with_httpx, ask_with_async_httpx])
def test_every_library_ends_the_handshake_before_it_writes_a_request(
    start_recorder: StartRecorder, ask: Callable[[Recorder, ssl.SSLContext], int]
) -> None:
    ours, rogue = start_recorder("ours"), start_recorder("rogue")
    assert ask(ours, PinnedContext(ours.pin)) == 200
    assert KEY.encode() in ours.said
    with pytest.raises((aiohttp.ClientError, httpx2.ConnectError), match="was expected"):
        ask(rogue, PinnedContext(ours.pin))
    assert rogue.said == b""


def test_a_device_is_new_then_known_then_refused_with_another_certificate(
    start_recorder: StartRecorder, home: Home
) -> None:
    server, rogue = start_recorder("ours"), start_recorder("rogue")
    known = KnownDevices.load(home.known_devices)
    assert standing(server.device(), known)[0] is Standing.NEW
    known.remember("a" * 16, server.pin, name="kitchen")
    assert standing(server.device(), known)[0] is Standing.KNOWN
    refused, problem = standing(rogue.device(), known)
    assert refused is Standing.REFUSED
    assert "lantern discover --forget --device aaaaaaaaaaaaaaaa" in problem


def test_a_rogue_is_refused_whichever_part_of_the_identity_it_copies(start_recorder: StartRecorder, home: Home) -> None:
    server, rogue = start_recorder("ours"), start_recorder("rogue")
    known = KnownDevices.load(home.known_devices)
    known.remember("a" * 16, server.pin, name="kitchen")
    other = rogue.device("bath", device_id="b" * 16)
    assert judge(other, rogue.pin, known).standing is Standing.NEW
    for copied in (
        replace(other, name="KITCHEN"),
        replace(other, host="lantern-aaaaaaaa.local."),
        replace(other, record=replace(other.record, device_id="a" * 16)),
    ):
        assert judge(copied, rogue.pin, known).standing is Standing.REFUSED


def test_a_known_device_that_speaks_no_tls_any_more_is_refused(home: Home, start_recorder: StartRecorder) -> None:
    server = start_recorder("ours")
    known = KnownDevices.load(home.known_devices)
    known.remember("a" * 16, server.pin, name="kitchen")
    plain = server.device()
    plain = replace(plain, record=replace(plain.record, proto="http"))
    refused, problem = standing(plain, known)
    assert refused is Standing.REFUSED
    assert "speaks no TLS" in problem


def test_a_known_device_may_change_its_name(start_recorder: StartRecorder, home: Home) -> None:
    server = start_recorder("ours")
    known = KnownDevices.load(home.known_devices)
    known.remember("a" * 16, server.pin, name="kitchen")
    assert standing(server.device("kitchen-2"), known)[0] is Standing.KNOWN


def test_a_record_that_names_another_certificate_than_its_server_shows_is_refused(
    start_recorder: StartRecorder, home: Home
) -> None:
    server, known = start_recorder("ours"), KnownDevices.load(home.known_devices)
    assert standing(server.device(fingerprint=server.pin), known)[0] is Standing.NEW
    assert standing(server.device(fingerprint="sha256//" + "A" * 43 + "="), known)[0] is Standing.REFUSED


def test_a_url_over_https_is_remembered_and_its_key_goes_nowhere_else(
    start_recorder: StartRecorder, home: Home
) -> None:
    server = start_recorder("ours")

    async def status(url: str) -> int:
        async with open_device(url, key=KEY, home=home) as device, device.session.get("/v1/models") as response:
            return response.status

    assert asyncio.run(status(server.url)) == 200
    assert f"Authorization: Bearer {KEY}".encode() in server.said
    [entry] = KnownDevices.load(home.known_devices).all
    assert (entry.identity, entry.pin) == (f"127.0.0.1:{server.port}", server.pin)
    rogue = start_recorder("rogue")
    KnownDevices.load(home.known_devices).remember(f"127.0.0.1:{rogue.port}", server.pin, name="x")
    with pytest.raises(TrustError, match="another certificate"):
        asyncio.run(status(rogue.url))
    assert rogue.said == b""
