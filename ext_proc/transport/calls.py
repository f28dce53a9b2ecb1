"""The calls of one connection: what is asked on each, and what is answered. Made part of a connection by
:mod:`ext_proc.transport.connection`, which hands over what the engine tells and sends what is queued here.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any, Final

from ext_proc import wire
from ext_proc.service import END, Answer, Last
from ext_proc.transport import grpc_protocol, http2
from ext_proc.transport.grpc_protocol import Call, CallError, NotGrpc, Reader, Status, framed, only_message
from ext_proc.transport.health import CHECK, WATCH
from ext_proc.transport.shared import Shared

PROCESS: Final = f"/{wire.SERVICE}/{wire.METHOD}".encode()
_METHODS: Final = frozenset({PROCESS, CHECK, WATCH})
USUAL: Final = Call(PROCESS)
"""What nearly every call asks for."""

_MOST_HELD: Final = 32 * 1024 * 1024
"""Bytes of messages that are not complete, of one connection."""


class Stream:
    """A call that is open.

    Attributes:
        call: what its headers asked for.
        reader: of messages that came in pieces; None until there is one.
        held: bytes that it keeps.
        heard: whether a message has come.
        answered: whether the headers of the answer have been sent.
        ended: whether the peer has said all that it will.
        timer: ends the call when its time is over.
    """

    # What most calls never change costs them nothing.
    reader: Reader | None = None
    held = 0
    heard = False
    answered = False
    ended = False
    timer: asyncio.TimerHandle | None = None

    def __init__(self, call: Call) -> None:
        self.call = call


class Calls:
    """All calls of one connection."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._service = shared.service
        self._http2: http2.Connection
        self._streams: dict[int, Stream] = {}
        self._half_open: set[int] = set()
        self._unwanted: list[int] = []
        self._usual: tuple[tuple[bytes, bytes], ...] = ()
        self._held = 0
        self._closing = False

    @property
    def open_streams(self) -> int:
        """Calls that are open now."""
        return len(self._streams)

    def _flush(self) -> None:
        """Send what is queued."""
        raise NotImplementedError

    def _give_up(self, error: http2.EngineError) -> None:
        """End the connection, with which the engine will do nothing more."""
        raise NotImplementedError

    @contextlib.contextmanager
    def _given_up_on_error(self) -> Iterator[None]:
        """For what happens while nothing is read: the engine's errors end the connection, and go no further."""
        try:
            yield
        except http2.EngineError as error:
            self._give_up(error)

    def _begin(self, event: Any) -> None:
        """A call's headers have come."""
        headers, stream_id = event.headers, event.stream_id
        try:
            call = grpc_protocol.read_call(headers)
        except CallError as error:
            self._fail(stream_id, Stream(Call(b"")), error)
            return
        if isinstance(call, NotGrpc):
            self._refuse(stream_id, call)
            return
        stream = self._open(stream_id, call)
        if call.path not in _METHODS:
            self._fail(stream_id, stream, CallError(Status.UNIMPLEMENTED, "no such method"))
            return
        if call.timeout is not None:
            loop = asyncio.get_running_loop()
            stream.timer = loop.call_later(call.timeout, self._expire, stream_id, stream)
        elif call == USUAL:
            self._usual = headers
        if event.end_stream:
            self._take(stream_id, b"", True)

    def _open(self, stream_id: int, call: Call) -> Stream:
        if call.path == PROCESS:  # Envoy's questions about our health, which go on and on, would hold up a drain
            self._shared.streams += 1
        stream = self._streams[stream_id] = Stream(call)
        return stream

    def _take_first(self, stream_id: int, data: bytes) -> None:
        """The first bytes of a call with the usual headers: nearly always a message whose answer ends the call.

        What the other ways would come to, with nothing made or looked up that is not needed.
        """
        message = only_message(data)
        if message is None:
            self._open(stream_id, USUAL)
            self._take(stream_id, data, False)
            return
        answer = self._service.answer(message)
        try:
            if type(answer) is Last:
                self._shared.streams += 1
                engine = self._http2
                engine.send_response(stream_id, grpc_protocol.START)
                engine.send_data(stream_id, framed(answer.answer))
                engine.send_trailers(stream_id, grpc_protocol.DONE)
                self._half_open.add(stream_id)
            else:
                stream = self._open(stream_id, USUAL)
                stream.heard = True
                self._reply(stream_id, stream, answer)
        except http2.StreamGone:
            self._forget(stream_id)  # reset in the very bytes that we are reading

    def _take(self, stream_id: int, data: bytes, ended: bool) -> None:
        """Bytes of a call; they may hold a message, a part of one, or several."""
        stream = self._streams.get(stream_id)
        if stream is None:
            return  # what still comes for a call that is over
        stream.ended = ended
        try:
            if stream.reader is None and (message := only_message(data)) is not None:
                self._message(stream_id, stream, message)
            elif data:
                self._pieces(stream_id, stream, data)
            if ended and stream_id in self._streams:
                self._half_closed(stream_id, stream)
        except CallError as error:
            self._fail(stream_id, stream, error)
        except http2.StreamGone:
            self._forget(stream_id)  # as above

    def _pieces(self, stream_id: int, stream: Stream, data: bytes) -> None:
        if stream.reader is None:
            stream.reader = Reader(stream.call.encoding)
        for message in stream.reader.feed(data):
            self._message(stream_id, stream, message)
            if stream_id not in self._streams:
                return
        held = stream.reader.held
        self._held += held - stream.held
        stream.held = held
        if self._held > _MOST_HELD:
            raise CallError(Status.RESOURCE_EXHAUSTED, "too many messages of this connection are not complete")
        if self._closing and not held:
            self._finish(stream_id, stream)

    def _message(self, stream_id: int, stream: Stream, message: bytes) -> None:
        stream.heard = True
        path = stream.call.path
        if path == PROCESS:
            self._reply(stream_id, stream, self._service.answer(message))
        elif path == CHECK:
            self._send(stream_id, stream, self._shared.health.check(message))
            self._finish(stream_id, stream)
        elif stream.answered:
            raise CallError(Status.INTERNAL, "one message was expected, and another came")
        else:

            def tell(status: bytes) -> None:
                if self._streams.get(stream_id) is not stream:
                    return  # telling the watcher before this one has ended the connection of both
                with self._given_up_on_error():
                    with contextlib.suppress(http2.StreamGone):
                        self._send(stream_id, stream, status)
                    self._flush()

            self._send(stream_id, stream, self._shared.health.watch(message, (self, stream_id), tell))

    def _reply(self, stream_id: int, stream: Stream, answer: Answer) -> None:
        if type(answer) is bytes:
            self._send(stream_id, stream, answer)
        elif type(answer) is Last:
            self._send(stream_id, stream, answer.answer)
        if self._closing or answer is END or type(answer) is Last:
            self._finish(stream_id, stream)

    def _half_closed(self, stream_id: int, stream: Stream) -> None:
        """The peer will say no more: nothing is left to be answered, but watchers still want to be told."""
        path = stream.call.path
        if stream.held:
            raise CallError(Status.INTERNAL, "the call ended within a message")
        if path == PROCESS:
            self._finish(stream_id, stream)
        elif not stream.answered:
            raise CallError(Status.INTERNAL, "a message was expected, and none came")
        elif self._closing:
            self._finish(stream_id, stream)

    # Answers.

    def _send(self, stream_id: int, stream: Stream, message: bytes) -> None:
        engine = self._http2
        if not stream.answered:
            stream.answered = True
            engine.send_response(stream_id, grpc_protocol.START)
        engine.send_data(stream_id, framed(message))

    def _finish(self, stream_id: int, stream: Stream) -> None:
        """End a call well."""
        engine = self._http2
        if stream.answered:
            engine.send_trailers(stream_id, grpc_protocol.DONE)
        else:
            engine.send_response(stream_id, (*grpc_protocol.START, *grpc_protocol.DONE), end_stream=True)
        self._forget(stream_id)
        if not stream.ended:
            self._half_open.add(stream_id)

    def _fail(self, stream_id: int, stream: Stream, error: CallError) -> None:
        """End a call otherwise."""
        engine = self._http2
        trailers = grpc_protocol.failed(error.status, str(error))
        try:
            if stream.answered:
                engine.send_trailers(stream_id, trailers)
            else:
                engine.send_response(stream_id, (*grpc_protocol.START, *trailers), end_stream=True)
        except http2.StreamGone:
            self._forget(stream_id)
            return
        self._forget(stream_id)
        if not stream.ended:
            self._unwanted.append(stream_id)

    def _refuse(self, stream_id: int, answer: NotGrpc) -> None:
        with contextlib.suppress(http2.StreamGone):  # reset in the very bytes that we are reading
            self._http2.send_response(stream_id, ((b":status", answer.status),), end_stream=True)
            self._unwanted.append(stream_id)

    def _forget(self, stream_id: int) -> None:
        stream = self._streams.pop(stream_id, None)
        if stream is None:
            return
        if stream.timer is not None:
            stream.timer.cancel()
        self._held -= stream.held
        if stream.call.path == WATCH:
            self._shared.health.watchers.pop((self, stream_id), None)

    def _expire(self, stream_id: int, stream: Stream) -> None:
        if self._streams.get(stream_id) is stream:
            with self._given_up_on_error():
                self._fail(stream_id, stream, CallError(Status.DEADLINE_EXCEEDED, "the call's time is over"))
                self._flush()
