"""Whole rollouts by the shipped chart: its controller and servers as pods, four gateways, and users who are there."""

from __future__ import annotations

import asyncio
import statistics
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from tests.cluster.asking import Json
from tests.cluster.cluster import Cluster
from tests.cluster.history import History
from tests.cluster.istio_world import MIRROR, model_of, variant_of
from tests.cluster.lawful import check_forged, check_others, check_their_settings, check_unassigned, wrong
from tests.cluster.load import Load
from tests.cluster.shipped_world import Shipped, shipped
from tests.cluster.waiting import wait_for

USERS = [f"user-{number}" for number in range(2000)]


@pytest.fixture(scope="module")
def world(cluster: Cluster) -> Iterator[Shipped]:
    """The chart, installed once for all of these tests."""
    with shipped(cluster) as made:
        yield made


@pytest.mark.parametrize("users", [300, pytest.param(2000, marks=pytest.mark.soak)])
@pytest.mark.parametrize("lane", ["ext_proc"])
def test_users_of_four_gateways_go_by_the_law_and_the_routes_stay_their_owners(
    world: Shipped, lane: str, users: int
) -> None:
    versions = world.their_versions()
    mirror = model_of(world.cluster, world.namespace, MIRROR)
    world.apply(world.experiment("chat", lane=lane))
    world.wait_until_programmed("chat")
    found = world.in_force("chat")

    def law(user: str) -> str:
        return variant_of(found, user)

    for name, gateway in world.gateways.items():
        assert not wrong(gateway.door, USERS[:users], law), name
        check_unassigned(gateway.door)
        check_forged(gateway.door, f"{world.namespace}/chat", USERS, law)
        check_their_settings(gateway.door, USERS[0], mirror, of_istio=name != "inner")
    check_others(world.gateways["edge"].door, USERS[0])
    assert world.their_versions() == versions
    world.delete("chat")
    assert world.their_versions() == versions


def _fail(world: Shipped, model: str, share: float) -> None:
    url = f"{model_of(world.cluster, world.namespace, model).url}/failing/{share:g}"
    urllib.request.urlopen(urllib.request.Request(url, method="PUT"), timeout=5).close()


async def _until(condition: Callable[[], object], what: str, seconds: float = 240.0) -> None:
    await asyncio.to_thread(wait_for, condition, what, seconds)


def _rollout(run: str) -> Json:
    return {
        "candidate": "model-b",
        "steps": [20, 50, 100],
        "run": run,
        "stage": {"minDuration": "2s", "minRequests": 20},
        "guardrails": [{"metric": "error_rate", "max": "5%"}],
    }


async def test_a_ramp_and_a_rollback_under_load_lose_no_request_and_send_none_astray(world: Shipped) -> None:
    def item(run: str) -> Json:
        made = world.experiment("chat", rollout=_rollout(run))
        for variant, weight in zip(made["spec"]["variants"], (100, 0), strict=True):
            variant["weight"] = weight
        return made

    def phase() -> str:
        return str(world.status("chat").get("phase"))

    def weight() -> float:
        return float(world.status("chat")["weights"]["model-b"])

    history = History(world, "chat")
    load = Load({name: gateway.door for name, gateway in world.gateways.items()}, USERS[:300])
    world.apply(item("first"))
    await asyncio.to_thread(world.wait_until_programmed, "chat")
    async with history.followed(), load.running():
        await _until(lambda: phase() == "Promoted", "the candidate to be promoted")
        promoted = len(load.sent)
        assert [each for each in load.sent if each.status != 200] == []
        world.apply(item("second"))
        await _until(lambda: phase() == "Progressing" and weight() >= 20, "the second rollout to have users")
        _fail(world, "model-b", 1.0)
        await _until(lambda: phase() == "RolledBack", "the candidate that fails to be rolled back")
        await asyncio.sleep(2)  # everybody is served by the control again
        after = [each for each in load.sent if each.begun > history.moments[-1].at + 1]
    _fail(world, "model-b", 0)
    assert history.weights("model-b")[-1] == 0
    failed = Counter(f"{each.status} {each.version}" for each in load.sent if each.status != 200)
    spread = history.spread()
    print(
        f"{len(load.sent)} requests, {promoted} until the promotion; failed: {dict(failed)}; weights "
        f"{[value / 100 for value in history.weights('model-b')]}; from the status to the last server: median "
        f"{statistics.median(spread) * 1000:.0f} ms, p99 {spread[-1] * 1000:.0f} ms of {len(spread)}"
    )
    assert not history.wrong(load.sent)
    assert set(failed) <= {"503 model-b"}, "nobody fails but the model"
    assert {(each.status, each.version) for each in after} == {(200, "model-a")}
    assert spread[-1] < 1
    world.delete("chat")
