"""Peers that say nothing, too little, or nothing any more are cut off in time, on nghttp2."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator

import pytest
from hyperframe.frame import SettingsFrame

from tests.ext_proc.clients import USER
from tests.ext_proc.conformance.checks import ANSWER, served_well
from tests.ext_proc.conformance.frames import (
    PREFACE,
    frame,
    message,
)
from tests.ext_proc.conformance.peer import Peer, connect, peer
from tests.ext_proc.conformance.served import Served, serving

pytestmark = pytest.mark.process

BODY = message(USER)


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server with short time limits."""
    folder = tmp_path_factory.mktemp("quick")
    limits = {"handshake": 0.6, "idle": 0.4, "answer": 0.4, "check": 0.05}
    with serving(folder, "nghttp2", limits=limits) as server:
        yield server


@pytest.mark.parametrize("size", [0, 1, 12, len(PREFACE) - 1, len(PREFACE), len(PREFACE) + 5])
def test_a_peer_that_sends_half_a_preface_is_cut_off(quick: Served, size: int) -> None:
    hello = PREFACE + SettingsFrame().serialize()
    with Peer(quick.tcp) as found:
        found.send(hello[:size])
        started = time.monotonic()
        found.end()
        assert time.monotonic() - started < 10
    quick.forgets()
    served_well(quick)


def test_a_preface_sent_byte_by_byte_gets_no_extra_time(quick: Served) -> None:
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


def test_an_idle_peer_that_does_not_is_cut_off(quick: Served) -> None:
    with Peer(quick.tcp, polite=False) as found:
        found.open()
        found.send(found.headers(1), found.data(1, BODY))
        started = time.monotonic()
        found.end()
        assert time.monotonic() - started < 10
        assert found.streams[1].messages == [ANSWER]
    quick.forgets()


def test_hundreds_of_silent_connections_are_no_burden(quick: Served) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(500):
            stack.enter_context(contextlib.closing(connect(quick.tcp)))
        served_well(quick)
        quick.forgets()


def test_a_peer_that_stays_paused_is_cut_off(quick: Served) -> None:
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
