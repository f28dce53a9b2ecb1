"""Listening sockets that refuse, count and go on, and log lines that do not flood."""

from __future__ import annotations

import asyncio
import resource
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager

import pytest

from abmesh.listening import CONNECTIONS, DESCRIPTORS, Listener, LogLimit, bound


def test_a_kind_of_line_is_logged_once_in_a_while_with_the_number_left_out() -> None:
    now = 0.0
    limit = LogLimit(10.0, lambda: now)
    assert [limit.allows("a"), limit.allows("a"), limit.allows("b"), limit.allows("a")] == [0, None, 0, None]
    now = 10.0
    assert [limit.allows("a"), limit.allows("a")] == [2, None]
    now = 20.0
    assert limit.allows("a") == 1


class Greeter(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(b"hello")
        transport.close()


@asynccontextmanager
async def listening(
    admit: Callable[[], bool] = lambda: True,
) -> AsyncIterator[tuple[Callable[[], asyncio.Future[bytes]], list[str], Listener]]:
    """Yields what connects and reads to the end, the refusals' causes, and the listener."""
    refused: list[str] = []
    (made,) = bound("127.0.0.1", 0)
    port = made.getsockname()[1]
    listener = Listener(made, Greeter, lambda _: False, admit, refused.append)

    async def greeting(client: socket.socket) -> bytes:
        with client:
            try:
                return await asyncio.get_running_loop().sock_recv(client, 100)
            except ConnectionResetError:
                return b""

    def connect() -> asyncio.Future[bytes]:
        client = socket.create_connection(("127.0.0.1", port))
        client.setblocking(False)
        return asyncio.ensure_future(greeting(client))

    try:
        yield connect, refused, listener
    finally:
        listener.close()


@contextmanager
def no_descriptors_left() -> Iterator[None]:
    """Until the block ends, this process can open nothing more."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.socket() as highest:
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest.fileno(), before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)


async def test_connections_are_served() -> None:
    async with listening() as (connect, refused, _):
        assert await asyncio.gather(*(connect() for _ in range(20))) == [b"hello"] * 20
        assert refused == []


async def test_a_connection_that_is_not_admitted_is_closed_and_counted() -> None:
    places = iter([True, False, True])
    async with listening(lambda: next(places)) as (connect, refused, _):
        assert [await connect() for _ in range(3)] == [b"hello", b"", b"hello"]
        assert refused == [CONNECTIONS]


async def test_without_descriptors_connections_are_closed_and_counted_and_later_ones_are_served() -> None:
    async with listening() as (connect, refused, _):
        assert await connect() == b"hello"
        waiting = connect()
        with no_descriptors_left():
            assert await waiting == b""
        assert set(refused) == {DESCRIPTORS}
        assert await connect() == b"hello"


async def test_a_closed_listener_serves_what_was_waiting_and_then_refuses() -> None:
    async with listening() as (connect, refused, listener):
        waiting = [connect() for _ in range(20)]
        listener.close()
        assert await asyncio.gather(*waiting) == [b"hello"] * 20
        with pytest.raises(ConnectionRefusedError):
            connect()
        assert refused == []


def test_a_port_is_bound_on_all_addresses_of_a_name_and_shared_only_on_request() -> None:
    with ExitStack() as stack:
        first = [stack.enter_context(made) for made in bound("localhost", 0, shared=True)]
        port = first[0].getsockname()[1]
        assert {made.getsockname()[1] for made in first} == {port}
        for made in first:
            made.listen()
        for made in bound("localhost", port, shared=True):
            made.close()
        with pytest.raises(OSError, match="in use"):
            bound("localhost", port)


async def test_a_socket_that_cannot_listen_is_closed() -> None:
    with ExitStack() as stack:
        (first,) = (stack.enter_context(made) for made in bound("127.0.0.1", 0))
        (second,) = bound("127.0.0.1", first.getsockname()[1])
        first.listen()
        with pytest.raises(OSError, match="in use"):
            Listener(second, Greeter, lambda _: False, lambda: True, lambda _: None)
        assert second.fileno() == -1
