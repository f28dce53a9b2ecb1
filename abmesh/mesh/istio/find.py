"""Finds the rule that an Experiment names, and every proxy and virtual host that has it. Pure."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import NoReturn

from abmesh.mesh.istio import scopes
from abmesh.mesh.istio.attached import Entry, Vhost, entries, vhosts
from abmesh.mesh.istio.destinations import port_of
from abmesh.mesh.istio.refusals import Reason, RefusedError
from abmesh.mesh.istio.resources import MESH, Parent, Resources, Route, Rule
from abmesh.mesh.istio.scopes import Scope
from abmesh.mesh.istio.wanted import Callers, Kind, RouteRef, Settings


@dataclass(frozen=True, slots=True, order=True)
class Target:
    """One virtual host of the proxies of a scope.

    Attributes:
        scope: the proxies.
        domain: one of its domains, or for sidecars its name, ``HOST:PORT``.
        port: the port that callers use; 0 at gateways.
    """

    scope: Scope
    domain: str
    port: int = 0

    @property
    def vhost(self) -> dict[str, str]:
        """What recognises it in an EnvoyFilter.

        A gateway's virtual host is named after whichever of its hosts comes first in the alphabet, and a sidecar's has
        the domain ``*`` where the Service's port has no name.
        """
        return {"name": self.domain} if self.port else {"domainName": self.domain}


@dataclass(frozen=True, slots=True)
class Found:
    """A rule that can be merged into, as far as its name goes.

    Attributes:
        ref: the rule, with its own name.
        rule: what it says.
        envoy_name: the name of its Envoy routes; empty: it is all that its virtual hosts have.
        targets: where it is served.
        others: the other rules of its virtual hosts.
    """

    ref: RouteRef
    rule: Rule
    envoy_name: str
    targets: tuple[Target, ...]
    others: tuple[Entry, ...] = ()


def find(ref: RouteRef, resources: Resources, settings: Settings, callers: Callers, ports: Collection[int]) -> Found:
    """Find a rule.

    Args:
        ref: the rule.
        resources: what was read.
        settings: of the installation.
        callers: whose sidecars take part.
        ports: of the variants' Services; inside the mesh, one host has a virtual host for each port.

    Raises:
        RefusedError: there is no such rule, or it cannot be told from others.
    """
    route, index = _rule(ref, resources)
    rule = route.rules[index]
    if rule.instead:
        _refuse(Reason.ROUTE_NOT_FORWARDING, f"{ref} {rule.instead}, so there is nothing to split; name another rule")
    if rule.delegate:
        child = f"{rule.delegate[0]}/{rule.delegate[1]}"
        _refuse(Reason.ROUTE_NOT_FORWARDING, f"{ref} delegates to VirtualService {child}; name that one and its rule")
    named = RouteRef(ref.kind, ref.namespace, ref.name, rule.name)
    every = list(entries(resources))
    own = [entry for entry in every if entry.owner is route and entry.index == index]
    targets: dict[Target, None] = {}
    others: dict[int, Entry] = {}
    names = {entry.envoy_name for entry in own}
    for entry in own:
        for vhost, gateway, parent in vhosts(entry.root, resources, settings.cluster_domain):
            there = [item for item in every if _is_in(item.root, vhost, resources, settings)]
            _check_name(named, entry, there)
            others |= {id(item.rule): item for item in there if item.rule is not rule}
            if gateway is not None:
                targets |= dict.fromkeys(
                    Target(scope, vhost[3]) for scope in scopes.of_gateway(gateway, resources, settings)
                )
                continue
            at = _ports(named, rule, vhost[3], parent, resources, settings, ports)
            targets |= dict.fromkeys(
                Target(scope, f"{vhost[3]}:{port}", port)
                for scope in scopes.of_callers(callers, settings, str(named))
                for port in at
            )
    if not targets:
        _refuse(Reason.ROUTE_UNATTACHED, _unattached(named, route, own, resources))
    if len(names) > 1:
        shown = ", ".join(sorted(names))
        _refuse(Reason.ROUTE_DOUBLED, f"{named} has several names in Envoy, {shown}: delegate to it from one rule only")
    return Found(named, rule, names.pop(), tuple(sorted(targets)), tuple(others.values()))


def _rule(ref: RouteRef, resources: Resources) -> tuple[Route, int]:  # noqa: RET503 - it ends in a refusal
    alike = [item for item in resources.routes if (item.kind, item.namespace) == (ref.kind, ref.namespace)]
    route = next((item for item in alike if item.name == ref.name), None)
    if route is None:
        known = ", ".join(sorted(item.name for item in alike)) or "none"
        _refuse(
            Reason.ROUTE_MISSING,
            f"there is no {ref.kind} {ref.namespace}/{ref.name}; in this namespace there is: {known}",
        )
    names = [rule.name for rule in route.rules]
    if not ref.rule and len(names) == 1:
        return route, 0
    if ref.rule and names.count(ref.rule) == 1:
        return route, names.index(ref.rule)
    if ref.rule and names.count(ref.rule) > 1:
        _refuse(
            Reason.ROUTE_DOUBLED, f"{ref} is the name of {names.count(ref.rule)} rules; give each a name of its own"
        )
    if not names:
        _refuse(Reason.ROUTE_MISSING, f"{ref} has no rules for HTTP requests")
    if "" in names:
        _refuse(Reason.ROUTE_UNNAMED, _unnamed(ref, route))
    shown = ", ".join(names)
    if ref.rule:
        _refuse(
            Reason.ROUTE_MISSING, f"{ref.kind} {ref.namespace}/{ref.name} has no rule {ref.rule!r}; there is: {shown}"
        )
    _refuse(Reason.ROUTE_UNNAMED, f"{ref} has {len(names)} rules: say which with rule:; there is: {shown}")


def _unnamed(ref: RouteRef, route: Route) -> str:
    """With the command that gives the rule a name, or changes nothing if the rule is not what was read."""
    index = max(place for place, rule in enumerate(route.rules) if not rule.name)
    name = ref.rule or "default"
    rules = "http" if route.kind is Kind.VIRTUAL_SERVICE else "rules"
    patch = [
        *_tests(f"/spec/{rules}/{index}", route, index),
        {"op": "add", "path": f"/spec/{rules}/{index}/name", "value": name},
    ]
    command = f"kubectl -n {ref.namespace} patch {route.kind.lower()} {ref.name} --type=json -p '{json.dumps(patch)}'"
    return (
        f"{ref.kind} {ref.namespace}/{ref.name} has {len(route.rules)} rules, and Istio tells rules apart by their "
        f"names only; name the one to split, in Git too, and say so with rule: {name}. For rule {index}: {command}"
    )


def _tests(path: str, route: Route, index: int) -> list[Mapping[str, str]]:
    rule = route.rules[index]
    if not rule.destinations:
        return []
    first = rule.destinations[0]
    if route.kind is Kind.HTTP_ROUTE:
        return [{"op": "test", "path": f"{path}/backendRefs/0/name", "value": first.written}]
    place = f"{path}/route/0/destination"
    if first.subset:
        return [{"op": "test", "path": f"{place}/subset", "value": first.subset}]
    return [{"op": "test", "path": f"{place}/host", "value": first.written}]


def _is_in(root: Route, vhost: Vhost, resources: Resources, settings: Settings) -> bool:
    return any(found == vhost for found, _, _ in vhosts(root, resources, settings.cluster_domain))


def _check_name(ref: RouteRef, entry: Entry, there: list[Entry]) -> None:
    """Refuse a rule that a patch by its name would not hit alone."""
    others = [item for item in there if item.rule is not entry.rule]
    if not entry.envoy_name:
        if others:
            _refuse(Reason.ROUTE_UNNAMED, _unnamed(ref, entry.owner))
        return
    for other in others:
        if other.envoy_name == entry.envoy_name:
            owner = f"{other.owner.kind} {other.owner.namespace}/{other.owner.name}"
            _refuse(
                Reason.ROUTE_DOUBLED,
                f"{ref} and rule {other.index} of {owner} have the same name and host, so that Istio cannot tell them "
                "apart; rename one",
            )


def _ports(
    ref: RouteRef,
    rule: Rule,
    host: str,
    parent: Parent,
    resources: Resources,
    settings: Settings,
    wanted: Collection[int],
) -> list[int]:
    """The Service's ports at which callers reach what the variants serve."""
    name, _, rest = host.partition(".")
    namespace = rest.removesuffix(f".svc.{settings.cluster_domain}")
    service = next((item for item in resources.services if (item.namespace, item.name) == (namespace, name)), None)
    if service is None:
        _refuse(Reason.BACKEND_MISSING, f"{ref} is for the host {host}, and there is no Service {namespace}/{name}")
    found = []
    for port in service.ports if parent.port is None else (parent.port,):
        reached = {port_of(item, resources, settings, port) for item in rule.destinations}
        if reached & set(wanted):
            found.append(port)
    if not found:
        shown = ", ".join(map(str, service.ports))
        _refuse(
            Reason.BACKEND_MISSING,
            f"{ref} leads to no port of the variants ({', '.join(map(str, sorted(wanted)))}); its host has: {shown}",
        )
    return found


def _unattached(ref: RouteRef, route: Route, own: list[Entry], resources: Resources) -> str:
    if not own:
        return f"{ref} has no hosts, and no VirtualService delegates to it"
    known = {(item.kind, item.namespace, item.name) for item in resources.gateways}
    roots = {id(entry.root): entry.root for entry in own}
    missing = [
        f"{parent.namespace}/{parent.name}"
        for root in roots.values()
        for parent in root.parents
        if parent.kind not in (MESH, "service") and (parent.kind, parent.namespace, parent.name) not in known
    ]
    if missing:
        return f"{ref} names the Gateway {missing[0]}, which does not exist"
    return (
        f"{ref} is served nowhere: no Gateway that it names has one of its hosts ({', '.join(route.hosts) or 'none'})"
    )


def _refuse(reason: Reason, message: str) -> NoReturn:
    raise RefusedError(reason, message)
