"""An upstream that answers with what it was sent, and behaves as the query string asks.

``?status=503`` answers with that status, ``?sleep=0.5`` waits first, ``?stream=0.5`` sends the head at once and the
body later, ``?drop`` closes the connection without an answer.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from aiohttp import web

CLAIMED_VERSION = "what-the-upstream-says"


@asynccontextmanager
async def echo_upstream(name: str, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """Run an upstream of that name, with TLS if there is a context; its port."""

    async def handle(request: web.Request) -> web.StreamResponse:
        query = request.query
        await asyncio.sleep(float(query.get("sleep", 0)))
        if "drop" in query and request.transport is not None:
            request.transport.abort()
        told = {"x-model-version": CLAIMED_VERSION, "set-cookie": "upstream=1"}
        body = {"upstream": name, "path": request.path_qs, "headers": dict(request.headers)}
        if "stream" not in query:
            return web.json_response(body, status=int(query.get("status", 200)), headers=told)
        response = web.StreamResponse(headers=told)
        await response.prepare(request)
        await response.write(b"[")
        await asyncio.sleep(float(query["stream"]))
        with suppress(ConnectionError):  # the client may have left
            await response.write(b"]")
        return response

    app = web.Application()
    app.router.add_route("*", "/{rest:.*}", handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
        await site.start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()
