"""The transport ``nghttp2``: a gRPC server for our one method and the health service, on asyncio and libnghttp2.

:mod:`ext_proc.transport.choice` makes it, :mod:`ext_proc.serving` starts and stops it. Each connection is a
:class:`ext_proc.transport.connection.Connection`.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Sequence
from typing import Final

from abmesh.experiment.errors import StartError
from ext_proc.service import Service
from ext_proc.settings import Address, Tcp, Tls, Unix
from ext_proc.transport.base import until_quiet
from ext_proc.transport.connection import Connection
from ext_proc.transport.health import Health
from ext_proc.transport.shared import Limits, Shared
from ext_proc.transport.sockets import UnixSocket, bound
from ext_proc.transport.tls import server_context

_BACKLOG: Final = 1024

_TLS_CLOSE_SECONDS: Final = 1.0
"""How long to wait for the peer to close its side of TLS."""


class Nghttp2Server:
    """One listening server."""

    def __init__(self, service: Service, tls: Tls | None = None, limits: Limits | None = None) -> None:
        """Set up a server that does not listen yet.

        Args:
            service: answers the messages.
            tls: certificate and key; None for plain text.
            limits: time limits for peers.

        Raises:
            StartError: the certificate or the key is not usable.
        """
        self._health = Health()
        self._shared = Shared(service, self._health, limits or Limits())
        self._tls = None if tls is None else server_context(tls)
        self._servers: list[asyncio.Server] = []
        self._sockets: list[UnixSocket] = []
        self._checking: asyncio.Task[None] | None = None

    @property
    def open_connections(self) -> int:
        """Connections that are open now."""
        return len(self._shared.connections)

    @property
    def open_streams(self) -> int:
        """Calls that are open now."""
        return sum(connection.open_streams for connection in self._shared.connections)

    async def start(self, addresses: Sequence[Address]) -> tuple[str, ...]:
        """Listen; see :class:`ext_proc.transport.base.Server`.

        Raises:
            StartError: the server cannot listen on an address.
        """
        names = [await self._listen(address) for address in addresses]
        for path in self._sockets:
            path.publish()
        self._checking = asyncio.create_task(self._check_limits())
        return tuple(names)

    async def _listen(self, address: Address) -> str:
        if isinstance(address, Unix):
            path = UnixSocket(address.path)
            self._sockets.append(path)
            try:
                listening = socket.socket(socket.AF_UNIX)
                listening.bind(str(path.hidden))
            except OSError as error:
                raise StartError(f"cannot listen on {address}: {error.strerror or error}") from error
            await self._serve(listening)
            return str(address)
        port = address.port
        for listening in bound(address):
            port = listening.getsockname()[1]
            await self._serve(listening)
        return str(Tcp(address.host, port))

    async def _serve(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        create = loop.create_unix_server if listening.family == socket.AF_UNIX else loop.create_server
        server = await create(
            self._connection,
            sock=listening,
            ssl=self._tls,
            backlog=_BACKLOG,
            ssl_handshake_timeout=None if self._tls is None else self._shared.limits.handshake,
            # Everything has been written by then: a peer that does not close its side must not hold up a drain.
            ssl_shutdown_timeout=None if self._tls is None else _TLS_CLOSE_SECONDS,
        )
        self._servers.append(server)

    def _connection(self) -> Connection:
        return Connection(self._shared, secure=self._tls is not None)

    async def _check_limits(self) -> None:
        """Ping idle peers, and close the connections of those that do not answer."""
        while True:
            await asyncio.sleep(self._shared.limits.check)
            now = asyncio.get_running_loop().time()
            for connection in list(self._shared.connections):
                connection.check_limits(now)

    async def set_serving(self) -> None:
        """See :class:`ext_proc.transport.base.Server`."""
        self._health.set_serving()

    async def drain(self, seconds: float) -> None:
        """Stop without failing open calls; see :class:`ext_proc.transport.base.Server`."""
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        self._health.end()
        await until_quiet(seconds, lambda: self._shared.streams)
        self._close_listeners()
        self._shared.closing = True
        for connection in list(self._shared.connections):
            connection.close()
        if self._shared.connections:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._shared.empty.wait(), max(0.0, until - loop.time()))
        await self.abort()

    async def abort(self) -> None:
        """Stop at once, whatever is open."""
        self._close_listeners()
        for connection in list(self._shared.connections):
            connection.abort()
        if self._checking is not None:
            self._checking.cancel()
        for path in self._sockets:
            path.remove()

    def _close_listeners(self) -> None:
        for server in self._servers:
            server.close()
        self._servers.clear()
