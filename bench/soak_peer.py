"""One connection that loads a server as Envoy does, and now and then gives up. Made by :mod:`bench.soak`."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from bench import soak_messages
from bench.soak_messages import TIMED_BLOCKS, USUAL_BLOCKS, Due

_DATA, _HEADERS_FRAME, _RST_STREAM, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
_END_STREAM, _ACK, _END_HEADERS = 0x1, 0x1, 0x4
_CANCEL: Final = 8
_DONE: Final = 2
"""With what Envoy resets a call once it has its answer."""

_UNUSUAL: Final = 0.1
"""Share of the peers that send something else than the rendered Envoy does: a time limit, or what older ones send."""

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


_HELLO: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _frame(_SETTINGS, 0, 0)


class Peer(asyncio.Protocol):
    """One connection, which makes a few calls at a time until it is told to stop."""

    def __init__(
        self, tally: Tally, chance: random.Random, aborts: float, due: Due, gone: Callable[[Peer], None]
    ) -> None:
        self._tally = tally
        self._due = due
        self._chance = chance
        self._aborts = aborts
        self._gone = gone
        self._first_block, self._block = TIMED_BLOCKS if chance.random() < _UNUSUAL / 2 else USUAL_BLOCKS
        self._decides = chance.random() >= _UNUSUAL / 2
        self._buffer = b""
        self._next = 1
        self._taken = 0
        self._asked: dict[int, bytes] = {}
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
                asked = self._message()
                self._asked[stream], self._answers[stream] = asked, b""
                self._transport.write(self._head(stream) + _frame(_DATA, 0, stream, soak_messages.framed(asked)))
                return
            self._give_up(stream)
            if self._leaving:
                return
        if not self._answers:
            self._leave()

    def _message(self) -> bytes:
        return soak_messages.message(self._chance.randrange(soak_messages.USERS), decides=self._decides)

    def _head(self, stream: int) -> bytes:
        block = self._first_block if stream == 1 else self._block
        return _frame(_HEADERS_FRAME, _END_HEADERS, stream, block)

    def _give_up(self, stream: int) -> None:
        head, body = self._head(stream), soak_messages.framed(self._message())
        reset = _frame(_RST_STREAM, 0, stream, _CANCEL.to_bytes(4, "big"))
        where = self._chance.choice(("headers", "amid the message", "message", "after the message", "connection"))
        if where == "connection" and self._chance.random() < 0.9:
            where = "half-closed"
        self._tally.given_up[where] += 1
        if where == "headers":
            self._transport.write(head + reset)
        elif where == "amid the message":
            self._transport.write(head + _frame(_DATA, 0, stream, body[: self._chance.randrange(len(body))]) + reset)
        elif where == "message":
            self._transport.write(head + _frame(_DATA, 0, stream, body) + reset)
        elif where == "after the message":  # the server may have read it, or not
            self._transport.write(head + _frame(_DATA, 0, stream, body))
            self._transport.write(reset)
        elif where == "half-closed":
            self._transport.write(head + _frame(_DATA, _END_STREAM, stream, body) + reset)
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
        if stream in self._answers and (flags & _END_STREAM or (not self._decides and kind == _DATA)):
            answer, due = self._answers[stream], self._due.answer(self._asked[stream])
            if len(answer) >= len(due) or flags & _END_STREAM:
                self._over(stream, "" if answer == due else "another answer than is due")

    def _over(self, stream: int, fault: str) -> None:
        del self._answers[stream], self._asked[stream]
        if fault:
            self._tally.failed[fault] += 1
        else:
            self._tally.answered += 1
        self._transport.write(_frame(_RST_STREAM, 0, stream, _DONE.to_bytes(4, "big")))
        self._call()
