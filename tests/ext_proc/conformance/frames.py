"""HTTP/2 frames and gRPC messages as bytes, valid or not."""

from __future__ import annotations

from collections.abc import Sequence

import hpack

from tests.ext_proc.clients import PROCESS

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

NO_ERROR, PROTOCOL_ERROR, INTERNAL_ERROR, FLOW_CONTROL_ERROR = 0x0, 0x1, 0x2, 0x3
SETTINGS_TIMEOUT, STREAM_CLOSED, FRAME_SIZE_ERROR, REFUSED_STREAM, CANCEL = 0x4, 0x5, 0x6, 0x7, 0x8
COMPRESSION_ERROR, CONNECT_ERROR, ENHANCE_YOUR_CALM = 0x9, 0xA, 0xB

Headers = Sequence[tuple[str, str]]

REQUEST: Headers = (
    (":method", "POST"),
    (":scheme", "http"),
    (":path", PROCESS),
    (":authority", "abmesh"),
    ("te", "trailers"),
    ("content-type", "application/grpc"),
)


def without(*names: str) -> list[tuple[str, str]]:
    """The usual request headers without these."""
    return [(name, value) for name, value in REQUEST if name not in names]


def changed(**values: str) -> list[tuple[str, str]]:
    """The usual request headers with other values: ``path`` is ``:path``, ``content_type`` is ``content-type``."""
    named = {key.replace("_", "-"): value for key, value in values.items()}
    return [(name, named.get(name.removeprefix(":"), value)) for name, value in REQUEST]


def message(payload: bytes, flag: int = 0, length: int | None = None) -> bytes:
    """A gRPC message on the wire."""
    return bytes((flag,)) + (len(payload) if length is None else length).to_bytes(4, "big") + payload


def frame(kind: int, flags: int, stream: int, payload: bytes = b"", length: int | None = None) -> bytes:
    """Any frame, valid or not."""
    size = len(payload) if length is None else length
    return size.to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def plain(headers: Headers = REQUEST) -> bytes:
    """A header block that neither uses nor changes HPACK's table, so that blocks may be made in any order."""
    never = [hpack.NeverIndexedHeaderTuple(name, value) for name, value in headers]
    return hpack.Encoder().encode(never, huffman=False)
