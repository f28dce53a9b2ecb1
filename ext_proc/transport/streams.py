"""The streams of one connection: open calls, and those that outlive their calls.

:mod:`ext_proc.transport.calls` keeps both; :mod:`ext_proc.transport.connection` has the finished ones reset.
"""

from __future__ import annotations

import asyncio

from ext_proc.transport import http2
from ext_proc.transport.grpc_protocol import Call, Reader


class Stream:
    """An open call.

    Attributes:
        call: what its headers ask for.
        reader: of messages that arrive in pieces; None until one does.
        buffered: bytes of an incomplete message.
        received: whether a message has arrived.
        answered: whether the response headers have been sent.
        ended: whether the peer has closed its side.
        timer: ends the call at its deadline.
    """

    # Class attributes: what most calls never change costs them nothing.
    reader: Reader | None = None
    buffered = 0
    received = False
    answered = False
    ended = False
    timer: asyncio.TimerHandle | None = None

    def __init__(self, call: Call) -> None:
        self.call = call


class FinishedStreams:
    """Streams whose calls are over, but whose peers have not closed their side.

    Attributes:
        half_open: streams whose calls ended well. Their peers normally close them, so they are reset only later.
        unwanted: streams to reset with the next bytes that are sent.
    """

    __slots__ = ("_engine", "half_open", "unwanted")

    def __init__(self, engine: http2.Connection) -> None:
        self._engine = engine
        self.half_open: set[int] = set()
        self.unwanted: list[int] = []

    def end_half_open(self) -> None:
        """Have the half-open streams reset."""
        self.unwanted += self.half_open
        self.half_open.clear()

    def reset_unwanted(self) -> None:
        """Reset the unwanted streams, except where a reset would overtake an answer that the engine still holds."""
        engine = self._engine
        waiting = []
        for stream_id in self.unwanted:
            if engine.queued_body_size(stream_id):
                waiting.append(stream_id)
            else:
                engine.reset_stream(stream_id, http2.NO_ERROR)
        self.unwanted = waiting

    def clear(self) -> None:
        """Forget them all, because the connection is over."""
        self.half_open.clear()
        self.unwanted.clear()
