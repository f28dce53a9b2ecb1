"""The transport ``nghttp2``: a gRPC server for our one method and the health service, on asyncio and libnghttp2.

:mod:`ext_proc.transport.choice` makes it, :mod:`ext_proc.serving` starts and stops it. Each connection is a
:class:`ext_proc.transport.connection.Connection`.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
from collections.abc import Sequence
from typing import Any, Final

from abmesh.experiment.errors import StartError
from abmesh.listening import Listener
from ext_proc.service import Service
from ext_proc.settings import Address, Tcp, Tls, Unix
from ext_proc.transport.base import SPARE_DESCRIPTORS, until_quiet
from ext_proc.transport.connection import Connection
from ext_proc.transport.health import Health
from ext_proc.transport.shared import Limits, Shared
from ext_proc.transport.sockets import SOCKET_ERROR, UnixSocket, bound, cannot_listen, taken_over
from ext_proc.transport.tls import server_context

_ROOM: Final = 16
"""One place in so many is kept free of peers that are silent, so that Envoy finds one."""

_TLS_CLOSE_SECONDS: Final = 1.0
"""How long to wait for the peer to close its side of TLS."""


class Nghttp2Server:
    """One listening server."""

    def __init__(
        self, service: Service, tls: Tls | None = None, limits: Limits | None = None, *, shares_ports: bool = False
    ) -> None:
        """Set up a server that does not listen yet.

        Args:
            service: answers the messages.
            tls: certificate and key; None for plain text.
            limits: for peers.
            shares_ports: whether the TCP ports are held for this process and others.

        Raises:
            StartError: the certificate or the key is not usable.
        """
        self._health = Health()
        self._shared = Shared(service, self._health, limits or Limits())
        self._tls = None if tls is None else server_context(tls)
        self._shares_ports = shares_ports
        self._listeners: list[Listener] = []
        self._sockets: dict[UnixSocket, Listener] = {}
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
        names = [self._listen(address) for address in addresses]
        for path in self._sockets:
            path.publish()
        self._checking = asyncio.create_task(self._check_limits())
        return tuple(names)

    def _listen(self, address: Address) -> str:
        if isinstance(address, Unix):
            path = UnixSocket(address.path)
            self._sockets[path] = self._listen_at(path)
            return str(address)
        port = address.port
        waiting = bound(address, shared=self._shares_ports)
        while waiting:
            port = waiting[0].getsockname()[1]
            try:
                self._listeners.append(self._listener(waiting.pop(0)))
            except OSError as error:
                for left in waiting:
                    left.close()
                raise cannot_listen(address, error) from error
        return str(Tcp(address.host, port))

    def _listen_at(self, path: UnixSocket) -> Listener:
        """Listen at a socket's hidden path.

        Raises:
            StartError: it cannot be created there.
        """
        try:
            made = socket.socket(socket.AF_UNIX)
            made.bind(str(path.hidden))
            return self._listener(made)
        except OSError as error:
            raise cannot_listen(Unix(path.path), error) from error

    def _listener(self, listening: socket.socket) -> Listener:
        tls: dict[str, Any] = {}
        if self._tls is not None:
            tls = {
                "ssl": self._tls,
                "ssl_handshake_timeout": self._shared.limits.handshake,
                # Everything is written by then: a peer that does not close its side must not hold up a drain.
                "ssl_shutdown_timeout": _TLS_CLOSE_SECONDS,
            }
        return Listener(listening, self._connection, self._is_open, self._admits, self._shared.refuse, **tls)

    @property
    def _most(self) -> int:
        """Connections that may be open at once."""
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        return max(1, min(self._shared.limits.connections, files - SPARE_DESCRIPTORS))

    def _is_open(self, protocol: Any) -> bool:
        return protocol in self._shared.connections

    def _admits(self) -> bool:
        """Whether there is a place for one more connection."""
        pending = sum(listener.pending for listener in self._all_listeners)
        return self.open_connections + pending < self._most

    @property
    def _all_listeners(self) -> list[Listener]:
        return [*self._listeners, *self._sockets.values()]

    def _connection(self) -> Connection:
        return Connection(self._shared, secure=self._tls is not None)

    async def _check_limits(self) -> None:
        """Check, regularly, what no single event shows."""
        shared = self._shared
        while True:
            await asyncio.sleep(shared.limits.check)
            now = asyncio.get_running_loop().time()
            for connection in list(shared.connections):
                connection.check_limits(now)
            shared.make_room(self._most - self._most // _ROOM, now)
            for path in [path for path in self._sockets if path.missing]:
                self._replace(path)

    def _replace(self, path: UnixSocket) -> None:
        """Listen again at a socket that somebody has deleted; clients that are connected keep their connections."""
        self._shared.service.counts.error(SOCKET_ERROR)
        try:
            listener = self._listen_at(path)
            path.publish()
        except (StartError, OSError) as error:
            self._shared.report(SOCKET_ERROR, f"unix:{path.path} was deleted, and cannot be created again: {error}")
            return
        self._sockets[path].close()
        self._sockets[path] = listener
        self._shared.report(SOCKET_ERROR, f"unix:{path.path} was deleted: created again")

    async def set_serving(self) -> None:
        """See :class:`ext_proc.transport.base.Server`."""
        self._health.set_serving()

    async def drain(self, seconds: float) -> None:
        """Stop without failing open calls; see :class:`ext_proc.transport.base.Server`."""
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        if not taken_over(self._listeners, self._sockets):
            self._health.end()
            # The next check comes on a new connection: at an address that several servers share, to one that serves.
            for connection in [found for found in self._shared.connections if found.checks_only]:
                connection.close()
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
        if self._checking is not None:
            self._checking.cancel()
        self._close_listeners()
        for connection in list(self._shared.connections):
            connection.abort()
        for path in self._sockets:
            path.remove()

    def _close_listeners(self) -> None:
        for listener in self._all_listeners:
            listener.close()
