"""Events of a page of another origin failed silently: the preflight allowed no header that says whose event it is,
``sendBeacon`` said true while the server refused, and one text served all causes.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from abmesh.experiment.bucketing import bucket_of, cells, initial_ranges
from abmesh.local.stack import Stack, fetch
from tests.drills.report import Drill
from tests.e2e import support
from tests.e2e.pages import browsing, chromium, heard, site

pytestmark = pytest.mark.envoy

USER = "alice"
VARIANT = cells(initial_ranges({"model-a": 5000, "model-b": 5000}), 50)[bucket_of("e2e", USER.encode())].variant

PAGE = """\
<!doctype html><title>shop</title><script>
const envoy = ENVOY, said = {};
async function send(name, path, headers, options = {}) {
  try {
    const answer = await fetch(envoy + "/_ab/events/" + path, {method: "POST", headers, ...options});
    const told = answer.status == 400 ? await answer.json() : {};
    said[name] = [answer.status, answer.headers.get("x-model-version") || told.error || ""];
  } catch (error) { said[name] = ["no answer", error.name]; }
}
async function run() {
  const user = {"x-user-id": "alice", "content-type": "application/json"};
  said.beacon = navigator.sendBeacon(envoy + "/_ab/events/like");
  await send("header", "click", user);
  await send("segment", "click", {...user, "x-who": "power"});
  await send("override", "click", {...user, "x-user-group": "beta"});
  await send("query", "click?user_id=alice", {});
  await send("value", "purchase?value=12.5", user);
  await send("wrong_value", "purchase?value=1e9", user);
  await send("too_large", "purchase?value=101", user);
  await send("no_value_declared", "click?value=1", user);
  await send("no_unit", "click", {});
  await send("unmatched", "click?experiment=other", user);
  await send("not_declared", "nothing", {});
  await send("not_allowed_header", "click", {...user, "x-secret": "1"});
  await fetch("/done", {method: "POST", body: JSON.stringify(said)});
}
run();
</script>
"""

EXPECTED = {
    "beacon": True,
    "header": [204, VARIANT],
    "segment": [204, VARIANT],
    "override": [204, "model-b"],
    "query": [204, VARIANT],
    "value": [204, VARIANT],
    "wrong_value": [400, "wrong_value"],
    "too_large": [400, "wrong_value"],
    "no_value_declared": [400, "wrong_value"],
    "no_unit": [400, "no_unit"],
    "unmatched": [400, "unmatched"],
    "not_declared": [404, ""],
    "not_allowed_header": ["no answer", "TypeError"],
}

STRANGER = """\
<!doctype html><title>stranger</title><script>
const envoy = ENVOY, said = {};
async function run() {
  const click = envoy + "/_ab/events/click?user_id=alice";
  try { await fetch(click, {method: "POST", headers: {"x-user-id": "alice"}}); said.asked = "answered"; }
  catch (error) { said.asked = error.name; }
  said.unasked = (await fetch(click, {method: "POST", mode: "no-cors"})).type;
  await fetch("/done", {method: "POST", body: JSON.stringify(said)});
}
run();
</script>
"""

EXTRA = """\
    events: [click, like, {name: purchase, value: {max: 100}}]
    segments: {header: x-who, values: [power]}
    overrides: [{header: {x-user-group: beta}, variant: model-b}]
"""


async def test_a_page_of_another_origin_can_say_whose_event_it_is_and_is_told_why_not(
    tmp_path: Path, drill: Drill
) -> None:
    browser = chromium()
    async with site({"/page": PAGE}) as shop, site({"/page": STRANGER}) as stranger:
        clusters = "".join(f"  {name}: {{host: 127.0.0.1, port: {shop.port}}}\n" for name in ("model-a", "model-b"))
        text = support.document({"model-a": 50, "model-b": 50}, EXTRA)
        text += f"clusters:\n{clusters}event_origins: ['{shop.origin}']\n"
        async with support.stack(tmp_path / "stack", text, models=()) as running:
            shop.envoy = stranger.envoy = running.url
            async with browsing(browser, f"{shop.origin}/page", tmp_path / "shop"):
                said = await heard(shop)
            async with browsing(browser, f"{stranger.origin}/page", tmp_path / "stranger"):
                told = await heard(stranger)
            drill.sent = len(EXPECTED) + 2
            drill.failed = sum(
                said[name] != expected and expected == [204, VARIANT] for name, expected in EXPECTED.items()
            )
            drill.wrong = sum(said[name][1] not in (VARIANT, "") for name in ("header", "segment", "query", "value"))
            assert said == EXPECTED
            assert told == {"asked": "TypeError", "unasked": "opaque"}
            await _counted(running, drill)


async def _counted(running: Stack, drill: Drill) -> None:
    """Every cause by a name of its own, in Envoy and in the server; the beacon's, too."""
    causes = {"no_unit": 2, "wrong_value": 3, "wrong_origin": 1, "unmatched": 1}

    async def refused() -> bool:
        found = await support.envoy_stats(running, r"^abmesh\.unassigned\.route\./_ab/events/refused/")
        return {re.findall(r"refused/(\w+)", name)[0]: count for name, count in found.items()} == causes

    await support.eventually(refused)
    events: Counter[str] = Counter()
    for name, count in (await support.envoy_stats(running, r"^abmesh\.events(_by_segment)?\.")).items():
        assert f".variant.{VARIANT}." in name
        events[re.sub(r"\.(slice|group)\.\d+", "", name).partition(f".variant.{VARIANT}.")[2]] += count
    assert events["event.click"] == 3
    assert events["event.purchase"] == 1
    assert events["segment.power.event.click"] == 1
    page = await fetch(running.server_metrics) or ""
    lines = [line for line in page.splitlines() if 'reason="event_' in line]
    counted = {
        cause: int(float(line.rpartition(" ")[2])) for line in lines for cause in re.findall(r"event_(\w+)", line)
    }
    assert {cause: counted[cause] for cause in causes} == causes
    drill.operator_reads(*lines)
