"""The gRPC calls of one connection: collects messages, gets answers, and queues them with the HTTP/2 engine.

:mod:`ext_proc.transport.connection` passes on the engine's events and sends what is queued here. Calls know nothing of
their connection but one function, :data:`Unprompted`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Final

from ext_proc import wire
from ext_proc.service import END, Answer, Last
from ext_proc.transport import grpc_protocol, http2
from ext_proc.transport.base import CONNECTION_BUDGET
from ext_proc.transport.grpc_protocol import DONE, START, Call, CallError, NotGrpc, Reader, Status, framed, only_message
from ext_proc.transport.health import CHECK, WATCH
from ext_proc.transport.shared import Shared
from ext_proc.transport.streams import FinishedStreams, Stream
from ext_proc.transport.usual import Usual

PROCESS: Final = f"/{wire.SERVICE}/{wire.METHOD}".encode()
_METHODS: Final = frozenset({PROCESS, CHECK, WATCH})
USUAL: Final = Call(PROCESS)
"""What almost every call asks for."""

_CALL_BYTES: Final = 512
"""What an open call takes, about, beside its messages."""

_MOST_WATCHES: Final = 16
"""Calls that watch our health, on one connection: each takes some kilobytes for good, and Envoy makes none."""

Unprompted = Callable[[Callable[[], None]], None]
"""Runs a function that queues frames outside of a read, then sends them; an engine error ends the connection."""


def _connection_lost(queue: Callable[[], None]) -> None:
    """In the place of :data:`Unprompted` once nothing can be sent any more."""


class Calls:
    """All calls of one connection.

    Attributes:
        buffered: bytes of incomplete messages.
        checked: whether the peer has checked our health.
        closing: whether calls end as soon as they wait for nothing.
        held: bytes that the calls take, those of incomplete messages included.
        usual: the headers of calls that asked for :data:`USUAL`, whatever their choice.
    """

    __slots__ = (
        "_engine",
        "_finished",
        "_service",
        "_shared",
        "_streams",
        "_unprompted",
        "_watches",
        "buffered",
        "checked",
        "closing",
        "held",
        "usual",
    )

    def __init__(
        self, engine: http2.Connection, finished: FinishedStreams, shared: Shared, unprompted: Unprompted
    ) -> None:
        self._engine = engine
        self._finished = finished
        self._shared = shared
        self._service = shared.service
        self._unprompted = unprompted
        self._streams: dict[int, Stream] = {}
        self.buffered = self.held = self._watches = 0
        self.checked = False
        self.closing = False
        self.usual = Usual(USUAL)

    def __len__(self) -> int:
        return len(self._streams)

    # The engine's events.

    def begin(self, event: http2.RequestReceived) -> None:
        """Open a call whose headers have arrived."""
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
        if call.path == WATCH:
            self._watches += 1
            if self._watches > _MOST_WATCHES:
                found = "too many health watches on this connection"
                self._fail(stream_id, stream, CallError(Status.RESOURCE_EXHAUSTED, found, refused="connection_budget"))
                return
        if call.timeout is not None:
            loop = asyncio.get_running_loop()
            stream.timer = loop.call_later(call.timeout, self._expire, stream_id, stream)
        elif call.path == PROCESS and call.encoding == USUAL.encoding:
            self.usual.remember(headers, call)
        if event.end_stream:
            self.receive(stream_id, b"", True)

    def begin_usual(self, stream_id: int) -> None:
        """Open a call that has the usual headers."""
        self._open(stream_id, self.usual.call)

    def answer_usual(self, stream_id: int, data: bytes) -> None:
        """Handle the first bytes of a call with the usual headers: mostly one message whose answer ends the call.

        The outcome is that of :meth:`begin_usual` and :meth:`receive`, but a call that ends here needs no stream.
        """
        message = only_message(data)
        if message is None:
            self._open(stream_id, self.usual.call)
            self.receive(stream_id, data, False)
            return
        answer = self._service.answer(message, self.usual.call.choice)
        try:
            if type(answer) is Last:
                self._shared.streams += 1
                engine = self._engine
                engine.send_response(stream_id, START)
                engine.send_data(stream_id, framed(answer.answer))
                engine.send_trailers(stream_id, DONE)
                self._finished.half_open.add(stream_id)
            else:
                stream = self._open(stream_id, self.usual.call)
                stream.received = True
                self._reply(stream_id, stream, answer)
        except http2.StreamGone:
            self.forget(stream_id)  # the bytes that are being read also reset it

    def receive(self, stream_id: int, data: bytes, ended: bool) -> None:
        """Handle bytes of a call; they may hold a message, part of one, or several."""
        stream = self._streams.get(stream_id)
        if stream is None:
            return  # the call is already over
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
            self.forget(stream_id)  # the bytes that are being read also reset it

    # What the connection asks for.

    def finish_idle(self) -> None:
        """End the calls that wait for nothing; with ``closing``, the others end once they are answered."""
        for stream_id, stream in list(self._streams.items()):
            if stream.received and not stream.buffered:
                self._finish(stream_id, stream)

    def forget(self, stream_id: int) -> None:
        """Forget a call that is over, or whose stream was reset."""
        stream = self._streams.pop(stream_id, None)
        if stream is None:
            return
        if stream.timer is not None:
            stream.timer.cancel()
        self.buffered -= stream.buffered
        self._hold(-stream.buffered - _CALL_BYTES)
        if stream.call.path == WATCH:
            self._watches -= 1
            self._shared.health.watchers.pop((self, stream_id), None)

    def forget_all(self) -> None:
        """Forget every call, because the connection is over."""
        for stream_id in list(self._streams):
            self.forget(stream_id)

    def release(self) -> None:
        """Forget every call and the connection, which is lost.

        Without the reference back, both are freed at once; garbage is collected rarely (:mod:`ext_proc.lifecycle`).
        """
        self.forget_all()
        self._unprompted = _connection_lost

    # Messages.

    def _open(self, stream_id: int, call: Call) -> Stream:
        if call.path == PROCESS:  # health checks, which never stop, must not hold up a drain
            self._shared.streams += 1
        stream = self._streams[stream_id] = Stream(call)
        self._hold(_CALL_BYTES)  # this connection may be the one that is closed
        return stream

    def _pieces(self, stream_id: int, stream: Stream, data: bytes) -> None:
        if stream.reader is None:
            stream.reader = Reader(stream.call.encoding)
        for message in stream.reader.feed(data):
            self._message(stream_id, stream, message)
            if stream_id not in self._streams:
                return
        buffered = stream.reader.buffered
        more, stream.buffered = buffered - stream.buffered, buffered
        self.buffered += more
        self._hold(more)
        if self.buffered > CONNECTION_BUDGET:
            found = "too many bytes of incomplete messages on this connection"
            raise CallError(Status.RESOURCE_EXHAUSTED, found, refused="connection_budget")
        if self.closing and not buffered:
            self._finish(stream_id, stream)

    def _hold(self, more: int) -> None:
        """Account for bytes that calls take; for fewer, if negative."""
        if more:
            self.held += more
            self._shared.hold(more)

    def _message(self, stream_id: int, stream: Stream, message: bytes) -> None:
        stream.received = True
        path = stream.call.path
        if path == PROCESS:
            self._reply(stream_id, stream, self._service.answer(message, stream.call.choice))
        elif path == CHECK:
            self.checked = True
            self._send(stream_id, stream, self._shared.health.check(message))
            self._finish(stream_id, stream)
            if self._shared.health.ended and not self._streams:
                # The next check opens a new connection: at an address that several servers share, to one that serves.
                self._engine.send_goaway(http2.NO_ERROR)
        elif stream.answered:
            raise CallError(Status.INTERNAL, "a second message arrived where one was expected")
        else:
            status = self._shared.health.watch(message, (self, stream_id), self._notifier(stream_id, stream))
            self._send(stream_id, stream, status)

    def _notifier(self, stream_id: int, stream: Stream) -> Callable[[bytes], None]:
        """Sends health changes to a watcher."""

        def notify(status: bytes) -> None:
            def queue() -> None:
                with contextlib.suppress(http2.StreamGone):
                    self._send(stream_id, stream, status)

            if self._streams.get(stream_id) is stream:  # notifying the watcher before may have ended the connection
                self._unprompted(queue)

        return notify

    def _reply(self, stream_id: int, stream: Stream, answer: Answer) -> None:
        if type(answer) is bytes:
            self._send(stream_id, stream, answer)
        elif type(answer) is Last:
            self._send(stream_id, stream, answer.answer)
        if self.closing or answer is END or type(answer) is Last:
            self._finish(stream_id, stream)

    def _half_closed(self, stream_id: int, stream: Stream) -> None:
        """The peer has closed its side: end the call, unless it watches our health."""
        path = stream.call.path
        if stream.buffered:
            raise CallError(Status.INTERNAL, "the call ended within a message")
        if path == PROCESS:
            self._finish(stream_id, stream)
        elif not stream.answered:
            raise CallError(Status.INTERNAL, "the call ended without a message")
        elif self.closing:
            self._finish(stream_id, stream)

    # Answers.

    def _send(self, stream_id: int, stream: Stream, message: bytes) -> None:
        engine = self._engine
        if not stream.answered:
            stream.answered = True
            engine.send_response(stream_id, START)
        engine.send_data(stream_id, framed(message))

    def _finish(self, stream_id: int, stream: Stream) -> None:
        """End a call with status OK."""
        engine = self._engine
        if stream.answered:
            engine.send_trailers(stream_id, DONE)
        else:
            engine.send_response(stream_id, (*START, *DONE), end_stream=True)
        self.forget(stream_id)
        if not stream.ended:
            self._finished.half_open.add(stream_id)

    def _fail(self, stream_id: int, stream: Stream, error: CallError) -> None:
        """End a call with an error."""
        engine = self._engine
        if error.refused:
            self._shared.refuse(error.refused)
        trailers = grpc_protocol.failed(error.status, str(error))
        try:
            if stream.answered:
                engine.send_trailers(stream_id, trailers)
            else:
                engine.send_response(stream_id, (*START, *trailers), end_stream=True)
        except http2.StreamGone:
            self.forget(stream_id)
            return
        self.forget(stream_id)
        if not stream.ended:
            self._finished.unwanted.append(stream_id)

    def _refuse(self, stream_id: int, answer: NotGrpc) -> None:
        with contextlib.suppress(http2.StreamGone):  # the bytes that are being read also reset it
            self._engine.send_response(stream_id, ((b":status", answer.status),), end_stream=True)
            self._finished.unwanted.append(stream_id)

    def _expire(self, stream_id: int, stream: Stream) -> None:
        if self._streams.get(stream_id) is stream:
            error = CallError(Status.DEADLINE_EXCEEDED, "deadline exceeded")
            self._unprompted(lambda: self._fail(stream_id, stream, error))
