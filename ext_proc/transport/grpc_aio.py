"""The transport ``grpcio``: a server on grpc.aio, with the standard health service.

:mod:`ext_proc.transport.choice` makes it, :mod:`ext_proc.serving` starts and stops it. Messages stay bytes here;
:class:`ext_proc.service.Service` answers them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from abmesh.experiment.errors import StartError
from abmesh.experiment.names import CHOICE
from abmesh.listening import LogLimit
from ext_proc import wire
from ext_proc.service import END, Last, Service
from ext_proc.settings import Address, Tcp, Tls, Unix
from ext_proc.transport.base import LONGEST_MESSAGE, MOST_STREAMS, SERVICES, until_quiet
from ext_proc.transport.sockets import SOCKET_ERROR, UnixSocket, check_free, taken_over
from ext_proc.transport.tls import server_context

log = logging.getLogger("ext_proc")

_OPTIONS: Final = (
    ("grpc.max_receive_message_length", LONGEST_MESSAGE),
    ("grpc.max_concurrent_streams", MOST_STREAMS),
    # Envoy may ping as often as its operator configures, also on an idle connection.
    ("grpc.http2.min_ping_interval_without_data_ms", 1_000),
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.keepalive_permit_without_calls", 1),
)

TERMINATED_ERROR: Final = "grpcio"
"""The error kind that an unexpected end of grpc.aio is counted under."""

_RETRY_SECONDS: Final = 0.5
_CHECK_SECONDS: Final = 1.0


class GrpcServer:
    """One listening server."""

    def __init__(self, service: Service, tls: Tls | None = None, *, shares_ports: bool = False) -> None:
        """Set up a server that does not listen yet.

        Args:
            service: answers the messages.
            tls: certificate and key; None for plain text.
            shares_ports: whether the TCP ports are held for this process and others.

        Raises:
            StartError: one of the files is not usable.
        """
        self._service = service
        self._shares_ports = shares_ports
        self._quiet = LogLimit()
        self._credentials = None if tls is None else _credentials(tls)
        self._health = _Health()
        self._sockets: list[UnixSocket] = []
        self._ports: list[Tcp] = []
        self._idle: set[asyncio.Task[None]] = set()
        self._streams = 0
        self._closing = False
        self._watching: asyncio.Task[None] | None = None
        self._checking: asyncio.Task[None] | None = None
        self._server = self._new_server()

    def _new_server(self) -> grpc.aio.Server:
        server = grpc.aio.server(options=(("grpc.so_reuseport", int(self._shares_ports)), *_OPTIONS))
        handler = grpc.stream_stream_rpc_method_handler(self._process)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(wire.SERVICE, {wire.METHOD: handler}),))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        return server

    async def start(self, addresses: Sequence[Address]) -> tuple[str, ...]:
        """Listen; returns the addresses with their real ports.

        Raises:
            StartError: the server cannot listen on an address.
        """
        for address in addresses:
            if isinstance(address, Tcp) and not self._shares_ports:
                check_free(address)  # of several addresses of a name, grpcio is content with one
        bound = await self._listen(addresses)
        self._ports = [address for address in bound if isinstance(address, Tcp)]
        self._watching = asyncio.create_task(self._keep_listening(bound))
        self._checking = asyncio.create_task(self._check_sockets())
        return tuple(map(str, bound))

    async def _listen(self, addresses: Sequence[Address]) -> list[Address]:
        bound = [self._bind(address) for address in addresses]
        await self._server.start()
        for socket in self._sockets:
            socket.publish()
        return bound

    async def _keep_listening(self, addresses: Sequence[Address]) -> None:
        """Restart grpc.aio if it ends unexpectedly.

        A single request whose path is not UTF-8 makes it end: it then refuses connections forever, while the process
        lives on.
        """
        while True:
            try:
                await self._server.wait_for_termination()
            except Exception as error:  # noqa: BLE001  whatever ended it, Envoy needs answers
                self._service.counts.error(TERMINATED_ERROR)
                log.warning("grpc.aio ended unexpectedly (%s), restarting it", type(error).__name__)
            if self._closing:
                return
            await self._restart(addresses)

    async def _check_sockets(self) -> None:
        """Restart grpc.aio if somebody deletes a Unix socket: a server of it cannot listen at one more address."""
        while not self._closing:
            await asyncio.sleep(_CHECK_SECONDS)
            for socket in self._sockets:
                if socket.missing and not self._closing:
                    self._service.counts.error(SOCKET_ERROR)
                    if (more := self._quiet.allows(SOCKET_ERROR)) is not None:
                        text = "unix:%s was deleted: restarting grpc.aio to create it again (%d more since the last)"
                        log.warning(text, socket.path, more)
                    await self._server.stop(_CHECK_SECONDS)
                    break

    async def _restart(self, addresses: Sequence[Address]) -> None:
        """Listen with a new server as soon as possible: a socket's folder may be gone, or a port taken."""
        while not self._closing:
            try:
                await self._discard()
                await self._listen(addresses)
                break
            except Exception as error:  # noqa: BLE001  whatever it is, no request is answered until we listen
                log.warning("cannot restart grpc.aio, trying again: %s", error)
                await asyncio.sleep(_RETRY_SECONDS)
        if self._closing:  # it was stopped before the new server listened
            await self._stop(None)

    async def _discard(self) -> None:
        """Replace the server with a new one."""
        with contextlib.suppress(grpc.aio.UsageError):
            await self._server.start()  # a server that was never started would keep its ports forever
        await self._server.stop(None)
        self._server = self._new_server()
        self._sockets.clear()

    def _bind(self, address: Address) -> Address:
        target = str(address)
        if isinstance(address, Unix):
            socket = UnixSocket(address.path)
            self._sockets.append(socket)
            target = f"unix:{socket.hidden}"
        try:
            if self._credentials is None:
                port = self._server.add_insecure_port(target)
            else:
                port = self._server.add_secure_port(target, self._credentials)
        except RuntimeError as error:
            why = "is it in use, or does the host not belong to this machine?"
            raise StartError(f"cannot listen on {address}: {why}") from error
        return address if isinstance(address, Unix) else type(address)(address.host, port)

    async def set_serving(self) -> None:
        """See :class:`ext_proc.transport.base.Server`."""
        for name in SERVICES:
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)

    async def drain(self, seconds: float) -> None:
        """Stop without failing open calls; see :class:`ext_proc.transport.base.Server`."""
        loop = asyncio.get_running_loop()
        begun = loop.time()
        if not taken_over(self._ports, self._sockets):
            await self._health.enter_graceful_shutdown()
            await until_quiet(seconds, lambda: self._streams)
        self._closing = True
        self._health.end_watches()
        for task in list(self._idle):
            task.cancel()
        await self._stop(max(0.0, begun + seconds - loop.time()))

    async def abort(self) -> None:
        """Stop at once, whatever is open."""
        self._closing = True
        await self._stop(None)

    async def _stop(self, grace: float | None) -> None:
        if self._checking is not None:
            self._checking.cancel()
        await self._server.stop(grace)
        for socket in self._sockets:
            socket.remove()

    async def _process(self, _: AsyncIterator[bytes], context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
        """Serve one stream: answer each message until Envoy or an answer ends it."""
        self._streams += 1
        answer_to, choice = self._service.answer, _choice(context)
        message = await context.read()
        while isinstance(message, bytes):
            answer = answer_to(message, choice)
            if answer is END:
                return
            if isinstance(answer, Last):
                await context.write(answer.answer)
                return
            if isinstance(answer, bytes):
                await context.write(answer)
            if self._closing:
                return
            message = await self._next_message(context)

    async def _next_message(self, context: grpc.aio.ServicerContext[bytes, bytes]) -> Any:
        """The next message of a stream that waits for no answer; None if the server closes meanwhile."""
        task = asyncio.current_task()
        assert task is not None  # a coroutine of a running loop
        self._idle.add(task)
        try:
            return await context.read()
        except asyncio.CancelledError:
            if self._closing:
                return None
            raise
        finally:
            self._idle.discard(task)


def _choice(context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
    """The experiments of the route on which Envoy asks; empty: any."""
    found = next((value for key, value in context.invocation_metadata() or () if key == CHOICE), "")
    return found if isinstance(found, bytes) else found.encode()


def _credentials(tls: Tls) -> grpc.ServerCredentials:
    server_context(tls)  # grpcio does not report unusable files, but fails every handshake
    pair = (tls.key.read_bytes(), tls.cert.read_bytes())
    clients = None if tls.client_ca is None else tls.client_ca.read_bytes()
    return grpc.ssl_server_credentials([pair], clients, require_client_auth=clients is not None)


class _Health(health.aio.HealthServicer):  # type: ignore[misc, name-defined]  # grpc-stubs does not know health.aio
    """The standard health service, except that its watches end when the server closes instead of holding it up."""

    def __init__(self) -> None:
        super().__init__()
        self._server_status = dict.fromkeys(SERVICES, health_pb2.HealthCheckResponse.NOT_SERVING)
        self._watches: set[asyncio.Task[None]] = set()
        self._ended = False

    async def Watch(self, request: Any, context: Any) -> None:  # noqa: N802  the protocol's name
        """Stream a service's status; see grpc.health.v1."""
        task = asyncio.current_task()
        assert task is not None  # a coroutine of a running loop
        self._watches.add(task)
        try:
            await super().Watch(request, context)
        except asyncio.CancelledError:
            if not self._ended:
                raise
        finally:
            self._watches.discard(task)

    def end_watches(self) -> None:
        """End every watch cleanly."""
        self._ended = True
        for task in self._watches:
            task.cancel()
