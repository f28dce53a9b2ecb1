"""The kinds of objects that abmesh reads or writes, and where the API server keeps them. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

_BUILT_IN: Final = frozenset(
    {"", "apps", "autoscaling", "coordination.k8s.io", "discovery.k8s.io", "events.k8s.io", "rbac.authorization.k8s.io"}
)


@dataclass(frozen=True, slots=True)
class Resource:
    """A kind of object.

    Attributes:
        group: its API group; empty for the core group.
        version: of the group.
        plural: as paths and roles name it.
        kind: as objects name it.
        namespaced: whether its objects live in namespaces.
    """

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        """As objects name it: ``abmesh.dev/v1alpha1``, or ``v1`` for the core group."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def full_name(self) -> str:
        """As roles and CRDs name it: ``experiments.abmesh.dev``."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @property
    def is_custom(self) -> bool:
        """Whether a CRD defines it, which can be deleted, and all its objects with it."""
        return self.group not in _BUILT_IN

    def path(self, namespace: str | None, name: str | None = None, subresource: str | None = None) -> str:
        """Where the API server keeps an object, or all of them.

        Args:
            namespace: None for the objects of all namespaces, or a resource without namespaces.
            name: of the object; None for the list.
            subresource: such as ``status``.

        Raises:
            ValueError: an object without its namespace, or a subresource of a list; a bug of ours.
        """
        if name is not None and self.namespaced and not namespace:
            raise ValueError(f"{self.kind} {name} lives in a namespace, and none is given")
        if subresource is not None and name is None:
            raise ValueError(f"only an object has the subresource {subresource}")
        parts = ["apis", self.group, self.version] if self.group else ["api", self.version]
        if namespace and self.namespaced:
            parts += ["namespaces", namespace]
        parts += [part for part in (self.plural, name, subresource) if part is not None]
        return "/" + "/".join(quote(part, safe="") for part in parts)


EXPERIMENTS: Final = Resource("abmesh.dev", "v1alpha1", "experiments", "Experiment")
CONFIG_MAPS: Final = Resource("", "v1", "configmaps", "ConfigMap")
PODS: Final = Resource("", "v1", "pods", "Pod")
SERVICES: Final = Resource("", "v1", "services", "Service")
ENDPOINT_SLICES: Final = Resource("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice")
LEASES: Final = Resource("coordination.k8s.io", "v1", "leases", "Lease")
EVENTS: Final = Resource("events.k8s.io", "v1", "events", "Event")
ENVOY_FILTERS: Final = Resource("networking.istio.io", "v1alpha3", "envoyfilters", "EnvoyFilter")
VIRTUAL_SERVICES: Final = Resource("networking.istio.io", "v1", "virtualservices", "VirtualService")
DESTINATION_RULES: Final = Resource("networking.istio.io", "v1", "destinationrules", "DestinationRule")
ISTIO_GATEWAYS: Final = Resource("networking.istio.io", "v1", "gateways", "Gateway")
HTTP_ROUTES: Final = Resource("gateway.networking.k8s.io", "v1", "httproutes", "HTTPRoute")
GATEWAYS: Final = Resource("gateway.networking.k8s.io", "v1", "gateways", "Gateway")
CLUSTER_ROLES: Final = Resource("rbac.authorization.k8s.io", "v1", "clusterroles", "ClusterRole", namespaced=False)
