"""Taking abmesh out of a cluster's proxies, with an API server in this process."""

from __future__ import annotations

from typing import Any

import pytest

from abmesh.kube.errors import Forbidden, Missing
from abmesh.kube.resources import ENVOY_FILTERS, LEASES
from controller.cluster.lease import ClusterLease
from controller.cluster.names import LEASE
from controller.cluster.removal import KEPT_SECONDS, remove
from tests.abmesh.kube.fake_api import FakeApi
from tests.controller.cluster.support import OURS

OWNER = "abmesh-controller"
PLACES = ("istio-ingress", "web")


def put(api: FakeApi, namespace: str, name: str, owner: str = OWNER, manager: str = "abmesh") -> None:
    owners = [{"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "name": owner, "uid": "1"}]
    metadata: dict[str, Any] = {"name": name, "namespace": namespace, "ownerReferences": owners if owner else []}
    metadata["labels"] = {"app.kubernetes.io/managed-by": manager}
    body = {"apiVersion": ENVOY_FILTERS.api_version, "kind": ENVOY_FILTERS.kind, "metadata": metadata, "spec": {}}
    api.client().create(ENVOY_FILTERS, namespace, body)


def left(api: FakeApi) -> list[str]:
    return [
        f"{item['metadata']['namespace']}/{item['metadata']['name']}" for item in api.client().list(ENVOY_FILTERS).items
    ]


def test_ours_go_and_others_stay(api: FakeApi) -> None:
    for namespace in PLACES:
        put(api, namespace, "abmesh-route")
        put(api, namespace, "theirs", manager="somebody")
        put(api, namespace, "of-another-abmesh", owner="other-controller")
        put(api, namespace, "of-git", owner="")
    put(api, "elsewhere", "abmesh-route")
    told: list[str] = []
    remove(api.client(), OURS, OWNER, PLACES, told.append)
    kept = [f"{namespace}/{name}" for namespace in PLACES for name in ("of-another-abmesh", "of-git", "theirs")]
    assert sorted(left(api)) == sorted([*kept, "elsewhere/abmesh-route"])
    assert told[0] == "took the Lease abmesh/abmesh"
    assert (
        "left EnvoyFilter web/of-another-abmesh: its owner is ClusterRole other-controller, not abmesh-controller"
        in told
    )
    assert told[-1] == "deleted 2 EnvoyFilters; Experiments stay"


def test_again_and_with_nothing_there_is_no_error(api: FakeApi) -> None:
    for _ in range(2):
        remove(api.client(), OURS, OWNER, PLACES, lambda _: None, sleep=lambda _: None)
    api.delete_kind(ENVOY_FILTERS)  # Istio was uninstalled first
    remove(api.client(), OURS, OWNER, PLACES, lambda _: None, sleep=lambda _: None)


def test_the_leader_stops_and_what_it_wrote_at_the_last_moment_goes_too(api: FakeApi) -> None:
    leader = ClusterLease(api.client(), OURS, lambda: 0)
    assert leader.acquire()
    put(api, "web", "abmesh-route")

    def last_write(_: float) -> None:
        put(api, "web", "abmesh-route")

    told: list[str] = []
    remove(api.client(), OURS, OWNER, PLACES, told.append, sleep=last_write)
    assert left(api) == []
    assert told[0] == f"took the Lease abmesh/abmesh from {leader.identity}"
    spec = api.read(LEASES, OURS, LEASE)["spec"]
    assert spec["holderIdentity"].startswith("uninstall-")
    assert spec["leaseDurationSeconds"] == KEPT_SECONDS
    assert spec["leaseTransitions"] == leader.epoch + 1
    leader.release()
    assert api.read(LEASES, OURS, LEASE)["spec"]["holderIdentity"] == spec["holderIdentity"]
    assert not ClusterLease(api.client(), OURS, lambda: 0).acquire()


def test_a_missing_right_in_one_namespace_is_named_after_the_others_are_done(api: FakeApi) -> None:
    for namespace in PLACES:
        put(api, namespace, "abmesh-route")
    api.fail(403, "DELETE /apis/networking.istio.io/v1alpha3/namespaces/istio-ingress/", 9, "Forbidden", "no")
    with pytest.raises(
        Forbidden, match=r"may not delete envoyfilters.networking.istio.io abmesh-route in namespace istio-"
    ):
        remove(api.client(), OURS, OWNER, PLACES, lambda _: None)
    assert left(api) == ["istio-ingress/abmesh-route"]
    # The controller goes on, so it must be able to lead at once.
    assert "holderIdentity" not in api.read(LEASES, OURS, LEASE)["spec"]


def test_a_lease_that_may_not_be_taken_leaves_everything_as_it_was(api: FakeApi) -> None:
    put(api, "web", "abmesh-route")
    api.fail(403, "/leases", 9, "Forbidden", "no")
    with pytest.raises(Forbidden, match="may not get leases"):
        remove(api.client(), OURS, OWNER, PLACES, lambda _: None)
    assert left(api) == ["web/abmesh-route"]
    api.heal()
    with pytest.raises(Missing):
        api.client().get(LEASES, OURS, LEASE)
