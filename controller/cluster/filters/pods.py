"""The Envoys of the filters' proxies: pods, each known by its process. Pure, apart from asking what was read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from yarl import URL

from abmesh.mesh.istio.scopes import CALLERS, Scope
from abmesh.mesh.istio.stats_paths import STATS_PATH
from controller.sources.members import Member

PROXY: Final = "istio-proxy"
"""Name of the container with the Envoy, in Istio's gateways and beside applications."""

_GATEWAY_NAME: Final = "gateway.networking.k8s.io/gateway-name"
_OVER: Final = ("Succeeded", "Failed")

Pod = Mapping[str, Any]


def statistics_query(address: str) -> URL:
    """The only request that the fenced listener answers, letter by letter."""
    return URL(f"{address}{STATS_PATH}", encoded=True)


class PodFleet:
    """The pods that some filters reach.

    Args:
        pods: all pods where proxies may be, as they are now.
        port: of the listener for statistics.

    Attributes:
        scopes: the proxies of the filters that are in force.
    """

    complete = True

    def __init__(self, pods: Callable[[], Iterable[Pod]], port: int) -> None:
        self._pods = pods
        self._port = port
        self.scopes: frozenset[Scope] = frozenset()

    def members(self) -> Sequence[Member]:
        """All of them now, in order."""
        found = [member_of(pod, self._port) for pod in self._pods() if selected(pod, self.scopes)]
        return sorted((member for member in found if member is not None), key=lambda member: member.key)


def selected(pod: Pod, scopes: Iterable[Scope]) -> bool:
    """Whether the filters of some proxies reach a pod."""
    labels, namespace = pod["metadata"].get("labels") or {}, pod["metadata"].get("namespace", "")
    for scope in scopes:
        # Those with labels are in the root namespace, and reach every other.
        there = scope.namespace == namespace or (scope.context == CALLERS and bool(scope.labels))
        wanted = {_GATEWAY_NAME: scope.gateway} if scope.gateway else dict(scope.labels)
        if there and all(labels.get(name) == value for name, value in wanted.items()):
            return scope.context != CALLERS or _proxy(pod)["name"] == PROXY
    return False


def member_of(pod: Pod, port: int) -> Member | None:
    """A pod's Envoy; None while it has no address, or once it is over."""
    meta, status = pod["metadata"], pod.get("status") or {}
    address = status.get("podIP", "")
    if not address or status.get("phase") in _OVER:
        return None
    name = _proxy(pod)["name"]
    container = next((each for each in _statuses(status) if each["name"] == name), {})
    started = ((container.get("state") or {}).get("running") or {}).get("startedAt")
    conditions = {each["type"]: each["status"] for each in status.get("conditions") or ()}
    return Member(
        key=f"{meta['uid']}/{name}/{container.get('restartCount', 0)}",
        address=f"http://[{address}]:{port}" if ":" in address else f"http://{address}:{port}",
        name=f"{meta['namespace']}/{meta['name']}",
        started_at=datetime.fromisoformat(started) if started else None,
        ready=conditions.get("Ready") == "True",
        leaving="deletionTimestamp" in meta,
    )


def _statuses(status: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    # A sidecar may be an init container that keeps running.
    return [*(status.get("containerStatuses") or ()), *(status.get("initContainerStatuses") or ())]


def _proxy(pod: Pod) -> Mapping[str, Any]:
    """The container with the Envoy; the first one if none has its usual name."""
    spec = pod.get("spec") or {}
    containers = [*(spec.get("containers") or ()), *(spec.get("initContainers") or ())]
    named = (each for each in containers if each["name"] == PROXY)
    found: Mapping[str, Any] = next(named, containers[0] if containers else {"name": PROXY})
    return found
