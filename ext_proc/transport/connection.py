"""One connection of a peer: bytes to calls, calls to answers, answers to bytes. Made by :mod:`.nghttp2`.

Everything that is answered while the bytes of one read are gone through leaves in one write. The path of a request
that Envoy makes is :meth:`Connection.data_received`, ``_begin``, ``_take``, ``_process``, ``_flush``, and nothing on it
waits, locks or starts a task.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from typing import Any, Final

from ext_proc import wire
from ext_proc.service import END, Last
from ext_proc.transport import grpc_protocol, http2
from ext_proc.transport.calls import Shared, Stream
from ext_proc.transport.grpc_protocol import Call, CallError, NotGrpc, Reader, Status, framed, only_message
from ext_proc.transport.health import CHECK, WATCH

log = logging.getLogger("ext_proc")

PROCESS: Final = f"/{wire.SERVICE}/{wire.METHOD}".encode()
_METHODS: Final = frozenset({PROCESS, CHECK, WATCH})

_MOST_HELD: Final = 32 * 1024 * 1024
"""Bytes of messages that are not complete, of one connection."""

_MOST_QUEUED: Final = 4 * 1024 * 1024
"""Bytes of answers that one connection's peer has not made room for."""

_LAST_PING: Final = b"lastcall"
_STILL_THERE: Final = b"youthere"


class Connection(asyncio.Protocol):
    """One connection."""

    def __init__(self, shared: Shared, *, secure: bool) -> None:
        self._shared = shared
        self._secure = secure
        self._service = shared.service
        self._streams: dict[int, Stream] = {}
        self._last_headers: tuple[tuple[bytes, bytes], ...] = ()
        self._last_call = Call(b"")
        self._finished: list[int] = []
        self._held = 0
        self._closing = False
        self._said_last = False
        self._transport: Any = None
        self._made = self._since = 0.0
        self._greeted = self._heard = self._asked = self._paused = False

    @property
    def open_streams(self) -> int:
        """Calls that are open now."""
        return len(self._streams)

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Say hello, unless the peer does not speak HTTP/2."""
        self._transport = transport
        tls: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
        if self._secure and (tls is None or tls.selected_alpn_protocol() != "h2"):
            self._transport.abort()
            return
        self._shared.connections.add(self)
        self._shared.empty.clear()
        self._made = self._since = asyncio.get_running_loop().time()
        self._http2 = http2.new_connection()
        self._transport.write(self._http2.data_to_send())

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  asyncio's signature
        """Forget everything."""
        for stream_id in list(self._streams):
            self._forget(stream_id)
        self._shared.connections.discard(self)
        if not self._shared.connections:
            self._shared.empty.set()

    def pause_writing(self) -> None:
        """The peer does not take what is sent: take nothing from it until it does."""
        self._paused, self._heard = True, True
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        """It has taken most of it."""
        self._paused, self._heard = False, True
        self._transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        """Answer everything that is in some bytes."""
        self._heard = True
        engine = self._http2
        try:
            engine.receive_data(data)
            for event in engine.events():
                kind = type(event)
                if kind is http2.DataReceived:
                    self._take(event.stream_id, event.data, event.end_stream)  # type: ignore[attr-defined]
                elif kind is http2.RequestReceived:
                    self._begin(event)
                elif kind is http2.StreamClosed:
                    self._forget(event.stream_id)  # type: ignore[attr-defined]
                elif kind is http2.TrailersReceived:
                    self._take(event.stream_id, b"", True)  # type: ignore[attr-defined]
                elif kind is http2.SettingsReceived:
                    self._greeted = True
                elif kind is http2.PingAcknowledged and self._closing:
                    self._say_last()
            self._flush()
        except http2.EngineError as error:
            self._give_up(error)

    # Calls.

    def _begin(self, event: Any) -> None:
        headers = event.headers
        if headers == self._last_headers:
            call = self._last_call
        else:
            try:
                read = grpc_protocol.read_call(headers)
            except CallError as error:
                self._fail(event.stream_id, Stream(Call(b"")), error)
                return
            if isinstance(read, NotGrpc):
                self._refuse(event.stream_id, read)
                return
            self._last_headers = headers
            call = self._last_call = read
        self._shared.streams += 1
        stream = self._streams[event.stream_id] = Stream(call)
        if call.path not in _METHODS:
            self._fail(event.stream_id, stream, CallError(Status.UNIMPLEMENTED, "no such method"))
            return
        if call.timeout is not None:
            loop = asyncio.get_running_loop()
            stream.timer = loop.call_later(call.timeout, self._expire, event.stream_id, stream)
        if event.end_stream:
            self._take(event.stream_id, b"", True)

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
            self._forget(stream_id)  # reset in the very bytes that we are reading

    def _pieces(self, stream_id: int, stream: Stream, data: bytes) -> None:
        if stream.reader is None:
            stream.reader = Reader(stream.call.encoding)
        reader = stream.reader
        held = reader.held
        messages = reader.feed(data)
        self._held += reader.held - held
        if self._held > _MOST_HELD:
            raise CallError(Status.RESOURCE_EXHAUSTED, "too many messages of this connection are not complete")
        for message in messages:
            if stream_id not in self._streams:
                return
            self._message(stream_id, stream, message)
        if self._closing and not reader.held and stream_id in self._streams:
            self._finish(stream_id, stream)

    def _message(self, stream_id: int, stream: Stream, message: bytes) -> None:
        stream.heard = True
        path = stream.call.path
        if path == PROCESS:
            self._process(stream_id, stream, message)
        elif path == CHECK:
            self._send(stream_id, stream, self._shared.health.check(message))
            self._finish(stream_id, stream)
        elif stream.answered:
            raise CallError(Status.INTERNAL, "one message was expected, and another came")
        else:

            def tell(status: bytes) -> None:
                self._send(stream_id, stream, status)
                self._flush()

            self._send(stream_id, stream, self._shared.health.watch(message, (self, stream_id), tell))

    def _process(self, stream_id: int, stream: Stream, message: bytes) -> None:
        answer = self._service.answer(message)
        if type(answer) is Last:
            self._send(stream_id, stream, answer.answer)
            self._finish(stream_id, stream)
        elif type(answer) is bytes:
            self._send(stream_id, stream, answer)
            if self._closing:
                self._finish(stream_id, stream)
        elif answer is END or self._closing:
            self._finish(stream_id, stream)

    def _half_closed(self, stream_id: int, stream: Stream) -> None:
        """The peer will say no more: nothing is left to be answered, but watchers still want to be told."""
        path = stream.call.path
        if stream.reader is not None and stream.reader.held:
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
        self._over(stream_id, stream)

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
        self._over(stream_id, stream)

    def _refuse(self, stream_id: int, answer: NotGrpc) -> None:
        self._http2.send_response(stream_id, ((b":status", answer.status),), end_stream=True)
        self._finished.append(stream_id)

    def _over(self, stream_id: int, stream: Stream) -> None:
        self._forget(stream_id)
        if not stream.ended:
            self._finished.append(stream_id)

    def _forget(self, stream_id: int) -> None:
        stream = self._streams.pop(stream_id, None)
        if stream is None:
            return
        if stream.timer is not None:
            stream.timer.cancel()
        if stream.reader is not None:
            self._held -= stream.reader.held
        if stream.call.path == WATCH:
            self._shared.health.watchers.pop((self, stream_id), None)

    def _expire(self, stream_id: int, stream: Stream) -> None:
        if self._streams.get(stream_id) is stream:
            self._fail(stream_id, stream, CallError(Status.DEADLINE_EXCEEDED, "the call's time is over"))
            self._flush()

    def _flush(self) -> None:
        """Write everything that is ready, and end the peer's side of the calls that are over."""
        engine = self._http2
        data = engine.data_to_send()
        if self._finished:
            # Only now: a reset overtakes answers that the engine still holds.
            waiting = []
            for stream_id in self._finished:
                if engine.queued_body_size(stream_id):
                    waiting.append(stream_id)
                else:
                    engine.reset_stream(stream_id, http2.NO_ERROR)
            self._finished = waiting
            data += engine.data_to_send()
        if data:
            self._transport.write(data)
        queued = engine.queued_body_size()
        if queued > _MOST_QUEUED:
            self._cut_off()
        elif not engine.want_read or (self._said_last and not self._streams and not queued):
            self._transport.close()

    # The end of the connection.

    def close(self) -> None:
        """Take no new calls, and close once those that are open are over; those that wait for nothing end now."""
        if self._closing:
            return
        self._closing = True
        # Calls that the peer began before it heard of the end arrive before its answer to this ping.
        self._http2.send_shutdown_notice()
        self._http2.ping(_LAST_PING)
        for stream_id, stream in list(self._streams.items()):
            if stream.heard and not (stream.reader and stream.reader.held):
                self._finish(stream_id, stream)
        self._flush()

    def _say_last(self) -> None:
        self._http2.send_goaway(http2.NO_ERROR)
        self._said_last = True

    def abort(self) -> None:
        """Close at once."""
        self._transport.abort()

    def tend(self, now: float) -> None:
        """Look whether the peer is still there; called every now and then."""
        limits = self._shared.limits
        if not self._greeted and now - self._made > limits.handshake:
            self._transport.abort()
        elif self._heard:
            self._heard, self._asked, self._since = False, False, now
        elif self._paused or self._transport.is_closing():
            if now - self._since > limits.answer:
                self._transport.abort()
        elif self._asked:
            if now - self._since > limits.idle + limits.answer:
                self._transport.abort()
        elif now - self._since > limits.idle:
            self._asked = True
            self._http2.ping(_STILL_THERE)
            self._flush()

    def _cut_off(self) -> None:
        """The peer asks and asks, and makes no room for answers."""
        self._http2.terminate_connection(http2.ENHANCE_YOUR_CALM)
        self._transport.write(self._http2.data_to_send())
        self._transport.close()

    def _give_up(self, error: Exception) -> None:
        """The peer broke a rule after which nothing that it says can be understood."""
        log.debug("connection given up: %s", error)
        with contextlib.suppress(http2.EngineError):
            self._transport.write(self._http2.data_to_send())
        self._transport.close()
