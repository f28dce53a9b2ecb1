"""What the connections of a server share, and what is known of each call. Used by :mod:`ext_proc.transport.connection`."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ext_proc.service import Service
from ext_proc.transport.grpc_protocol import Call, Reader
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
        streams: how many calls have been begun.
    """

    service: Service
    health: Health
    limits: Limits
    connections: set[Connection] = field(default_factory=set)
    empty: asyncio.Event = field(default_factory=asyncio.Event)
    streams: int = 0


class Stream:
    """A call that is open.

    Attributes:
        call: what its headers asked for.
        reader: of messages that came in pieces; None until there is one.
        heard: whether a message has come.
        answered: whether the headers of the answer have been sent.
        ended: whether the peer has said all that it will.
        timer: ends the call when its time is over.
    """

    __slots__ = ("answered", "call", "ended", "heard", "reader", "timer")

    def __init__(self, call: Call) -> None:
        self.call = call
        self.reader: Reader | None = None
        self.heard = False
        self.answered = False
        self.ended = False
        self.timer: asyncio.TimerHandle | None = None
