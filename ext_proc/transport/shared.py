"""What the connections of one nghttp2 server share.

:mod:`ext_proc.transport.nghttp2` makes it; :mod:`ext_proc.transport.connection` and :mod:`.calls` use it.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from typing import Final, Protocol

from abmesh.listening import CONNECTIONS, DESCRIPTORS, MEMORY, LogLimit
from ext_proc.service import Service
from ext_proc.settings import DEFAULT_CONNECTIONS
from ext_proc.transport.base import CONNECTION_BUDGET, LONGEST_MESSAGE, SERVER_BUDGET
from ext_proc.transport.health import Health

log = logging.getLogger("ext_proc")


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits for peers; times are in seconds.

    Attributes:
        handshake: to send HTTP/2 settings, and to complete the TLS handshake.
        idle: without receiving anything, after which the peer is pinged.
        answer: to answer that ping, and to read what is sent.
        check: between two checks of these limits.
        connections: open at once.
        held: bytes that all connections together may make us hold.
    """

    handshake: float = 10.0
    idle: float = 60.0
    answer: float = 20.0
    check: float = 1.0
    connections: int = DEFAULT_CONNECTIONS
    held: int = SERVER_BUDGET


class OpenConnection(Protocol):
    """What a server does with its connections."""

    @property
    def open_streams(self) -> int:
        """Calls that are open now."""

    @property
    def held(self) -> int:
        """Bytes that the peer makes us hold."""

    @property
    def silent_since(self) -> float | None:
        """When the peer was last heard, in the event loop's time; None if it has calls."""

    @property
    def checks_only(self) -> bool:
        """Whether the peer uses it for nothing but health checks."""

    def check_limits(self, now: float) -> None:
        """Close the connection if its peer exceeds a time limit."""

    def close(self) -> None:
        """Accept no new calls, and close once the open ones have ended."""

    def abort(self) -> None:
        """Close at once, and free what the peer made us hold."""


_LEFT: Final = 0.875
"""Share of the budget that is left when connections have been closed for exceeding it."""


@dataclass(slots=True)
class Shared:
    """The state of one server.

    Attributes:
        connections: those that are open.
        empty: set while no connection is open.
        closing: whether the server is stopping, so that a new connection is closed at once.
        streams: calls accepted so far.
        held: bytes that all connections make us hold: calls, incomplete messages, and answers that their peers do not
            read.
        mend: whether every new connection's header blocks are mended (:mod:`ext_proc.transport.authority`).
    """

    service: Service
    health: Health
    limits: Limits
    connections: set[OpenConnection] = field(default_factory=set)
    empty: asyncio.Event = field(default_factory=asyncio.Event)
    closing: bool = False
    streams: int = 0
    held: int = 0
    mend: bool = False
    _quiet: LogLimit = field(default_factory=LogLimit)

    def hold(self, more: int) -> None:
        """Account for bytes that a connection makes us hold; for fewer, if negative."""
        self.held += more
        if self.held > self.limits.held:
            self.relieve()

    def relieve(self) -> None:
        """Where connections make us hold too much, close those that hold most. Envoy holds next to nothing here."""
        held = sum(connection.held for connection in self.connections)
        if held <= self.limits.held:
            return
        excess = held - self.limits.held * _LEFT
        for found in sorted(self.connections, key=lambda connection: connection.held, reverse=True):
            excess -= found.held
            self.refuse("server_budget")
            found.abort()
            if excess <= 0:
                return

    def make_room(self, most: int, now: float) -> None:
        """Close connections that wait for nothing, those silent for longest, until no more than ``most`` are open.

        It is called regularly, so that a crowd of idle peers does not keep Envoy out for long.

        Args:
            most: connections to leave.
            now: the event loop's time; who was heard since the last call is left alone.
        """
        too_many = len(self.connections) - most
        if too_many <= 0:
            return
        heard = ((found.silent_since, found) for found in self.connections)
        silent = [(since, found) for since, found in heard if since is not None and since < now]
        silent.sort(key=lambda each: each[0])
        for _, found in silent[:too_many]:
            self.refuse(CONNECTIONS)
            found.abort()

    def refuse(self, cause: str) -> None:
        """Count a refusal, and log it unless one of its cause was logged in the last ten seconds.

        Args:
            cause: one of :data:`ext_proc.telemetry.REFUSALS`.
        """
        self.service.counts.refusal(cause)
        self.report(cause, f"refused: {_WHY[cause]}")

    def report(self, kind: str, text: str) -> None:
        """Log a warning, unless one of its kind was logged in the last ten seconds."""
        more = self._quiet.allows(kind)
        if more is not None:
            log.warning("%s (%d more since the last such line)", text, more)


_WHY: Final = {
    CONNECTIONS: "too many connections are open, see --max-connections and the limit of open files (ulimit -n)",
    DESCRIPTORS: "a connection, because this process has no file descriptors left; raise their limit (ulimit -n)",
    MEMORY: "a connection, because the kernel has no memory for it",
    "message": f"a message of more than {LONGEST_MESSAGE:,} bytes; does the filter send bodies?",
    "connection_budget": f"a call: its connection makes us hold more than {CONNECTION_BUDGET:,} bytes, or watches our "
    "health too often; who is it?",
    "server_budget": "the connection that makes us hold most, since all exceed the server's budget; who is it?",
}
