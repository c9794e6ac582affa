"""TLS to a device: its certificate is known by its pin, not by its dates, names or issuer.

The pin is compared inside the handshake, before any library above has a connection to write a request to: a context of
ours makes ssl's own objects compare it, and aiohttp, httpx and asyncio all take such a context as it is.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from typing import Self

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

from appliance.errors import TrustError
from appliance.identity.certificate import public_key_pin
from appliance.remote.patience import ASKED_FOR, ATTEMPT_DELAY_S, Patience

__all__ = ["PinnedContext", "read_pin"]

_CLOSE_S = 2.0


class PinnedContext(ssl.SSLContext):
    """A client's context that ends the handshake with every certificate but one; `pin` as `tls.pin_of` gives it."""

    pin: str | None

    def __new__(cls, pin: str | None) -> Self:
        """Make a context of TLS 1.2 or newer; the certificate's signer does not matter."""
        context = super().__new__(cls, ssl.PROTOCOL_TLS_CLIENT)
        context.pin = pin
        return context

    def __init__(self, pin: str | None) -> None:
        super().__init__()
        self.minimum_version = ssl.TLSVersion.TLSv1_2
        self.check_hostname, self.verify_mode = False, ssl.CERT_NONE


async def read_pin(host: str, port: int, *, patience: Patience = ASKED_FOR) -> str:
    """Shake hands, send nothing, and tell which certificate was shown; its owner has proved to hold the key.

    Raises:
        TrustError: no address of the host takes a connection, or the one that does speaks no TLS.
    """
    try:
        async with asyncio.timeout(patience.connect_s):
            _, writer = await asyncio.open_connection(host, port, happy_eyeballs_delay=ATTEMPT_DELAY_S)
    except TimeoutError:
        tried = await _tried(host, port)
        raise TrustError(f"{host}, port {port}, takes no connection within {patience.connect_s:g} s{tried}.") from None
    except (OSError, ValueError) as err:
        raise TrustError(f"{host}, port {port}, takes no connection: {err}.") from err
    try:
        async with asyncio.timeout(patience.handshake_s):
            await writer.start_tls(PinnedContext(None), server_hostname=host)
        return _shown(writer.get_extra_info("ssl_object"))
    except TimeoutError:
        waited = f"within {patience.handshake_s:g} s"
        raise TrustError(
            f"{host}, port {port}, is there, but does not answer in TLS {waited}; it may be busy."
        ) from None
    except (OSError, ValueError) as err:
        raise TrustError(f"{host}, port {port}, does not answer in TLS: {err}.") from err
    finally:
        writer.close()
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(_CLOSE_S):
                await writer.wait_closed()


async def _tried(host: str, port: int) -> str:
    """Return the addresses of a host for a sentence, if it is a name."""
    found: list[str] = []
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(_CLOSE_S):
            resolved = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
            found = list(dict.fromkeys(str(address[0]) for *_, address in resolved))
    return f"; tried {', '.join(found)}" if found and found != [host] else ""


class _PinnedObject(ssl.SSLObject):
    """The TLS object that asyncio uses."""

    def do_handshake(self) -> None:
        super().do_handshake()
        _compare(self)


class _PinnedSocket(ssl.SSLSocket):
    """The TLS socket that blocking programs use."""

    def do_handshake(self, block: bool = False) -> None:
        super().do_handshake(block)
        _compare(self)


PinnedContext.sslobject_class = _PinnedObject
PinnedContext.sslsocket_class = _PinnedSocket


def _compare(connection: ssl.SSLObject | ssl.SSLSocket) -> None:
    """End the handshake unless the certificate is the one we know.

    Raises:
        SSLCertVerificationError: it is another one; the libraries above report it as a connection that failed.
    """
    context = connection.context
    assert isinstance(context, PinnedContext)
    if context.pin is not None and (shown := _shown(connection)) != context.pin:
        raise ssl.SSLCertVerificationError(1, f"the certificate has the pin {shown}, and {context.pin} was expected")


def _shown(connection: ssl.SSLObject | ssl.SSLSocket) -> str:
    certificate = connection.getpeercert(binary_form=True)
    try:
        return public_key_pin(x509.load_der_x509_certificate(certificate or b""))
    except (ValueError, TypeError, UnsupportedAlgorithm) as err:
        raise ssl.SSLCertVerificationError(1, f"the certificate cannot be read: {err}") from err
