"""gRPC in HTTP/2, byte by byte: messages split over frames, and the answers to invalid calls.

The reference is https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md and, where that is silent, what grpcio
does. On nghttp2 only: grpcio's framing is not ours.
"""

from __future__ import annotations

import gzip
import zlib
from typing import NamedTuple

import pytest
from hyperframe.frame import ContinuationFrame, DataFrame, HeadersFrame

from tests.ext_proc.clients import USER
from tests.ext_proc.conformance.answers import LARGEST, LAST, MESSAGES, UNTOUCHED_BODY, answer_to, expected
from tests.ext_proc.conformance.frames import REQUEST, Headers, changed, message, without
from tests.ext_proc.conformance.peer import Peer, Stream, peer
from tests.ext_proc.conformance.served import Served
from tests.ext_proc.samples import request_headers

pytestmark = pytest.mark.process

ANSWER = answer_to(USER)
PACKED = message(gzip.compress(USER), 1)
GZIP: Headers = (*REQUEST, ("grpc-encoding", "gzip"))
DEFLATE: Headers = (*REQUEST, ("grpc-encoding", "deflate"))


def well(found: Stream, *answers: bytes) -> None:
    """Check that a call ended with status OK and these answers."""
    assert found.messages == list(answers)
    assert (found.status, found.reset) == ("0", None)
    assert found.headers[":status"] == "200"
    assert found.headers["content-type"].startswith("application/grpc")


@pytest.mark.parametrize("number", [0, 1], ids=["tcp", "unix"])
def test_a_message_may_be_cut_anywhere(nghttp2: Served, number: int) -> None:
    body = message(USER)
    with peer(nghttp2.addresses[number]) as found:
        for cut in range(len(body) + 1):
            stream = 2 * cut + 1
            found.send(found.headers(stream), found.data(stream, body[:cut]))
            if cut % 3 == 0:
                found.ping()  # the server has read the first part, and waits
            found.send(found.data(stream, body[cut:], end=True))
            well(found.result(stream), ANSWER)


def test_a_compressed_message_may_be_cut_anywhere(nghttp2: Served) -> None:
    with peer(nghttp2.tcp) as found:
        for cut in range(0, len(PACKED) + 1, 5):
            stream = 2 * cut + 1
            found.send(found.headers(stream, GZIP), found.data(stream, PACKED[:cut]))
            found.send(found.data(stream, PACKED[cut:], end=True))
            well(found.result(stream), ANSWER)


def test_a_message_may_come_byte_by_byte(nghttp2: Served) -> None:
    with peer(nghttp2.tcp) as found:
        found.send(found.headers(1))
        for byte in message(USER):
            found.send(found.data(1, bytes((byte,))))
        found.send(found.data(1, b"", end=True))
        well(found.result(1), ANSWER)


def test_every_byte_may_come_in_a_segment_of_its_own(nghttp2: Served) -> None:
    with peer(nghttp2.tcp) as found:
        whole = found.headers(1).serialize() + found.data(1, message(USER), end=True).serialize()
        for byte in whole:
            found.send(bytes((byte,)))
        well(found.result(1), ANSWER)


@pytest.mark.parametrize("count", [2, 3, 40])
def test_several_messages_may_share_a_frame(nghttp2: Served, count: int) -> None:
    kinds = ("user", "request_body", "told only", "no experiment")
    several = [MESSAGES[kinds[number % 4]] for number in range(count)]
    answers = [answer for each in several if (answer := expected(each)) is not None]
    with peer(nghttp2.tcp) as found:
        well(found.call(1, *several), *answers)
        joined = b"".join(message(each) for each in several)
        cut = len(joined) // 2 + 3
        found.send(found.headers(3), found.data(3, joined[:cut]), found.data(3, joined[cut:], end=True))
        well(found.result(3), *answers)


def test_what_follows_a_message_that_ends_the_stream_is_ignored(nghttp2: Served) -> None:
    with peer(nghttp2.tcp) as found:
        well(found.call(1, LAST, USER, USER), answer_to(LAST))
        well(found.call(3, b"\xff", USER))
        for stream in (5, 7):
            found.send(found.headers(stream), found.data(stream, message(LAST)))
            found.result(stream)
            found.send(found.data(stream, message(USER)), found.data(stream, message(USER), end=True))
            well(found.streams[stream], answer_to(LAST))
        well(found.call(9, USER), ANSWER)


def test_empty_and_padded_frames_change_nothing(nghttp2: Served) -> None:
    body = message(USER)
    with peer(nghttp2.tcp) as found:
        found.send(found.headers(1), *(found.data(1, b"") for _ in range(5)))
        found.send(found.data(1, body[:9]), found.data(1, b""))
        found.send(found.data(1, body[9:]), found.data(1, b"", end=True))
        well(found.result(1), ANSWER)
        found.send(HeadersFrame(3, found.block(), pad_length=200, flags=["PADDED", "END_HEADERS"]))
        for start in range(0, len(body), 20):
            flags = ["PADDED"]
            found.send(DataFrame(3, body[start : start + 20], pad_length=start % 256, flags=flags), found.data(3, b""))
        found.send(DataFrame(3, b"", pad_length=255, flags=["PADDED", "END_STREAM"]))
        well(found.result(3), ANSWER)


@pytest.mark.parametrize("cuts", [1, 5])
def test_headers_may_continue_in_continuation_frames(nghttp2: Served, cuts: int) -> None:
    with peer(nghttp2.tcp) as found:
        block = found.block()
        size = -(-len(block) // (cuts + 1))
        frames = [ContinuationFrame(1, block[at : at + size]) for at in range(size, len(block), size)]
        frames[-1].flags.add("END_HEADERS")
        found.send(HeadersFrame(1, block[:size]), *frames, found.data(1, message(USER), end=True))
        well(found.result(1), ANSWER)


def test_a_client_may_end_with_trailers(nghttp2: Served) -> None:
    with peer(nghttp2.tcp) as found:
        found.send(found.headers(1), found.data(1, message(USER)))
        found.send(found.headers(1, (("x-some", "trailer"),), end=True))
        well(found.result(1), ANSWER)


def test_a_stream_that_the_server_ends_first_is_closed_for_the_client_too(nghttp2: Served) -> None:
    """Otherwise it would stay open until the client closed its side, which may never happen."""
    with peer(nghttp2.tcp) as found:
        for stream in range(1, 41, 2):
            found.send(found.headers(stream), found.data(stream, message(LAST)))
            well(found.result(stream), answer_to(LAST))
        found.until(lambda: all(found.streams[stream].reset == 0 for stream in range(1, 41, 2)))
        nghttp2.forgets_streams()


class Odd(NamedTuple):
    """An unusual or invalid call.

    Attributes:
        statuses: of gRPC that it may end with; ``0`` only where it may be served.
        answers: how many it may have.
        resets: codes of the reset that it may end with instead.
        http: status of HTTP that it may end with instead.
    """

    headers: Headers
    body: bytes = message(USER)
    end: bool = True
    statuses: frozenset[str] = frozenset()
    answers: int = 0
    resets: frozenset[int] = frozenset()
    http: str = ""


MALFORMED = frozenset({1})
INTERNAL = frozenset({"13"})
SERVED = frozenset({"0"})

ODD = {
    "no method": Odd(without(":method"), resets=MALFORMED),
    "no path": Odd(without(":path"), resets=MALFORMED),
    "empty path": Odd(changed(path=""), resets=MALFORMED),
    "path without a slash": Odd(changed(path="nope"), resets=MALFORMED),
    "no scheme": Odd(without(":scheme"), resets=MALFORMED),
    "no authority": Odd(without(":authority"), resets=MALFORMED, statuses=SERVED, answers=1),
    "host instead of authority": Odd([*without(":authority"), ("host", "x")], statuses=SERVED, answers=1),
    "GET": Odd(changed(method="GET"), http="405"),
    "PUT": Odd(changed(method="PUT"), http="405"),
    "no content-type": Odd(without("content-type"), http="415"),
    "another content-type": Odd(changed(content_type="application/json"), http="415"),
    "gRPC-Web": Odd(changed(content_type="application/grpc-web"), http="415"),
    "a longer content-type": Odd(changed(content_type="application/grpcx"), http="415"),
    "content-type with a codec": Odd(changed(content_type="application/grpc+proto"), statuses=SERVED, answers=1),
    "content-type with a parameter": Odd(changed(content_type="application/grpc;a=b"), statuses=SERVED, answers=1),
    "no te": Odd(without("te"), resets=MALFORMED, statuses=frozenset({"0", "13"}), answers=1),
    "another te": Odd(changed(te="gzip"), resets=MALFORMED),
    "unknown service": Odd(changed(path="/other/Process"), statuses=frozenset({"12"})),
    "unknown method": Odd(changed(path="/envoy.service.ext_proc.v3.ExternalProcessor/x"), statuses=frozenset({"12"})),
    "timeout without a unit": Odd((*REQUEST, ("grpc-timeout", "1")), statuses=INTERNAL),
    "timeout without a number": Odd((*REQUEST, ("grpc-timeout", "S")), statuses=INTERNAL),
    "timeout of an unknown unit": Odd((*REQUEST, ("grpc-timeout", "1Q")), statuses=INTERNAL),
    "negative timeout": Odd((*REQUEST, ("grpc-timeout", "-1S")), statuses=INTERNAL),
    "fractional timeout": Odd((*REQUEST, ("grpc-timeout", "1.5S")), statuses=INTERNAL),
    "empty timeout": Odd((*REQUEST, ("grpc-timeout", "")), statuses=INTERNAL),
    "timeout of nine digits": Odd((*REQUEST, ("grpc-timeout", "999999999S")), statuses=INTERNAL),
    "longest timeout": Odd((*REQUEST, ("grpc-timeout", "99999999H")), statuses=SERVED, answers=1),
    "a unit in a hurry": Odd((*REQUEST, ("grpc-timeout", "0n")), statuses=frozenset({"0", "4"}), answers=1),
    "unknown encoding, unused": Odd((*REQUEST, ("grpc-encoding", "snappy")), statuses=SERVED, answers=1),
    "unknown encoding": Odd((*REQUEST, ("grpc-encoding", "snappy")), message(USER, 1), statuses=frozenset({"12"})),
    "flagged, but identity": Odd((*REQUEST, ("grpc-encoding", "identity")), message(USER, 1), statuses=INTERNAL),
    "flagged without an encoding": Odd(REQUEST, message(USER, 1), statuses=INTERNAL),
    "flagged, but not compressed": Odd(GZIP, message(USER, 1), statuses=INTERNAL),
    "wrong encoding": Odd(DEFLATE, PACKED, statuses=INTERNAL),
    "compressed and empty": Odd(GZIP, message(b"", 1), statuses=INTERNAL),
    "compressed and cut off": Odd(GZIP, message(gzip.compress(USER)[:-3], 1), statuses=INTERNAL),
    "compressed with more behind": Odd(GZIP, message(gzip.compress(USER) + b"xx", 1), statuses=INTERNAL),
    "encoding, but not flagged": Odd(GZIP, statuses=SERVED, answers=1),
    "gzip": Odd(GZIP, PACKED, statuses=SERVED, answers=1),
    "deflate": Odd(DEFLATE, message(zlib.compress(USER), 1), statuses=SERVED, answers=1),
    "a gzip bomb": Odd(GZIP, message(gzip.compress(bytes(LARGEST + 1)), 1), statuses=frozenset({"8"})),
    "first a message, then one that is too long": Odd(
        REQUEST, message(USER) + message(b"", 0, LARGEST + 1), statuses=frozenset({"8"}), answers=1
    ),
    "too long": Odd(REQUEST, message(b"", 0, LARGEST + 1), end=False, statuses=frozenset({"8"})),
    "far too long": Odd(REQUEST, message(b"abc", 0, 2**32 - 1), end=False, statuses=frozenset({"8"})),
    "too long and compressed": Odd(GZIP, message(b"abc", 1, 2**32 - 1), end=False, statuses=frozenset({"8"})),
    **{f"reserved flag {flag}": Odd(REQUEST, message(USER, flag), statuses=INTERNAL) for flag in (2, 3, 0x80, 0xFF)},
    "ended amid a message": Odd(REQUEST, message(USER)[:-1], statuses=INTERNAL),
    "ended amid a length": Odd(REQUEST, message(USER)[:3], statuses=INTERNAL),
    "ended amid the second message": Odd(REQUEST, message(USER) * 2 + b"\0\0", statuses=INTERNAL, answers=2),
    "upper-case name": Odd((*REQUEST, ("X-Some", "x")), resets=MALFORMED),
    "connection header": Odd((*REQUEST, ("connection", "close")), resets=MALFORMED),
    "transfer-encoding": Odd((*REQUEST, ("transfer-encoding", "chunked")), resets=MALFORMED),
    "pseudo-header after others": Odd([*REQUEST[1:], REQUEST[0]], resets=MALFORMED),
    "pseudo-header twice": Odd([REQUEST[0], *REQUEST], resets=MALFORMED),
    "unknown pseudo-header": Odd([(":some", "x"), *REQUEST], resets=MALFORMED),
    "a response's pseudo-header": Odd([(":status", "200"), *REQUEST], resets=MALFORMED),
    "line break in a value": Odd((*REQUEST, ("x-some", "a\r\nb")), resets=MALFORMED),
    "zero in a value": Odd((*REQUEST, ("x-some", "a\0b")), resets=MALFORMED),
    "less than its content-length": Odd((*REQUEST, ("content-length", "1000")), resets=MALFORMED),
    "more than its content-length": Odd((*REQUEST, ("content-length", "3")), resets=MALFORMED),
    "binary metadata that is not": Odd((*REQUEST, ("x-some-bin", "!")), statuses=SERVED | INTERNAL, answers=1),
    "a name twice": Odd(
        (*REQUEST, ("grpc-timeout", "1H"), ("grpc-timeout", "1H")), statuses=SERVED | INTERNAL, answers=1
    ),
}


@pytest.mark.parametrize("name", ODD)
def test_an_odd_call_gets_its_status_and_harms_no_other_call(nghttp2: Served, name: str) -> None:
    odd = ODD[name]
    with peer(nghttp2.tcp) as found:
        found.send(found.headers(1), found.data(1, message(USER)))  # a neighbour on the same connection
        found.until(lambda: found.streams[1].messages == [ANSWER])
        got = call(found, 3, odd)
        if got.reset is not None and not got.headers:
            assert got.reset in odd.resets
        elif got.headers.get(":status") != "200":
            assert got.headers[":status"] == odd.http
        else:
            assert got.status in odd.statuses
            assert got.messages in [[ANSWER] * count for count in range(odd.answers + 1)]
            if got.status == "0":
                assert len(got.messages) == odd.answers
        found.send(found.data(1, message(MESSAGES["request_body"]), end=True))
        well(found.result(1), ANSWER, UNTOUCHED_BODY)


def call(found: Peer, stream: int, odd: Odd) -> Stream:
    """Make a call."""
    found.send(found.headers(stream, odd.headers, end=odd.end and not odd.body))
    for start in range(0, len(odd.body), 16384):
        rest = odd.body[start : start + 16384]
        found.send(found.data(stream, rest, end=odd.end and start + 16384 >= len(odd.body)))
    return found.result(stream)


def test_identities_are_as_the_service_gives_them_however_calls_interleave(nghttp2: Served) -> None:
    users = [request_headers([("x-user-id", f"u-{number}".encode())]) for number in range(30)]
    with peer(nghttp2.tcp) as found:
        streams = range(1, 60, 2)
        for stream in streams:
            found.send(found.headers(stream))
        bodies = [message(user) for user in users]
        for at in range(0, max(map(len, bodies)), 7):
            for stream, body in zip(streams, bodies, strict=True):
                if at < len(body):
                    found.send(found.data(stream, body[at : at + 7], end=at + 7 >= len(body)))
        for stream, user in zip(streams, users, strict=True):
            well(found.result(stream), answer_to(user))
