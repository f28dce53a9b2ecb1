"""Which rules a gateway's or sidecar's virtual host has, and under which names Envoy knows them. Pure.

Istio's names: a VirtualService's rule keeps its name, or has none; one that delegates gives the child's rules both
names with ``-`` between them, or the one that there is. An HTTPRoute's rule keeps its name, else it is
``NAMESPACE.NAME.INDEX``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from abmesh.mesh.istio.resources import MESH, Gateway, Parent, Resources, Route, Rule
from abmesh.mesh.istio.wanted import Kind

Vhost = tuple[str, str, str, str]
"""Kind, namespace and name of a gateway (the mesh has neither), and the virtual host's domain."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A rule as a virtual host has it.

    Attributes:
        owner: the object in which the rule stands.
        index: its place there.
        rule: the rule.
        envoy_name: the name of its Envoy routes; empty: none.
        root: the object with hosts and gateways; not the owner if that is a delegate.
    """

    owner: Route
    index: int
    rule: Rule
    envoy_name: str
    root: Route


def entries(resources: Resources) -> Iterator[Entry]:
    """All rules of all routes that have hosts or parents of their own."""
    services = {(item.namespace, item.name): item for item in resources.routes if item.kind is Kind.VIRTUAL_SERVICE}
    for root in resources.routes:
        if root.kind is Kind.VIRTUAL_SERVICE and not root.hosts:
            continue  # a delegate: its rules come with the ones that delegate to it
        for index, rule in enumerate(root.rules):
            if root.kind is Kind.HTTP_ROUTE:
                yield Entry(root, index, rule, rule.name or f"{root.namespace}.{root.name}.{index}", root)
                continue
            child = services.get(rule.delegate) if rule.delegate else None
            if child is None:
                yield Entry(root, index, rule, rule.name, root)
                continue
            for place, inner in enumerate(child.rules):
                yield Entry(child, place, inner, "-".join(filter(None, (rule.name, inner.name))), root)


def vhosts(root: Route, resources: Resources, cluster_domain: str) -> Iterator[tuple[Vhost, Gateway | None, Parent]]:
    """The virtual hosts that a route is in, with the gateway; None for the mesh."""
    gateways = {(item.kind, item.namespace, item.name): item for item in resources.gateways}
    for parent in root.parents:
        if parent.kind == MESH:
            for host in root.hosts:
                yield (MESH, "", "", host), None, parent
        elif parent.kind == "service":
            yield (MESH, "", "", f"{parent.name}.{parent.namespace}.svc.{cluster_domain}"), None, parent
        else:
            gateway = gateways.get((parent.kind, parent.namespace, parent.name))
            for host in sorted(_domains(root, gateway, parent)) if gateway else ():
                yield (parent.kind, parent.namespace, parent.name, host), gateway, parent


def _domains(root: Route, gateway: Gateway, parent: Parent) -> set[str]:
    found = set()
    for listener in gateway.listeners:
        if parent.section not in ("", listener.name) or parent.port not in (None, listener.port):
            continue
        for served in listener.hosts:
            found |= {both for host in root.hosts or ("*",) if (both := narrower(host, served))}
    return found


def narrower(one: str, other: str) -> str:
    """The hosts that two patterns have in common, as a pattern; empty if none."""
    for wide, narrow in ((one, other), (other, one)):
        if wide == narrow or wide == "*" or (wide.startswith("*.") and narrow.endswith(wide[1:])):
            return narrow
    return ""
