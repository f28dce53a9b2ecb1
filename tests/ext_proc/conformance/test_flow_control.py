"""Windows, frame sizes and GOAWAY from the client (RFC 9113, sections 5.2, 6.8 and 6.9), on nghttp2."""

from __future__ import annotations

import pytest
from hyperframe.frame import GoAwayFrame, SettingsFrame, WindowUpdateFrame

from tests.ext_proc.clients import USER
from tests.ext_proc.conformance.answers import answer_to
from tests.ext_proc.conformance.frames import (
    message,
)
from tests.ext_proc.conformance.peer import Peer, peer
from tests.ext_proc.conformance.served import Served

pytestmark = pytest.mark.process

ANSWER = answer_to(USER)
BODY = message(USER)


def test_a_goaway_of_the_client_lets_its_calls_end(nghttp2: Served) -> None:
    with peer(nghttp2.tcp) as found:
        found.send(found.headers(1), found.data(1, BODY))
        found.until(lambda: found.streams[1].messages == [ANSWER])
        found.send(GoAwayFrame(0, 0, 0), found.data(1, BODY, end=True))
        assert found.result(1).messages == [ANSWER, ANSWER]
        assert found.streams[1].status == "0"


def by_hand(nghttp2: Served, settings: dict[int, int]) -> Peer:
    """A peer that opens no window unless the test does."""
    found = Peer(nghttp2.tcp, polite=False).open(settings)
    found.send(SettingsFrame(flags=["ACK"]))
    return found


def test_an_answer_waits_for_the_window_of_its_stream(nghttp2: Served) -> None:
    with by_hand(nghttp2, {SettingsFrame.INITIAL_WINDOW_SIZE: 0}) as found:
        for stream in (1, 3):
            found.send(found.headers(stream), found.data(stream, BODY, end=True))
        found.ping()
        found.ping()
        assert not any(stream.data for stream in found.streams.values())
        for _ in range(5 + len(ANSWER) - 1):  # all but one byte of the answer
            found.send(WindowUpdateFrame(1, 1))
        found.until(lambda: len(found.streams[1].data) == 5 + len(ANSWER) - 1)
        assert not found.streams[1].over
        found.send(SettingsFrame(settings={SettingsFrame.INITIAL_WINDOW_SIZE: 65535}))
        for stream in (1, 3):
            assert found.result(stream).messages == [ANSWER]
            assert found.streams[stream].status == "0"


def test_an_answer_waits_for_the_window_of_its_connection(nghttp2: Served) -> None:
    with by_hand(nghttp2, {SettingsFrame.INITIAL_WINDOW_SIZE: 2**31 - 1}) as found:
        count = 65535 // (5 + len(ANSWER)) + 50
        for stream in range(1, 2 * count, 2):
            found.send(found.headers(stream), found.data(stream, BODY, end=True))
        for _ in range(3):
            found.ping()
        got = sum(len(stream.data) for stream in found.streams.values())
        assert got <= 65535
        found.send(WindowUpdateFrame(0, 2**30))
        for stream in range(1, 2 * count, 2):
            assert found.result(stream).messages == [ANSWER]


def test_a_window_may_become_negative(nghttp2: Served) -> None:
    with by_hand(nghttp2, {SettingsFrame.INITIAL_WINDOW_SIZE: 100}) as found:
        found.send(found.headers(1), found.data(1, BODY, end=True))
        found.until(lambda: len(found.streams[1].data) == 100)
        found.send(SettingsFrame(settings={SettingsFrame.INITIAL_WINDOW_SIZE: 0}), WindowUpdateFrame(1, 90))
        found.ping()
        assert len(found.streams[1].data) == 100
        found.send(WindowUpdateFrame(1, 1000))
        assert found.result(1).messages == [ANSWER]


def test_frames_are_no_larger_than_the_peer_takes(nghttp2: Served) -> None:
    """hyperframe does not check it; the answers to a thousand messages do not fit into one frame."""
    with peer(nghttp2.tcp, {SettingsFrame.MAX_FRAME_SIZE: 16384}) as found:
        found.call(1, *[USER] * 1000)
        assert found.streams[1].messages == [ANSWER] * 1000
        assert found.largest <= 16384
