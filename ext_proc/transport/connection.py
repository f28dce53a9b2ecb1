"""One connection of a peer: bytes to events, answers to bytes, and its end. Made by :mod:`ext_proc.transport.nghttp2`.

Everything that is answered while the bytes of one read are gone through leaves in one write. The path of a request
that Envoy makes is :meth:`Connection.data_received`, ``_go_through``, ``_take_first``, ``_flush``, and nothing on it
waits, locks or starts a task.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Sequence
from typing import Any, Final

from ext_proc.transport import http2
from ext_proc.transport.calls import USUAL, Calls
from ext_proc.transport.http2 import (
    DataReceived,
    PingAcknowledged,
    RequestReceived,
    SettingsReceived,
    StreamClosed,
    StreamReset,
    TrailersReceived,
)
from ext_proc.transport.shared import Shared

log = logging.getLogger("ext_proc")

_MOST_QUEUED: Final = 4 * 1024 * 1024
"""Bytes of answers that one connection's peer has not made room for."""

_MOST_AT_ONCE: Final = 8 * 1024
"""Bytes that the engine gets at a time."""

HTTP2_ERROR: Final = "http2"
"""What connections are counted as whose peers broke a rule."""

_LAST_PING: Final = b"lastcall"
_STILL_THERE: Final = b"youthere"


class Connection(Calls, asyncio.Protocol):
    """One connection."""

    def __init__(self, shared: Shared, *, secure: bool) -> None:
        super().__init__(shared)
        self._secure = secure
        self._said_last = False
        self._transport: Any = None
        self._made = self._since = 0.0
        self._greeted = self._heard = self._asked = self._paused = False

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
        if self._shared.closing:
            self.close()  # accepted just before nobody listened any more

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
            if len(data) <= _MOST_AT_ONCE:
                engine.receive_data(data)
                self._go_through(engine.events())
            else:
                # A few bytes can stand for thousands of headers: those of one part are gone before the next is read.
                for start in range(0, len(data), _MOST_AT_ONCE):
                    engine.receive_data(data[start : start + _MOST_AT_ONCE])
                    self._go_through(engine.events())
            self._flush()
        except http2.EngineError as error:
            self._give_up(error)

    def _go_through(self, events: Sequence[Any]) -> None:
        begun = 0  # a call with the usual headers, of which nothing else is known yet
        for event in events:
            kind = type(event)
            if begun:
                stream_id, begun = begun, 0
                if kind is DataReceived and event.stream_id == stream_id and not event.end_stream:
                    self._take_first(stream_id, event.data)
                    continue
                self._open(stream_id, USUAL)
            if kind is RequestReceived:
                if event.headers == self._usual and not event.end_stream:
                    begun = event.stream_id
                else:
                    self._begin(event)
            elif kind is StreamClosed:
                self._half_open.discard(event.stream_id)
                self._forget(event.stream_id)
            elif kind is StreamReset:
                pass  # it is closed next
            elif kind is DataReceived:
                self._take(event.stream_id, event.data, event.end_stream)
            elif kind is TrailersReceived:
                self._take(event.stream_id, b"", True)
            elif kind is SettingsReceived:
                self._greeted = True
            elif kind is PingAcknowledged and event.opaque_data == _LAST_PING:
                self._say_last()
        if begun:
            self._open(begun, USUAL)

    def _flush(self) -> None:
        """Write everything that is ready."""
        engine = self._http2
        data = engine.data_to_send()
        if self._unwanted:
            data += self._reset_unwanted()
        if data:
            self._transport.write(data)
        queued = engine.queued_body_size()
        if queued > _MOST_QUEUED:
            self._cut_off()
        elif not engine.want_read or (self._said_last and not self._streams and not queued):
            self._leave()

    def _reset_unwanted(self) -> bytes:
        """Say of calls that are over that nothing more is wanted of them; what is to be written for that."""
        engine = self._http2
        waiting = []
        for stream_id in self._unwanted:
            # A reset overtakes answers that the engine still holds.
            if engine.queued_body_size(stream_id):
                waiting.append(stream_id)
            else:
                engine.reset_stream(stream_id, http2.NO_ERROR)
        self._unwanted = waiting
        return engine.data_to_send()

    # The end of the connection.

    def close(self) -> None:
        """Take no new calls, and close once those that are open are over; those that wait for nothing end now."""
        if self._closing or self._transport.is_closing():
            return
        self._closing = True
        with self._given_up_on_error():
            # Calls that the peer began before it heard of the end arrive before its answer to this ping.
            self._http2.send_shutdown_notice()
            self._http2.ping(_LAST_PING)
            for stream_id, stream in list(self._streams.items()):
                if stream.heard and not stream.held:
                    self._finish(stream_id, stream)
            self._flush()

    def _say_last(self) -> None:
        self._http2.send_goaway(http2.NO_ERROR)
        self._said_last = True

    def _leave(self) -> None:
        """Close once everything is written. Nothing more is done for calls, which the engine would refuse."""
        for stream_id in list(self._streams):
            self._forget(stream_id)
        self._half_open.clear()
        self._unwanted.clear()
        self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        self._transport.abort()

    def tend(self, now: float) -> None:
        """Look whether the peer is still there; called every now and then."""
        limits = self._shared.limits
        if self._half_open:
            # Peers end their side once they have their answer. For those that do not, it is ended now.
            self._unwanted += self._half_open
            self._half_open.clear()
            with self._given_up_on_error():
                self._flush()
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
            with self._given_up_on_error():
                self._http2.ping(_STILL_THERE)
                self._flush()

    def _cut_off(self) -> None:
        """The peer asks and asks, and makes no room for answers."""
        self._service.counts.error(HTTP2_ERROR)
        self._http2.terminate_connection(http2.ENHANCE_YOUR_CALM)
        self._transport.write(self._http2.data_to_send())
        self._leave()

    def _give_up(self, error: http2.EngineError) -> None:
        """The peer broke a rule after which nothing that it says can be understood."""
        self._service.counts.error(HTTP2_ERROR)
        log.debug("connection given up: %s", type(error).__name__)
        try:
            data = self._http2.data_to_send()
        except http2.EngineError:
            data = b""
        self._transport.write(data + http2.last_words(error))
        self._leave()
