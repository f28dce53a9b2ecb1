"""Commands on a real API server, with the rights of the person who types them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from abmesh.kube.resources import EXPERIMENTS, LEASES
from controller.cluster.lease import Times
from controller.cluster.names import LEASE, REQUEST
from controller.records import Phase
from tests.abmesh.cli.calls import call, refused
from tests.cluster.cluster import Cluster
from tests.cluster.places import Place
from tests.controller.cluster.support import ClusterWorld, judge_first_step, ticking

ON = "--kubernetes"
VIEW = [{"apiGroups": ["abmesh.dev"], "resources": ["experiments"], "verbs": ["get", "list", "watch"]}]
EDIT = [{"apiGroups": ["abmesh.dev"], "resources": ["experiments"], "verbs": ["get", "list", "watch", "patch"]}]
READ = [
    {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get"]},
    {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "resourceNames": [LEASE], "verbs": ["get"]},
]

Become = Callable[..., None]


@pytest.fixture
def place(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Place:
    for name in ("ABMESH_CONFIG", "ABMESH_STATE", "ABMESH_KUBERNETES", "ABMESH_WARMUP"):
        monkeypatch.delenv(name, raising=False)
    found = Place.made(cluster, monkeypatch)
    monkeypatch.setenv("ABMESH_NAMESPACE", found.own)
    return found


@pytest.fixture
def world(place: Place) -> Iterator[ClusterWorld]:
    """A rollout at its first step, judged."""
    found = place.world(times=Times(duration=60, deadline=50, every=5))
    try:
        judge_first_step(found)
        yield found
    finally:
        found.close()


@pytest.fixture
def controller(world: ClusterWorld) -> Iterator[ClusterWorld]:
    """The same, and a controller that ticks."""
    with ticking(world, 0.1):
        yield world


@pytest.fixture
def become(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Become:
    """Makes a person whose rights are those that are given, in the Experiments' namespace and in abmesh's."""

    def role(namespace: str, rules: list[dict[str, Any]]) -> None:
        subject = {"kind": "ServiceAccount", "name": "ada", "namespace": place.namespace}
        rbac = "rbac.authorization.k8s.io"
        place.plane.apply(
            {"apiVersion": f"{rbac}/v1", "kind": "Role", "metadata": {"name": "ada"}, "rules": rules},
            {
                "apiVersion": f"{rbac}/v1",
                "kind": "RoleBinding",
                "metadata": {"name": "ada"},
                "roleRef": {"apiGroup": rbac, "kind": "Role", "name": "ada"},
                "subjects": [subject],
            },
            namespace=namespace,
        )

    def made(experiments: list[dict[str, Any]], ours: list[dict[str, Any]]) -> None:
        account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "ada"}}
        place.plane.apply(account, namespace=place.namespace)
        role(place.namespace, experiments)
        role(place.own, ours)
        token = place.plane.kubectl("create", "token", "ada", namespace=place.namespace).strip()
        yaml = YAML()
        content = yaml.load(Path(place.plane.kubeconfig).read_text())
        content["users"] = [{"name": "ada", "user": {"token": token}}]
        for item in content["contexts"]:
            item["context"] |= {"user": "ada", "namespace": place.namespace}
        with (tmp_path / "ada").open("w") as file:
            yaml.dump(content, file)
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "ada"))

    return made


def test_the_rights_that_the_chart_gives_suffice_for_every_command(controller: ClusterWorld, become: Become) -> None:
    become(EDIT, READ)
    found = json.loads(call("status", ON, "--json").out)
    assert (found["experiment"], found["unseen"]) == (controller.name, [])
    assert found["requests"] > 0
    assert found["controller"] == controller.stores.lease.identity
    for command in (("explain", "chat"), ("analyze", "chat"), ("journal", "chat"), ("replay", "chat"), ("validate",)):
        told = call(*command, ON)
        assert told.code == 0, told
    assert call("pause", "chat", ON, "--reason", "a look").out.startswith(f"{controller.name}: paused at 10% by ")
    assert call("resume", "chat", ON, "--yes").code == 0
    weights = call("weights", "chat", "model-b=25", ON)
    assert weights.out.startswith(f"{controller.name}: model-a 90 -> 75, model-b 10 -> 25 "), weights
    assert call("promote", "chat", ON, "--yes").out.endswith("(model-a 75 -> 0, model-b 25 -> 100)\n")
    assert call("rollback", "chat", ON).out.endswith("(model-a 0 -> 100, model-b 100 -> 0)\n")
    assert controller.phase() is Phase.ROLLED_BACK
    spec = controller.thing()["spec"]
    assert [item["weight"] for item in spec["variants"]] == [100, 0]
    managers = {item["manager"] for item in controller.thing()["metadata"]["managedFields"]}
    assert "abmesh" in managers


def test_who_may_only_view_cannot_ask_and_reads_which_right_is_missing(world: ClusterWorld, become: Become) -> None:
    become(VIEW, READ)
    assert call("explain", "chat", ON).code == 0
    told = f"may not patch experiments.abmesh.dev chat in namespace {world.namespace}"
    for command in (
        ("pause", "chat"),
        ("weights", "chat", "model-b=25"),
        ("rollback", "chat"),
        ("promote", "chat", "-y"),
    ):
        asked = call(*command, ON)
        assert asked.code == 1, asked
        assert told in asked.err, asked
        assert 'cannot patch resource "experiments"' in asked.err, asked
    assert REQUEST not in (world.thing()["metadata"].get("annotations") or {})


def test_who_may_not_read_what_was_counted_sees_the_rest(
    controller: ClusterWorld, place: Place, become: Become
) -> None:
    become(EDIT, [])
    found = json.loads(call("status", ON, "--json").out)
    assert (found["state"], found["weights"]["model-b"]) == ("progressing", 10)
    leader, counted = found["unseen"]
    assert f"may not get leases.coordination.k8s.io abmesh in namespace {place.own}" in leader
    assert "may not get configmaps evidence-" in counted
    for command in ("explain", "analyze", "journal", "replay"):
        told = call(command, "chat", ON)
        assert told.code == 1
        assert "may not get configmaps " in told.err, told
        assert f"in namespace {place.own}" in told.err, told
    shown = call("promote", "chat", ON, "--step", "--yes")
    assert shown.code == 0, shown
    assert "no verdicts: may not get configmaps" in shown.err


def test_who_has_no_rights_at_all_reads_so(world: ClusterWorld, become: Become) -> None:
    become([], [])
    for command in (("status",), ("validate",), ("assign", "chat", "--unit", "a")):
        refused(call(*command, ON), 1, f"may not list experiments.abmesh.dev in namespace {world.namespace}")
    refused(call("pause", "chat", ON), 1, f"may not get experiments.abmesh.dev chat in namespace {world.namespace}")


def test_without_a_controller_a_request_waits_for_the_next_one(world: ClusterWorld, become: Become) -> None:
    world.close()
    become(EDIT, READ)
    told = call("rollback", "chat", ON)
    assert told.code == 1
    assert "no controller leads (nobody holds the Lease" in told.err, told
    assert "the request stays" in told.err
    world.start()
    world.tick()
    assert world.weight() == 0
    assert world.status()["lastRequest"]["outcome"] == "done"


def test_the_lease_that_uninstall_takes_stops_the_leader(world: ClusterWorld, place: Place) -> None:
    """Where no Istio is, there is nothing to delete."""
    told = call("uninstall", ON, "--gateway-namespace", place.namespace)
    assert told.code == 0, told
    assert told.out.startswith(f"took the Lease {place.own}/{LEASE} from {world.stores.lease.identity}\n")
    spec = world.people.get(LEASES, place.own, LEASE)["spec"]
    assert spec["holderIdentity"].startswith("uninstall-")
    assert world.people.list(EXPERIMENTS, place.namespace).items
