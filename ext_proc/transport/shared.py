"""What the connections of one nghttp2 server share.

:mod:`ext_proc.transport.nghttp2` makes it; :mod:`ext_proc.transport.connection` and :mod:`.calls` use it.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Protocol

from ext_proc.service import Service
from ext_proc.transport.health import Health


@dataclass(frozen=True, slots=True)
class Limits:
    """Time limits for peers, in seconds.

    Attributes:
        handshake: to send HTTP/2 settings, and to complete the TLS handshake.
        idle: without receiving anything, after which the peer is pinged.
        answer: to answer that ping, and to read what is sent.
        check: between two checks of these limits.
    """

    handshake: float = 10.0
    idle: float = 60.0
    answer: float = 20.0
    check: float = 1.0


class OpenConnection(Protocol):
    """What a server does with its connections."""

    @property
    def open_streams(self) -> int:
        """Calls that are open now."""

    def check_limits(self, now: float) -> None:
        """Close the connection if its peer exceeds a time limit."""

    def close(self) -> None:
        """Accept no new calls, and close once the open ones have ended."""

    def abort(self) -> None:
        """Close at once."""


@dataclass(slots=True)
class Shared:
    """The state of one server.

    Attributes:
        connections: those that are open.
        empty: set while no connection is open.
        closing: whether the server is stopping, so that a new connection is closed at once.
        streams: calls accepted so far.
    """

    service: Service
    health: Health
    limits: Limits
    connections: set[OpenConnection] = field(default_factory=set)
    empty: asyncio.Event = field(default_factory=asyncio.Event)
    closing: bool = False
    streams: int = 0
