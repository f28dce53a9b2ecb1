"""What the connections of one server share. Used by :mod:`ext_proc.transport.connection` and :mod:`.calls`."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ext_proc.service import Service
from ext_proc.transport.health import Health

if TYPE_CHECKING:
    from ext_proc.transport.connection import Connection


@dataclass(frozen=True, slots=True)
class Limits:
    """How long a peer may take, in seconds.

    Attributes:
        handshake: to say that it speaks HTTP/2, and TLS where that is asked for.
        idle: with nothing said, after which it is asked whether it is still there.
        answer: to that, and to take what is sent.
        look: how often all of this is looked at.
    """

    handshake: float = 10.0
    idle: float = 60.0
    answer: float = 20.0
    look: float = 1.0


@dataclass(slots=True)
class Shared:
    """What all connections of a server share.

    Attributes:
        empty: set while there is no connection.
        closing: whether the server is about to stop, and new connections are to be told.
        streams: how many calls have been begun.
    """

    service: Service
    health: Health
    limits: Limits
    connections: set[Connection] = field(default_factory=set)
    empty: asyncio.Event = field(default_factory=asyncio.Event)
    closing: bool = False
    streams: int = 0
