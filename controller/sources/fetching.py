"""HTTP for the two sources: the session, an answer's body up to a limit, and why a request failed."""

from __future__ import annotations

import aiohttp

from abmesh.experiment.errors import SourceError


def open_session() -> aiohttp.ClientSession:
    """A session that opens a fresh connection for every request and ignores the environment's proxies.

    Requests are seconds apart: a kept connection would be dead after the other end restarts. Proxies are not meant for
    loopback addresses.
    """
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True, limit=0), trust_env=False)


async def read_body(response: aiohttp.ClientResponse, longest: int) -> bytes:
    """Read an answer's body.

    Raises:
        SourceError: it is longer than ``longest`` bytes.
    """
    chunks, size = [], 0
    async for chunk in response.content.iter_any():
        chunks.append(chunk)
        size += len(chunk)
        if size > longest:
            raise SourceError(f"its answer is longer than {longest:,} bytes")
    return b"".join(chunks)


def describe_failure(error: Exception) -> str:
    """Why a request failed, in a few words."""
    if isinstance(error, aiohttp.ClientConnectorError):
        return f"no connection: {error.os_error.strerror or error.os_error}"
    if isinstance(error, ValueError):
        return f"its address is not usable: {error}"
    return f"the connection broke: {type(error).__name__}"
