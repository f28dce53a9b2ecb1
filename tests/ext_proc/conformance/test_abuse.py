"""Peers that flood, stall, wait or speak something else: they are cut off or cost little, and harm nobody else.

On nghttp2 only: grpcio's HTTP/2 is not ours.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hyperframe.frame import Frame, PingFrame, PriorityFrame, RstStreamFrame, SettingsFrame

from tests.ext_proc.clients import USER
from tests.ext_proc.conformance.checks import ANSWER, served_well
from tests.ext_proc.conformance.peer import (
    CANCEL,
    NO_ERROR,
    PREFACE,
    PROTOCOL_ERROR,
    REFUSED_STREAM,
    REQUEST,
    Closed,
    Peer,
    connect,
    frame,
    message,
    peer,
    plain,
)
from tests.ext_proc.conformance.served import TRANSPORTS, Served, serving
from tests.ext_proc.conformance.test_calls import LARGEST, LAST

pytestmark = pytest.mark.process

BODY = message(USER)


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server with short time limits."""
    folder = tmp_path_factory.mktemp("quick")
    limits = {"handshake": 0.6, "idle": 0.4, "answer": 0.4, "check": 0.05}
    with serving(folder, "nghttp2", limits=limits) as server:
        yield server


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
def test_whoever_speaks_something_else_is_sent_away(nghttp2: Served, name: str) -> None:
    with Peer(nghttp2.tcp) as found:
        found.send(OTHER_PROTOCOLS[name])
        assert found.end() == PROTOCOL_ERROR
    served_well(nghttp2)


@pytest.mark.parametrize("size", [0, 1, 12, len(PREFACE) - 1, len(PREFACE), len(PREFACE) + 5])
def test_whoever_says_half_a_hello_is_sent_away_after_a_time(quick: Served, size: int) -> None:
    hello = PREFACE + SettingsFrame().serialize()
    with Peer(quick.tcp) as found:
        found.send(hello[:size])
        started = time.monotonic()
        found.end()
        assert time.monotonic() - started < 10
    quick.forgets()
    served_well(quick)


def test_whoever_says_hello_a_byte_at_a_time_gets_no_longer(quick: Served) -> None:
    with Peer(quick.tcp) as found:
        started = time.monotonic()
        for byte in PREFACE:  # in longer than the limit
            found.send(bytes((byte,)))
            time.sleep(0.04)
        found.end()
        assert time.monotonic() - started < 10
    quick.forgets()


def test_an_idle_peer_that_answers_pings_is_kept(quick: Served) -> None:
    with peer(quick.tcp) as found:
        # The second ping shows that the answer to the first was accepted.
        found.until(lambda: sum(each.startswith("PingFrame") for each in found.seen) == 3)
        assert found.call(1, USER).messages == [ANSWER]


def test_an_idle_peer_that_does_not_is_left(quick: Served) -> None:
    with Peer(quick.tcp, polite=False) as found:
        found.open()
        found.send(found.headers(1), found.data(1, BODY))
        started = time.monotonic()
        found.end()
        assert time.monotonic() - started < 10
        assert found.streams[1].messages == [ANSWER]
    quick.forgets()


def test_thousands_of_connections_that_say_nothing_are_no_burden(quick: Served) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(500):
            stack.enter_context(contextlib.closing(connect(quick.tcp)))
        served_well(quick)
        quick.forgets()


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
def test_floods_of_cheap_frames_take_no_memory(nghttp2: Served, name: str, *, reads: bool) -> None:
    before = nghttp2.memory()
    with Peer(nghttp2.tcp) as found:
        found.open()
        found.raw.settimeout(1.0)
        with contextlib.suppress(TimeoutError):  # a server that has enough of it stops reading
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


def test_a_header_list_that_unpacks_to_much_is_refused(nghttp2: Served) -> None:
    """One header of 4,000 bytes is kept by HPACK, and then named a thousand times by a byte each."""
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


def test_streams_that_are_reset_once_answered_are_no_rapid_reset(nghttp2: Served) -> None:
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
    """By stream or, as section 5.4.1 of RFC 9113 allows and libnghttp2 does, with their connection."""
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


# Peers that take what they get slowly or never.


def test_a_peer_that_never_reads_takes_no_memory_without_end(nghttp2: Served) -> None:
    before = nghttp2.memory()
    with Peer(nghttp2.tcp, polite=False) as found:
        found.raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        found.open({SettingsFrame.INITIAL_WINDOW_SIZE: 2**31 - 1})
        found.send(SettingsFrame(flags=["ACK"]), frame(8, 0, 0, (2**31 - 65536).to_bytes(4, "big")))
        found.raw.settimeout(1.0)
        stream = 1
        with contextlib.suppress(TimeoutError):
            while not found.closed and stream < 40_000:
                calls: list[Frame] = []
                for _ in range(100):
                    calls += [found.headers(stream), found.data(stream, BODY, end=True)]
                    stream += 2
                found.send(*calls)
        assert nghttp2.memory() - before < 40
        served_well(nghttp2)


def test_a_peer_that_never_gives_window_takes_no_memory_without_end(nghttp2: Served) -> None:
    before = nghttp2.memory()
    with Peer(nghttp2.tcp, polite=False) as found:
        found.open({SettingsFrame.INITIAL_WINDOW_SIZE: 0})
        found.send(SettingsFrame(flags=["ACK"]))
        found.raw.settimeout(1.0)
        with contextlib.suppress(TimeoutError, Closed):
            found.send(found.headers(1))
            for _ in range(2000):
                found.send(found.data(1, BODY * 50))
                found.until(lambda: False, 0)
        assert nghttp2.memory() - before < 40
        served_well(nghttp2)


def test_a_peer_that_is_paused_is_left_after_a_time(quick: Served) -> None:
    with Peer(quick.tcp, polite=False) as found:
        found.raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        found.open({SettingsFrame.INITIAL_WINDOW_SIZE: 2**31 - 1})
        found.send(SettingsFrame(flags=["ACK"]), frame(8, 0, 0, (2**31 - 65536).to_bytes(4, "big")))
        found.raw.settimeout(0.5)
        with contextlib.suppress(TimeoutError):
            found.send(found.headers(1))
            while not found.closed:
                found.send(found.data(1, BODY * 80))
        quick.forgets()


def test_messages_that_are_never_completed_take_no_memory_without_end(nghttp2: Served) -> None:
    """16 MiB each on many streams of one connection: what all of them hold is limited."""
    before = nghttp2.memory()
    with peer(nghttp2.tcp) as found:
        found.raw.settimeout(2.0)
        with contextlib.suppress(TimeoutError, Closed):
            for stream in range(1, 40, 2):
                found.send(found.headers(stream), found.data(stream, message(b"", 0, LARGEST)))
                for _ in range(300):  # 4.7 MB
                    found.send(found.data(stream, bytes(16384)))
                found.until(lambda: False, 0)
        assert nghttp2.memory() - before < 60
        served_well(nghttp2)
    nghttp2.forgets_streams()


def test_a_peer_that_vanishes_leaves_nothing(nghttp2: Served) -> None:
    files = nghttp2.counters().files
    for _ in range(50):
        with peer(nghttp2.tcp) as found:
            for stream in range(1, 21, 2):
                found.send(found.headers(stream), found.data(stream, BODY[: 20 * stream]))
            found.raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # a TCP reset
    nghttp2.forgets_streams()
    nghttp2.until(lambda now: now.files <= files, "closed sockets")


def test_a_peer_that_ends_its_side_of_the_connection_still_gets_its_answers(nghttp2: Served) -> None:
    with Peer(nghttp2.tcp) as found:
        found.open()
        found.send(found.headers(1), found.data(1, BODY, end=True), found.headers(3), found.data(3, message(LAST)))
        found.until(lambda: found.streams[1].over)
        found.raw.shutdown(socket.SHUT_WR)
        found.end()
        assert found.streams[1].messages == [ANSWER]
    nghttp2.forgets_streams()


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_what_was_served_long_ago_takes_no_memory(tmp_path: Path, transport: str) -> None:
    with serving(tmp_path, transport) as server:

        def load(connections: int) -> None:
            for _ in range(connections):
                with peer(server.tcp) as found:
                    for start in range(1, 400, 40):
                        streams = range(start, start + 40, 2)
                        for stream in streams:
                            found.send(found.headers(stream), found.data(stream, message(LAST)))
                        for stream in streams:
                            found.result(stream)

        load(8)
        first = server.memory()
        load(16)
        assert server.memory() - first < 1.5
