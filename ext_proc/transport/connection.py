"""One connection of a peer: its bytes to events, answers to bytes, time limits, and its end.

:mod:`ext_proc.transport.nghttp2` makes one for each accepted socket. A connection composes the HTTP/2 engine, its
:class:`~ext_proc.transport.calls.Calls`, and the streams that outlive them. All answers to the bytes of one read leave
in one write. The hot path, for a request as Envoy makes it, is :meth:`Connection.data_received`, ``_dispatch``,
``Calls.answer_usual``, ``_flush``; nothing on it waits, locks or starts a task.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable, Sequence
from typing import Any, Final

from ext_proc.transport import http2
from ext_proc.transport.authority import Mender
from ext_proc.transport.base import CONNECTION_BUDGET
from ext_proc.transport.calls import Calls
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
from ext_proc.transport.silence import Silence, Verdict
from ext_proc.transport.streams import FinishedStreams

log = logging.getLogger("ext_proc")

_MOST_AT_ONCE: Final = 8 * 1024
"""Bytes passed to the engine at a time."""

_MOST_BROKEN: Final = 20
"""Calls that break the rules, after which their connection is closed."""

HTTP2_ERROR: Final = "http2"
"""The error kind that connections are counted under whose peers broke the protocol."""

_CLOSING_PING: Final = b"lastcall"
_IDLE_PING: Final = b"youthere"


class Connection(asyncio.Protocol):
    """One connection."""

    __slots__ = (
        "_active",
        "_broken",
        "_calls",
        "_engine",
        "_finished",
        "_goaway_sent",
        "_mender",
        "_paused",
        "_queued",
        "_secure",
        "_settings_received",
        "_shared",
        "_silence",
        "_transport",
        "_unsent",
    )

    def __init__(self, shared: Shared, *, secure: bool) -> None:
        self._shared = shared
        self._secure = secure
        self._engine: http2.Connection
        self._finished: FinishedStreams
        self._calls: Calls
        self._silence: Silence
        self._transport: Any = None
        self._mender: Mender | None = Mender(always=shared.mend)
        self._broken = self._queued = self._unsent = 0
        self._settings_received = self._active = self._paused = self._goaway_sent = False

    @property
    def open_streams(self) -> int:
        """Calls that are open now."""
        return len(self._calls)

    @property
    def held(self) -> int:
        """Bytes that the peer makes us hold: what the server accounts for, and its calls."""
        return self._calls.held + self._queued + self._unsent

    @property
    def silent_since(self) -> float | None:
        """When the peer was last heard, in the event loop's time; None if it has calls."""
        return None if self.open_streams else self._silence.since(greeted=self._settings_received)

    @property
    def checks_only(self) -> bool:
        """Whether the peer uses this connection for nothing but health checks, as Envoy does."""
        return self._calls.checked and not self._calls.usual.headers

    # Called by asyncio.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send our settings, unless the peer does not speak HTTP/2."""
        self._transport = transport
        tls: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
        if self._secure and (tls is None or tls.selected_alpn_protocol() != "h2"):
            self._transport.abort()
            return
        self._engine = http2.new_connection()
        self._finished = FinishedStreams(self._engine)
        self._calls = Calls(self._engine, self._finished, self._shared, self._unprompted)
        self._shared.connections.add(self)
        self._shared.empty.clear()
        self._silence = Silence(asyncio.get_running_loop().time())
        self._transport.write(self._engine.data_to_send())
        if self._shared.closing:
            self.close()  # accepted just before the listeners closed

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  asyncio's signature
        """Forget everything."""
        if self not in self._shared.connections:
            return  # the peer does not speak HTTP/2
        self._calls.release()
        self._give_back()
        self._shared.connections.discard(self)
        if not self._shared.connections:
            self._shared.empty.set()

    def pause_writing(self) -> None:
        """The peer does not read what we send: read nothing from it until it does."""
        self._paused, self._active = True, True
        self._transport.pause_reading()
        self._unsent = self._transport.get_write_buffer_size()
        self._shared.hold(self._unsent)

    def resume_writing(self) -> None:
        """The peer has read most of it."""
        self._paused, self._active = False, True
        self._transport.resume_reading()
        less, self._unsent = self._unsent, 0
        self._shared.hold(-less)

    def data_received(self, data: bytes) -> None:
        """Answer everything in these bytes."""
        self._active = True
        engine = self._engine
        mender = self._mender
        if mender is not None:
            data = mender.feed(data)
            if mender.done:
                self._mender = None
        try:
            if len(data) <= _MOST_AT_ONCE:
                engine.receive_data(data)
                self._dispatch(engine.events())
            else:
                # A few bytes can unpack to thousands of headers: handle those of one part before reading the next.
                for start in range(0, len(data), _MOST_AT_ONCE):
                    engine.receive_data(data[start : start + _MOST_AT_ONCE])
                    self._dispatch(engine.events())
                    if self._transport.is_closing():
                        return  # it was cut off in the middle
            self._flush()
        except http2.EngineError as error:
            self._give_up(error)

    # Frames.

    def _dispatch(self, events: Sequence[Any]) -> None:
        calls, usual = self._calls, self._calls.usual
        begun = 0  # a call with the usual headers, of which nothing else has arrived yet
        for event in events:
            kind = type(event)
            if begun:
                stream_id, begun = begun, 0
                if kind is DataReceived and event.stream_id == stream_id and not event.end_stream:
                    calls.answer_usual(stream_id, event.data)
                    continue
                calls.begin_usual(stream_id)
            if kind is RequestReceived:
                headers = event.headers
                if (headers == usual.headers or usual.recall(headers)) and not event.end_stream:
                    begun = event.stream_id
                else:
                    calls.begin(event)
            elif kind is StreamClosed:
                self._finished.half_open.discard(event.stream_id)
                calls.forget(event.stream_id)
                if event.error_code == http2.PROTOCOL_ERROR:
                    self._broken_stream()
            elif kind is StreamReset:
                pass  # StreamClosed comes next
            elif kind is DataReceived:
                calls.receive(event.stream_id, event.data, event.end_stream)
            elif kind is TrailersReceived:
                calls.receive(event.stream_id, b"", True)
            elif kind is SettingsReceived:
                self._settings_received = True
            elif kind is PingAcknowledged and event.opaque_data == _CLOSING_PING:
                self._send_goaway()
        if begun:
            calls.begin_usual(begun)

    def _broken_stream(self) -> None:
        """Count a call that was reset because it broke the rules of HTTP/2, which the engine does without an event.

        If its headers were Envoy's, only mending them can help, which takes another connection.
        """
        shared = self._shared
        shared.service.counts.error(HTTP2_ERROR)
        shared.report(HTTP2_ERROR, "a call was reset because its headers or frames break the rules of HTTP/2")
        shared.mend = True
        self._broken += 1
        if self._broken == _MOST_BROKEN:
            asyncio.get_running_loop().call_soon(self.close)

    def _unprompted(self, queue: Callable[[], None]) -> None:
        """Send what a function queues while nothing is being read; see :data:`ext_proc.transport.calls.Unprompted`."""
        try:
            queue()
            self._flush()
        except http2.EngineError as error:
            self._give_up(error)

    def _flush(self) -> None:
        """Write everything that is queued."""
        engine = self._engine
        data = engine.data_to_send()
        if self._finished.unwanted:
            self._finished.reset_unwanted()
            data += engine.data_to_send()
        if data:
            self._transport.write(data)
        queued = engine.queued_body_size()
        if queued != self._queued:
            more, self._queued = queued - self._queued, queued
            self._shared.hold(more)
        if queued > CONNECTION_BUDGET:
            self._cut_off()
        elif not engine.want_read or (self._goaway_sent and not queued and not self.open_streams):
            self._close_transport()

    # Time limits.

    def check_limits(self, now: float) -> None:
        """Close the connection if its peer exceeds a time limit; called regularly.

        Args:
            now: the event loop's time, in seconds.
        """
        if self._finished.half_open:
            self._unprompted(self._finished.end_half_open)
        heard, self._active = self._active, False
        stuck = self._paused or self._transport.is_closing()
        verdict = self._silence.check(
            now, self._shared.limits, heard=heard, greeted=self._settings_received, stuck=stuck
        )
        if verdict is Verdict.ABORT:
            self._transport.abort()
        elif verdict is Verdict.PING:
            self._unprompted(lambda: self._engine.ping(_IDLE_PING))

    # The end of the connection.

    def close(self) -> None:
        """Accept no new calls, and close once the open ones have ended; those that wait for nothing end now."""
        if self._calls.closing or self._transport.is_closing():
            return
        self._calls.closing = True
        self._unprompted(self._queue_closing)

    def _queue_closing(self) -> None:
        # Calls that the peer began before it heard of the end arrive before its answer to this ping.
        self._engine.send_shutdown_notice()
        self._engine.ping(_CLOSING_PING)
        self._calls.finish_idle()

    def _send_goaway(self) -> None:
        self._engine.send_goaway(http2.NO_ERROR)
        self._goaway_sent = True

    def _close_transport(self) -> None:
        """Close once everything is written. Forget the calls: the engine would refuse anything more for them."""
        self._calls.forget_all()
        self._finished.clear()
        self._transport.close()

    def abort(self) -> None:
        """Close at once, and free what the peer made us hold."""
        self._transport.abort()
        self._calls.forget_all()
        self._finished.clear()
        self._give_back()

    def _give_back(self) -> None:
        """Account for the answers that are not sent any more."""
        less = self._queued + self._unsent
        self._queued = self._unsent = 0
        self._shared.hold(-less)

    def _cut_off(self) -> None:
        """End the connection of a peer that keeps asking and leaves no room for answers."""
        self._shared.service.counts.error(HTTP2_ERROR)
        self._shared.refuse("connection_budget")
        self._engine.terminate_connection(http2.ENHANCE_YOUR_CALM)
        self._transport.write(self._engine.data_to_send())
        self._close_transport()

    def _give_up(self, error: http2.EngineError) -> None:
        """End the connection after an error that makes further bytes meaningless."""
        self._shared.service.counts.error(HTTP2_ERROR)
        log.debug("connection given up: %s", type(error).__name__)
        try:
            data = self._engine.data_to_send()
        except http2.EngineError:
            data = b""
        self._transport.write(data + http2.goaway_after(error))
        self._close_transport()
