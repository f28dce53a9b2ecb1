"""Requests of one kind of objects to the API server, on an event loop: answers as a whole, and a watch's events.

:mod:`abmesh.kube.watching` uses it. aiohttp's own errors and ``TimeoutError`` pass through.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from types import TracebackType
from typing import Any, Final, Self

import aiohttp

from abmesh.kube.connection import Connection
from abmesh.kube.errors import Attempt, Unreachable, from_answer

_CONNECT_SECONDS: Final = 3.0
_ANSWER_SECONDS: Final = 10.0
_LONGEST_LINE: Final = 32 * 1024 * 1024


class Session:
    """Kept-alive connections to an API server, while the context lasts."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=4), headers={"user-agent": "abmesh", "accept": "application/json"}
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def get(self, path: str, query: Mapping[str, str], attempt: Attempt) -> dict[str, Any]:
        """One answer.

        Raises:
            KubeError: it is not a success, or not an object.
        """
        async with self._ask(path, query, attempt, _ANSWER_SECONDS) as response:
            return _parsed(await response.read(), attempt)

    @contextlib.asynccontextmanager
    async def events(
        self, path: str, query: Mapping[str, str], attempt: Attempt, *, total: float
    ) -> AsyncIterator[AsyncIterator[dict[str, Any]]]:
        """The events of a watch, once the API server has agreed to it.

        Args:
            path: of the resource.
            query: what to watch, and from where.
            attempt: for messages.
            total: seconds after which it is broken off.

        Raises:
            KubeError: the answer is not a success.
        """
        async with self._ask(path, query, attempt, total) as response:
            try:
                yield _events(response.content, attempt)
            finally:
                # At once: a TLS connection would wait for the API server to agree that it ends.
                if response.connection is not None and response.connection.transport is not None:
                    response.connection.transport.abort()

    @contextlib.asynccontextmanager
    async def _ask(
        self, path: str, query: Mapping[str, str], attempt: Attempt, total: float
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        connection = self._connection
        headers = await asyncio.to_thread(connection.headers)
        async with self._session.get(
            connection.server + path,
            params=query,
            headers=headers,
            ssl=True if connection.ssl_context is None else connection.ssl_context,
            server_hostname=connection.server_name,
            proxy=connection.proxy,
            timeout=aiohttp.ClientTimeout(total=total, connect=_CONNECT_SECONDS, sock_connect=_CONNECT_SECONDS),
            allow_redirects=False,
        ) as response:
            if response.status != 200:  # a list or a watch has no other success
                raise from_answer(attempt, response.status, await response.read())
            yield response


async def _events(content: aiohttp.StreamReader, attempt: Attempt) -> AsyncIterator[dict[str, Any]]:
    """One event a line; lines may be longer than aiohttp's own reader of lines allows."""
    held, searched = bytearray(), 0
    async for chunk in content.iter_any():
        held += chunk
        while (end := held.find(b"\n", searched)) >= 0:
            line = bytes(held[:end])
            del held[: end + 1]
            searched = 0
            if line:
                yield _parsed(line, attempt)
        searched = len(held)
        if searched > _LONGEST_LINE:
            raise Unreachable(f"cannot {attempt}: an event is longer than {_LONGEST_LINE} bytes")


def _parsed(text: bytes, attempt: Attempt) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise Unreachable(f"cannot {attempt}: the answer is not an object in JSON; is this an API server?")
    return found
