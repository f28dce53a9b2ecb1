"""Listening sockets that stay in charge of what they accept: caps, reserved descriptors, log lines that do not flood.

:mod:`abmesh.serving` and the transport ``nghttp2`` of the server listen with it. An event loop's own listener accepts
whatever comes, and when descriptors run out it logs a traceback for every attempt, or hangs up without a word.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import time
from collections.abc import Callable
from typing import Any, Final

CONNECTIONS: Final = "connections"
"""Cause of a refusal: as many connections as are allowed are open."""

DESCRIPTORS: Final = "descriptors"
"""Cause of a refusal: the process, or the machine, has no file descriptor left."""

MEMORY: Final = "memory"
"""Cause of a refusal: the kernel has no memory for another connection."""

_BACKLOG: Final = 1024
_AT_ONCE: Final = 8
"""Connections accepted before those accepted earlier are read: a client that speaks at once is heard before others
can crowd it out."""

_PAUSE_SECONDS: Final = 0.5
_FULL: Final = frozenset({errno.EMFILE, errno.ENFILE})
_NO_MEMORY: Final = frozenset({errno.ENOBUFS, errno.ENOMEM})


class LogLimit:
    """Lets one line of a kind into the log every few seconds, and counts the others."""

    def __init__(self, seconds: float = 10.0, now: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._now = now
        self._logged: dict[str, tuple[float, int]] = {}

    def allows(self, kind: str) -> int | None:
        """Whether to log a line now.

        Args:
            kind: one of a few: each has its own limit, and is remembered for good.

        Returns:
            How many lines of this kind were left out since the last one; None to leave out this one too.
        """
        now = self._now()
        last, silent = self._logged.get(kind, (now - self._seconds, 0))
        if now - last < self._seconds:
            self._logged[kind] = (last, silent + 1)
            return None
        self._logged[kind] = (now, 0)
        return silent


def bound(host: str, port: int, *, shared: bool = False) -> list[socket.socket]:
    """TCP sockets bound to every address that a host name resolves to, all on one port; they do not listen yet.

    Args:
        host: a name or an address; ``::`` means all addresses of both families.
        port: 0 means any free one.
        shared: whether further sockets with this option may bind the same port (SO_REUSEPORT).

    Raises:
        OSError: an address is not available. Two sockets that do not listen may both get one; then the second to listen
            fails.
    """
    sockets: list[socket.socket] = []
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    try:
        for family, kind, protocol, _, target in dict.fromkeys(found):
            made = socket.socket(family, kind, protocol)
            sockets.append(made)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if shared:
                made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if family == socket.AF_INET6:
                made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(host != "::"))
            made.bind((target[0], port, *target[2:]))
            port = made.getsockname()[1]
    except OSError:
        for made in sockets:
            made.close()
        raise
    return sockets


class Listener:
    """Accepts the connections of one listening socket on the running event loop.

    One descriptor is kept in reserve. When the process has no other left, it is given up for a moment to accept the
    connection that waits and close it: the peer learns at once that nobody serves it, and the refusal is counted.

    Attributes:
        pending: connections that are accepted and not open yet, because TLS is being negotiated.
    """

    def __init__(
        self,
        listening: socket.socket,
        factory: Callable[[], asyncio.BaseProtocol],
        is_open: Callable[[asyncio.BaseProtocol], bool],
        admit: Callable[[], bool],
        refused: Callable[[str], None],
        **tls: Any,
    ) -> None:
        """Listen, and accept until :meth:`close`.

        Args:
            listening: a bound socket; the listener closes it.
            factory: makes the protocol of a connection.
            is_open: whether a protocol's connection is made and not lost yet.
            admit: whether to serve one more connection; it may close another one first.
            refused: called with the cause of every refusal, one of the constants of this module.
            tls: arguments of ``loop.connect_accepted_socket``.

        Raises:
            OSError: another socket listens there already.
        """
        try:
            listening.setblocking(False)
            listening.listen(_BACKLOG)
        except OSError:
            listening.close()
            raise
        self._listening = listening
        self._factory = factory
        self._is_open = is_open
        self._admit = admit
        self._refused = refused
        self._tls = tls
        self._loop = asyncio.get_running_loop()
        self._reserve = _spare_descriptor()
        self._tasks: dict[asyncio.Task[None], asyncio.BaseProtocol] = {}
        self._resume: asyncio.TimerHandle | None = None
        self._loop.add_reader(listening, self._accept_some)

    @property
    def pending(self) -> int:
        """See the class."""
        return sum(not self._is_open(protocol) for protocol in self._tasks.values())

    def close(self) -> None:
        """Stop listening. Connections that wait to be accepted are served first; those accepted stay open."""
        if self._listening.fileno() < 0:
            return
        self._loop.remove_reader(self._listening)
        if self._resume is not None:
            self._resume.cancel()
        for _ in range(_BACKLOG):  # no more than had been waiting
            if not self._accept():
                break
        self._listening.close()
        if self._reserve is not None:
            os.close(self._reserve)
            self._reserve = None

    def _accept_some(self) -> None:
        for _ in range(_AT_ONCE):
            if not self._accept():
                return

    def _accept(self) -> bool:
        """Accept one connection; False if there is none, or none can be accepted now."""
        try:
            accepted, _ = self._listening.accept()
        except (BlockingIOError, InterruptedError):
            return False
        except ConnectionAbortedError:
            return True
        except OSError as error:
            return self._failed(error)
        if not self._admit():
            accepted.close()
            self._refused(CONNECTIONS)
            return True
        accepted.setblocking(False)
        protocol = self._factory()
        task = self._loop.create_task(self._serve(accepted, protocol))
        self._tasks[task] = protocol
        task.add_done_callback(self._tasks.pop)
        return True

    async def _serve(self, accepted: socket.socket, protocol: asyncio.BaseProtocol) -> None:
        try:
            await self._loop.connect_accepted_socket(lambda: protocol, accepted, **self._tls)
        except (OSError, TimeoutError):  # the peer is gone, or did not manage the TLS handshake
            accepted.close()

    def _failed(self, error: OSError) -> bool:
        if error.errno in _FULL:
            self._refused(DESCRIPTORS)
            if self._hang_up():
                return True
        elif error.errno in _NO_MEMORY:
            self._refused(MEMORY)
        if self._listening.fileno() >= 0 and self._resume is None:
            self._loop.remove_reader(self._listening)
            self._resume = self._loop.call_later(_PAUSE_SECONDS, self._try_again)
        return False

    def _try_again(self) -> None:
        self._resume = None
        if self._reserve is None:
            self._reserve = _spare_descriptor()
        self._loop.add_reader(self._listening, self._accept_some)

    def _hang_up(self) -> bool:
        """Accept the next connection with the reserved descriptor and close it; False without one."""
        if self._reserve is None:
            return False
        os.close(self._reserve)
        with contextlib.suppress(OSError):
            self._listening.accept()[0].close()
        self._reserve = _spare_descriptor()
        return self._reserve is not None


def _spare_descriptor() -> int | None:
    try:
        return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
