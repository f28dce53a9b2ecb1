"""The end of a server, on each transport: no open call fails, and clients find the next server."""

from __future__ import annotations

import asyncio
import contextlib
import time
from pathlib import Path

import grpc
import grpc.aio
import pytest

from tests.ext_proc.clients import USER, ask, connected, health, opened
from tests.ext_proc.conformance.answers import EOF, MESSAGES, UNTOUCHED_BODY, expected
from tests.ext_proc.conformance.frames import NO_ERROR, message
from tests.ext_proc.conformance.peer import Closed, Peer, peer
from tests.ext_proc.conformance.served import LIMIT, TRANSPORTS, Served, serving
from tests.ext_proc.programs import eventually

pytestmark = pytest.mark.process

ANSWER = expected(USER)


async def test_a_drain_under_load_fails_no_call_of_clients_that_heed_health(own: Served) -> None:
    answered, leave = 0, asyncio.Event()

    async def load(address: str) -> None:
        nonlocal answered
        async with connected(address) as channel:
            while not leave.is_set():
                assert await ask(channel) == ANSWER
                answered += 1

    async with asyncio.TaskGroup() as tasks:
        for number in range(8):
            tasks.create_task(load(own.addresses[number % 2]))
        await eventually(lambda: answered > 100, "load")
        own.command("drain 20")
        at_drain = answered
        await eventually(lambda: answered > at_drain + 100, "answers while draining")
        leave.set()
    await eventually(lambda: own.command("drained")["drained"], "the end of the drain")


def test_a_drain_is_announced_and_open_calls_are_finished(own: Served) -> None:
    """The peer ignores health, and keeps opening streams until it gets a GOAWAY."""
    with peer(own.tcp) as idle, peer(own.tcp) as found:
        for stream in (1, 3, 5):
            found.send(found.headers(stream))
        found.send(found.data(1, message(USER)))  # answered, then idle
        found.send(found.data(3, message(USER)[:50]))  # amid a message
        found.until(lambda: found.streams[1].messages == [ANSWER])
        own.command("drain 20")
        late = (7, 9, 11)
        for stream in late:
            found.send(found.headers(stream), found.data(stream, message(USER), end=True))
        found.until(lambda: found.goaway is not None)  # once no new stream has arrived for a moment
        assert found.goaway == NO_ERROR
        found.send(found.data(3, message(USER)[50:], end=True))
        found.send(found.data(5, message(USER), end=True))
        assert idle.end() == NO_ERROR
        assert found.end() == NO_ERROR
        assert found.streams[1].status == "0"
        # When it closes, grpcio drops calls without a complete message, whatever it announced.
        begun = (3, 5, *late) if own.transport == "nghttp2" else ()
        assert found.last_stream is not None
        for number in begun:
            if number <= found.last_stream:
                assert found.streams[number].messages == [ANSWER]
                assert found.streams[number].status == "0"
        assert found.last_stream >= 5
    own.until(lambda now: own.command("drained")["drained"], "the end of the drain")


def test_after_a_drain_connections_are_refused(own: Served) -> None:
    own.command("drain 5")
    own.until(lambda now: own.command("drained")["drained"], "the end of the drain")
    for address in own.addresses:
        with pytest.raises(OSError, match=r"refused|No such file"):
            Peer(address)


def test_a_drain_ends_in_time_whatever_is_open(own: Served) -> None:
    with peer(own.tcp) as found:
        found.send(found.headers(1), found.data(1, message(USER)[:-1]))  # it never sends the rest
        found.ping()
        started = time.monotonic()
        own.command("drain 0.6")
        found.end()
        own.until(lambda now: own.command("drained")["drained"], "the end of the drain")
        assert time.monotonic() - started > 0.55, "no call is given up before"


async def test_an_abort_ends_every_call_at_once(own: Served) -> None:
    async with connected(own.tcp) as channel:
        stream = opened(channel)
        await stream.write(USER)
        assert await stream.read() == ANSWER
        await asyncio.to_thread(own.command, "abort")
        with contextlib.suppress(grpc.aio.AioRpcError):
            assert await asyncio.wait_for(stream.read(), LIMIT) is EOF


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_client_finds_the_server_that_takes_over_a_socket(tmp_path: Path, transport: str) -> None:
    path = tmp_path / "same.sock"
    with serving(tmp_path / "1", transport, socket=str(path)) as first:
        async with connected(f"unix:{path}") as channel:
            assert await ask(channel) == ANSWER
            with serving(tmp_path / "2", transport, socket=str(path)):
                first.command("drain 5")
                await eventually(lambda: first.command("drained")["drained"], "the end of the drain")
                await channel.channel_ready()
                assert await ask(channel, MESSAGES["request_body"]) == UNTOUCHED_BODY
                assert path.exists()


def test_a_stream_opened_after_goaway_is_answered_in_full_or_not_at_all(own: Served) -> None:
    with peer(own.tcp) as found:
        found.send(found.headers(1), found.data(1, message(USER)[:50]))  # nghttp2 waits for the rest
        found.ping()
        own.command("drain 20")
        with contextlib.suppress(Closed):
            found.until(lambda: found.last_stream is not None and found.last_stream < 101)
        found.send(found.headers(101), found.data(101, message(USER), end=True))
        found.send(found.data(1, message(USER)[50:], end=True))
        with pytest.raises(Closed):
            found.until(lambda: False)
        if own.transport == "nghttp2":
            assert found.streams[1].messages == [ANSWER]
        late = found.streams.get(101)
        assert late is None or late.reset is not None or late.messages == [ANSWER]


async def test_health_is_answered_while_draining(own: Served) -> None:
    over = asyncio.Event()

    async def load() -> None:
        async with connected(own.tcp) as other:
            while not over.is_set():
                assert await ask(other) == ANSWER

    async with connected(own.tcp) as channel, asyncio.TaskGroup() as tasks:
        before = await health(channel)
        for _ in range(4):  # or the server would close its connections soon
            tasks.create_task(load())
        own.command("drain 20")
        assert await health(channel) != before
        over.set()


async def test_health_checks_do_not_hold_up_a_drain(own: Served) -> None:
    """Envoy keeps checking until it has seen NOT_SERVING often enough."""
    async with connected(own.tcp) as channel:
        own.command("drain 600")  # a drain that they held up would take nearly all of it
        deadline = time.monotonic() + 2 * LIMIT
        while not own.command("drained")["drained"]:
            assert time.monotonic() < deadline
            with contextlib.suppress(grpc.aio.AioRpcError):
                await health(channel)
            await asyncio.sleep(0.02)
