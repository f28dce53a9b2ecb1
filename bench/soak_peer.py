"""One connection that loads a server as Envoy does, and now and then gives up. Made by :mod:`bench.soak`."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import hpack
from envoy.service.ext_proc.v3.external_processor_pb2 import ProcessingRequest

from experiment.names import MODEL_VERSION

_HEADERS: Final = (
    (":method", "POST"),
    (":scheme", "http"),
    (":path", "/envoy.service.ext_proc.v3.ExternalProcessor/Process"),
    (":authority", "abmesh"),
    ("te", "trailers"),
    ("content-type", "application/grpc"),
    ("grpc-timeout", "60S"),
)
_DATA, _HEADERS_FRAME, _RST_STREAM, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
_END_STREAM, _ACK, _END_HEADERS = 0x1, 0x1, 0x4
_CANCEL: Final = 8
_GIVE_BACK: Final = 16_384


@dataclass
class Tally:
    """What came of calls.

    Attributes:
        answered: calls that got the answer that is due, and ended well.
        given_up: calls that the peer itself aborted, by where it did.
        failed: calls that ended otherwise, by what happened.
    """

    answered: int = 0
    given_up: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)


def _frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def _block() -> bytes:
    never = [hpack.NeverIndexedHeaderTuple(name, value) for name, value in _HEADERS]
    return hpack.Encoder().encode(never)


def _body(*, decides: bool) -> bytes:
    request = ProcessingRequest()
    if decides:
        request.protocol_config.SetInParent()
    for name, value in ((":path", b"/v1/chat"), ("x-user-id", b"user-1"), ("x-other", b"v" * 300)):
        request.request_headers.headers.headers.add(key=name, raw_value=value)
    serialized: bytes = request.SerializeToString()
    return b"\0" + len(serialized).to_bytes(4, "big") + serialized


_HELLO: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _frame(_SETTINGS, 0, 0)
_BLOCK: Final = _block()
_BODIES: Final = (_body(decides=True), _body(decides=False))
"""As Envoy says that it wants nothing but this answer, after which the server ends the call, and as older ones do."""


class Peer(asyncio.Protocol):
    """One connection, which makes a few calls at a time until it is told to stop."""

    def __init__(self, tally: Tally, chance: random.Random, aborts: float, gone: Callable[[Peer], None]) -> None:
        self._tally = tally
        self._chance = chance
        self._aborts = aborts
        self._gone = gone
        self._body = chance.choice(_BODIES)
        self._buffer = b""
        self._next = 1
        self._taken = 0
        self._answers: dict[int, bytes] = {}
        self.stopping = False
        self._leaving = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(_HELLO)
        for _ in range(self._chance.choice((1, 1, 2, 4))):
            self._call()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._leaving and (self._answers or not self.stopping):
            self._tally.failed[f"the server closed the connection ({exc!r})"] += len(self._answers) or 1
        self._answers.clear()
        self._gone(self)

    def _call(self) -> None:
        """Begin a call, or several of which all but the last are given up."""
        while not self.stopping:
            stream = self._next
            self._next += 2
            if self._chance.random() >= self._aborts:
                self._answers[stream] = b""
                self._transport.write(
                    _frame(_HEADERS_FRAME, _END_HEADERS, stream, _BLOCK) + _frame(_DATA, 0, stream, self._body)
                )
                return
            self._give_up(stream)
            if self._leaving:
                return
        if not self._answers:
            self._leave()

    def _give_up(self, stream: int) -> None:
        head = _frame(_HEADERS_FRAME, _END_HEADERS, stream, _BLOCK)
        reset = _frame(_RST_STREAM, 0, stream, _CANCEL.to_bytes(4, "big"))
        where = self._chance.choice(("headers", "amid the message", "message", "connection"))
        if where == "connection" and self._chance.random() < 0.9:
            where = "half-closed"
        self._tally.given_up[where] += 1
        if where == "headers":
            self._transport.write(head + reset)
        elif where == "amid the message":
            self._transport.write(
                head + _frame(_DATA, 0, stream, self._body[: self._chance.randrange(len(self._body))]) + reset
            )
        elif where == "message":
            self._transport.write(head + _frame(_DATA, 0, stream, self._body) + reset)
        elif where == "half-closed":
            self._transport.write(head + _frame(_DATA, _END_STREAM, stream, self._body) + reset)
        else:
            # What else is under way on the connection goes with it.
            self._tally.given_up[where] += len(self._answers)
            self._transport.write(head)
            self._leave()

    def _leave(self) -> None:
        self._leaving = True
        self._transport.abort()

    def stop(self) -> None:
        """Make no further calls, and leave once those under way are answered."""
        self.stopping = True
        if not self._answers:
            self._leave()

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer + data if self._buffer else data
        at, end = 0, len(buffer)
        while end - at >= 9 and not self._leaving:
            size = int.from_bytes(buffer[at : at + 3], "big")
            if end - at < 9 + size:
                break
            stream = int.from_bytes(buffer[at + 5 : at + 9], "big")
            self._take(buffer[at + 3], buffer[at + 4], stream, buffer[at + 9 : at + 9 + size])
            at += 9 + size
        self._buffer = buffer[at:]

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == _DATA:  # the windows of streams are never used up
            self._taken += len(payload)
            if self._taken > _GIVE_BACK:
                self._transport.write(_frame(_WINDOW_UPDATE, 0, 0, self._taken.to_bytes(4, "big")))
                self._taken = 0
            if stream in self._answers:
                self._answers[stream] += payload
        elif kind == _RST_STREAM and stream in self._answers:
            self._over(stream, f"reset with code {int.from_bytes(payload, 'big')}")
        elif kind == _GOAWAY:
            self._tally.failed[f"GOAWAY with code {int.from_bytes(payload[4:8], 'big')}"] += 1
        elif kind in {_SETTINGS, _PING} and not flags & _ACK:
            self._transport.write(_frame(kind, _ACK, 0, payload if kind == _PING else b""))
            return
        elif kind not in {_DATA, _HEADERS_FRAME}:
            return
        if stream in self._answers and (flags & _END_STREAM or (self._body is _BODIES[1] and kind == _DATA)):
            answer = self._answers[stream]
            whole = len(answer) > 5 and int.from_bytes(answer[1:5], "big") == len(answer) - 5
            if whole or flags & _END_STREAM:
                right = whole and MODEL_VERSION.encode() in answer
                self._over(stream, "" if right else "another answer than is due")

    def _over(self, stream: int, fault: str) -> None:
        del self._answers[stream]
        if fault:
            self._tally.failed[fault] += 1
        else:
            self._tally.answered += 1
        self._transport.write(_frame(_RST_STREAM, 0, stream, bytes(4)))
        self._call()
