"""gRPC over HTTP/2: parses a call's headers, and finds the messages in a stream's bytes. Pure.

Called by :mod:`ext_proc.transport.calls`. The protocol is
https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator, Sequence
from enum import IntEnum
from typing import Final, NamedTuple

from abmesh.experiment.names import CHOICE as CHOICE_NAME
from ext_proc.transport.base import LONGEST_MESSAGE

Headers = Sequence[tuple[bytes, bytes]]


class Status(IntEnum):
    """The gRPC status codes that we use."""

    OK = 0
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    RESOURCE_EXHAUSTED = 8
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14


class CallError(Exception):
    """A call cannot continue.

    Attributes:
        status: that it ends with.
        refused: the cause to count it under if it was refused to protect the server; else empty.
    """

    def __init__(self, status: Status, message: str, refused: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.refused = refused


class Call(NamedTuple):
    """What a request's headers ask for.

    Attributes:
        path: of the method.
        encoding: of messages that are flagged as compressed.
        timeout: seconds until the deadline; None for none.
        choice: the experiments of the request's route, by commas; empty: any.
    """

    path: bytes
    encoding: bytes = b"identity"
    timeout: float | None = None
    choice: bytes = b""


class NotGrpc(NamedTuple):
    """The answer to a request that is not gRPC: an HTTP status."""

    status: bytes


CHOICE: Final = CHOICE_NAME.encode()

START: Final = ((b":status", b"200"), (b"content-type", b"application/grpc"))
"""Response headers of every call."""

DONE: Final = ((b"grpc-status", b"0"),)
"""Trailers of a call that ends with status OK."""

ENCODINGS: Final = b"identity,deflate,gzip"
_ACCEPTED: Final = (b"grpc-accept-encoding", ENCODINGS)
_WINDOW_BITS: Final = {b"gzip": 31, b"deflate": 15}

_UNITS: Final = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_TIMEOUT: Final = re.compile(rb"([0-9]{1,8})([HMSmun])")


def failed(status: Status, message: str) -> Headers:
    """Trailers of a call that ends with an error; the message must be printable ASCII without percent signs."""
    trailers = [(b"grpc-status", b"%d" % status), (b"grpc-message", message.encode())]
    if status is Status.UNIMPLEMENTED:
        trailers.append(_ACCEPTED)
    return trailers


def read_call(headers: Headers) -> Call | NotGrpc:
    """Parse a request's headers.

    Raises:
        CallError: they are invalid in a way that gRPC has a status for.
    """
    method, path, content_type, encoding, timeout, choice = b"", b"", b"", b"identity", None, b""
    for name, value in headers:
        if name == b":path":
            path = value
        elif name == b":method":
            method = value
        elif name == b"content-type":
            content_type = value
        elif name == b"grpc-timeout":
            timeout = read_timeout(value)
        elif name == b"grpc-encoding":
            encoding = value
        elif name == CHOICE:
            choice = value
    if method != b"POST":
        return NotGrpc(b"405")
    if not content_type.startswith(b"application/grpc") or content_type[16:17] not in (b"", b"+", b";"):
        return NotGrpc(b"415")
    return Call(path, encoding, timeout, choice)


def read_timeout(value: bytes) -> float:
    """Parse a ``grpc-timeout``, to seconds.

    Raises:
        CallError: the value is not a timeout.
    """
    found = _TIMEOUT.fullmatch(value)
    if found is None:
        raise CallError(Status.INTERNAL, "grpc-timeout must be up to eight digits and a unit")
    return int(found[1]) * _UNITS[found[2]]


def framed(message: bytes) -> bytes:
    """A message with gRPC's prefix, uncompressed."""
    return b"\0" + len(message).to_bytes(4, "big") + message


def only_message(data: bytes) -> bytes | None:
    """The message, if these bytes are exactly one uncompressed message; otherwise None.

    Nearly everything that Envoy sends is, and needs no :class:`Reader`.
    """
    if len(data) >= _PREFIX and data[0] == 0 and int.from_bytes(data[1:_PREFIX], "big") == len(data) - _PREFIX:
        return data[_PREFIX:]
    return None


_PREFIX: Final = 5
"""Bytes before each message: a flag for compression, and the length."""


class Reader:
    """Finds the messages in the bytes of one stream, however they are split."""

    def __init__(self, encoding: bytes) -> None:
        self._encoding = encoding
        self._buffer = bytearray()

    @property
    def buffered(self) -> int:
        """Bytes of the incomplete message."""
        return len(self._buffer)

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield the messages that these bytes complete, decompressed.

        Raises:
            CallError: the next message is too long or does not decompress; no later message is found.
        """
        buffer = self._buffer
        buffer += data
        start = 0
        try:
            while len(buffer) - start >= _PREFIX:
                flag = buffer[start]
                length = int.from_bytes(buffer[start + 1 : start + _PREFIX], "big")
                if length > LONGEST_MESSAGE:
                    raise too_long(length)
                end = start + _PREFIX + length
                if len(buffer) < end:
                    break
                message = bytes(memoryview(buffer)[start + _PREFIX : end])
                start = end
                yield message if flag == 0 else self._decompressed(flag, message)
        finally:
            del buffer[:start]

    def _decompressed(self, flag: int, message: bytes) -> bytes:
        if flag != 1:
            raise CallError(Status.INTERNAL, f"compression flag {flag}; allowed: 0 and 1")
        if self._encoding == b"identity":
            raise CallError(Status.INTERNAL, "compressed message in a call without grpc-encoding")
        bits = _WINDOW_BITS.get(self._encoding)
        if bits is None:
            raise CallError(Status.UNIMPLEMENTED, f"unknown grpc-encoding; allowed: {ENCODINGS.decode()}")
        inflate = zlib.decompressobj(bits)
        try:
            plain = inflate.decompress(message, LONGEST_MESSAGE + 1)
        except zlib.error as error:
            raise CallError(Status.INTERNAL, "message does not decompress") from error
        if len(plain) > LONGEST_MESSAGE:
            raise too_long(len(plain))
        if not inflate.eof:
            raise CallError(Status.INTERNAL, "compressed message is cut off")
        if inflate.unused_data:
            raise CallError(Status.INTERNAL, "bytes after the end of a compressed message")
        return plain


def too_long(length: int) -> CallError:
    """The error for a message of this length."""
    found = f"message of {length} bytes; allowed: {LONGEST_MESSAGE}"
    return CallError(Status.RESOURCE_EXHAUSTED, found, refused="message")
