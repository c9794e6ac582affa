"""The look at all connections, which goes on whatever state one of them is in."""

from __future__ import annotations

import asyncio
import ssl
from asyncio import sslproto

from aiohttp import web

from appliance.server.http.connection import Connection, ConnectionLimits, Counted


def test_tls_that_is_closed_twice_is_no_error_of_the_look_at_all_connections() -> None:
    class Everybody:
        def admit(self, connection: Counted) -> bool:
            return True

        def admit_request(self, connection: Counted) -> bool:
            return True

        def forget(self, connection: Counted) -> None:
            pass

    async def main() -> None:
        loop = asyncio.get_running_loop()
        connection = Connection(web.Server(_never), Everybody(), ConnectionLimits())
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls = sslproto.SSLProtocol(
            loop, connection, context, loop.create_future(), server_side=True, call_connection_made=False
        )
        transport = tls._get_app_transport()  # type: ignore[attr-defined]  # absent from typeshed
        connection.connection_made(transport)
        transport.close()
        transport.close()
        connection.check(loop.time())
        connection.connection_lost(None)

    asyncio.run(main())


async def _never(request: web.BaseRequest) -> web.StreamResponse:
    raise AssertionError(request)
