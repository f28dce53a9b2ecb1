"""The chart grants what its pods need and no more, by the API server's audit log of all that they asked."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

from controller.cluster.kept import KEPT_FOR
from controller.cluster.names import INDEX, LEASE, digest, evidence_map, journal_map, state_map
from tests.charts.support import Rules
from tests.cluster.cluster import Cluster
from tests.cluster.plane.audit import requests
from tests.cluster.releases import rights
from tests.cluster.shipped_world import Shipped, shipped
from tests.cluster.used import refused, unused
from tests.cluster.waiting import wait_for

PATIENT = 240.0
NAME = "chat"


def _only_here(found: Rules, everywhere: Rules) -> Rules:
    """Rights that are not rights everywhere."""
    return {key: rest for key, verbs in found.items() if (rest := verbs - everywhere.get(key, frozenset()))}


def test_every_right_of_the_chart_is_used_and_none_is_missing(cluster: Cluster) -> None:
    """One short life of an Experiment and of the chart, in which each of their abilities is needed."""
    log = cluster.plane.files.audit_log
    with shipped(cluster) as world:
        controller, server = (world.release.account(name) for name in ("controller", "ext-proc"))
        home, edges = world.release.namespace, list(world.edges.values())
        everywhere = rights(cluster, controller, "default")
        at_home = _only_here(rights(cluster, controller, home), everywhere)
        at_gateways = [_only_here(rights(cluster, controller, edge), everywhere) for edge in edges]
        of_server = rights(cluster, server, "default")
        assert everywhere
        assert at_home
        assert all(at_gateways)
        assert of_server

        _rollout(world)
        _routes(world)
        _deleted_long_ago(world)
        world.release.uninstall(hooks=True)

    asked = requests(log, controller)
    assert not refused(asked)
    assert not unused(everywhere, asked)
    assert not unused(at_home, asked, {home})
    for found in at_gateways:
        assert not unused(found, asked, set(edges))
    by_server = requests(log, server)
    assert not refused(by_server)
    assert not unused(of_server, by_server)
    print(f"{len(asked)} requests of the controllers, {len(by_server)} of the servers; none refused")


def _rollout(world: Shipped) -> None:
    """A rollout that a person pauses twice for the same reason, which is one Event, counted."""
    rollout = {"candidate": "model-b", "steps": [30, 100]}
    world.apply(world.experiment(NAME, rollout=rollout))
    world.wait_until_programmed(NAME)
    for _ in range(2):
        world.command("pause", NAME, "--reason", "a look")
        world.command("resume", NAME, "--yes")


def _routes(world: Shipped) -> None:
    """A filter that is changed, one that a person deletes, and brings back."""
    before = world.filters()
    world.cluster.plane.kubectl(
        *("patch", "experiment", NAME, "--type=merge", "-p", '{"spec": {"unassigned": "route"}}'),
        namespace=world.namespace,
    )
    wait_for(lambda: _changed(before, world.filters()), "a filter to be changed", PATIENT)
    namespace, name = next(key for key in world.filters() if key[1].startswith("abmesh-route"))
    world.cluster.plane.kubectl("delete", "envoyfilter", name, namespace=namespace)
    wait_for(lambda: _why(world) == "RemovedByPerson", "the deletion to be noticed", PATIENT)
    world.command("resume", NAME, "--yes", check=False)
    wait_for(lambda: (namespace, name) in world.filters(), "resume to bring it back", PATIENT)


def _changed(before: dict[tuple[str, str], dict[str, object]], after: dict[tuple[str, str], dict[str, object]]) -> bool:
    return any(key in after and after[key]["spec"] != item["spec"] for key, item in before.items())


def _why(world: Shipped) -> str:
    return str(world.condition(NAME, "Programmed").get("reason", ""))


def _deleted_long_ago(world: Shipped) -> None:
    """An Experiment that is gone for longer than what it leaves behind is kept."""
    plane, home, full = world.cluster.plane, world.release.namespace, f"{world.namespace}/{NAME}"
    key = digest(full)
    world.delete(NAME)

    def gone() -> str:
        text = plane.read("configmap", INDEX, home).get("data", {}).get(key, "{}")
        return str(json.loads(text).get("gone", ""))

    wait_for(gone, "the deletion to be noted", PATIENT)
    entry = json.dumps({"name": full, "gone": (datetime.now(UTC) - KEPT_FOR - timedelta(days=1)).isoformat()})
    plane.kubectl("patch", "configmap", INDEX, "--type=merge", "-p", json.dumps({"data": {key: entry}}), namespace=home)
    # Who leads trusts what it has read; whoever begins to lead reads it again.
    plane.kubectl("delete", "lease", LEASE, namespace=home)
    names = {evidence_map(full), journal_map(full), state_map(full)}

    def left() -> set[str]:
        items = plane.read("configmaps", "", home)["items"]
        return names & {item["metadata"]["name"] for item in items}

    wait_for(lambda: not left(), "what was kept to be deleted", PATIENT)
