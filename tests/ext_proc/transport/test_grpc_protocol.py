"""gRPC's framing and headers, byte by byte."""

import gzip
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ext_proc.transport.base import LONGEST_MESSAGE
from ext_proc.transport.grpc_protocol import (
    Call,
    CallError,
    NotGrpc,
    Reader,
    Status,
    failed,
    framed,
    only_message,
    read_call,
    read_timeout,
)

GOOD = {b":method": b"POST", b":path": b"/s/m", b"content-type": b"application/grpc"}


def compressed(message: bytes, how: bytes) -> bytes:
    packed = gzip.compress(message, mtime=0) if how == b"gzip" else zlib.compress(message)
    return b"\1" + len(packed).to_bytes(4, "big") + packed


@given(st.lists(st.binary(max_size=300), max_size=8), st.data())
def test_messages_are_found_however_their_bytes_are_cut(messages: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(map(framed, messages))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=10)))
    reader, found = Reader(b"identity"), list[bytes]()
    for start, stop in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        found += reader.feed(stream[start:stop])
    assert found == messages
    assert reader.buffered == 0


@given(st.binary(max_size=300), st.binary(max_size=12))
def test_only_exactly_one_plain_message_counts_as_one(message: bytes, more: bytes) -> None:
    assert only_message(framed(message)) == message
    if more:
        assert only_message(framed(message) + more) is None
        assert only_message(framed(message + more)[: -len(more)]) is None


@pytest.mark.parametrize("data", [b"", b"\0", b"\0\0\0\0", b"\1\0\0\0\0", compressed(b"x", b"gzip")])
def test_pieces_and_compressed_messages_are_not_a_single_plain_message(data: bytes) -> None:
    assert only_message(data) is None


def test_only_the_incomplete_message_is_buffered() -> None:
    reader = Reader(b"identity")
    assert list(reader.feed(framed(b"one") + framed(b"two")[:6])) == [b"one"]
    assert reader.buffered == 6
    assert list(reader.feed(framed(b"two")[6:])) == [b"two"]
    assert reader.buffered == 0


@pytest.mark.parametrize("how", [b"gzip", b"deflate"])
@given(message=st.binary(max_size=2000))
def test_compressed_messages_are_read_among_plain_ones(how: bytes, message: bytes) -> None:
    reader = Reader(how)
    stream = compressed(message, how) + framed(b"plain") + compressed(b"", how)
    assert list(reader.feed(stream)) == [message, b"plain", b""]


@pytest.mark.parametrize(
    ("encoding", "data", "status", "message"),
    [
        (b"identity", b"\0" + (LONGEST_MESSAGE + 1).to_bytes(4, "big"), Status.RESOURCE_EXHAUSTED, "1048577 bytes"),
        (b"gzip", compressed(bytes(LONGEST_MESSAGE + 1), b"gzip"), Status.RESOURCE_EXHAUSTED, "allowed: 1048576"),
        (b"identity", b"\1\0\0\0\1x", Status.INTERNAL, "without grpc-encoding"),
        (b"identity", b"\2\0\0\0\1x", Status.INTERNAL, "flag 2;"),
        (b"gzip", b"\xff\0\0\0\1x", Status.INTERNAL, "flag 255;"),
        (b"gzip", b"\1\0\0\0\1x", Status.INTERNAL, "does not decompress|cut off"),
        (b"gzip", b"\1\0\0\0\0", Status.INTERNAL, "cut off"),
        (b"snappy", b"\1\0\0\0\1x", Status.UNIMPLEMENTED, "identity,deflate,gzip"),
    ],
)
def test_messages_that_cannot_be_read_end_the_call_with_a_status(
    encoding: bytes, data: bytes, status: Status, message: str
) -> None:
    with pytest.raises(CallError, match=message) as caught:
        list(Reader(encoding).feed(data))
    assert caught.value.status is status


def test_the_longest_message_is_read_and_a_bomb_is_not_unpacked() -> None:
    assert len(next(Reader(b"gzip").feed(compressed(bytes(LONGEST_MESSAGE), b"gzip")))) == LONGEST_MESSAGE
    with pytest.raises(CallError):
        list(Reader(b"gzip").feed(compressed(bytes(8 * LONGEST_MESSAGE), b"gzip")))


def test_messages_before_one_that_cannot_be_read_are_found() -> None:
    messages = Reader(b"identity").feed(framed(b"one") + b"\2\0\0\0\1x")
    assert next(messages) == b"one"
    with pytest.raises(CallError):
        next(messages)


def test_call_headers_are_parsed() -> None:
    more = {b"grpc-encoding": b"gzip", b"grpc-timeout": b"1500m", b"user-agent": b"x"}
    assert read_call(list((GOOD | more).items())) == Call(b"/s/m", b"gzip", 1.5)
    assert read_call(list(GOOD.items())) == Call(b"/s/m")


@pytest.mark.parametrize("kind", [b"application/grpc+proto", b"application/grpc;charset=utf-8"])
def test_variants_of_the_grpc_content_type_are_accepted(kind: bytes) -> None:
    assert isinstance(read_call(list((GOOD | {b"content-type": kind}).items())), Call)


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({b":method": b"GET"}, b"405"),
        ({b"content-type": b"application/json"}, b"415"),
        ({b"content-type": b"application/grpc-web"}, b"415"),
        ({b"content-type": b""}, b"415"),
    ],
)
def test_a_request_that_is_not_grpc_gets_an_http_status(changes: dict[bytes, bytes], status: bytes) -> None:
    assert read_call(list((GOOD | changes).items())) == NotGrpc(status)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [(b"1H", 3600), (b"2M", 120), (b"3S", 3), (b"4m", 0.004), (b"5u", 5e-6), (b"6n", 6e-9), (b"99999999S", 99999999)],
)
def test_timeouts_have_six_units(text: bytes, seconds: float) -> None:
    assert read_timeout(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", [b"", b"1", b"S", b"123456789S", b"-1S", b"1s", b"1.5S", b" 1S", b"1S\n"])
def test_other_timeouts_are_refused(text: bytes) -> None:
    with pytest.raises(CallError) as caught:
        read_timeout(text)
    assert caught.value.status is Status.INTERNAL


def test_a_failed_call_says_why_and_which_encodings_are_supported() -> None:
    assert failed(Status.NOT_FOUND, "no") == [(b"grpc-status", b"5"), (b"grpc-message", b"no")]
    assert (b"grpc-accept-encoding", b"identity,deflate,gzip") in failed(Status.UNIMPLEMENTED, "no")
