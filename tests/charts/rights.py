"""The rights that the chart grants, written down a second time, so that no edit widens them unseen.

Each is used by the controller, the server or a person's command; docs/kubernetes.md says for what.
"""

from __future__ import annotations

from typing import Final

from tests.charts.support import Rules

_FOLLOW: Final = frozenset({"list", "watch"})
_READ: Final = _FOLLOW | {"get"}

CONTROLLER_EVERYWHERE: Final[Rules] = {
    ("abmesh.dev", "experiments", ()): _READ,
    ("abmesh.dev", "experiments/status", ()): frozenset({"patch"}),
    ("networking.istio.io", "virtualservices", ()): _FOLLOW,
    ("networking.istio.io", "destinationrules", ()): _FOLLOW,
    ("networking.istio.io", "gateways", ()): _FOLLOW,
    ("gateway.networking.k8s.io", "httproutes", ()): _FOLLOW,
    ("gateway.networking.k8s.io", "gateways", ()): _FOLLOW,
    ("", "services", ()): _FOLLOW,
    ("events.k8s.io", "events", ()): frozenset({"create", "patch"}),
    ("rbac.authorization.k8s.io", "clusterroles", ("abmesh-controller",)): frozenset({"get"}),
}

CONTROLLER_AT_HOME: Final[Rules] = {
    ("", "configmaps", ()): frozenset({"get", "create", "update", "delete"}),
    ("discovery.k8s.io", "endpointslices", ()): frozenset({"list", "watch"}),
    ("coordination.k8s.io", "leases", ()): frozenset({"create"}),
    ("coordination.k8s.io", "leases", ("abmesh",)): frozenset({"get", "update"}),
}

CONTROLLER_AT_GATEWAYS: Final[Rules] = {
    ("networking.istio.io", "envoyfilters", ()): _READ | {"create", "patch", "delete"},
    ("", "pods", ()): _FOLLOW,
}

SERVER: Final[Rules] = {("abmesh.dev", "experiments", ()): _FOLLOW}

VIEWERS: Final[Rules] = {("abmesh.dev", "experiments", ()): _READ}

EDITORS: Final[Rules] = {
    ("abmesh.dev", "experiments", ()): frozenset({"create", "update", "patch", "delete", "deletecollection"})
}
