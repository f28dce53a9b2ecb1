"""The ``:authority`` that Envoy sends is made one that the engine accepts, however its bytes arrive."""

from __future__ import annotations

from typing import Any

import pytest
from hpack import Encoder
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("ngh2")

import ngh2

from ext_proc.transport.authority import Mender
from tests.ext_proc.conformance.frames import frame

ISTIO = b"outbound|9000||abmesh.ns.svc.cluster.local"
PRINTABLE = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=60).map(str.encode)
SETTINGS = frame(4, 0, 0, b"")
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def block(encoder: Encoder, authority: bytes, *, huffman: bool = True) -> bytes:
    headers = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/x"), (b":authority", authority)]
    return bytes(encoder.encode(headers, huffman=huffman))


def calls(encoder: Encoder, *authorities: bytes, huffman: bool = True) -> bytes:
    """The bytes of calls, one after another, each with a body."""
    made = [PREFACE, SETTINGS]
    for number, authority in enumerate(authorities):
        stream = 2 * number + 1
        made += [frame(1, 4, stream, block(encoder, authority, huffman=huffman)), frame(0, 1, stream, b"body" * 9)]
    return b"".join(made)


def received(data: bytes, pieces: int = 1_000_000, *, always: bool = False) -> tuple[list[bytes], Mender, int]:
    """The authorities that the engine reports, the mender, and how many calls it reset."""
    mender, engine = Mender(always=always), ngh2.Connection(ngh2.Role.SERVER)
    engine.initiate_connection({})
    events: list[Any] = []
    for start in range(0, len(data), pieces):
        piece = data[start : start + pieces]
        engine.receive_data(piece if mender.done else mender.feed(piece))
        events += engine.events()
        engine.data_to_send()
        events += engine.events()
    requests = [event for event in events if isinstance(event, ngh2.RequestReceived)]
    bodies = [event for event in events if isinstance(event, ngh2.DataReceived)]
    if pieces > 100:
        assert {event.data for event in bodies} <= {b"body" * 9}
    broken = [event for event in events if isinstance(event, ngh2.StreamClosed) and event.error_code]
    return [dict(request.headers)[b":authority"] for request in requests], mender, len(broken)


def test_the_engine_alone_resets_such_a_call() -> None:
    engine = ngh2.Connection(ngh2.Role.SERVER)
    engine.initiate_connection({})
    engine.receive_data(calls(Encoder(), ISTIO))
    assert not [event for event in engine.events() if isinstance(event, ngh2.RequestReceived)]


@pytest.mark.parametrize("huffman", [True, False])
@pytest.mark.parametrize("pieces", [1_000_000, 100, 7, 1])
def test_istios_name_is_mended_however_it_arrives(huffman: bool, pieces: int) -> None:
    found, mender, broken = received(calls(Encoder(), *[ISTIO] * 5, huffman=huffman), pieces)
    assert found == [ISTIO.replace(b"|", b"+")] * 5
    assert (mender.needed, broken) == (True, 0)


@pytest.mark.parametrize("pieces", [1_000_000, 5])
def test_an_authority_that_is_fine_is_left_alone(pieces: int) -> None:
    data = calls(Encoder(), b"abmesh-ext-proc", b"abmesh-ext-proc")
    mender = Mender()
    out = b""
    for start in range(0, len(data), pieces):
        piece = data[start : start + pieces]
        out += piece if mender.done else mender.feed(piece)
    assert out == data
    assert mender.done


def test_on_request_mending_goes_on_after_a_call_that_needs_none() -> None:
    mender, engine = Mender(always=True), ngh2.Connection(ngh2.Role.SERVER)
    engine.initiate_connection({})
    engine.receive_data(mender.feed(calls(Encoder(), b"fine", ISTIO)))
    assert len([event for event in engine.events() if isinstance(event, ngh2.RequestReceived)]) == 2
    assert (mender.needed, mender.done) == (False, False)


@given(st.lists(PRINTABLE, min_size=1, max_size=8), st.booleans(), st.integers(1, 200))
def test_any_printable_authority_is_accepted(authorities: list[bytes], huffman: bool, pieces: int) -> None:
    found, _, broken = received(calls(Encoder(), *authorities, huffman=huffman), pieces, always=True)
    assert [len(each) for each in found] == [len(each) for each in authorities]
    assert broken == 0


@given(st.binary(max_size=300), st.integers(1, 50))
def test_whatever_arrives_nothing_is_lost_or_raised(data: bytes, pieces: int) -> None:
    mender = Mender()
    out = b""
    for start in range(0, len(data), pieces):
        piece = data[start : start + pieces]
        out += piece if mender.done else mender.feed(piece)
    assert data.startswith(out) or mender.needed
    assert out == data or not mender.done


@given(st.binary(max_size=120), st.integers(0, 255))
def test_header_blocks_of_garbage_are_passed_on(garbage: bytes, flags: int) -> None:
    data = PREFACE + frame(1, flags, 1, garbage) + frame(0, 1, 1, b"x")
    mender = Mender()
    out = mender.feed(data)
    assert mender.needed is not None
    assert out == data or mender.needed


def test_padding_and_priority_are_kept_apart_from_the_headers() -> None:
    encoder = Encoder()
    first = bytes((3,)) + bytes(5) + block(encoder, ISTIO) + bytes(3)
    data = PREFACE + SETTINGS + frame(1, 0x04 | 0x08 | 0x20, 1, first) + frame(1, 4, 3, block(encoder, ISTIO))
    assert received(data)[0] == [ISTIO.replace(b"|", b"+")] * 2


def test_a_value_that_is_put_into_the_table_keeps_its_length_there() -> None:
    """Hundreds of calls push the name out of HPACK's table, and it is written out again."""
    encoder = Encoder()
    made = [PREFACE, SETTINGS]
    for number in range(300):
        headers = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/x"), (b":authority", ISTIO)]
        encoded = bytes(encoder.encode([*headers, (b"x-request-id", b"%050d" % number)]))
        made.append(frame(1, 5, 2 * number + 1, encoded))
    found, _, broken = received(b"".join(made), 1000)
    assert (len(found), set(found), broken) == (300, {ISTIO.replace(b"|", b"+")}, 0)


def test_a_peer_cannot_make_us_decode_a_long_value() -> None:
    long = b"|" * 5000
    found, mender, broken = received(calls(Encoder(), long))
    assert (found, mender.needed, broken) == ([], False, 1)
