"""The HTTP/2 engine: what we use of libnghttp2 through ngh2, and the limits that we configure.

:mod:`ext_proc.transport.connection` and :mod:`.calls` drive it; no other module imports ``ngh2``. The engine does no
I/O: received bytes go in, events and bytes to send come out. It handles frames, HPACK, flow control and the rules of
RFC 9113, and answers peers that break them (docs/decisions/0015-nghttp2-transport.md).
"""

from __future__ import annotations

from typing import Final

from ngh2 import (
    Configuration,
    Connection,
    DataReceived,
    DenialOfServiceError,
    ErrorCode,
    NGH2Error,
    PingAcknowledged,
    RequestReceived,
    Role,
    Setting,
    SettingsReceived,
    StreamClosed,
    StreamProtocolError,
    StreamReset,
    TrailersReceived,
)

from ext_proc.transport.base import MOST_STREAMS

__all__ = [
    "ENHANCE_YOUR_CALM",
    "NO_ERROR",
    "PROTOCOL_ERROR",
    "Connection",
    "DataReceived",
    "EngineError",
    "PingAcknowledged",
    "RequestReceived",
    "SettingsReceived",
    "StreamClosed",
    "StreamGone",
    "StreamReset",
    "TrailersReceived",
    "goaway_after",
    "new_connection",
]

EngineError = NGH2Error
"""Any error of the engine."""

StreamGone = StreamProtocolError
"""The stream is closed, or not in a state for this operation."""

NO_ERROR: Final = int(ErrorCode.NO_ERROR)
PROTOCOL_ERROR: Final = int(ErrorCode.PROTOCOL_ERROR)
ENHANCE_YOUR_CALM: Final = int(ErrorCode.ENHANCE_YOUR_CALM)

_WINDOW: Final = 1024 * 1024
"""Flow-control window of a stream and of a connection, in bytes; we consume what arrives at once."""

_HEADERS: Final = 64 * 1024
"""Bytes of a call's headers, unpacked. Envoy sends a few hundred; clients' headers are inside messages."""

_UNLIMITED: Final = (2**63, 2**63)

_CONFIGURATION: Final = Configuration(
    # Envoy resets every stream once it has its answer, as an attacker would. A stream costs us the same whether it is
    # reset or not, and the number of open streams is limited.
    stream_reset_rate_limit=_UNLIMITED,
    max_inbound_header_list_size=_HEADERS,
    max_inbound_header_count=256,
)

_SETTINGS: Final = {
    Setting.MAX_CONCURRENT_STREAMS: MOST_STREAMS,
    Setting.INITIAL_WINDOW_SIZE: _WINDOW,
    Setting.MAX_HEADER_LIST_SIZE: _HEADERS,
    Setting.ENABLE_PUSH: 0,
}


def goaway_after(error: NGH2Error) -> bytes:
    """A GOAWAY frame after an error that stops the engine from sending (RFC 9113, section 6.8).

    It leaves open which streams have been processed.
    """
    code = ErrorCode.ENHANCE_YOUR_CALM if isinstance(error, DenialOfServiceError) else ErrorCode.PROTOCOL_ERROR
    payload = _LAST_STREAM.to_bytes(4, "big") + int(code).to_bytes(4, "big")
    return len(payload).to_bytes(3, "big") + bytes((_GOAWAY, 0)) + bytes(4) + payload


_GOAWAY: Final = 0x07
_LAST_STREAM: Final = 2**31 - 1


def new_connection() -> Connection:
    """The server side of a new connection, with its first frames ready to send."""
    connection = Connection(Role.SERVER, _CONFIGURATION)
    connection.initiate_connection(_SETTINGS)
    connection.set_local_window_size(_WINDOW)
    return connection
