"""What all peers of nghttp2 together may cost."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hyperframe.frame import SettingsFrame

from ext_proc.transport.grpc_protocol import Status
from tests.ext_proc.clients import USER
from tests.ext_proc.conformance.answers import expected
from tests.ext_proc.conformance.frames import NO_ERROR, PREFACE, message
from tests.ext_proc.conformance.peer import Closed, Peer, peer
from tests.ext_proc.conformance.served import Served, serving

pytestmark = pytest.mark.process

ANSWER = expected(USER)


def crowd(stack: contextlib.ExitStack, server: Served, size: int) -> list[Peer]:
    """Peers that greet and then wait, if they find a place."""
    found = [stack.enter_context(Peer(server.tcp)) for _ in range(size)]
    for each in found:
        each.send(PREFACE, SettingsFrame())
    return found


def is_served(server: Served) -> bool:
    """Whether a newcomer gets an answer."""
    try:
        with peer(server.tcp) as found:
            return found.call(1, USER).messages == [ANSWER]
    except Closed:
        return False


def test_newcomers_beyond_the_most_are_refused_and_those_who_are_there_are_served(tmp_path: Path) -> None:
    limits: dict[str, float] = {"connections": 20, "check": 3600}
    with contextlib.ExitStack() as stack, serving(tmp_path, "nghttp2", limits=limits) as server:
        early = [stack.enter_context(peer(server.tcp)) for _ in range(4)]
        late = crowd(stack, server, 60)
        closed = 0
        for each in late:
            with contextlib.suppress(TimeoutError, Closed):
                each.until(lambda: False, 0.05)
            closed += each.closed
        assert closed >= 44
        assert not is_served(server)
        assert server.counters().connections in range(15, 21)
        assert [each.call(1, USER).messages for each in early] == [[ANSWER]] * 4


def test_the_silent_make_room_for_a_newcomer(tmp_path: Path) -> None:
    limits: dict[str, float] = {"connections": 16, "check": 0.5}
    with contextlib.ExitStack() as stack, serving(tmp_path, "nghttp2", limits=limits) as server:
        busy = stack.enter_context(peer(server.tcp))
        busy.send(busy.headers(1))
        busy.ping()
        crowd(stack, server, 30)
        server.until(lambda _: is_served(server), "a place")
        assert busy.call(3, USER).messages == [ANSWER]


def test_the_peer_that_holds_most_is_closed_and_no_other(tmp_path: Path) -> None:
    with serving(tmp_path, "nghttp2", limits={"held": 300_000}) as server:
        with peer(server.tcp) as modest, peer(server.tcp) as greedy:
            modest.send(modest.headers(1), modest.data(1, message(USER)[:50]))
            modest.ping()
            for stream in range(1, 100, 2):
                greedy.send(greedy.headers(stream), greedy.data(stream, message(b"", 0, 100_000) + bytes(10_000)))
            with pytest.raises(Closed):
                greedy.until(lambda: False)
            modest.send(modest.data(1, message(USER)[50:], end=True))
            assert modest.result(1).messages == [ANSWER]
        server.forgets_streams()


def test_calls_are_accounted_for_as_they_come(tmp_path: Path) -> None:
    """Not only at the next check: a second is enough for hundreds of megabytes."""
    with serving(tmp_path, "nghttp2", limits={"held": 300_000, "check": 3600}) as server:
        with peer(server.tcp) as modest, peer(server.tcp) as greedy:
            modest.send(modest.headers(1))
            modest.ping()
            greedy.send(*(greedy.headers(stream) for stream in range(1, 2000, 2)))
            with pytest.raises(Closed):
                greedy.until(lambda: False)
            modest.send(modest.data(1, message(USER), end=True))
            assert modest.result(1).messages == [ANSWER]
        server.forgets_streams()


def test_a_peer_gets_a_few_health_watches(tmp_path: Path) -> None:
    watch = ((":method", "POST"), (":scheme", "http"), (":path", "/grpc.health.v1.Health/Watch"), (":authority", "a"))
    with serving(tmp_path, "nghttp2") as server, peer(server.tcp) as found:
        for stream in range(1, 41, 2):
            headers = (*watch, ("te", "trailers"), ("content-type", "application/grpc"))
            found.send(found.headers(stream, headers=headers), found.data(stream, message(b"")))
        assert found.result(39).status == str(Status.RESOURCE_EXHAUSTED.value)
        found.ping()
        assert sum(found.streams[number].over for number in range(1, 41, 2)) == 4
        assert found.call(41, USER).messages == [ANSWER]


def test_a_peer_that_says_istios_name_is_served(tmp_path: Path) -> None:
    name = "outbound|9000||abmesh.ns.svc.cluster.local"
    headers = (
        (":method", "POST"),
        (":scheme", "http"),
        (":path", "/envoy.service.ext_proc.v3.ExternalProcessor/Process"),
    )
    rest = ((":authority", name), ("te", "trailers"), ("content-type", "application/grpc"))
    with serving(tmp_path, "nghttp2") as server, peer(server.tcp) as found:
        for stream in (1, 3, 5):
            assert found.call(stream, USER, headers=(*headers, *rest)).messages == [ANSWER]


def test_a_health_check_while_draining_is_asked_to_come_anew(tmp_path: Path) -> None:
    check = ((":method", "POST"), (":scheme", "http"), (":path", "/grpc.health.v1.Health/Check"))
    headers = (*check, (":authority", "a"), ("te", "trailers"), ("content-type", "application/grpc"))
    with serving(tmp_path, "nghttp2") as server:
        server.command("set_serving")
        with peer(server.tcp) as caller, peer(server.tcp) as checker:
            assert checker.call(1, b"", headers=headers).messages == [b"\x08\x01"]
            caller.send(caller.headers(1))  # holds the drain up
            caller.ping()
            server.command("drain 20")
            assert checker.end() == NO_ERROR
            with peer(server.tcp) as anew:
                assert anew.call(1, b"", headers=headers).messages == [b"\x08\x02"]
                assert anew.end() == NO_ERROR
