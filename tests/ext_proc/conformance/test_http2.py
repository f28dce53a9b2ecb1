"""Frames that RFC 9113 forbids or allows, one by one, in the manner of h2spec.

The server must do what the RFC says: end the connection by a GOAWAY with the right code, reset the stream, or ignore
the frame. On nghttp2 only: the HTTP/2 of grpcio is not ours.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from hyperframe.frame import PingFrame, RstStreamFrame, WindowUpdateFrame

from tests.ext_proc.clients import USER
from tests.ext_proc.conformance.answers import answer_to
from tests.ext_proc.conformance.frames import (
    CANCEL,
    COMPRESSION_ERROR,
    FLOW_CONTROL_ERROR,
    FRAME_SIZE_ERROR,
    PROTOCOL_ERROR,
    STREAM_CLOSED,
    frame,
    message,
    plain,
)
from tests.ext_proc.conformance.peer import Closed, Peer, peer
from tests.ext_proc.conformance.served import Served

pytestmark = pytest.mark.process

ANSWER = answer_to(USER)
BODY = message(USER)
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM = ACK = 0x1
END_HEADERS, PADDED, WITH_PRIORITY = 0x4, 0x8, 0x20
LATER = 1001


class Case(NamedTuple):
    """What a peer does, and what must happen.

    Attributes:
        act: what it does.
        ends: codes of the GOAWAY that ends the connection; empty where it must live on.
        resets: codes of the reset that stream 1 may get where the connection lives on.
        must: whether one of the two must happen; else the frame may also be ignored.
    """

    act: Callable[[Peer], Any]
    ends: frozenset[int] = frozenset()
    resets: frozenset[int] = frozenset()
    must: bool = True


def ends(act: Callable[[Peer], Any], *codes: int) -> Case:
    """A connection error."""
    return Case(act, frozenset(codes))


def resets(act: Callable[[Peer], Any], *codes: int) -> Case:
    """A stream error; an endpoint may take it for one of the connection (section 5.4.1)."""
    return Case(act, frozenset(codes), frozenset(codes))


def closed(act: Callable[[Peer], Any]) -> Case:
    """Something on a stream that is closed: an error, unless the server has forgotten the stream (section 5.1)."""
    return Case(act, frozenset({STREAM_CLOSED, PROTOCOL_ERROR}), frozenset({STREAM_CLOSED}), must=False)


def ignored(act: Callable[[Peer], Any]) -> Case:
    """Nothing."""
    return Case(act, must=False)


def begun(found: Peer, *more: Any) -> None:
    """Open stream 1, then send more."""
    found.send(found.headers(1), *more)


def reset(found: Peer, *more: Any) -> None:
    """Open stream 1 and reset it, then send more."""
    begun(found, found.data(1, BODY), RstStreamFrame(1, CANCEL), *more)


def answered(found: Peer, *more: Any) -> None:
    """Have a call answered on stream 1, then send more."""
    found.call(1, USER)
    found.send(*more)


def setting(name: int, value: int) -> bytes:
    """A SETTINGS frame with one value."""
    return frame(SETTINGS, 0, 0, name.to_bytes(2, "big") + value.to_bytes(4, "big"))


CASES = {
    # 4.1, 4.2: frames as such
    "a frame of an unknown type": ignored(lambda p: p.send(frame(0xBB, 0xFF, 0, bytes(99)), frame(0xBB, 0xFF, 77))),
    "unknown flags": ignored(lambda p: p.send(frame(PING, 0xFE, 0, bytes(8)))),
    "the reserved bit of a stream": ignored(
        lambda p: p.send(frame(HEADERS, END_HEADERS, 0x80000001, plain()), p.data(1, BODY, end=True))
    ),
    "DATA that is too large": resets(lambda p: begun(p, frame(DATA, 0, 1, bytes(16385))), FRAME_SIZE_ERROR),
    "HEADERS that are too large": ends(
        lambda p: p.send(frame(HEADERS, END_HEADERS, 1, plain() + bytes(16384))), FRAME_SIZE_ERROR
    ),
    "an unknown frame that is too large": ends(lambda p: p.send(frame(0xBB, 0, 0, bytes(16385))), FRAME_SIZE_ERROR),
    "a frame that announces 16 MB": resets(lambda p: begun(p, frame(DATA, 0, 1, length=2**24 - 1)), FRAME_SIZE_ERROR),
    # 4.3: HPACK
    "HPACK garbage": ends(lambda p: p.send(frame(HEADERS, END_HEADERS, 1, b"\xff" * 8)), COMPRESSION_ERROR),
    "HPACK index 0": ends(lambda p: p.send(frame(HEADERS, END_HEADERS, 1, b"\x80")), COMPRESSION_ERROR),
    "an HPACK index too far": ends(
        lambda p: p.send(frame(HEADERS, END_HEADERS, 1, b"\xff\x80\x01")), COMPRESSION_ERROR
    ),
    "a Huffman code that is none": ends(
        lambda p: p.send(frame(HEADERS, END_HEADERS, 1, b"\x00\x85\xff\xff\xff\xff\xff\x01x")), COMPRESSION_ERROR
    ),
    "an HPACK table beyond the limit": ends(
        lambda p: p.send(frame(HEADERS, END_HEADERS, 1, b"\x3f\xe1\xff\x03" + plain())), COMPRESSION_ERROR
    ),
    "an HPACK table resized too late": ends(
        lambda p: p.send(frame(HEADERS, END_HEADERS, 1, plain() + b"\x20")), COMPRESSION_ERROR
    ),
    "a header block that is cut off": ends(
        lambda p: p.send(frame(HEADERS, END_HEADERS, 1, plain()[:-4])), COMPRESSION_ERROR
    ),
    "an HPACK string that announces 2 GB": ends(
        lambda p: p.send(frame(HEADERS, END_HEADERS, 1, b"\x00\x7f\x80\xff\xff\xff\x07")), COMPRESSION_ERROR
    ),
    "an empty header block": resets(lambda p: p.send(frame(HEADERS, END_HEADERS, 1)), PROTOCOL_ERROR),
    # 5.1: states of a stream
    "DATA on an idle stream": ends(lambda p: p.send(p.data(1, b"x")), PROTOCOL_ERROR),
    "RST_STREAM on an idle stream": ends(lambda p: p.send(RstStreamFrame(1, CANCEL)), PROTOCOL_ERROR),
    "WINDOW_UPDATE on an idle stream": ends(lambda p: p.send(WindowUpdateFrame(1, 1)), PROTOCOL_ERROR),
    "CONTINUATION on an idle stream": ends(lambda p: p.send(frame(CONTINUATION, END_HEADERS, 1)), PROTOCOL_ERROR),
    "PRIORITY on an idle stream": ignored(lambda p: p.send(frame(PRIORITY, 0, 9, b"\0\0\0\3\x10"))),
    "DATA after the end": closed(lambda p: begun(p, p.data(1, BODY[:-1], end=True), p.data(1, b"x"))),
    "HEADERS after the end": closed(
        lambda p: begun(p, p.data(1, BODY[:-1], end=True), frame(HEADERS, END_HEADERS | END_STREAM, 1, plain()))
    ),
    "DATA on a stream that was reset": closed(lambda p: reset(p, p.data(1, b"x"))),
    "HEADERS on a stream that was reset": closed(lambda p: reset(p, frame(HEADERS, END_HEADERS, 1, plain()))),
    "RST_STREAM twice": closed(lambda p: reset(p, RstStreamFrame(1, CANCEL))),
    "DATA on a stream that is over": closed(lambda p: answered(p, p.data(1, b"x"))),
    "HEADERS on a stream that is over": closed(
        lambda p: answered(p, frame(HEADERS, END_HEADERS | END_STREAM, 1, plain()))
    ),
    "WINDOW_UPDATE on a stream that is over": ignored(lambda p: answered(p, WindowUpdateFrame(1, 1))),
    "RST_STREAM on a stream that is over": ignored(lambda p: answered(p, RstStreamFrame(1, CANCEL))),
    "PRIORITY on a stream that is over": ignored(lambda p: answered(p, frame(PRIORITY, 0, 1, b"\0\0\0\0\x10"))),
    # 5.1.1: their numbers
    "an even stream": ends(lambda p: p.send(frame(HEADERS, END_HEADERS, 2, plain())), PROTOCOL_ERROR),
    # libnghttp2 treats it as a closed stream, which it may be.
    "a stream below the last": Case(
        lambda p: p.send(p.headers(5, end=True), p.headers(3, end=True)), frozenset({PROTOCOL_ERROR}), must=False
    ),
    # 6.1 to 6.3
    "DATA on stream 0": ends(lambda p: p.send(frame(DATA, 0, 0, b"x")), PROTOCOL_ERROR),
    "padding as long as the frame": ends(lambda p: begun(p, frame(DATA, PADDED, 1, b"\x04abc")), PROTOCOL_ERROR),
    "padding without its length": ends(lambda p: begun(p, frame(DATA, PADDED, 1)), PROTOCOL_ERROR, FRAME_SIZE_ERROR),
    "nothing but padding": ignored(lambda p: begun(p, frame(DATA, PADDED, 1, b"\x03abc"))),
    "HEADERS on stream 0": ends(lambda p: p.send(frame(HEADERS, END_HEADERS, 0, plain())), PROTOCOL_ERROR),
    "HEADERS with too much padding": ends(
        lambda p: p.send(frame(HEADERS, END_HEADERS | PADDED, 1, b"\xff" + plain())), PROTOCOL_ERROR
    ),
    "a stream that depends on itself": Case(
        lambda p: p.send(frame(HEADERS, END_HEADERS | WITH_PRIORITY, 1, b"\0\0\0\1\x10" + plain())),
        frozenset({PROTOCOL_ERROR}),
        frozenset({PROTOCOL_ERROR}),
        must=False,  # RFC 9113 has deprecated priorities
    ),
    "PRIORITY on stream 0": Case(
        lambda p: p.send(frame(PRIORITY, 0, 0, b"\0\0\0\3\x10")), frozenset({PROTOCOL_ERROR}), must=False
    ),
    "PRIORITY of a wrong size": resets(lambda p: begun(p, frame(PRIORITY, 0, 1, bytes(4))), FRAME_SIZE_ERROR),
    "trailers that do not end the stream": resets(
        lambda p: begun(p, p.data(1, BODY), frame(HEADERS, END_HEADERS, 1, plain([("a", "b")]))), PROTOCOL_ERROR
    ),
    "trailers with a pseudo-header": resets(
        lambda p: begun(p, p.data(1, BODY), frame(HEADERS, END_HEADERS | END_STREAM, 1, plain([(":path", "/b")]))),
        PROTOCOL_ERROR,
    ),
    # 6.4
    "RST_STREAM on stream 0": ends(lambda p: p.send(frame(RST_STREAM, 0, 0, bytes(4))), PROTOCOL_ERROR),
    "RST_STREAM that is too short": ends(lambda p: begun(p, frame(RST_STREAM, 0, 1, bytes(3))), FRAME_SIZE_ERROR),
    "RST_STREAM that is too long": ends(lambda p: begun(p, frame(RST_STREAM, 0, 1, bytes(5))), FRAME_SIZE_ERROR),
    # 6.5
    "SETTINGS on a stream": ends(lambda p: p.send(frame(SETTINGS, 0, 1)), PROTOCOL_ERROR),
    "SETTINGS of a wrong size": ends(lambda p: p.send(frame(SETTINGS, 0, 0, bytes(5))), FRAME_SIZE_ERROR),
    "an acknowledgement with values": ends(lambda p: p.send(frame(SETTINGS, ACK, 0, bytes(6))), FRAME_SIZE_ERROR),
    "a window beyond 2^31": ends(lambda p: p.send(setting(4, 2**31)), FLOW_CONTROL_ERROR),
    "a frame size below the least": ends(lambda p: p.send(setting(5, 16383)), PROTOCOL_ERROR),
    "a frame size above the most": ends(lambda p: p.send(setting(5, 2**24)), PROTOCOL_ERROR),
    "push that is neither on nor off": ends(lambda p: p.send(setting(2, 2)), PROTOCOL_ERROR),
    "a setting nobody knows": ignored(lambda p: p.send(setting(0xF0F0, 7))),
    "settings that change often": ignored(lambda p: p.send(*(setting(4, 65535 + n) for n in range(100)))),
    "no HPACK table": ignored(lambda p: p.send(setting(1, 0))),
    "a huge HPACK table": ignored(lambda p: p.send(setting(1, 2**32 - 1))),
    "a window that a change makes too large": ends(
        lambda p: begun(p, WindowUpdateFrame(1, 2**31 - 65536), setting(4, 2**31 - 1)), FLOW_CONTROL_ERROR
    ),
    # 6.6 to 6.8
    "PUSH_PROMISE of a client": ends(
        lambda p: begun(p, frame(PUSH_PROMISE, END_HEADERS, 1, b"\0\0\0\2" + plain())), PROTOCOL_ERROR
    ),
    "PING on a stream": ends(lambda p: p.send(frame(PING, 0, 1, bytes(8))), PROTOCOL_ERROR),
    "PING of a wrong size": ends(lambda p: p.send(frame(PING, 0, 0, bytes(7))), FRAME_SIZE_ERROR),
    "an answer to no ping": ignored(lambda p: p.send(PingFrame(0, bytes(8), flags=["ACK"]))),
    "GOAWAY on a stream": ends(lambda p: p.send(frame(GOAWAY, 0, 1, bytes(8))), PROTOCOL_ERROR),
    "GOAWAY that is too short": ends(lambda p: p.send(frame(GOAWAY, 0, 0, bytes(7))), FRAME_SIZE_ERROR),
    # 6.9
    "a window that grows by nothing": ends(lambda p: p.send(grow(0, 0)), PROTOCOL_ERROR),
    "a stream's window that grows by nothing": resets(lambda p: begun(p, grow(1, 0)), PROTOCOL_ERROR),
    "WINDOW_UPDATE of a wrong size": ends(lambda p: p.send(frame(WINDOW_UPDATE, 0, 0, bytes(3))), FRAME_SIZE_ERROR),
    "a window that overflows": ends(lambda p: p.send(WindowUpdateFrame(0, 2**31 - 1)), FLOW_CONTROL_ERROR),
    "a stream's window that overflows": resets(lambda p: begun(p, WindowUpdateFrame(1, 2**31 - 1)), FLOW_CONTROL_ERROR),
    "the reserved bit of a window": ignored(lambda p: p.send(grow(0, 0x80000001))),
    # 6.10
    "CONTINUATION after the end of headers": ends(
        lambda p: begun(p, frame(CONTINUATION, END_HEADERS, 1)), PROTOCOL_ERROR
    ),
    "DATA within headers": ends(lambda p: p.send(frame(HEADERS, 0, 1, plain()), p.data(1, BODY)), PROTOCOL_ERROR),
    "PING within headers": ends(
        lambda p: p.send(frame(HEADERS, 0, 1, plain()), PingFrame(0, bytes(8))), PROTOCOL_ERROR
    ),
    "an unknown frame within headers": ends(
        lambda p: p.send(frame(HEADERS, 0, 1, plain()), frame(0xBB, 0, 0), frame(CONTINUATION, END_HEADERS, 1)),
        PROTOCOL_ERROR,
    ),
    "CONTINUATION of another stream": ends(
        lambda p: p.send(frame(HEADERS, 0, 1, plain()), frame(CONTINUATION, END_HEADERS, 3)), PROTOCOL_ERROR
    ),
}


def grow(stream: int, increment: int) -> bytes:
    """A WINDOW_UPDATE that hyperframe refuses to make."""
    return frame(WINDOW_UPDATE, 0, stream, increment.to_bytes(4, "big"))


@pytest.mark.parametrize("name", CASES)
def test_frames_are_taken_as_the_rfc_says_and_never_harm_others(nghttp2: Served, name: str) -> None:
    case = CASES[name]
    with peer(nghttp2.tcp) as other:
        lived = True
        with peer(nghttp2.tcp) as found:
            try:
                case.act(found)
                found.ping(limit=5)
                found.ping(limit=5)
                lived = found.goaway is None
            except Closed:
                lived = False
            check(case, found, lived=lived)
        assert other.call(1, USER).messages == [ANSWER]


def check(case: Case, found: Peer, *, lived: bool) -> None:
    """Compare with what the RFC says."""
    if not lived:
        assert found.goaway in case.ends, found.seen
        assert found.end() == found.goaway
        return
    seen = found.streams.get(1)
    if case.must:
        assert case.resets, f"the connection lives on after {found.seen}"
        assert seen is not None
        assert seen.reset in case.resets
    elif seen is not None and seen.reset is not None and seen.reset != 0:
        assert seen.reset in case.resets
    assert found.call(LATER, USER).messages == [ANSWER]
