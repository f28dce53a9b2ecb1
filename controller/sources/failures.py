"""Reading an answer up to a limit, and describing why a request failed. Shared by both sources."""

from __future__ import annotations

import aiohttp

from abmesh.experiment.errors import SourceError


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
