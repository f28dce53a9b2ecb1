"""One request to a variant, through a warm-up listener or straight to its cluster. Used to warm up and to probe.

Bodies and header values are never logged, nor part of a reason.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass

import aiohttp
from yarl import URL

from abmesh.experiment.rollout import Warmup

THROUGH_ENVOY = "x-envoy-upstream-service-time"
"""A header that Envoy adds to answers of upstreams, not to its own."""


@dataclass(frozen=True, slots=True)
class Asked:
    """How a request ended.

    Attributes:
        status: of the answer, which was read to its end; 0 if there was none.
        problem: why there was none.
        from_envoy: whether Envoy passed the answer on from an upstream.
    """

    status: int = 0
    problem: str = ""
    from_envoy: bool = False


def open_session() -> aiohttp.ClientSession:
    """A session for such requests; without the environment's proxies, which are not meant for Envoy's listeners.

    Answers are discarded, so they are not decompressed.
    """
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        timeout=aiohttp.ClientTimeout(),
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
        auto_decompress=False,
    )


async def ask(
    session: aiohttp.ClientSession,
    url: URL,
    *,
    warmup: Warmup | None,
    agent: str,
    headers: Mapping[str, str],
    tls: ssl.SSLContext | bool = True,
    server_name: str | None = None,
) -> Asked:
    """Send one request and read its whole answer.

    Args:
        session: of :func:`open_session`.
        url: with the path.
        warmup: the document's request; a GET if None.
        agent: what to send as ``user-agent``.
        headers: further ones.
        tls: how to verify the other end of https.
        server_name: to request and verify there, if not the URL's host.
    """
    sent = {"user-agent": agent}
    method, data = "GET", None
    if warmup is not None:
        method, data = warmup.method, warmup.body.encode() or None
        if warmup.body:
            sent["content-type"] = "application/json"
        sent |= warmup.headers
    sent |= headers
    try:
        async with session.request(
            method, url, data=data, headers=sent, allow_redirects=False, ssl=tls, server_hostname=server_name
        ) as response:
            async for _ in response.content.iter_any():
                pass
    except aiohttp.ClientConnectorError as error:
        return Asked(problem=f"no connection: {error.os_error.strerror or error.os_error}")
    except (aiohttp.ClientError, OSError, ValueError) as error:
        # Without the error's own text, which may quote a header.
        return Asked(problem=f"the connection broke: {type(error).__name__}")
    return Asked(response.status, from_envoy=THROUGH_ENVOY in response.headers)
