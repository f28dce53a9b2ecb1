"""The HTTP server for metrics and health serves its pages whatever other clients do."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Self

import aiohttp
import pytest
from aiohttp import web

from abmesh.experiment.errors import StartError
from abmesh.serving import HttpLimits, HttpServer
from tests.ext_proc.programs import eventually

LONG = HttpLimits(connections=4, request=60, answer=60, crowded=60)


class Peer:
    """A client that sends what it likes."""

    def __init__(self, address: str) -> None:
        self._address = address

    async def __aenter__(self) -> Self:
        host, port = self._address.split(":")
        self.reader, self.writer = await asyncio.open_connection(host, int(port))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.writer.close()

    async def rest(self) -> bytes:
        """What arrives until the server closes the connection."""
        try:
            return await asyncio.wait_for(self.reader.read(), 10)
        except ConnectionResetError:
            return b""


async def hello() -> web.Response:
    return web.Response(text="hello")


async def broken() -> web.Response:
    raise ValueError("a secret")


@asynccontextmanager
async def served(limits: HttpLimits = LONG) -> AsyncIterator[tuple[HttpServer, str]]:
    async def slow() -> web.Response:
        await asyncio.sleep(60)
        return web.Response()

    server = HttpServer({"/hello": hello, "/broken": broken, "/slow": slow}, limits)
    address = await server.start("127.0.0.1", 0)
    try:
        yield server, address
    finally:
        await server.stop()


async def get(address: str, path: str = "/hello", method: str = "GET", data: bytes | None = None) -> tuple[int, str]:
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, f"http://{address}{path}", data=data) as answer,
    ):
        assert answer.headers["connection"] == "close"
        return answer.status, await answer.text()


async def test_pages_are_served_and_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    async with served() as (server, address):
        assert await get(address) == (200, "hello")
        assert await get(address, method="HEAD") == (200, "")
        assert await get(address, "/other") == (404, "not found; there is: /hello, /broken, /slow\n")
        assert (await get(address, method="POST"))[0] == 405
        assert (await get(address, method="POST", data=b"x"))[0] == 413
        assert set(server.refused) == {"connections", "descriptors", "memory", "timeout", "body"}
        assert server.refused["body"] == 1
    assert "its request has a body (0 more" in caplog.text


async def test_a_page_that_fails_is_500_and_logged_once_without_its_message(caplog: pytest.LogCaptureFixture) -> None:
    async with served() as (_, address):
        assert [(await get(address, "/broken"))[0] for _ in range(3)] == [500] * 3
    line = broken.__code__.co_firstlineno + 1
    assert [record.message for record in caplog.records if record.levelno == logging.ERROR] == [
        f"HTTP: /broken failed: ValueError at test_serving.py:{line} (0 more since the last such line)"
    ]


@pytest.mark.parametrize("garbage", [b"\0" * 100, b"GET / HTTP/9.9\r\n\r\n", b"GET /" + b"a" * 20_000, b"\x16\x03\x01"])
async def test_garbage_gets_no_page_and_no_traceback(garbage: bytes, caplog: pytest.LogCaptureFixture) -> None:
    async with served(HttpLimits(request=0.2)) as (_, address):
        async with Peer(address) as peer:
            peer.writer.write(garbage + b"\r\n\r\n")
            assert b"200 OK" not in await peer.rest()
        assert await get(address) == (200, "hello")
    assert "Traceback" not in caplog.text


async def test_a_request_that_trickles_in_is_cut_off_in_time() -> None:
    async with served(HttpLimits(request=0.3)) as (server, address), Peer(address) as peer:

        async def trickle() -> None:
            for byte in b"GET /hello HTTP/1.1\r\nx-slow: " + b"a" * 10_000:
                peer.writer.write(bytes([byte]))
                await asyncio.sleep(0.02)

        sending = asyncio.create_task(trickle())
        assert await peer.rest() == b""
        sending.cancel()
        assert (server.refused["timeout"], server.connections) == (1, 0)


async def test_a_connection_that_never_asks_is_cut_off_in_time() -> None:
    async with served(HttpLimits(request=0.2)) as (server, address), Peer(address) as peer:
        assert await peer.rest() == b""
        assert server.refused["timeout"] == 1


async def test_an_answer_that_takes_too_long_is_cut_off() -> None:
    async with served(HttpLimits(answer=0.2)) as (server, address), Peer(address) as peer:
        peer.writer.write(b"GET /slow HTTP/1.1\r\nhost: a\r\n\r\n")
        assert await peer.rest() == b""
        assert server.refused["timeout"] == 1


async def test_idle_connections_make_room_for_one_that_asks() -> None:
    async with served() as (server, address), Peer(address) as first, Peer(address), Peer(address), Peer(address):
        first.writer.write(b"GET /hello HTTP/1.1\r\nhost:")
        assert [await get(address) for _ in range(3)] == [(200, "hello")] * 3
        assert await first.rest() == b""
        assert server.connections <= 4
        assert server.refused["connections"] == 1


async def test_when_all_places_are_answered_a_newcomer_is_refused() -> None:
    slow = b"GET /slow HTTP/1.1\r\nhost: a\r\n\r\n"
    async with served() as (server, address), Peer(address) as a, Peer(address) as b, Peer(address) as c:
        async with Peer(address) as d:
            for peer in (a, b, c, d):
                peer.writer.write(slow)
            await eventually(lambda: server.answering == 4, "four answers under way")
            async with Peer(address) as late:
                assert await late.rest() == b""
            assert server.refused["connections"] == 1
        await eventually(lambda: server.connections < 4, "a free place")
        assert await get(address) == (200, "hello")


async def test_many_requests_in_one_piece_get_one_answer() -> None:
    async with served() as (_, address), Peer(address) as peer:
        peer.writer.write(b"GET /hello HTTP/1.1\r\nhost: a\r\n\r\n" * 500)
        assert (await peer.rest()).count(b"200 OK") <= 1


async def test_a_port_in_use_is_a_start_error() -> None:
    with socket.create_server(("127.0.0.1", 0), reuse_port=True) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(StartError, match=f"cannot listen on 127.0.0.1:{port}: .*in use"):
            await HttpServer({}).start("127.0.0.1", port)
