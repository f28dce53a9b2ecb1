"""One connection of the transport nghttp2, without a network, against a client on libnghttp2."""

from __future__ import annotations

import gc
import tracemalloc
from typing import Any

import pytest
from envoy.service.ext_proc.v3.external_processor_pb2 import ProtocolConfiguration
from hpack import Encoder

from ext_proc.service import Last, Service, compile_rules
from ext_proc.telemetry import Counts
from tests.ext_proc.clients import USER
from tests.ext_proc.samples import document, request_headers

pytest.importorskip("ngh2")

import ngh2

from ext_proc.transport import grpc_protocol
from ext_proc.transport.calls import PROCESS, Calls
from ext_proc.transport.connection import Connection
from ext_proc.transport.grpc_protocol import CHOICE, framed
from ext_proc.transport.health import Health
from ext_proc.transport.shared import Limits, Shared
from ext_proc.transport.usual import LONGEST, MOST

CALL = (
    (b":method", b"POST"),
    (b":scheme", b"http"),
    (b":path", PROCESS),
    (b":authority", b"a"),
    (b"te", b"trailers"),
    (b"content-type", b"application/grpc"),
)


class Link:
    """A server's connection and a client, connected without a network."""

    def __init__(self, shared: Shared | None = None) -> None:
        self.shared = shared or Shared(Service(Counts()), Health(), Limits())
        self.shared.service.rules = compile_rules(document())
        self.closed = False
        self.unread = b""
        self.client: Any = ngh2.Connection(ngh2.Role.CLIENT)
        self.client.initiate_connection({})
        self.server = Connection(self.shared, secure=False)
        self.server.connection_made(self)  # type: ignore[arg-type]  # all of a transport that it uses
        self.exchange()

    def write(self, data: bytes) -> None:
        self.unread += data

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def get_extra_info(self, _: str) -> None:
        return None

    def to_client(self) -> list[Any]:
        """Give the client what the server has written; returns the client's events."""
        data, self.unread = self.unread, b""
        if not self.client.want_read:
            return []  # it has received GOAWAY, and waits for nothing
        self.client.receive_data(data)
        found: list[Any] = self.client.events()
        return found

    def to_server(self) -> None:
        if data := self.client.data_to_send():
            self.server.data_received(data)

    def exchange(self) -> list[Any]:
        """Exchange bytes until both sides are done."""
        found: list[Any] = []
        while True:
            self.to_server()
            if not self.unread:
                return found
            found += self.to_client()


def named(events: list[Any], kind: str) -> list[Any]:
    return [event for event in events if type(event).__name__ == kind]


async def test_a_call_that_is_under_way_when_an_idle_ping_is_answered_survives_a_drain() -> None:
    """Only the answer to the closing ping shows that the peer knows of the shutdown."""
    link = Link()
    link.server.check_limits(1e9)
    link.server.check_limits(2e9)  # long after: is the peer still there?
    answer_to_idle_ping = link.to_client()
    assert named(answer_to_idle_ping, "PingReceived")
    link.to_server()
    link.server.check_limits(3e9)
    link.server.check_limits(4e9)
    link.to_client()
    pong = link.client.data_to_send()
    link.server.close()
    link.server.data_received(pong)
    assert not link.closed
    stream = link.client.send_request(CALL)  # the client does not know of the shutdown yet
    link.client.send_data(stream, framed(USER), end_stream=True)
    link.to_server()
    events = link.exchange()
    assert named(events, "DataReceived")
    assert named(events, "GoAwayReceived")
    assert link.closed


async def test_a_connection_accepted_during_shutdown_gets_a_goaway() -> None:
    shared = Shared(Service(Counts()), Health(), Limits(), closing=True)
    link = Link(shared)
    stream = link.client.send_request(CALL) if link.client.can_send_request else None
    assert stream is None, "GOAWAY came with the first bytes"
    assert link.closed


def _call(link: Link, *more: tuple[bytes, bytes]) -> list[Any]:
    stream = link.client.send_request((*CALL, *more))
    link.client.send_data(stream, framed(USER), end_stream=True)
    return named(link.exchange(), "DataReceived")


async def test_calls_of_several_routes_that_take_turns_are_parsed_once_each(monkeypatch: pytest.MonkeyPatch) -> None:
    link, parsed = Link(), list[Any]()
    read = grpc_protocol.read_call

    def counting(headers: Any) -> Any:
        parsed.append(headers)
        return read(headers)

    monkeypatch.setattr(grpc_protocol, "read_call", counting)
    routes = [(CHOICE, choice) for choice in (b"chat", b"another", b"")]
    found = [[bytes(_call(link, route)[0].data) for route in routes] for _ in range(3)]
    assert len(parsed) == len(routes)
    assert found[0] == found[1] == found[2]
    assert len(set(found[0])) == 2, "one route has no such experiment"


async def test_headers_that_are_new_each_time_or_large_are_not_kept() -> None:
    link = Link()
    usual = link.server._calls.usual
    for number in range(3):
        assert _call(link, (b"x-large", b"%d" % number * LONGEST))
    assert not usual._known
    for number in range(MOST + 2):
        assert len(usual._known) <= MOST
        assert _call(link, (b"traceparent", b"%d" % number))
    assert not usual._known
    assert usual.headers[-1] == (b"traceparent", b"%d" % (MOST + 1)), "the last one is compared as before"


def hpack_bomb(size: int) -> bytes:
    """Calls that each repeat one header of almost 4 KB fifteen times, at one byte each."""
    encoder = Encoder()
    # Never indexed, so that the large one stays in the table.
    usual = [(name.decode(), value.decode(), True) for name, value in CALL]
    data, stream = b"", 1
    while len(data) < size:
        block = encoder.encode([*usual, *[("x-large", "x" * 3900)] * (1 if stream == 1 else 15)], huffman=False)
        data += len(block).to_bytes(3, "big") + b"\x01\x04" + stream.to_bytes(4, "big") + block
        stream += 2
    return data


async def test_headers_that_unpack_to_much_are_not_kept_all_at_once() -> None:
    link = Link()
    data = hpack_bomb(400_000)
    tracemalloc.start()
    try:
        link.server.data_received(data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert link.server.open_streams > 1500, "they are calls like any other, and were taken"
    assert peak < 30e6, f"{peak / 1e6:.0f} MB"


async def test_a_call_as_envoy_makes_it_gets_headers_one_message_and_trailers_on_the_short_way_too() -> None:
    """The first call tells the connection the usual headers; the others take the short way."""
    link = Link()
    message = request_headers([("x-user-id", b"u-1")], protocol_config=ProtocolConfiguration())
    answer = link.shared.service.answer(message)
    assert isinstance(answer, Last), "Envoy that sends no bodies wants nothing more"
    for _ in range(3):
        stream = link.client.send_request(CALL)
        link.client.send_data(stream, framed(message))
        events = link.exchange()
        assert [type(event).__name__ for event in events][:3] == [
            "ResponseReceived",
            "DataReceived",
            "TrailersReceived",
        ]
        assert named(events, "DataReceived")[0].data == framed(answer.answer)
        assert dict(named(events, "TrailersReceived")[0].headers) == {b"grpc-status": b"0"}
        assert link.server.open_streams == 0
    assert link.shared.streams == 3


async def test_a_usual_call_that_is_cut_in_pieces_or_reset_in_the_same_read_harms_nothing() -> None:
    link = Link()
    message = framed(request_headers([("x-user-id", b"u-1")], protocol_config=ProtocolConfiguration()))
    for _ in range(2):
        stream = link.client.send_request(CALL)
        link.client.send_data(stream, message[:7])
        link.exchange()
        link.client.send_data(stream, message[7:])
        assert named(link.exchange(), "TrailersReceived")
        given_up = link.client.send_request(CALL)
        link.client.send_data(given_up, message)
        data = link.client.data_to_send()
        link.client.reset_stream(given_up)
        link.server.data_received(data + link.client.data_to_send())
        link.exchange()
        assert not link.closed
        assert link.server.open_streams == 0


async def test_a_connection_that_is_lost_is_freed_without_garbage_collection() -> None:
    """The server collects garbage rarely, and an engine holds tens of kilobytes."""
    link = Link()
    link.client.send_request((*CALL, (b"grpc-timeout", b"60S")))
    watch = link.client.send_request(
        tuple((n, b"/grpc.health.v1.Health/Watch" if n == b":path" else v) for n, v in CALL)
    )
    link.client.send_data(watch, framed(b""))
    link.exchange()
    assert link.server.open_streams == 2
    assert link.shared.health.watchers
    gc.collect()
    gc.disable()
    try:
        link.server.connection_lost(None)
        del link.server
        assert not [each for each in gc.get_objects() if isinstance(each, Connection | Calls)]
    finally:
        gc.enable()
    assert not link.shared.health.watchers
