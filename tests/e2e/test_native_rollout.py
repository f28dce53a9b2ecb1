"""Weights of the native lane move while traffic flows, and whatever happens to the file or its writer, it flows on."""

from __future__ import annotations

import asyncio
import io
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from abmesh.experiment.store import FileStore, format_generation
from abmesh.local.stack import answers, fetch
from controller.routes.envoy_file import EnvoyRoutes
from tests.e2e.lanes import Lanes, Reply, experiment, lanes, request, send
from tests.e2e.support import eventually, metric, status

pytestmark = [pytest.mark.envoy, pytest.mark.timeout(180)]

EVERYBODY = [request("native", [f"x-user-id: user-{number}".encode()]) for number in range(60_000)]
USERS = EVERYBODY[:400]
ROLLOUT = {
    "candidate": "model-b",
    "steps": [20, 50, 100],
    "stage": {"min_duration": "1s", "min_requests": 50},
    "guardrails": [{"metric": "error_rate", "max": "5%"}],
}


def rolled_out(**stage: Any) -> dict[str, Any]:
    variants = [
        {"name": "model-a", "cluster": "model-a", "weight": 100, "control": True},
        {"name": "model-b", "cluster": "model-b", "weight": 0},
    ]
    return experiment("native", variants=variants, rollout=ROLLOUT | {"stage": {"min_requests": 50, **stage}})


@dataclass
class Load:
    """What became of users' requests.

    Attributes:
        rounds: the answers, round by round, each in the users' order.
    """

    rounds: list[list[Reply]] = field(default_factory=list)

    @property
    def failures(self) -> list[Reply]:
        return [reply for replies in self.rounds for reply in replies if reply.status != 200 or not reply.slice]

    async def next(self, count: int = 2) -> list[Reply]:
        """A round that began after this call."""
        wanted = len(self.rounds) + count

        async def there() -> bool:
            return len(self.rounds) >= wanted

        await eventually(there)
        return self.rounds[-1]


@asynccontextmanager
async def load(port: int, users: list[bytes] = USERS) -> AsyncIterator[Load]:
    """Rounds of 400 requests of these users."""
    found = Load()

    async def everybody() -> None:
        while True:
            start = len(found.rounds) * len(USERS) % len(users)
            found.rounds.append(await send(port, users[start : start + len(USERS)], connections=4, together=5))

    task = asyncio.create_task(everybody())
    try:
        yield found
        assert not task.done(), "a connection broke"
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def variants(replies: list[Reply]) -> Counter[str]:
    return Counter(reply.variant for reply in replies)


async def test_a_rollout_moves_the_weights_under_load_without_a_failed_request_and_outlives_its_controller(
    tmp_path: Path,
) -> None:
    async with lanes(tmp_path, rolled_out(min_duration="1h"), interval=timedelta(milliseconds=200)) as running:
        controller = running.stack.children["controller"]
        store = FileStore(running.stack.config)

        async def at(weight: int) -> bool:
            return store.read().document.experiment("native").variant("model-b").weight >= weight

        async with load(running.port) as users:
            await eventually(lambda: at(2000))
            await running.in_force()
            await controller.kill()
            before = await users.next()
            held = store.read().document.experiment("native").weights
            assert variants(before)["model-b"] > 0
            assert await users.next() == before, "the last weights stay"
            # What changes while the controller is gone is caught up with when it is back.
            raised = {"model-a": held["model-a"] - 500, "model-b": held["model-b"] + 500}
            store.update_weights("native", lambda _: raised)
            stale = await running.version()
            assert await users.next() == before
            assert await running.version() == stale != format_generation(store.read().generation)
            await controller.start()
            await controller.wait_until(lambda: answers(f"{running.stack.controller_url}/healthz"))
            await running.in_force()
            after = await users.next()
            moved = {
                (old.variant, new.variant) for old, new in zip(before, after, strict=True) if old.variant != new.variant
            }
            assert moved == {("model-a", "model-b")}, "users of the growing variant stay with it"
            assert (await status(running.stack))["state"] == "manual", "a person's weights are kept"
            store.update_weights("native", lambda _: {"model-a": 0, "model-b": 10_000})
            await eventually(lambda: _serves(running, store.read().generation), pause=0.01)
            assert variants(await users.next()) == {"model-b": len(USERS)}
        assert not users.failures
        assert await running.asked() == 0, "the server had nothing to do with it"


async def _serves(running: Lanes, generation: int) -> bool:
    return await running.version() == format_generation(generation)


async def test_a_whole_rollout_is_judged_on_the_native_lanes_own_statistics(tmp_path: Path) -> None:
    async with lanes(tmp_path, rolled_out(min_duration="300ms"), interval=timedelta(milliseconds=200)) as running:
        async with load(running.port, EVERYBODY) as users:

            async def promoted() -> bool:
                return bool((await status(running.stack))["state"] == "promoted")

            await eventually(promoted, seconds=60)
            await running.in_force()
            assert variants(await users.next()) == {"model-b": len(USERS)}
        assert not users.failures
        generation = FileStore(running.stack.config).read().generation
        text = await fetch(f"{running.stack.controller_url}/metrics") or ""
        assert metric(text, "abmesh_routes_generation") == generation
        assert metric(text, "abmesh_routes_published") == 1
        assert metric(text, "abmesh_routes_writes_total") >= 3
        health = json.loads(await fetch(f"{running.stack.controller_url}/healthz") or "{}")
        assert health["routes_generation"] == format_generation(generation)


async def test_a_routes_file_that_is_no_good_has_no_effect(tmp_path: Path) -> None:
    async with lanes(tmp_path, experiment("native")) as running:
        file = running.stack.routes_file
        good = file.read_text()
        whole = json.loads(good)
        whole["resources"][0]["virtual_hosts"][0]["routes"][1]["route"]["cluster"] = "unknown"
        async with load(running.port) as users:
            before = await users.next()
            for bad in ("", "{", good[: len(good) // 2], '{"version_info": "x", "resources": 3}', json.dumps(whole)):
                refused = await _refusals(running)
                swap = file.with_name("swap")
                swap.write_text(bad)
                swap.replace(file)

                async def noticed(refused: int = refused) -> bool:
                    return await _refusals(running) > refused or file.read_text() == good

                await eventually(noticed)
                assert await users.next() == before
            file.unlink()
            assert await users.next() == before

            async def restored() -> bool:
                return file.exists() and file.read_text() == good

            await eventually(restored)
            assert await users.next() == before
        assert not users.failures


async def _refusals(running: Lanes) -> int:
    return sum((await running.statistics(r"rds.abmesh.update_(rejected|failure)$")).values())


async def test_a_variant_that_envoy_has_no_cluster_for_does_not_take_the_others_down_even_if_envoy_is_restarted(
    tmp_path: Path,
) -> None:
    async with lanes(tmp_path, experiment("native"), interval=timedelta(milliseconds=200)) as running:
        envoy = running.stack.children["envoy"]
        good = running.stack.routes_file.read_text()
        async with load(running.port) as users:
            before = await users.next()
            text = running.stack.config.read_text()
            newer = text.replace("clusters:\n", "clusters:\n  model-d: {host: 127.0.0.1, port: 1}\n", 1)
            newer = newer.replace("cluster: model-c", "cluster: model-d", 1)
            assert newer.count("model-d") == 2
            running.stack.config.write_text(newer)
            await eventually(lambda: _refused(running, "found routes to model-d"))
            assert await users.next() == before
        assert not users.failures
        assert running.stack.routes_file.read_text() == good
        assert metric(await fetch(f"{running.stack.controller_url}/metrics") or "", "abmesh_routes_published") == 0
        assert await _refusals(running) == 0, "Envoy never saw it"
        await envoy.stop()
        await envoy.start()
        await envoy.wait_until(lambda: answers(f"{running.stack.admin}/ready"))
        async with load(running.port) as users:
            assert await users.next() == before, "the bootstrap is older than the document, and serves all the same"
        assert not users.failures


async def _health(running: Lanes) -> dict[str, Any]:
    health: dict[str, Any] = json.loads(await fetch(f"{running.stack.controller_url}/healthz") or "{}")
    return health


async def _refused(running: Lanes, why: str) -> bool:
    return why in (await _health(running)).get("routes_error", "")


async def test_an_envoy_that_refuses_what_is_published_is_told_of_until_it_serves_it(tmp_path: Path) -> None:
    async with lanes(tmp_path, experiment("native"), interval=timedelta(milliseconds=200)) as running:
        served = await running.version()
        document = running.stack.config.read_text()
        # As of an older version of ours, so that it is Envoy that has to refuse the document.
        EnvoyRoutes(running.stack.routes_file).record.unlink()
        newer = document.replace("clusters:\n", "clusters:\n  model-d: {host: 127.0.0.1, port: 1}\n", 1)
        running.stack.config.write_text(newer.replace("cluster: model-c", "cluster: model-d", 1))

        async def behind() -> dict[str, str]:
            found: dict[str, str] = (await _health(running)).get("routes_behind", {})
            return found

        await eventually(behind)
        assert await behind() == {running.stack.admin: served}
        text = await fetch(f"{running.stack.controller_url}/metrics") or ""
        assert metric(text, "abmesh_routes_envoys_behind") == 1
        assert metric(text, "abmesh_routes_published") == 1, "the file is as new as the document"
        running.stack.config.write_text(document)

        async def caught_up() -> bool:
            return not await behind()

        await eventually(caught_up)


async def test_envoy_takes_routes_that_are_newer_than_its_bootstrap_in_anything_but_clusters(tmp_path: Path) -> None:
    cookie = {"name": "sid", "max_age": "30d"}
    edits: list[dict[str, Any]] = [
        {"answers": {"input_tokens": "usage.prompt_tokens", "output_tokens": "usage.completion_tokens"}},
        {"segments": {"header": "x-segment", "values": ["power"]}},
        {"overrides": [{"header": {"x-debug": "b"}, "variant": "model-b"}]},
        {"events": ["click"], "issue_cookie": cookie},
        {"match": {"path_prefix": "/native/", "headers": {"x-new": "1"}}},
    ]
    async with lanes(tmp_path, experiment("native")) as running:
        yaml = YAML(typ="safe")
        document = yaml.load(running.stack.config.read_text())
        for edit in edits:
            edited = {**document, "experiments": [{**document["experiments"][0], **edit}]}
            if "events" in edit:
                edited["event_origins"] = ["https://app.example"]
            if "segments" in edit:
                for number, variant in enumerate(document["experiments"][0]["variants"]):
                    variant["timeout"] = f"{number + 1}0s"
            text = io.StringIO()
            yaml.dump(json.loads(json.dumps(edited)), text)
            running.stack.config.write_text(text.getvalue())
            await running.in_force()
        assert await _refusals(running) == 0
