"""A tiny HTTP server that answers as it is told, for the tests of the load generator and the probe."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

Respond = Callable[[int], bytes | None]
"""Number of the request, from 0, to the bytes of its answer; None hangs up."""


def ok(version: str = "model-a", body: bytes = b"hello") -> bytes:
    return f"HTTP/1.1 200 OK\r\nX-Model-Version: {version}\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body


class Server:
    """What a server saw: every request as text, and the most connections that were open at a time."""

    def __init__(self, respond: Respond) -> None:
        self.respond = respond
        self.seen: list[str] = []
        self.most_open = 0
        self.open = 0
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        self.most_open = max(self.open, self.most_open)
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                length = int(head.lower().partition("content-length: ")[2].partition("\r\n")[0] or 0)
                body = (await reader.readexactly(length)).decode()
                self.seen.append(head + body)
                answer = self.respond(len(self.seen) - 1)
                if answer is None:
                    return
                # In two pieces, as a network may deliver it.
                writer.write(answer[:20])
                await writer.drain()
                await asyncio.sleep(0)
                writer.write(answer[20:])
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()
            self.open -= 1


@asynccontextmanager
async def serving(respond: Respond) -> AsyncIterator[Server]:
    server = Server(respond)
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    server.port = listening.sockets[0].getsockname()[1]
    async with listening:
        try:
            yield server
        finally:
            # Clients have closed their connections, or the test has failed: let the loop see it, and accept what the
            # kernel has accepted before.
            quiet = 0
            for _ in range(500):
                quiet = 0 if server.open else quiet + 1
                if quiet == 4:
                    break
                await asyncio.sleep(0.01)
