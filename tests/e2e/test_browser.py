"""Feedback from a real browser: a page of another origin, ``sendBeacon``, ``fetch``, and cookies as browsers do."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.e2e.envoy_process import launch
from tests.e2e.support import document, envoy_stats, eventually, stack

pytestmark = pytest.mark.envoy

PAGE = """\
<!doctype html><title>shop</title><script>
const envoy = ENVOY;
async function status(path, options) {
  try { return (await fetch(envoy + path, options)).status; } catch (error) { return String(error); }
}
async function run() {
  await fetch(envoy + "/v1/hello", {mode: "no-cors", credentials: "include"});
  const json = {method: "POST", credentials: "include", headers: {"content-type": "application/json"}, body: "{}"};
  const said = {
    beacon: navigator.sendBeacon(envoy + "/_ab/events/click"),
    fetched: await status("/_ab/events/thumbs_up", json),
    valued: await status("/_ab/events/purchase?value=12.5", json),
    too_large: await status("/_ab/events/purchase?value=12.5e9", json),
    unknown: await status("/_ab/events/nothing", {method: "POST", credentials: "include"}),
    anonymous: await status("/_ab/events/click", {method: "POST", credentials: "omit"}),
  };
  await fetch("/done", {method: "POST", body: JSON.stringify(said)});
}
run();
</script>
"""


@dataclass
class Site:
    """A web server of its own, which serves the page, is the model, and hears what the page found."""

    port: int = 0
    envoy: str = ""
    versions: list[str] = field(default_factory=list)
    said: dict[str, Any] = field(default_factory=dict)
    done: asyncio.Event = field(default_factory=asyncio.Event)

    async def page(self, _request: web.Request) -> web.Response:
        return web.Response(text=PAGE.replace("ENVOY", json.dumps(self.envoy)), content_type="text/html")

    async def model(self, request: web.Request) -> web.Response:
        self.versions.append(request.headers.get("x-model-version", ""))
        return web.json_response({})

    async def hear(self, request: web.Request) -> web.Response:
        self.said = json.loads(await request.text())
        self.done.set()
        return web.Response()


@asynccontextmanager
async def _site() -> AsyncIterator[Site]:
    site = Site()
    application = web.Application()
    application.router.add_get("/page", site.page)
    application.router.add_get("/v1/hello", site.model)
    application.router.add_post("/done", site.hear)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    try:
        listening = web.TCPSite(runner, "127.0.0.1", 0)
        await listening.start()
        site.port = runner.addresses[0][1]
        yield site
    finally:
        await runner.cleanup()


async def test_events_of_a_page_of_another_origin_arrive_under_the_users_own_variant(tmp_path: Path) -> None:
    browser = shutil.which("chromium")
    if browser is None:
        pytest.skip("NOT TESTED, for there is no chromium: it needs Debian's package chromium (make programs, as root)")
    async with _site() as site:
        clusters = "".join(f"  {name}: {{host: 127.0.0.1, port: {site.port}}}\n" for name in ("model-a", "model-b"))
        events = "    events: [click, thumbs_up, {name: purchase, value: {max: 100}}]\n"
        origins = f"clusters:\n{clusters}event_origins: ['http://127.0.0.1:{site.port}']\n"
        text = document({"model-a": 50, "model-b": 50}, events) + origins
        async with stack(tmp_path / "stack", text, models=()) as running:
            site.envoy = running.url
            command = [browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run"]
            command += [f"--user-data-dir={tmp_path / 'profile'}", f"http://127.0.0.1:{site.port}/page"]
            with (tmp_path / "browser.log").open("wb") as log:
                process = launch(command, stdout=log, stderr=log)
            try:
                await asyncio.wait_for(site.done.wait(), 60)
                # A beacon is sent when the browser likes; it has gone once it is counted.
                (version,) = site.versions

                async def counted() -> dict[str, int] | None:
                    found = await envoy_stats(running, r"^abmesh\.(events|event_value|valued_events)\.")
                    return found if len(found) == 5 else None

                await eventually(counted)
                found = await counted()
            finally:
                process.terminate()
                await asyncio.to_thread(process.wait, 20)
    assert site.said == {
        "beacon": True,
        "fetched": 204,
        "valued": 204,
        "too_large": 400,
        "unknown": 404,
        "anonymous": 400,
    }
    assert found is not None
    assert version in ("model-a", "model-b")
    assert all(f".variant.{version}." in name for name in found)
    by_event = {tuple(name.split("."))[1::8]: count for name, count in found.items()}
    assert by_event == {
        ("events", "click"): 1,
        ("events", "thumbs_up"): 1,
        ("events", "purchase"): 1,
        ("event_value", "purchase"): 12_500,
        ("valued_events", "purchase"): 1,
    }
