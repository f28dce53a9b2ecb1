"""HTTP for the two sources: connections, an answer's body up to a limit, and why a request failed."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

import aiohttp

from abmesh.experiment.errors import SourceError

PIECE = 256 * 1024
"""Most bytes that are decompressed before their number is compared with the limit."""

_GZIP = 16 + zlib.MAX_WBITS
"""What tells zlib to expect gzip's header and checksum."""

_Parameters = ParamSpec("_Parameters")
_Result = TypeVar("_Result")


class Connections:
    """A source's HTTP session, and the thread that reads its answers.

    The session opens a fresh connection for every request: requests are seconds apart, and a kept connection would be
    dead after the other end restarts. It ignores the environment's proxies, which are not meant for loopback addresses,
    and leaves answers compressed, so that :func:`read_body` can limit their size as they are decompressed.

    Args:
        thread: name of the thread. There is one, because parsers are not thread-safe; it keeps their work off the event
            loop, so that /healthz keeps answering.
    """

    def __init__(self, thread: str) -> None:
        self._session: aiohttp.ClientSession | None = None
        self._thread = ThreadPoolExecutor(1, thread)

    @property
    def session(self) -> aiohttp.ClientSession:
        """The session; opened when it is first used, because that needs a running event loop."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(force_close=True, limit=0),
                trust_env=False,
                auto_decompress=False,
                headers={"accept-encoding": "gzip"},
            )
        return self._session

    async def in_thread(
        self, work: Callable[_Parameters, _Result], *args: _Parameters.args, **kwargs: _Parameters.kwargs
    ) -> _Result:
        """Call a function in the thread."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, lambda: work(*args, **kwargs))

    async def close(self) -> None:
        """Close connections and stop the thread."""
        if self._session is not None:
            await self._session.close()
            self._session = None
        self._thread.shutdown()


async def read_parts(response: aiohttp.ClientResponse, longest: int) -> AsyncIterator[bytes]:
    """Yield an answer's body in parts, decompressed if it is gzip.

    Nothing is decompressed beyond the limit, however much the answer would unpack to.

    Args:
        response: of a session of :class:`Connections`.
        longest: most bytes of the decompressed body.

    Raises:
        SourceError: it is longer, or its compression is broken or unknown.
    """
    encoding = response.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("identity", "gzip"):
        raise SourceError("its answer has a content-encoding other than gzip, which was not asked for")
    gunzip = _Gunzip() if encoding == "gzip" else None
    size = 0
    async for chunk in response.content.iter_any():
        for part in gunzip.pieces(chunk) if gunzip else (chunk,):
            size += len(part)
            if size > longest:
                unpacked = "" if gunzip is None else " when decompressed"
                raise SourceError(f"its answer is longer than {longest:,} bytes{unpacked}, the most that is read")
            yield part
    if gunzip is not None and not gunzip.complete:
        raise SourceError("its answer ends in the middle of its gzip data")


async def read_body(response: aiohttp.ClientResponse, longest: int) -> bytes:
    """An answer's whole body. Arguments and errors are those of :func:`read_parts`."""
    return b"".join([part async for part in read_parts(response, longest)])


class _Gunzip:
    """Decompresses gzip, of one or several members, piece by piece."""

    def __init__(self) -> None:
        self._member = zlib.decompressobj(_GZIP)

    @property
    def complete(self) -> bool:
        """Whether the last member has come to its end."""
        return self._member.eof

    def pieces(self, data: bytes) -> Iterator[bytes]:
        """What some more compressed bytes say, in pieces of at most ``PIECE`` bytes.

        Raises:
            SourceError: they are not gzip.
        """
        try:
            while data:
                if self._member.eof:
                    self._member = zlib.decompressobj(_GZIP)
                yield self._member.decompress(data, PIECE)
                data = self._member.unused_data if self._member.eof else self._member.unconsumed_tail
        except zlib.error:
            raise SourceError("its answer claims to be gzip and is not") from None


def describe_failure(error: Exception) -> str:
    """Why a request failed, in a few words."""
    if isinstance(error, aiohttp.ClientConnectorError):
        return f"no connection: {error.os_error.strerror or error.os_error}"
    if isinstance(error, ValueError):
        return f"its address is not usable: {error}"
    return f"the connection broke: {type(error).__name__}"
