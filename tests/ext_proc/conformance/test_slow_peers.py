"""Peers that read slowly, never finish or vanish use bounded memory, and leave nothing behind."""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path

import pytest
from hyperframe.frame import Frame, SettingsFrame

from tests.ext_proc.clients import USER
from tests.ext_proc.conformance.answers import LARGEST, LAST
from tests.ext_proc.conformance.checks import ANSWER, served_well
from tests.ext_proc.conformance.frames import (
    frame,
    message,
)
from tests.ext_proc.conformance.peer import Closed, Peer, peer
from tests.ext_proc.conformance.served import TRANSPORTS, Served, serving

pytestmark = pytest.mark.process

BODY = message(USER)


def test_a_peer_that_never_reads_uses_bounded_memory(nghttp2: Served) -> None:
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


def test_a_peer_that_never_opens_its_window_uses_bounded_memory(nghttp2: Served) -> None:
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


def test_messages_that_are_never_completed_use_bounded_memory(nghttp2: Served) -> None:
    """1 MiB each on many streams of one connection: their total is limited."""
    before = nghttp2.memory()
    with peer(nghttp2.tcp) as found:
        found.raw.settimeout(2.0)
        with contextlib.suppress(TimeoutError, Closed):
            for stream in range(1, 200, 2):
                found.send(found.headers(stream), found.data(stream, message(b"", 0, LARGEST)))
                for _ in range(60):  # 0.98 MB
                    found.send(found.data(stream, bytes(16384)))
                found.until(lambda: False, 0)
        assert nghttp2.memory() - before < 20
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


def test_a_peer_that_closes_its_side_still_gets_its_answers(nghttp2: Served) -> None:
    with Peer(nghttp2.tcp) as found:
        found.open()
        found.send(found.headers(1), found.data(1, BODY, end=True), found.headers(3), found.data(3, message(LAST)))
        found.until(lambda: found.streams[1].over)
        found.raw.shutdown(socket.SHUT_WR)
        found.end()
        assert found.streams[1].messages == [ANSWER]
    nghttp2.forgets_streams()


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_past_calls_use_no_memory(tmp_path: Path, transport: str) -> None:
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
