"""The application-level router that guides show: FastAPI takes every request, and httpx sends it on.

Run by uvicorn (``bench.application:app``), started by :mod:`bench.running`; the environment says where the upstream is
and whether all requests share a client. It is as guides have it: hash, choose, send on, give the answer back.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import httpx
from fastapi import FastAPI, Request, Response

from bench.running import SHARED, UPSTREAM

_SHARE_OF_B: Final = 10
_HOP: Final = frozenset({"connection", "content-length", "date", "host", "keep-alive", "server", "transfer-encoding"})


@asynccontextmanager
async def lifespan(application: FastAPI) -> AsyncIterator[None]:
    """Keep a client open for as long as the application runs."""
    async with httpx.AsyncClient() as client:
        application.state.client = client
        yield


app = FastAPI(lifespan=lifespan)


@app.get("/healthz")
async def ready() -> str:
    """That it serves."""
    return "ready"


@app.api_route("/{path:path}", methods=["GET", "POST"])
async def route(request: Request, path: str) -> Response:
    """Send a request to its variant."""
    user = request.headers.get("x-user-id") or request.cookies.get("llm-session", "")
    variant = "model-b" if int(hashlib.md5(user.encode()).hexdigest(), 16) % 100 < _SHARE_OF_B else "model-a"
    if os.environ.get(SHARED):
        answer = await _send_on(request.app.state.client, request, path, variant)
    else:
        async with httpx.AsyncClient() as client:
            answer = await _send_on(client, request, path, variant)
    headers = {name: value for name, value in answer.headers.items() if name not in _HOP}
    return Response(answer.content, answer.status_code, {**headers, "x-model-version": variant})


async def _send_on(client: httpx.AsyncClient, request: Request, path: str, variant: str) -> httpx.Response:
    headers = {name: value for name, value in request.headers.items() if name not in _HOP}
    return await client.request(
        request.method,
        f"{os.environ[UPSTREAM]}/{path}",
        params=request.query_params,
        headers={**headers, "x-model-version": variant},
        content=await request.body(),
    )
