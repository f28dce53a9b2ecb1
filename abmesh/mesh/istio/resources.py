"""What was read of a cluster, reduced to what decides where a route goes. Pure.

Made by :mod:`abmesh.mesh.istio.reading`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from abmesh.mesh.istio.wanted import Kind

ISTIO: Final = "networking.istio.io"
GATEWAY_API: Final = "gateway.networking.k8s.io"
MESH: Final = "mesh"
"""Name of the gateway that stands for all sidecars."""

Labels = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Destination:
    """One destination of a rule.

    Attributes:
        host: the Service's full name.
        port: its port; None if the rule leaves it to Istio.
        subset: of a DestinationRule; empty: none.
        weight: its share; all of the rule's may be 0 if there is only one.
        written: the host as its owner wrote it.
        has_headers: whether it changes headers for itself alone.
    """

    host: str
    port: int | None
    subset: str
    weight: int
    written: str = ""
    has_headers: bool = False


@dataclass(frozen=True, slots=True)
class Matched:
    """What all requests have in common that one of a rule's conditions lets through.

    Attributes:
        path: how their paths begin, as far as that can be told.
        headers: names, in lower case, with the exact values that they have.
    """

    path: str = "/"
    headers: frozenset[tuple[str, str]] = frozenset()


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule of a route.

    Attributes:
        name: as its owner wrote it; empty: none.
        destinations: where it goes.
        instead: what it does instead of forwarding, in words; empty: it forwards.
        authority: the host that it rewrites to; empty: none.
        delegate: namespace and name of the VirtualService that it leaves the rest to.
        matches: its conditions, any of which is enough; none: it takes every request.
    """

    name: str
    destinations: tuple[Destination, ...] = ()
    instead: str = ""
    authority: str = ""
    delegate: tuple[str, str] | None = None
    matches: tuple[Matched, ...] = ()

    @property
    def active(self) -> tuple[Destination, ...]:
        """The destinations that get requests."""
        return tuple(item for item in self.destinations if item.weight) or self.destinations[:1]


@dataclass(frozen=True, slots=True)
class Parent:
    """What a route is attached to.

    Attributes:
        kind: ``istio`` or ``gateway`` (the Gateway API's), ``mesh``, or ``service``.
        namespace: its namespace.
        name: its name.
        section: the listener's name; empty: all.
        port: of the listener or Service; None: all.
    """

    kind: str
    namespace: str = ""
    name: str = ""
    section: str = ""
    port: int | None = None


@dataclass(frozen=True, slots=True)
class Route:
    """A VirtualService or HTTPRoute."""

    kind: Kind
    namespace: str
    name: str
    hosts: tuple[str, ...]
    parents: tuple[Parent, ...]
    rules: tuple[Rule, ...]


@dataclass(frozen=True, slots=True)
class Listener:
    """A server of a gateway: its hosts, and what routes may name it by."""

    name: str
    port: int
    hosts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Gateway:
    """A gateway of Istio's API, with its pods' labels, or of the Gateway API, without."""

    kind: str
    namespace: str
    name: str
    listeners: tuple[Listener, ...]
    selector: Labels = ()


@dataclass(frozen=True, slots=True)
class DestinationRule:
    """How connections to a host are made, as far as that matters here."""

    namespace: str
    name: str
    host: str
    subsets: frozenset[str]
    cookies: frozenset[str]
    hashes: bool


@dataclass(frozen=True, slots=True)
class Service:
    """A Service's ports by number, and whose pods it selects."""

    namespace: str
    name: str
    ports: tuple[int, ...]
    selector: Labels = ()


@dataclass(frozen=True, slots=True)
class Workload:
    """Pods, one or all of a Deployment or DaemonSet."""

    namespace: str
    labels: Labels


@dataclass(frozen=True, slots=True)
class Grant:
    """A ReferenceGrant's permission for Experiments of a namespace to use Services of its own.

    Attributes:
        namespace: of the Services.
        granted: of the Experiments.
        service: the only Service; empty: all.
    """

    namespace: str
    granted: str
    service: str = ""


@dataclass(frozen=True, slots=True)
class Resources:
    """Everything that was read."""

    routes: tuple[Route, ...] = ()
    gateways: tuple[Gateway, ...] = ()
    rules: tuple[DestinationRule, ...] = ()
    services: tuple[Service, ...] = ()
    workloads: tuple[Workload, ...] = ()
    grants: tuple[Grant, ...] = ()


def labels_of(labels: Mapping[str, str] | None) -> Labels:
    """Labels in order, so that equal ones compare as equal."""
    return tuple(sorted((labels or {}).items()))
