"""Arbitrary bytes, cut anywhere: nghttp2's connections raise nothing and keep nothing.

Without a network, so that many more can be tried than in :mod:`tests.ext_proc.conformance.test_fuzz`.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ext_proc.service import Service, compile_rules
from ext_proc.telemetry import Counts
from tests.ext_proc.clients import USER
from tests.ext_proc.conformance.answers import answer_to
from tests.ext_proc.conformance.frames import REQUEST, changed, frame, message, plain
from tests.ext_proc.conformance.mangling import HELLO, conversations, mangled
from tests.ext_proc.conformance.serving import IDENTITY
from tests.ext_proc.samples import document

pytest.importorskip("ngh2")

from ext_proc.transport.connection import Connection
from ext_proc.transport.health import Health
from ext_proc.transport.shared import Limits, Shared

RULES = compile_rules(document())
MANY = settings(suppress_health_check=[HealthCheck.large_base_example, HealthCheck.too_slow])
THOROUGH = settings(MANY, max_examples=5000)
ANSWER = answer_to(USER)


class Wire(asyncio.Transport):
    """What a connection writes to."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.closed = self.aborted = False

    def write(self, data: Any) -> None:
        self.written += bytes(data)

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = self.aborted = True

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


def shared_state() -> Shared:
    service = Service(Counts(), identities=lambda: IDENTITY)
    service.rules = RULES
    return Shared(service, Health(), Limits())


@pytest.fixture(autouse=True)
def _loud(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    yield
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def converse(data: bytes, pieces: Callable[[bytes], Iterator[bytes]], *, drains: bool = False) -> bytes:
    """What a connection writes to a peer that sends these bytes; checks that it keeps nothing afterwards."""

    async def run() -> bytes:
        shared, wire = shared_state(), Wire()
        connection = Connection(shared, secure=False)
        connection.connection_made(wire)
        for number, piece in enumerate(pieces(data)):
            if wire.closed:
                break
            connection.data_received(piece)
            connection.check_limits(asyncio.get_running_loop().time())
            if drains and number == 3:
                connection.close()
            if number == 2:
                shared.health.set_serving()
        # Everything that may still happen before the transport reports the connection as lost.
        shared.health.set_serving()
        shared.health.end()
        await asyncio.sleep(0)
        connection.check_limits(asyncio.get_running_loop().time() + 1000)
        connection.close()
        connection.check_limits(asyncio.get_running_loop().time() + 2000)
        if wire.closed and not wire.aborted:
            assert connection.open_streams == 0
        connection.connection_lost(None)
        assert connection.open_streams == 0
        assert connection._calls.buffered == shared.held == connection.held == 0
        assert not shared.connections
        assert not shared.health.watchers
        handles = [each for each in asyncio.get_running_loop()._scheduled if not each.cancelled()]  # type: ignore[attr-defined]
        assert not handles, "a timer of a call was left"
        return wire.written

    return asyncio.run(run())


def whole(data: bytes) -> Iterator[bytes]:
    yield data


def cut(chance: Random) -> Callable[[bytes], Iterator[bytes]]:
    """Cut bytes at random."""

    def pieces(data: bytes) -> Iterator[bytes]:
        at = 0
        while at < len(data):
            size = chance.choice((1, 3, 9, 20, 100, 1000))
            yield data[at : at + size]
            at += size

    return pieces


@MANY
@given(conversations(), st.randoms(use_true_random=False), st.booleans())
def test_any_frames_in_any_order_are_survived(data: bytes, chance: Random, drains: bool) -> None:
    converse(data, cut(chance), drains=drains)


@MANY
@given(mangled(), st.randoms(use_true_random=False), st.booleans())
def test_mangled_recordings_are_survived(data: bytes, chance: Random, drains: bool) -> None:
    converse(data, cut(chance), drains=drains)


@pytest.mark.soak
@THOROUGH
@given(conversations() | mangled(), st.randoms(use_true_random=False), st.booleans())
def test_thousands_of_conversations_and_mangled_recordings_are_survived(
    data: bytes, chance: Random, drains: bool
) -> None:
    converse(data, cut(chance), drains=drains)


@pytest.mark.parametrize("after", [0.0, 0.02])
def test_a_deadline_after_the_connection_has_ended_does_no_harm(after: float) -> None:
    """The call's timer may fire while written bytes wait for a peer that does not read."""

    async def run() -> None:
        shared, wire = shared_state(), Wire()
        connection = Connection(shared, secure=False)
        connection.connection_made(wire)
        timed = plain((*REQUEST, ("grpc-timeout", "10m")))
        watch = plain(changed(path="/grpc.health.v1.Health/Watch"))
        connection.data_received(HELLO + frame(1, 4, 1, timed) + frame(1, 4, 3, watch) + frame(0, 1, 3, message(b"")))
        assert connection.open_streams == 2
        await asyncio.sleep(after)
        connection.data_received(frame(6, 0, 1, bytes(8)))  # a ping on a stream
        assert wire.closed
        assert connection.open_streams == 0
        shared.health.set_serving()
        await asyncio.sleep(0.02)
        connection.connection_lost(None)

    asyncio.run(run(), debug=True)


@given(st.binary(max_size=300), st.booleans())
def test_any_bytes_are_survived(data: bytes, greets: bool) -> None:
    converse((HELLO if greets else b"") + data, whole)


def answers(written: bytes) -> dict[int, bytes]:
    """The DATA bytes of each stream."""
    found: dict[int, bytes] = {}
    at = 0
    while at < len(written):
        size, kind = int.from_bytes(written[at : at + 3], "big"), written[at + 3]
        stream = int.from_bytes(written[at + 5 : at + 9], "big")
        if kind == 0:
            found[stream] = found.get(stream, b"") + written[at + 9 : at + 9 + size]
        at += 9 + size
    return found


@given(st.lists(st.lists(st.integers(0, 60), max_size=3), min_size=1, max_size=5), st.randoms(use_true_random=False))
def test_how_bytes_are_cut_changes_no_answer(calls: list[list[int]], chance: Random) -> None:
    data = HELLO
    for number, cuts in enumerate(calls):
        stream, body = 2 * number + 1, message(USER) * 2
        data += frame(1, 4, stream, plain())
        places = [0, *sorted(cuts), len(body)]
        for start, end in itertools.pairwise(places):
            data += frame(0, 0, stream, body[start:end])
        data += frame(0, 1, stream)
    expected = {2 * number + 1: message(ANSWER) * 2 for number in range(len(calls))}
    assert answers(converse(data, whole)) == expected
    assert answers(converse(data, cut(chance))) == expected
