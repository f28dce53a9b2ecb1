"""Pods as the Envoys whose statistics are read."""

from __future__ import annotations

from typing import Any

from abmesh.mesh.istio.scopes import CALLERS, GATEWAYS, Scope
from abmesh.mesh.istio.stats_paths import STATS_PATH
from controller.cluster.filters.pods import PodFleet, statistics_query

EDGE = Scope("edge", GATEWAYS, (("app", "edge"),))


def pod(name: str = "edge-1", namespace: str = "edge", **changes: Any) -> dict[str, Any]:
    """A pod of a gateway that is ready."""
    running = {"name": "istio-proxy", "restartCount": 2, "state": {"running": {"startedAt": "2026-12-01T10:00:00Z"}}}
    found: dict[str, Any] = {
        "metadata": {"name": name, "namespace": namespace, "uid": f"uid-{name}", "labels": {"app": "edge"}},
        "spec": {"containers": [{"name": "other"}, {"name": "istio-proxy"}]},
        "status": {
            "phase": "Running",
            "podIP": "10.1.2.3",
            "conditions": [{"type": "Ready", "status": "True"}],
            "containerStatuses": [{"name": "other", "restartCount": 9}, running],
        },
    }
    for part, values in changes.items():
        found[part] = {**found[part], **values}
    return found


def members(*pods: dict[str, Any], scopes: tuple[Scope, ...] = (EDGE,)) -> list[str]:
    fleet = PodFleet(lambda: pods, 15099)
    fleet.scopes = frozenset(scopes)
    return [member.name for member in fleet.members()]


def test_a_pod_is_known_by_its_process_and_asked_at_its_address() -> None:
    fleet = PodFleet(lambda: [pod()], 15099)
    assert list(fleet.members()) == [], "before the filters are there, nobody can be asked"
    fleet.scopes = frozenset({EDGE})
    (member,) = fleet.members()
    assert (member.key, member.address) == ("uid-edge-1/istio-proxy/2", "http://10.1.2.3:15099")
    assert member.started_at is not None
    assert member.started_at.isoformat() == "2026-12-01T10:00:00+00:00"
    assert (member.ready, member.leaving, member.name) == (True, False, "edge/edge-1")


def test_a_pod_that_ends_or_is_not_ready_yet_is_not_missed() -> None:
    leaving = pod()
    leaving["metadata"]["deletionTimestamp"] = "2026-12-01T11:00:00Z"
    starting = pod("edge-2", status={"conditions": [{"type": "Ready", "status": "False"}]})
    fleet = PodFleet(lambda: [leaving, starting], 15099)
    fleet.scopes = frozenset({EDGE})
    first, second = fleet.members()
    assert (first.leaving, second.ready) == (True, False)


def test_pods_without_an_address_or_over_or_of_others_are_none() -> None:
    no_address, over = pod("a", status={"podIP": ""}), pod("b", status={"phase": "Succeeded"})
    others = pod("c", "elsewhere")
    assert members(no_address, over, others, pod("d")) == ["edge/d"]


def test_gateways_of_the_gateway_api_are_found_by_their_name_and_callers_by_their_sidecars() -> None:
    named = pod("gw")
    named["metadata"]["labels"] = {"gateway.networking.k8s.io/gateway-name": "chat-gw"}
    assert members(named, pod("d"), scopes=(Scope("edge", GATEWAYS, gateway="chat-gw"),)) == ["edge/gw"]
    plain = pod("plain", "web", spec={"containers": [{"name": "app"}]})
    caller = pod("caller", "web", spec={"containers": [{"name": "app"}], "initContainers": [{"name": "istio-proxy"}]})
    assert members(plain, caller, scopes=(Scope("web", CALLERS),)) == ["web/caller"]
    everywhere = Scope("istio-system", CALLERS, (("app", "edge"),))
    assert members(plain, caller, scopes=(everywhere,)) == ["web/caller"]


def test_the_fenced_listener_is_asked_letter_by_letter() -> None:
    assert str(statistics_query("http://[fd00::1]:15099")) == f"http://[fd00::1]:15099{STATS_PATH}"
    assert members(pod(status={"podIP": "fd00::1"})) == ["edge/edge-1"]
