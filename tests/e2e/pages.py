"""Web pages in a real browser: a site of its own, which serves them, is the model, and hears what they found."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.e2e.envoy_process import launch


@dataclass
class Site:
    """A web server with pages. Each page says what it found by posting JSON to ``/done``.

    Attributes:
        pages: HTML by path; ``ENVOY`` in it becomes the address of :attr:`envoy`, as a string of JavaScript.
        versions: ``x-model-version`` of the requests that reached the model, below ``/v1/``.
    """

    pages: Mapping[str, str]
    port: int = 0
    envoy: str = ""
    versions: list[str] = field(default_factory=list)
    said: asyncio.Queue[dict[str, Any]] = field(default_factory=asyncio.Queue)

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def page(self, request: web.Request) -> web.Response:
        text = self.pages.get(request.path)
        if text is None:
            return web.Response(status=404)
        return web.Response(text=text.replace("ENVOY", json.dumps(self.envoy)), content_type="text/html")

    async def model(self, request: web.Request) -> web.Response:
        """Answers pages of its own origin, as a model behind a CORS policy does."""
        allowed = {
            "access-control-allow-origin": self.origin,
            "access-control-allow-headers": "content-type,x-user-id",
            "access-control-expose-headers": "x-model-version",
        }
        if request.method == "OPTIONS":
            return web.Response(headers=allowed)
        self.versions.append(request.headers.get("x-model-version", ""))
        return web.json_response({}, headers=allowed)

    async def hear(self, request: web.Request) -> web.Response:
        await self.said.put(json.loads(await request.text()))
        return web.Response()


@asynccontextmanager
async def site(pages: Mapping[str, str]) -> AsyncIterator[Site]:
    """Serve pages on a free port."""
    made = Site(pages)
    application = web.Application()
    application.router.add_route("*", "/v1/{name:.*}", made.model)
    application.router.add_post("/done", made.hear)
    application.router.add_get("/{name:.*}", made.page)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    try:
        listening = web.TCPSite(runner, "127.0.0.1", 0)
        await listening.start()
        made.port = runner.addresses[0][1]
        yield made
    finally:
        await runner.cleanup()


def chromium() -> str:
    """The browser; skips the test where there is none."""
    browser = shutil.which("chromium")
    if browser is None:
        pytest.skip("NOT TESTED, for there is no chromium: it needs Debian's package chromium (make programs, as root)")
    return browser


@asynccontextmanager
async def browsing(browser: str, url: str, folder: Path) -> AsyncIterator[None]:
    """A browser with a profile of its own shows a page while the block runs."""
    process = await asyncio.to_thread(_show, browser, url, folder)
    try:
        yield
    finally:
        process.terminate()
        await asyncio.to_thread(process.wait, 20)


def _show(browser: str, url: str, folder: Path) -> subprocess.Popen[bytes]:
    folder.mkdir(parents=True, exist_ok=True)
    command = [browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run"]
    command += [f"--user-data-dir={folder / 'profile'}", url]
    with (folder / "browser.log").open("wb") as log:
        return launch(command, stdout=log, stderr=log)


async def heard(of: Site, seconds: float = 60) -> dict[str, Any]:
    """What the next page says."""
    return await asyncio.wait_for(of.said.get(), seconds)
