"""A peer that sends HTTP/2 frame by frame, so that it can do what no client library allows.

Plain blocking sockets: the test determines exactly what is sent, and when. By default it acknowledges SETTINGS and
PING and reopens the server's window, as clients do.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Self

import hpack
from hyperframe.exceptions import HyperframeError
from hyperframe.frame import (
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from tests.ext_proc.conformance.frames import PREFACE, REQUEST, Headers, message

LIMIT = 15.0


@dataclass
class Stream:
    """What came back on a stream."""

    headers: dict[str, str] = field(default_factory=dict)
    trailers: dict[str, str] = field(default_factory=dict)
    data: bytes = b""
    ended: bool = False
    reset: int | None = None

    @property
    def over(self) -> bool:
        """Whether nothing more can arrive."""
        return self.ended or self.reset is not None

    @property
    def status(self) -> str | None:
        """The gRPC status."""
        return self.trailers.get("grpc-status", self.headers.get("grpc-status"))

    @property
    def messages(self) -> list[bytes]:
        """The messages; fails if there is anything else, or a compressed one."""
        found, rest = [], self.data
        while rest:
            assert len(rest) >= 5, rest
            size = int.from_bytes(rest[1:5], "big")
            assert rest[0] == 0
            assert len(rest) >= 5 + size
            found.append(rest[5 : 5 + size])
            rest = rest[5 + size :]
        return found


class Closed(Exception):
    """The server closed the connection."""


class Peer:
    """One connection.

    Attributes:
        streams: what came back, by stream.
        goaway: error code of the last GOAWAY, None without one.
        last_stream: of the last GOAWAY.
        pings: payloads of acknowledged pings.
        settings: what the server announced.
        largest: size of the largest frame that came.
    """

    def __init__(self, address: str, *, context: ssl.SSLContext | None = None, polite: bool = True) -> None:
        self._socket = connect(address)
        if context is not None:
            self._socket = context.wrap_socket(self._socket, server_hostname="localhost")
        self._buffer = b""
        self._encoder = hpack.Encoder()
        self._decoder = hpack.Decoder(max_header_list_size=1 << 24)
        self._block = b""
        self.polite = polite
        self.streams: dict[int, Stream] = defaultdict(Stream)
        self.goaway: int | None = None
        self.last_stream: int | None = None
        self.pings: list[bytes] = []
        self.settings: dict[int, int] = {}
        self.acknowledged = 0
        self.closed = False
        self.seen: list[str] = []
        self.largest = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    @property
    def raw(self) -> socket.socket:
        """The socket."""
        return self._socket

    def send(self, *parts: bytes | Frame) -> None:
        """Send frames or bytes, in one piece."""
        data = b"".join(part if isinstance(part, bytes) else part.serialize() for part in parts)
        try:
            self._socket.sendall(data)
        except (BrokenPipeError, ConnectionResetError, ssl.SSLError):
            self.closed = True  # what the server sent before can still be read

    def open(self, settings: dict[int, int] | None = None) -> Self:
        """Send the preface, and wait until the server has acknowledged our settings."""
        self.send(PREFACE, SettingsFrame(settings=settings or {}))
        self.until(lambda: self.acknowledged > 0 and bool(self.seen))
        return self

    def block(self, headers: Headers = REQUEST) -> bytes:
        """A header block."""
        return self._encoder.encode(list(headers))

    def headers(
        self, stream: int, headers: Headers = REQUEST, *, end: bool = False, block: bytes | None = None
    ) -> HeadersFrame:
        """A HEADERS frame that opens a stream."""
        flags = ["END_HEADERS", *(["END_STREAM"] if end else [])]
        return HeadersFrame(stream, self.block(headers) if block is None else block, flags=flags)

    def data(self, stream: int, data: bytes, *, end: bool = False) -> DataFrame:
        """A DATA frame."""
        return DataFrame(stream, data, flags=["END_STREAM"] if end else [])

    def call(self, stream: int, *messages: bytes, headers: Headers = REQUEST) -> Stream:
        """A whole call, half-closed; what came back."""
        body = b"".join(message(each) for each in messages)
        self.send(self.headers(stream, headers, end=not body))
        for start in range(0, len(body), 16384):
            self.send(self.data(stream, body[start : start + 16384], end=start + 16384 >= len(body)))
        return self.result(stream)

    def result(self, stream: int, limit: float = LIMIT) -> Stream:
        """Wait until a stream is over.

        Raises:
            Closed: the connection ended first.
        """
        self.until(lambda: self.streams[stream].over, limit)
        return self.streams[stream]

    def until(self, condition: Callable[[], bool], limit: float = LIMIT) -> None:
        """Read until a condition holds.

        Raises:
            Closed: the connection ended first.
            TimeoutError: it took too long.
        """
        deadline = time.monotonic() + limit
        while not condition():
            self.step(deadline)

    def ping(self, payload: bytes = b"abmesh!!", limit: float = LIMIT) -> None:
        """Wait until the server has read everything up to here: then it answers a ping."""
        before = len(self.pings)
        self.send(PingFrame(0, payload))
        self.until(lambda: len(self.pings) > before, limit)

    def end(self, limit: float = LIMIT) -> int | None:
        """Read until the server closes; returns the code of its GOAWAY, or None without one."""
        with contextlib.suppress(Closed):
            self.until(lambda: False, limit)
        return self.goaway

    def step(self, deadline: float) -> None:
        """Take in one frame."""
        while (found := self._next()) is None:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"nothing more after {self.seen[-10:]}")
            self._socket.settimeout(left)
            try:
                data = self._socket.recv(1 << 16)
            except (ConnectionResetError, ssl.SSLEOFError):
                data = b""
            except TimeoutError:
                raise TimeoutError(f"nothing more after {self.seen[-10:]}") from None
            finally:
                self._socket.settimeout(LIMIT)
            if not data:
                self.closed = True
                raise Closed(f"after {self.seen[-10:]}")
            self._buffer += data
        self._take(found)

    def _next(self) -> Frame | None:
        if len(self._buffer) < 9:
            return None
        try:
            found, size = Frame.parse_frame_header(memoryview(self._buffer[:9]))
        except HyperframeError as error:
            raise AssertionError(f"the server sent {self._buffer[:40]!r}") from error
        if len(self._buffer) < 9 + size:
            return None
        found.parse_body(memoryview(self._buffer[9 : 9 + size]))
        self._buffer = self._buffer[9 + size :]
        self.largest = max(self.largest, size)
        return found

    def _take(self, found: Frame) -> None:
        if len(self.seen) < 10_000:
            self.seen.append(f"{type(found).__name__}({found.stream_id})")
        stream = self.streams[found.stream_id]
        if isinstance(found, SettingsFrame):
            if "ACK" in found.flags:
                self.acknowledged += 1
            else:
                self.settings.update(found.settings)
                if self.polite:
                    self.send(SettingsFrame(flags=["ACK"]))
        elif isinstance(found, PingFrame):
            if "ACK" in found.flags:
                self.pings.append(found.opaque_data)
            elif self.polite:
                self.send(PingFrame(0, found.opaque_data, flags=["ACK"]))
        elif isinstance(found, GoAwayFrame):
            self.goaway, self.last_stream = found.error_code, found.last_stream_id
        elif isinstance(found, HeadersFrame):
            assert "END_HEADERS" in found.flags, "these answers fit into a frame"
            pairs = dict(self._decoder.decode(found.data))
            target = stream.trailers if stream.headers else stream.headers
            target.update({_text(name): _text(value) for name, value in pairs.items()})
            stream.ended = stream.ended or "END_STREAM" in found.flags
        elif isinstance(found, DataFrame):
            stream.data += found.data
            stream.ended = stream.ended or "END_STREAM" in found.flags
            windows = (0,) if stream.ended else (0, found.stream_id)
            if self.polite and found.flow_controlled_length:
                self.send(*(WindowUpdateFrame(number, found.flow_controlled_length) for number in windows))
        elif isinstance(found, RstStreamFrame):
            stream.reset = found.error_code


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode("latin-1")


def connect(address: str) -> socket.socket:
    """A connected socket."""
    if address.startswith("unix:"):
        found = socket.socket(socket.AF_UNIX)
        found.settimeout(LIMIT)
        try:
            found.connect(address.removeprefix("unix:"))
        except OSError:
            found.close()
            raise
        return found
    host, _, port = address.rpartition(":")
    found = socket.create_connection((host, int(port)), timeout=LIMIT)
    found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return found


@contextlib.contextmanager
def peer(address: str, settings: dict[int, int] | None = None) -> Iterator[Peer]:
    """A connection after the exchange of settings."""
    with Peer(address) as found:
        yield found.open(settings)
