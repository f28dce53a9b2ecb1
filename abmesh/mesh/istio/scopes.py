"""Whose proxies a route is served by, and so where its EnvoyFilters must be. Pure.

An EnvoyFilter reaches proxies of its own namespace (of every namespace, from Istio's root namespace): so it has to be
in the namespace of the gateway's pods, or of the callers.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import xxhash

from abmesh.mesh.istio.refusals import Reason, RefusedError
from abmesh.mesh.istio.resources import GATEWAY_API, Gateway, Labels, Resources, labels_of
from abmesh.mesh.istio.wanted import Callers, Settings

GATEWAYS: Final = "GATEWAY"
CALLERS: Final = "SIDECAR_OUTBOUND"

_LONGEST: Final = 200
"""Most characters of a name that are taken from other names; an object's name may have 253."""


@dataclass(frozen=True, slots=True, order=True)
class Scope:
    """Proxies that get the same EnvoyFilters.

    Attributes:
        namespace: of the EnvoyFilters.
        context: gateways, or callers' sidecars.
        labels: of the proxies' pods; none: all of the namespace.
        gateway: name of the Gateway of the Gateway API that they are of; empty: none.
    """

    namespace: str
    context: str
    labels: Labels = ()
    gateway: str = ""

    @property
    def selector(self) -> dict[str, Any]:
        """The part of an EnvoyFilter that selects these proxies."""
        if self.gateway:
            return {"targetRefs": [{"group": GATEWAY_API, "kind": "Gateway", "name": self.gateway}]}
        return {"workloadSelector": {"labels": dict(self.labels)}} if self.labels else {}

    @property
    def name(self) -> str:
        """A name for the scope, unique in its namespace."""
        shown = self.gateway or "-".join(value for _, value in self.labels) or "all"
        kind = "gateway" if self.context == GATEWAYS else "callers"
        return object_name([kind, shown], f"{self.context} {self.labels} {self.gateway}")

    def __str__(self) -> str:
        who = "gateways" if self.context == GATEWAYS else "sidecars"
        if self.gateway:
            return f"the Gateway {self.namespace}/{self.gateway}"
        labels = ", ".join(f"{key}={value}" for key, value in self.labels)
        return f"the {who} of the namespace {self.namespace}" + (f" with {labels}" if labels else "")


def object_name(parts: Sequence[str], whole: str) -> str:
    """A name that people recognise, and that differs where ``whole`` does."""
    readable = re.sub(r"[^a-z0-9-]+", "-", "-".join(parts).lower())[:_LONGEST].strip("-")
    return f"abmesh-{readable}-{xxhash.xxh64_hexdigest(whole.encode())[:6]}"


def of_gateway(gateway: Gateway, resources: Resources, settings: Settings) -> list[Scope]:
    """The proxies of a gateway.

    Raises:
        RefusedError: they are in a namespace that abmesh may not write in.
    """
    if gateway.kind == "gateway":
        found = [Scope(gateway.namespace, GATEWAYS, gateway=gateway.name)]
    else:
        namespaces = sorted(_namespaces(gateway, resources)) or [gateway.namespace]
        labels = _widest(gateway, resources)
        found = [Scope(namespace, GATEWAYS, labels) for namespace in namespaces]
    allowed = settings.gateway_namespaces
    for scope in found:
        if allowed is not None and scope.namespace not in allowed:
            raise RefusedError(
                Reason.GATEWAY_NOT_ALLOWED,
                f"the Gateway {gateway.namespace}/{gateway.name} has its pods in the namespace {scope.namespace!r}, "
                f"where abmesh may not write; allowed: {', '.join(allowed) or 'none'}; add it to the chart's "
                "gatewayNamespaces",
            )
    return found


def _namespaces(gateway: Gateway, resources: Resources) -> set[str]:
    """Where pods are that have the gateway's labels: by the pods themselves, else by the Services in front of them."""
    wanted = set(gateway.selector)
    pods = {item.namespace for item in resources.workloads if wanted <= set(item.labels)}
    return pods or {item.namespace for item in resources.services if wanted and wanted <= set(item.selector)}


def _widest(gateway: Gateway, resources: Resources) -> Labels:
    """The fewest labels by which any gateway selects these pods, so that no pod is selected twice."""
    wider = [
        other.selector
        for other in resources.gateways
        if other.kind == "istio" and set(other.selector) <= set(gateway.selector)
    ]
    return min([gateway.selector, *wider], key=lambda labels: (len(labels), labels))


def of_callers(callers: Callers, settings: Settings, route: str) -> list[Scope]:
    """The sidecars of a route's callers.

    Raises:
        RefusedError: there are none.
    """
    if callers.everyone:
        return [Scope(settings.root_namespace, CALLERS)]
    if callers.labels:
        return [Scope(settings.root_namespace, CALLERS, labels_of(callers.labels))]
    if callers.namespaces:
        return [Scope(namespace, CALLERS) for namespace in sorted(set(callers.namespaces))]
    raise RefusedError(
        Reason.CALLERS_MISSING,
        f"{route} is served by its callers' sidecars, and the Experiment does not say whose; add callers, such as "
        "callers: {namespaces: [web]}",
    )


def covered_twice(scopes: Sequence[Scope], settings: Settings) -> tuple[Scope, Scope] | None:
    """Two scopes that may reach one sidecar, where every filter would run and count twice; None if there are none."""
    callers = sorted(scope for scope in scopes if scope.context == CALLERS)
    for place, one in enumerate(callers):
        for other in callers[place + 1 :]:
            if settings.root_namespace in (one.namespace, other.namespace) and not _apart(one, other):
                return one, other
    return None


def _apart(one: Scope, other: Scope) -> bool:
    """Whether no pod can have the labels of both."""
    labels = dict(one.labels)
    return any(labels.get(key, value) != value for key, value in other.labels)
