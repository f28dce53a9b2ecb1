"""An upstream that answers exactly the bytes that a test wants, in exactly the pieces that it wants.

A piece is sent once the client has all that came before, so that Envoy cannot have met two of them at once.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from tests.e2e.rendered_mesh import RenderedMesh, chat_experiment, rendered_mesh, user

JSON: dict[str, str] = {"content-type": "application/json"}
STREAM: dict[str, str] = {"content-type": "text/event-stream"}


@dataclass
class Play:
    """One answer.

    Attributes:
        pieces: of the body, each a chunk of its own.
        headers: of the answer, besides those that frame it.
        status: of the answer.
        bare: whether there is no body at all, as of 204.
        breaks: whether the connection is cut off where the body should end.
        waits: whether the body is left without an end, until the client has gone.
        first: seconds between the headers and the first piece.
        pause: seconds between two pieces, besides.
        arrived: how many bytes of the body the client has, whenever there are more.
        whole: set once it has them all.
        ttft: milliseconds from the question to the first byte of the body, by the client's own clock.
        duration: milliseconds from the question to the end of the answer, by the same.
    """

    pieces: Sequence[bytes] = ()
    headers: Mapping[str, str] = field(default_factory=lambda: JSON)
    status: int = 200
    bare: bool = False
    breaks: bool = False
    waits: bool = False
    first: float = 0
    pause: float = 0
    arrived: asyncio.Queue[int] = field(default_factory=asyncio.Queue)
    whole: asyncio.Event = field(default_factory=asyncio.Event)
    ttft: float = 0
    duration: float = 0

    @property
    def body(self) -> bytes:
        return b"".join(self.pieces)


def stream(*events: Any, end: bool = True) -> bytes:
    """Events as a stream of server-sent events."""
    sent = [event if isinstance(event, bytes) else json.dumps(event).encode() for event in events]
    return b"".join(b"data: " + event + b"\n\n" for event in [*sent, *([b"[DONE]"] if end else [])])


def split(body: bytes, *places: int) -> list[bytes]:
    """A body in pieces that end at these places."""
    bounds = [0, *sorted(places), len(body)]
    return [body[start:stop] for start, stop in itertools.pairwise(bounds) if start < stop]


class Player:
    """The upstream, and the client that goes with it."""

    def __init__(self) -> None:
        self._plays: dict[str, Play] = {}
        self.mesh: RenderedMesh

    async def ask(
        self, play: Play, headers: Mapping[str, str] | None = None, method: str = "GET", path: str = "/v1/x"
    ) -> bytes:
        """The body of an answer as it reached the client.

        Raises:
            aiohttp.ClientError: it broke off.
        """
        name = str(id(play))
        self._plays[name] = play
        got = bytearray()
        try:
            url = f"{self.mesh.envoy.url}{path}?play={name}"
            asked = time.monotonic()
            async with self.mesh.session.request(method, url, headers=headers or user()) as response:
                assert response.status == play.status
                for key, value in play.headers.items():
                    assert response.headers[key] == value
                async for piece in response.content.iter_any():
                    play.ttft = play.ttft or 1000 * (time.monotonic() - asked)
                    got += piece
                    play.arrived.put_nowait(len(got))
                    if len(got) == len(play.body):
                        play.whole.set()
            play.duration = 1000 * (time.monotonic() - asked)
            return bytes(got)
        finally:
            del self._plays[name]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                if not await self._perform(self._plays[head.split()[1].partition("play=")[2]], head, reader, writer):
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _perform(self, play: Play, head: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        framing = [] if play.bare else ["transfer-encoding: chunked"]
        lines = [f"HTTP/1.1 {play.status} X", *framing, *(f"{key}: {value}" for key, value in play.headers.items())]
        writer.write("\r\n".join([*lines, "", ""]).encode())
        if play.bare or head.startswith("HEAD"):
            await writer.drain()
            return True
        sent = 0
        for piece in play.pieces:
            await asyncio.sleep(play.pause if sent else play.first)
            writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            await writer.drain()
            sent += len(piece)
            while await play.arrived.get() < sent:
                pass
        if play.waits:
            await reader.read()
            return False
        if play.breaks:
            writer.transport.abort()
            return False
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        return True


@asynccontextmanager
async def playing_mesh(
    folder: Path, experiments: Sequence[dict[str, Any]] = (), edit: Callable[[str], str] = str
) -> AsyncIterator[Player]:
    """A rendered Envoy whose models are the player; nothing in Envoy's log is an error when it ends.

    Args:
        folder: where Envoy's files go.
        experiments: of the document, instead of the usual one.
        edit: what becomes of the bootstrap, as JSON, before Envoy gets it.
    """
    player = Player()
    async with AsyncExitStack() as stack:
        server = await asyncio.start_server(player.serve, "127.0.0.1", 0, limit=2**20)
        stack.push_async_callback(server.wait_closed)
        stack.callback(server.close)
        port = server.sockets[0].getsockname()[1]
        clusters = {name: {"host": "127.0.0.1", "port": port} for name in ("model-a", "model-b")}
        chosen = list(experiments) or [chat_experiment()]
        mesh = await stack.enter_async_context(rendered_mesh(folder, edit=edit, clusters=clusters, experiments=chosen))
        player.mesh = mesh
        yield player
        assert [line for level in ("error", "critical") for line in mesh.envoy.log_lines(level)] == []


TAGS = "experiment.chat.variant.model-b.slice.7"


async def amounts(mesh: RenderedMesh, requests: int) -> dict[str, int]:
    """Every counter of the evidence by its name and further tags, once so many requests have been counted."""

    async def found() -> dict[str, int]:
        counters = await mesh.counters(r"^abmesh\.")
        middle = f".{TAGS}"
        return {name.removeprefix("abmesh.").replace(middle, ""): value for name, value in counters.items()}

    async with asyncio.timeout(20):
        while True:
            now = await found()
            counted = sum(value for name, value in now.items() if name.startswith("requests.code."))
            if counted >= requests:
                assert counted == requests, now
                return now
            await asyncio.sleep(0.02)


async def broken_off(player: Player, play: Play, headers: Mapping[str, str] | None = None) -> None:
    """Ask for an answer that does not end as it should."""
    try:
        await player.ask(play, headers)
    except aiohttp.ClientError:
        return
    raise AssertionError("the answer was whole")
