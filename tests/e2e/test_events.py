"""Feedback events, sessions and segments in the rendered Envoy; a stand-in for the server says what counts."""

from __future__ import annotations

import asyncio
import random
import re
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from abmesh.local.stack import Stack
from tests.e2e import support
from tests.e2e.envoy_process import wait_for
from tests.e2e.playing import amounts
from tests.e2e.rendered_mesh import RenderedMesh, chat_experiment, rendered_mesh, user

pytestmark = pytest.mark.envoy

CLICK, BUY = "/_ab/events/click", "/_ab/events/purchase"
ORIGIN = "https://shop.example"
EVENTS = ["click", {"name": "purchase", "value": {"min": 0.5, "max": 100}}, "continuation"]
FORGED = {
    "x-ab-event": "click",
    "x-ab-value": "999",
    "x-ab-issued": "1",
    "x-ab-continued": "1",
    "X-AB-Segment": "power",
}


def chat(**changes: Any) -> dict[str, Any]:
    cookie = {"unit": [{"header": "x-user-id"}, {"cookie": "sid"}], "issue_cookie": {"name": "sid", "max_age": "1h"}}
    return chat_experiment(**{"events": EVENTS, **cookie, **changes})


@asynccontextmanager
async def events_mesh(folder: Path, *experiments: dict[str, Any], **changes: Any) -> AsyncIterator[RenderedMesh]:
    """Nothing in Envoy's log is an error when it ends."""
    async with rendered_mesh(folder, experiments=list(experiments) or [chat()], **changes) as mesh:
        yield mesh
        assert [line for level in ("error", "critical") for line in mesh.envoy.log_lines(level)] == []


async def send(
    mesh: RenderedMesh, path: str, headers: Mapping[str, str] | None = None, method: str = "POST"
) -> tuple[int, dict[str, str], str]:
    """Status, headers and body of an answer."""
    async with mesh.session.request(method, mesh.envoy.url + path, headers=headers) as response:
        return response.status, {key.lower(): value for key, value in response.headers.items()}, await response.text()


def counted(event: str, value: int | None = None, variant: str = "model-b", **more: Any) -> dict[str, str]:
    """Headers of a user of whose event the server says that it counts."""
    said = {"x-ab-event": event} | ({} if value is None else {"x-ab-value": str(value)})
    return user(variant, set=said | more.pop("set", {}), **more)


async def test_an_event_counts_under_the_users_own_variant_without_any_service_behind_it(tmp_path: Path) -> None:
    async with events_mesh(tmp_path) as mesh:
        status, headers, body = await send(mesh, CLICK, counted("click", variant="model-a", slice_=9))
        assert (status, headers["x-model-version"], body) == (204, "model-a", "")
        found = await mesh.counted("abmesh.events.experiment.chat.variant.model-a.slice.9.event.click", 1)
        assert list(found) == ["abmesh.events.experiment.chat.variant.model-a.slice.9.event.click"], (
            "an event is no request to the model, and not unassigned"
        )
        assert mesh.envoy.histograms("^abmesh") == {}


async def test_values_add_up_in_thousandths_and_events_without_one_are_told_apart(tmp_path: Path) -> None:
    async with events_mesh(tmp_path) as mesh:
        for value in (12500, 1, None, 0, 10**15):
            assert (await send(mesh, f"{BUY}?value=x", counted("purchase", value)))[0] == 204
        tags = "experiment.chat.variant.model-b.slice.7.event.purchase"
        assert await mesh.counted(f"abmesh.events.{tags}", 5) == {
            f"abmesh.events.{tags}": 5,
            f"abmesh.valued_events.{tags}": 4,
            f"abmesh.event_value.{tags}": 12501 + 10**15,
        }


NOT_COUNTED = {
    "refused by the server": (CLICK, user(), "POST", 400),
    "another event than it says": (CLICK, counted("purchase"), "POST", 400),
    "a variant that this Envoy does not know": (CLICK, counted("click", variant="model-c"), "POST", 400),
    "an experiment that it does not know": (
        CLICK,
        user(set={"x-ab-experiment": "other", "x-ab-event": "click"}),
        "POST",
        400,
    ),
    "the server did not answer": (CLICK, {}, "POST", 503),
    "GET": (CLICK, counted("click"), "GET", 405),
    "OPTIONS": (CLICK, counted("click"), "OPTIONS", 405),
    "not declared": ("/_ab/events/other", counted("other"), "POST", 404),
    "a longer path": ("/_ab/events/click/", counted("click"), "POST", 404),
    "counted by itself": ("/_ab/events/continuation", counted("continuation"), "POST", 404),
    "no name": ("/_ab/events/", {}, "GET", 404),
}


async def test_events_that_do_not_count_say_why(tmp_path: Path) -> None:
    async with events_mesh(tmp_path) as mesh:
        for number, (why, (path, headers, method, status)) in enumerate(NOT_COUNTED.items(), 1):
            found, told, body = await send(mesh, path, headers, method)
            assert found == status, why
            assert "x-model-version" not in told, why
            assert told.get("allow") == ("POST" if status == 405 else None), why
            assert told.get("retry-after") == ("1" if status == 503 else None), why
            assert ('"error": "not_counted"' in body) == (status == 400), why
            # What follows is counted as it should be, and nothing else.
            await send(mesh, CLICK, counted("click"))
            name = "abmesh.events.experiment.chat.variant.model-b.slice.7.event.click"
            counters = await mesh.counted(name, number)
            assert counters.pop(name) == number, why
            assert all(other.startswith("abmesh.unassigned.route./_ab/events/") for other in counters), (why, counters)


async def test_events_wait_for_a_server_that_is_away(tmp_path: Path) -> None:
    async with events_mesh(tmp_path, server=False) as mesh:
        status, headers, _ = await send(mesh, CLICK, counted("click"))
        assert (status, headers["retry-after"]) == (503, "1")
        assert await mesh.counted("abmesh.unassigned.route./_ab/events/click/unassigned.reason..code.503", 1)


async def test_nobody_can_claim_an_event_a_value_a_session_or_a_segment(tmp_path: Path) -> None:
    segments = {"header": "x-who", "values": ["power"]}
    async with events_mesh(tmp_path, chat(segments=segments)) as mesh:
        assert (await send(mesh, CLICK, FORGED | user()))[0] == 400
        assert (await send(mesh, CLICK, FORGED))[0] == 503
        reply = await mesh.get(headers=FORGED | user(set={"x-ab-segment": "other"}))
        assert reply.seen["x-ab-segment"] == "other"
        assert not (FORGED.keys() - {"X-AB-Segment"}) & set(reply.seen)
        found = await amounts(mesh, 1)
        assert not {name for name in found if name.startswith(("event", "valued", "session"))}


async def test_an_unassigned_request_reaches_the_control_without_any_of_our_headers(tmp_path: Path) -> None:
    async with events_mesh(tmp_path) as mesh:
        said = dict.fromkeys(("x-ab-issued", "x-ab-continued", "x-ab-event", "x-ab-value"), "1")
        reply = await mesh.get(headers=user("model-c", set=said))
        kept = {name: value for name, value in reply.seen.items() if name.startswith("x-ab-")}
        assert (reply.upstream, kept) == ("model-a", {"x-ab-unassigned": "chat", "x-ab-reason": "assigned"})


async def test_sessions_and_continuations_are_counted_with_the_requests_that_are_them(tmp_path: Path) -> None:
    async with events_mesh(tmp_path) as mesh:
        for said in ({"x-ab-issued": "1"}, {"x-ab-continued": "1"}, {}, {"x-ab-issued": "1"}):
            await mesh.get(headers=user(set=said))
            await mesh.get(headers=user(slice_=None, set=said))
        found = await amounts(mesh, 4)
        assert (found["sessions"], found["events.event.continuation"]) == (2, 1)


async def test_events_of_sessions_are_counted_beside_all_events(tmp_path: Path) -> None:
    """So that events per session are events of those that the sessions are of."""
    session = {"x-ab-issued": "1"}
    async with events_mesh(tmp_path) as mesh:
        for said in (session, session, {}):
            assert (await send(mesh, CLICK, counted("click", set=said)))[0] == 204
            assert (await send(mesh, CLICK, counted("click", slice_=None, set=said)))[0] == 204
        for said in (session, {"x-ab-continued": "1"}, {}):
            await mesh.get(headers=user(set=said))
            await mesh.get(headers=user(slice_=None, set=said))
        found = {
            name: count for name, count in (await amounts(mesh, 3)).items() if "event" in name or "session" in name
        }
        assert found == {
            "sessions": 1,
            "events.event.click": 3,
            "events.event.continuation": 1,
            "session_events.event.click": 2,
            "session_events.event.continuation": 1,
        }


async def test_overrides_get_their_answer_and_their_events_are_not_counted(tmp_path: Path) -> None:
    async with events_mesh(tmp_path) as mesh:
        for path, event, value in ((CLICK, "click", None), (BUY, "purchase", 7)):
            status, headers, _ = await send(mesh, path, counted(event, value, slice_=None))
            assert (status, headers["x-model-version"]) == (204, "model-b")
        await send(mesh, CLICK, counted("click"))
        name = "abmesh.events.experiment.chat.variant.model-b.slice.7.event.click"
        assert await mesh.counted(name, 1) == {name: 1}


async def test_each_experiment_that_declares_an_event_counts_its_own(tmp_path: Path) -> None:
    other = chat(name="other", match={"path_prefix": "/other/"}, events=["click", "like"])
    async with events_mesh(tmp_path, chat(), other) as mesh:
        assert (await send(mesh, CLICK, counted("click", experiment="other")))[0] == 204
        assert (await send(mesh, "/_ab/events/like", counted("like", experiment="other")))[0] == 204
        assert (await send(mesh, "/_ab/events/like", counted("like")))[0] == 400
        tags = "experiment.other.variant.model-b.slice.7.event"
        found = await mesh.counted("abmesh.unassigned.route./_ab/events/like/refused.reason.assigned.code.400", 1)
        assert {name for name in found if ".events." in name} == {
            f"abmesh.events.{tags}.click",
            f"abmesh.events.{tags}.like",
        }


PREFLIGHT = {"access-control-request-method": "POST", "access-control-request-headers": "content-type"}


async def test_pages_of_declared_origins_may_send_events_with_their_users_cookies(tmp_path: Path) -> None:
    async with events_mesh(tmp_path, event_origins=[ORIGIN]) as mesh:
        status, told, _ = await send(mesh, CLICK, PREFLIGHT | {"origin": ORIGIN}, "OPTIONS")
        assert (status, told["access-control-allow-origin"]) == (200, ORIGIN)
        assert told["access-control-allow-credentials"] == "true"
        assert told["access-control-allow-methods"] == "POST"
        assert told["access-control-allow-headers"] == "content-type,x-user-id"
        assert int(told["access-control-max-age"]) > 0
        assert not await mesh.counters("ext_proc.streams_started"), "the server need not be asked"
        for headers, expected in ((counted("click"), 204), (user(), 400), ({}, 503)):
            status, told, _ = await send(mesh, CLICK, headers | {"origin": ORIGIN})
            assert (status, told["access-control-allow-origin"]) == (expected, ORIGIN)
            assert told["access-control-allow-credentials"] == "true"
            assert told["access-control-expose-headers"] == "x-model-version"


@pytest.mark.parametrize("origins", [[ORIGIN], []], ids=["another origin", "none declared"])
async def test_other_pages_are_told_that_they_may_not(tmp_path: Path, origins: list[str]) -> None:
    """Which keeps nobody from sending: what they send all the same is for the server to refuse."""
    async with events_mesh(tmp_path, event_origins=origins) as mesh:
        for origin in ("https://evil.example", "http://shop.example", f"{ORIGIN}.evil.example", "null"):
            status, told, _ = await send(mesh, CLICK, PREFLIGHT | {"origin": origin}, "OPTIONS")
            assert status == (200 if origins else 405)
            assert "access-control-allow-origin" not in told
            status, told, _ = await send(mesh, CLICK, user() | {"origin": origin})
            assert status == 400
            assert not [name for name in told if name.startswith("access-control-")]
        status, told, _ = await send(mesh, "/v1/x", user() | {"origin": ORIGIN}, "GET")
        assert not [name for name in told if name.startswith("access-control-")], "only events are for other pages"


BEACON = {"cookie": "llm-session=alice", "content-type": "text/plain;charset=UTF-8", "sec-fetch-mode": "no-cors"}
MODELS = "clusters: {model-a: {host: 127.0.0.1, port: 9}, model-b: {host: 127.0.0.1, port: 9}}"
"""Which no event reaches."""


@asynccontextmanager
async def clicks_through_our_server(folder: Path, listed: list[str]) -> AsyncIterator[Stack]:
    text = support.document({"model-a": 50, "model-b": 50}, "    events: [click]\n")
    async with support.stack(folder, f"{text}{MODELS}\nevent_origins: {listed}\n", models=()) as running:
        yield running


@pytest.mark.parametrize("listed", [[ORIGIN], []], ids=["another origin", "none declared"])
async def test_no_other_page_can_have_its_visitors_events_counted(tmp_path: Path, listed: list[str]) -> None:
    """Browsers send a beacon, and ``fetch`` in the mode ``no-cors``, without asking first."""
    async with clicks_through_our_server(tmp_path, listed) as running, support.session() as client:

        async def status(**told: str) -> int:
            async with client.post(running.url + CLICK, headers={**BEACON, **told}) as response:
                return response.status

        others = ["https://evil.example", "http://shop.example", f"{ORIGIN}.evil.example", "null", f"{running.url}0"]
        assert [await status(origin=origin) for origin in others] == [400] * len(others)
        assert await status(origin=ORIGIN) == (204 if listed else 400)
        assert [await status(origin=running.url), await status()] == [204, 204]

        async def found() -> dict[str, int] | None:
            stats = await support.envoy_stats(running, r"^abmesh\.(events|unassigned)\.")
            return stats if sum(stats.values()) == len(others) + 3 else None

        await support.eventually(found)
        stats = await found()
        assert stats is not None
        assert [count for name, count in stats.items() if ".events." in name] == [3 if listed else 2]


async def test_only_events_whose_unit_is_the_issued_cookie_are_of_a_session(tmp_path: Path) -> None:
    """Through our server."""
    async with clicks_through_our_server(tmp_path, []) as running, support.session() as client:

        async def click(query: str = "", **told: str) -> int:
            async with client.post(f"{running.url}{CLICK}{query}", headers=told) as response:
                return response.status

        cookie = BEACON["cookie"]
        sent = [click(cookie=cookie), click(cookie=cookie), click(**{"x-user-id": "alice"}), click("?user_id=alice")]
        sent.append(click(cookie=cookie, **{"x-user-id": "alice"}))
        assert await asyncio.gather(*sent) == [204] * 5

        async def found() -> Counter[str] | None:
            stats: Counter[str] = Counter()
            for name, count in (await support.envoy_stats(running, r"^abmesh\.(session_)?events\.")).items():
                stats[name.split(".")[1]] += count
            return stats if stats["events"] == 5 and "session_events" in stats else None

        await support.eventually(found)
        assert await found() == {"events": 5, "session_events": 2}


async def test_a_beacon_may_carry_a_body_that_nobody_reads(tmp_path: Path) -> None:
    async with events_mesh(tmp_path) as mesh:
        for size in (0, 100, 64 * 1024):
            for _ in range(3):
                async with mesh.session.post(
                    mesh.envoy.url + CLICK, data=b"x" * size, headers=counted("click")
                ) as told:
                    assert told.status == 204
        await mesh.counted("abmesh.events.experiment.chat.variant.model-b.slice.7.event.click", 9)


async def test_segments_are_counted_apart_and_add_up_to_the_slices(tmp_path: Path) -> None:
    dice = random.Random(3)
    expected: Counter[str] = Counter()
    async with events_mesh(tmp_path, chat(segments={"header": "x-who", "values": ["power", "casual"]})) as mesh:
        for _ in range(60):
            segment, status = dice.choice(["power", "casual", "other"]), dice.choice([200, 200, 503])
            slice_ = dice.choice([0, 7, None])
            said = {"x-ab-segment": segment} | dice.choice([{}, {"x-ab-continued": "1"}])
            await mesh.get(f"/v1/x?status={status}", user(slice_=slice_, set=said))
            await send(mesh, CLICK, counted("click", slice_=slice_, set={"x-ab-segment": segment}))
            if slice_ is not None:
                segment = f"{segment}.group.{slice_ // 5}"
                expected[f"requests_by_segment.{segment}.code.{status}"] += 1
                expected[f"duration_by_segment.{segment}"] += 1
                expected[f"{'ttft' if status == 200 else 'failed_duration'}_by_segment.{segment}"] += 1
                expected[f"events_by_segment.{segment}.event.click"] += 1
                if len(said) > 1:
                    expected[f"events_by_segment.{segment}.event.continuation"] += 1

        def found() -> dict[str, int]:
            middle = ".experiment.chat.variant.model-b.segment"
            counters = mesh.envoy.counters("^abmesh.*by_segment")
            bins = mesh.envoy.histograms("^abmesh.*by_segment")
            values = counters | {name: sum(part["count"] for part in parts) for name, parts in bins.items()}
            return {name.removeprefix("abmesh.").replace(middle, ""): value for name, value in values.items()}

        await asyncio.to_thread(wait_for, lambda: found() == expected, f"{expected}", 15)


WHO = r"experiment\.chat\.variant\.model-b"
SLICE, GROUP, SEGMENT = rf"{WHO}\.slice\.7", rf"{WHO}\.group\.1", rf"{WHO}\.segment\.(power|casual|other)\.group\.1"
DECLARED = re.compile(
    rf"""abmesh\.(
    unassigned\.route\.(/_ab/events/(click|purchase)/[a-z]+|chat)\.reason\.(assigned)?\.code\.\d+
    | (requests\.{SLICE}|requests_by_segment\.{SEGMENT})\.code\.200
    | (duration_ms|ttft_ms|first_tokens)\.{SLICE}
    | (duration|ttft)\.{GROUP} | (duration|ttft)_by_segment\.{SEGMENT}
    | (events|event_value|valued_events)\.{SLICE}\.event\.(click|purchase)
    | events_by_segment\.{SEGMENT}\.event\.(click|purchase)
    )""",
    re.VERBOSE,
)


@pytest.mark.parametrize("count", [3_000, pytest.param(10_000, marks=pytest.mark.soak)])
async def test_hostile_headers_make_no_statistic_that_the_document_does_not_declare(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], count: int
) -> None:
    """Envoy's own statistics appear with the first thing that they count, so those must only name nobody."""
    dice = random.Random(5)
    segments = {"header": "x-who", "values": ["power", "casual"]}
    names = ["x-ab-event", "x-ab-value", "x-ab-segment", "x-ab-slice", "x-ab-experiment", "x-model-version", "x-who"]
    names += [
        "x-ab-group",
        "x-ab-issued",
        "x-ab-continued",
        "x-ab-in-session",
        "x-request-id",
        "x_ab_event",
        "X-AB-Event",
        "origin",
    ]
    paths = ["/v1/x", CLICK, BUY, "/_ab/events/{}", "/v1/{}", "/{}", "/v1/x?value={}"]

    async def one(mesh: RenderedMesh) -> None:
        noise = f"evil{dice.getrandbits(64):x}"
        hostile = {dice.choice(names): f"{noise}{number}" for number in range(dice.randrange(6))}
        path = dice.choice(paths).format(noise)
        said = {"x-ab-segment": dice.choice(["power", "casual", "other"])}
        event = {CLICK: "click", BUY: "purchase"}.get(path)
        known = counted(event, set=said) if event else user(set=said)
        method = dice.choice(["GET", "POST", "PUT", "OPTIONS"])
        await send(mesh, path, hostile | (known if dice.random() < 0.7 else {}), method)

    async def some(mesh: RenderedMesh, count: int) -> set[str]:
        """Send them; the names of Envoy's statistics."""

        async def client() -> None:
            for _ in range(count // 20):
                await one(mesh)

        async with asyncio.TaskGroup() as group:
            for _ in range(20):
                group.create_task(client())

        def merged() -> bool:
            counted = sum(mesh.envoy.counters(r"^abmesh\.requests\.").values())
            bins = [part for parts in mesh.envoy.histograms(r"^abmesh\.duration\.").values() for part in parts]
            return bool(bins) and counted == sum(int(part["count"]) for part in bins)

        await asyncio.to_thread(wait_for, merged, "every request in a histogram", 15)
        found = {stat["name"] for stat in await asyncio.to_thread(mesh.envoy.stats, ".") if "name" in stat}
        return found | set(await asyncio.to_thread(mesh.envoy.histograms, "."))

    async with events_mesh(tmp_path, chat(segments=segments), event_origins=[ORIGIN]) as mesh:
        before = await some(mesh, 1000)
        after = await some(mesh, count)
        with capsys.disabled():
            print(f"\nEnvoy's statistics before and after {count} hostile requests: {len(before)} and {len(after)}")
        assert not [name for name in after if "evil" in name]
        ours = {name for name in after if name.startswith("abmesh.")}
        assert not [name for name in ours if not DECLARED.fullmatch(name)]
        assert len(ours - before) < 10, ours - before
