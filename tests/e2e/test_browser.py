"""Feedback from a real browser: a page of another origin, ``sendBeacon``, ``fetch``, and cookies as browsers do."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.pages import browsing, chromium, heard, site
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


async def test_events_of_a_page_of_another_origin_arrive_under_the_users_own_variant(tmp_path: Path) -> None:
    browser = chromium()
    async with site({"/page": PAGE}) as shop:
        clusters = "".join(f"  {name}: {{host: 127.0.0.1, port: {shop.port}}}\n" for name in ("model-a", "model-b"))
        events = "    events: [click, thumbs_up, {name: purchase, value: {max: 100}}]\n"
        origins = f"clusters:\n{clusters}event_origins: ['{shop.origin}']\n"
        text = document({"model-a": 50, "model-b": 50}, events) + origins
        async with stack(tmp_path / "stack", text, models=()) as running:
            shop.envoy = running.url
            async with browsing(browser, f"{shop.origin}/page", tmp_path):
                said = await heard(shop)
                (version,) = shop.versions

                # A beacon is sent when the browser likes; it has gone once it is counted.
                async def counted() -> dict[str, int] | None:
                    found = await envoy_stats(running, r"^abmesh\.(events|event_value|valued_events)\.")
                    return found if len(found) == 5 else None

                await eventually(counted)
                found = await counted()
    assert said == {
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
