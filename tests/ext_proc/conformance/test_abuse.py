"""Peers that flood us or speak another protocol are cut off or cost little, and harm nobody else.

On nghttp2 only: grpcio's HTTP/2 is not ours.
"""

from __future__ import annotations

import contextlib

import pytest
from hyperframe.frame import PingFrame, PriorityFrame, RstStreamFrame, SettingsFrame

from tests.ext_proc.clients import USER
from tests.ext_proc.conformance.checks import ANSWER, served_well
from tests.ext_proc.conformance.frames import (
    CANCEL,
    NO_ERROR,
    PREFACE,
    PROTOCOL_ERROR,
    REFUSED_STREAM,
    REQUEST,
    frame,
    message,
    plain,
)
from tests.ext_proc.conformance.peer import Closed, Peer, peer
from tests.ext_proc.conformance.served import Served

pytestmark = pytest.mark.process

BODY = message(USER)


# What is not HTTP/2 at all.

OTHER_PROTOCOLS = {
    "HTTP/1.1": b"GET / HTTP/1.1\r\nhost: x\r\n\r\n",
    "HTTP/1.1 that wants to upgrade": b"GET / HTTP/1.1\r\nhost: x\r\nconnection: upgrade, http2-settings\r\n"
    b"upgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n\r\n",
    "HTTP/1.1 with a preface's look": b"PRI * HTTP/1.1\r\n\r\nSM\r\n\r\n",
    "TLS": b"\x16\x03\x01\x00\xc8\x01\x00\x00\xc4\x03\x03" + bytes(189),
    "SSH": b"SSH-2.0-OpenSSH_9.2\r\n",
    "zeros": bytes(1000),
    "no preface": SettingsFrame().serialize() + frame(1, 5, 1, plain()),
    "a request instead of SETTINGS": PREFACE + frame(1, 5, 1, plain()),
    "a ping instead of SETTINGS": PREFACE + frame(6, 0, 0, bytes(8)),
}


@pytest.mark.parametrize("name", OTHER_PROTOCOLS)
def test_other_protocols_are_refused(nghttp2: Served, name: str) -> None:
    with Peer(nghttp2.tcp) as found:
        found.send(OTHER_PROTOCOLS[name])
        assert found.end() == PROTOCOL_ERROR
    served_well(nghttp2)


def test_a_path_that_is_not_utf_8_harms_nobody(nghttp2: Served) -> None:
    """grpc.aio ends at one; see test_grpcio.py."""
    with peer(nghttp2.tcp) as found:
        found.send(frame(1, 5, 1, plain().replace(b"/Process", b"/Proce\xf0s")))
        assert found.result(1).messages == []
    served_well(nghttp2)


# Floods.


def ping_flood() -> bytes:
    return b"".join(PingFrame(0, number.to_bytes(8, "big")).serialize() for number in range(200))


FLOODS = {
    "pings": ping_flood(),
    "settings": b"".join(SettingsFrame(settings={3: 100}).serialize() for _ in range(200)),
    "priorities": b"".join(PriorityFrame(n, depends_on=1, stream_weight=3).serialize() for n in range(3, 403, 2)),
    "unknown frames": frame(0xBB, 0, 0, bytes(16)) * 200,
    "window updates of one byte": frame(8, 0, 0, b"\0\0\0\1") * 200,
    "acknowledgements of pings": PingFrame(0, bytes(8), flags=["ACK"]).serialize() * 200,
}


@pytest.mark.parametrize("name", FLOODS)
@pytest.mark.parametrize("reads", [True, False], ids=["reading", "not reading"])
def test_floods_of_cheap_frames_use_no_memory(nghttp2: Served, name: str, *, reads: bool) -> None:
    before = nghttp2.memory()
    with Peer(nghttp2.tcp) as found:
        found.open()
        found.raw.settimeout(1.0)
        with contextlib.suppress(TimeoutError):  # the server may stop reading
            for _ in range(100):
                found.send(FLOODS[name])
                if found.closed:
                    break
                if reads:
                    with contextlib.suppress(Closed):
                        found.until(lambda: False, 0)
        served_well(nghttp2)
    assert nghttp2.memory() - before < 10


def test_headers_that_never_end_are_refused(nghttp2: Served) -> None:
    before = nghttp2.memory()
    for size in (0, 1, 16384):
        with peer(nghttp2.tcp) as found:
            found.send(frame(1, 0, 1, plain()))
            found.raw.settimeout(1.0)
            with contextlib.suppress(TimeoutError):
                for _ in range(3000):
                    found.send(frame(9, 0, 1, plain([("x-some", "y" * size)])[:size]))
                    if found.closed:
                        break
            assert found.closed
            assert found.end() != NO_ERROR
        served_well(nghttp2)
    assert nghttp2.memory() - before < 10


def test_a_header_list_that_unpacks_to_too_much_is_refused(nghttp2: Served) -> None:
    """HPACK stores one header of 4,000 bytes, which is then referred to a thousand times at one byte each."""
    before = nghttp2.memory()
    for stream in (1, 3, 5):
        with peer(nghttp2.tcp) as found:
            found.send(found.headers(stream, (*REQUEST, ("x-some", "y" * 3900)), end=True))
            found.send(frame(1, 5, stream + 2, found.block() + b"\xbe" * 10_000))
            with contextlib.suppress(Closed):
                assert found.result(stream + 2).messages == []
    served_well(nghttp2)
    assert nghttp2.memory() - before < 10


def test_streams_that_are_reset_at_once_are_served_and_forgotten(nghttp2: Served) -> None:
    """An attacker does it (CVE-2023-44487), and so does Envoy, which resets every stream once it has its answer."""
    with Peer(nghttp2.tcp) as found:
        found.open()
        stream, before = 1, 0.0
        for round_number in range(30):
            frames = []
            for _ in range(200):
                call = (found.headers(stream), found.data(stream, BODY), RstStreamFrame(stream, CANCEL))
                frames.append(b"".join(each.serialize() for each in call))
                stream += 2
            found.send(*frames)
            found.ping()
            if round_number == 14:
                before = nghttp2.memory()
        assert found.call(stream, USER).messages == [ANSWER]
        assert nghttp2.memory() - before < 3
        nghttp2.forgets_streams()
    served_well(nghttp2)


def test_streams_that_are_reset_once_answered_are_not_taken_for_an_attack(nghttp2: Served) -> None:
    with Peer(nghttp2.tcp) as found:
        found.open()
        for stream in range(1, 4000, 2):
            found.send(found.headers(stream), found.data(stream, BODY))
            found.until(lambda: bool(found.streams[stream].data))  # noqa: B023  called at once
            found.send(RstStreamFrame(stream, CANCEL))
        assert found.goaway is None
        assert found.call(5001, USER).messages == [ANSWER]


def test_resets_with_every_code_are_taken(nghttp2: Served) -> None:
    with peer(nghttp2.tcp) as found:
        for number, code in enumerate((*range(16), 99, 2**32 - 1)):
            stream = 2 * number + 1
            found.send(found.headers(stream), found.data(stream, BODY[:50]), RstStreamFrame(stream, code))
        assert found.call(1001, USER).messages == [ANSWER]
        nghttp2.forgets_streams()


def test_more_streams_than_allowed_are_refused(nghttp2: Served) -> None:
    """Per stream or, as section 5.4.1 of RFC 9113 allows and libnghttp2 does, with their connection."""
    with peer(nghttp2.tcp) as found:
        most = found.settings[SettingsFrame.MAX_CONCURRENT_STREAMS]
        assert most >= 1000
        streams = range(1, 2 * most + 1, 2)
        for start in range(0, most, 250):
            found.send(*(found.headers(stream) for stream in streams[start : start + 250]))
            found.ping()
        assert nghttp2.counters().streams == most
        found.send(found.headers(2 * most + 1))
        with contextlib.suppress(Closed):
            found.ping()
        assert found.goaway == PROTOCOL_ERROR or found.streams[2 * most + 1].reset == REFUSED_STREAM
    served_well(nghttp2)
