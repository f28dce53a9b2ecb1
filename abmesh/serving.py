"""A small HTTP server for metrics and health that nobody can block: capped connections, each with a time limit.

The server's ``--metrics`` and the controller's ``--http`` are served with it, on the process's event loop. A connection
carries one request without a body. Whoever opens a connection and does not ask, or does not read the answer, loses it:
at a time limit, or as soon as another client needs its place.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from aiohttp import web

from abmesh.experiment.errors import StartError
from abmesh.listening import CONNECTIONS, DESCRIPTORS, MEMORY, Listener, LogLimit, bound
from abmesh.text import error_place

log = logging.getLogger(__name__)

Page = Callable[[], Awaitable[web.Response]]
"""Makes the answer to a GET. It may raise: the client then gets 500, and the log a line."""

TIMEOUT: Final = "timeout"
"""Cause of a refusal: the request was not complete in time, or its answer was not read in time."""

BODY: Final = "body"
"""Cause of a refusal: the request has a body."""

_WHY: Final = {
    CONNECTIONS: "too many are open, the one that was open for longest made room if it could",
    DESCRIPTORS: "this process has no file descriptors left; raise its limit (ulimit -n)",
    MEMORY: "the kernel has no memory left for it",
    TIMEOUT: "its request, or the reading of the answer, took too long",
    BODY: "its request has a body",
}

_LONGEST_LINE: Final = 4 * 1024
_MOST_HEADERS: Final = 64
_READ_AHEAD: Final = 16 * 1024


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """Limits for clients.

    Attributes:
        connections: open at once.
        request: seconds until a request has arrived completely, however it trickles in.
        answer: seconds from then until its answer has been read.
        crowded: seconds that an answer may take while another client waits for a place.
    """

    connections: int = 64
    request: float = 5.0
    answer: float = 10.0
    crowded: float = 1.0


@dataclass(slots=True)
class _Open:
    """A connection that is open: ``since`` when it waits for its request, or is being answered."""

    transport: asyncio.Transport
    since: float
    timer: asyncio.TimerHandle
    answering: bool = False


class HttpServer:
    """An HTTP server of a few pages.

    Attributes:
        refused: connections refused or cut off so far, by cause; every cause is there from the start.
    """

    def __init__(self, pages: Mapping[str, Page], limits: HttpLimits | None = None) -> None:
        """Set up a server that does not listen yet.

        Args:
            pages: what answers, by path; all other paths are 404.
            limits: for clients.
        """
        self.refused = dict.fromkeys(_WHY, 0)
        self._pages = dict(pages)
        self._limits = limits or HttpLimits()
        self._listeners: list[Listener] = []
        self._quiet = LogLimit()
        self._open: dict[web.RequestHandler, _Open] = {}
        self._server: _Server | None = None

    @property
    def connections(self) -> int:
        """Connections that are open now."""
        return len(self._open) + sum(listener.pending for listener in self._listeners)

    @property
    def answering(self) -> int:
        """Requests that are being answered now."""
        return sum(found.answering for found in self._open.values())

    async def start(self, host: str, port: int) -> str:
        """Listen on a port that nobody else uses.

        Args:
            host: a name or an address.
            port: 0 picks a free one.

        Returns:
            The address with its real port, as ``HOST:PORT``.

        Raises:
            StartError: cannot listen on it.
        """
        shown = f"[{host}]" if ":" in host else host
        self._server = _Server(self, self._answer)
        waiting: list[socket.socket] = []
        try:
            waiting += bound(host, port)
            port = waiting[0].getsockname()[1]
            while waiting:
                self._listeners.append(self._listener(waiting.pop(0), self._server))
        except OSError as error:
            for left in waiting:
                left.close()
            await self.stop()
            raise StartError(f"cannot listen on {shown}:{port}: {error.strerror or error}") from error
        return f"{shown}:{port}"

    async def stop(self) -> None:
        """Stop listening, and end what is open."""
        for listener in self._listeners:
            listener.close()
        for found in list(self._open.values()):
            found.transport.abort()
        if self._server is not None:
            await self._server.shutdown(timeout=1.0)

    # Connections.

    def _listener(self, listening: socket.socket, factory: _Server) -> Listener:
        return Listener(listening, factory, lambda handler: handler in self._open, self._admit, self._refuse)

    def _opened(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        loop = asyncio.get_running_loop()
        timer = loop.call_later(self._limits.request, self._expire, handler)
        self._open[handler] = _Open(transport, loop.time(), timer)

    def _closed(self, handler: web.RequestHandler) -> None:
        found = self._open.pop(handler, None)
        if found is not None:
            found.timer.cancel()

    def _expire(self, handler: web.RequestHandler) -> None:
        self._refuse(TIMEOUT)
        self._cut_off(handler)

    def _cut_off(self, handler: web.RequestHandler) -> None:
        found = self._open[handler]
        self._closed(handler)
        found.transport.abort()

    def _admit(self) -> bool:
        """Whether there is a place for one more; the connection that has had its place for longest may lose it."""
        if self.connections < self._limits.connections:
            return True
        now = asyncio.get_running_loop().time()
        for handler, found in self._open.items():  # the oldest come first
            if not found.answering or now - found.since > self._limits.crowded:
                self._refuse(CONNECTIONS)
                self._cut_off(handler)
                return True
        return False

    def _refuse(self, cause: str) -> None:
        self.refused[cause] += 1
        more = self._quiet.allows(cause)
        if more is not None:
            log.warning("HTTP: refused a connection: %s (%d more since the last such line)", _WHY[cause], more)

    # Requests.

    async def _answer(self, request: web.BaseRequest) -> web.Response:
        found = self._open.get(request.protocol)
        if found is not None:
            loop = asyncio.get_running_loop()
            found.timer.cancel()
            found.timer = loop.call_later(self._limits.answer, self._expire, request.protocol)
            found.since, found.answering = loop.time(), True
        answer = await self._page(request)
        answer.force_close()
        return answer

    async def _page(self, request: web.BaseRequest) -> web.Response:
        if request.can_read_body:
            self._refuse(BODY)
            return web.Response(status=413, text="a request here has no body\n")
        page = self._pages.get(request.path)
        if page is None:
            return web.Response(status=404, text=f"not found; there is: {', '.join(self._pages)}\n")
        if request.method not in ("GET", "HEAD"):
            return web.Response(status=405, text="only GET and HEAD\n", headers={"allow": "GET, HEAD"})
        try:
            return await page()
        except Exception as error:  # noqa: BLE001  a page that fails must not fill the log with tracebacks
            if (more := self._quiet.allows(request.path)) is not None:
                where = error_place(error)
                log.error("HTTP: %s failed: %s (%d more since the last such line)", request.path, where, more)  # noqa: TRY400
            return web.Response(status=500, text="this page failed; the log says why\n")


class _Server(web.Server):
    """aiohttp's server, telling ours which connections are open."""

    def __init__(self, owner: HttpServer, answer: Callable[[web.BaseRequest], Awaitable[Any]]) -> None:
        quiet = logging.getLogger(f"{__name__}.protocol")
        quiet.setLevel(logging.CRITICAL)  # it would log a traceback for each broken request
        super().__init__(
            answer,
            access_log=None,
            logger=quiet,
            keepalive_timeout=0,
            lingering_time=0,
            max_line_size=_LONGEST_LINE,
            max_field_size=_LONGEST_LINE,
            max_headers=_MOST_HEADERS,
            read_bufsize=_READ_AHEAD,
        )
        self._owner = owner

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        super().connection_made(handler, transport)
        self._owner._opened(handler, transport)

    def connection_lost(self, handler: web.RequestHandler, exc: BaseException | None = None) -> None:
        super().connection_lost(handler, exc)
        self._owner._closed(handler)
