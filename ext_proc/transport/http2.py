"""The HTTP/2 engine: all that we use of libnghttp2, by way of ngh2, and the limits that we set it.

:mod:`ext_proc.transport.nghttp2` drives it and is the only other module that would change with another engine. The
engine does no I/O: bytes that came go in, events and bytes to be sent come out. It sees to frames, HPACK, flow control
and the rules of RFC 9113, and answers a peer that breaks them itself (docs/decisions/0015-nghttp2-transport.md).
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
    "last_words",
    "new_connection",
]

EngineError = NGH2Error
"""Anything that the engine refuses to do."""

StreamGone = StreamProtocolError
"""The stream is not there any more, or not in a state for what was asked."""

NO_ERROR: Final = int(ErrorCode.NO_ERROR)
ENHANCE_YOUR_CALM: Final = int(ErrorCode.ENHANCE_YOUR_CALM)

_WINDOW: Final = 1024 * 1024
"""Bytes that may be on their way to us on a stream, and on a connection: what comes is taken at once."""

_HEADERS: Final = 64 * 1024
"""Bytes of a call's headers, unpacked. Envoy sends a few hundred; what clients send is in messages."""

_UNLIMITED: Final = (2**63, 2**63)

_CONFIGURATION: Final = Configuration(
    # Envoy resets every stream once it has its answer, which is what an attacker does too. What a stream costs us it
    # costs whether it is reset or not, and how many are open at a time is limited.
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


def last_words(error: NGH2Error) -> bytes:
    """A GOAWAY for a peer after whose bytes the engine does not speak any more (RFC 9113, section 6.8).

    It leaves open which streams have been processed.
    """
    code = ErrorCode.ENHANCE_YOUR_CALM if isinstance(error, DenialOfServiceError) else ErrorCode.PROTOCOL_ERROR
    payload = _LAST_STREAM.to_bytes(4, "big") + int(code).to_bytes(4, "big")
    return len(payload).to_bytes(3, "big") + bytes((_GOAWAY, 0)) + bytes(4) + payload


_GOAWAY: Final = 0x07
_LAST_STREAM: Final = 2**31 - 1


def new_connection() -> Connection:
    """A server's side of a new connection, with its first frames ready to be sent."""
    connection = Connection(Role.SERVER, _CONFIGURATION)
    connection.initiate_connection(_SETTINGS)
    connection.set_local_window_size(_WINDOW)
    return connection
