"""Reads Kubernetes objects, plain dictionaries from the API or from YAML files. Pure.

Kinds and fields that decide nothing about where a route goes are left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from abmesh.experiment.errors import RenderError
from abmesh.mesh.istio.resources import (
    GATEWAY_API,
    ISTIO,
    MESH,
    Destination,
    DestinationRule,
    Gateway,
    Grant,
    Listener,
    Matched,
    Parent,
    Resources,
    Route,
    Rule,
    Service,
    Workload,
    labels_of,
)
from abmesh.mesh.istio.wanted import Kind

_Json = Any


def read(objects: Iterable[Mapping[str, _Json]], cluster_domain: str = "cluster.local") -> Resources:
    """Read Kubernetes objects.

    Args:
        objects: of any kind, in any order.
        cluster_domain: the end of Services' names.

    Raises:
        RenderError: an object is none, or lacks a field that every object of its kind has.
    """
    reader = _Reader(cluster_domain)
    found: list[object] = []
    for number, item in enumerate(objects, 1):
        try:
            found += reader.of(item)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            what = _what(item) or f"object {number}"
            raise RenderError(f"resources: {what} is not as Kubernetes has it: {error!r}") from error
    return Resources(
        tuple(item for item in found if isinstance(item, Route)),
        tuple(item for item in found if isinstance(item, Gateway)),
        tuple(item for item in found if isinstance(item, DestinationRule)),
        tuple(item for item in found if isinstance(item, Service)),
        tuple(item for item in found if isinstance(item, Workload)),
        tuple(item for item in found if isinstance(item, Grant)),
    )


def _what(item: _Json) -> str:
    if not isinstance(item, Mapping) or not isinstance(item.get("metadata"), Mapping):
        return ""
    meta = item["metadata"]
    return f"{item.get('kind')} {meta.get('namespace')}/{meta.get('name')}"


def full_host(host: str, namespace: str, cluster_domain: str) -> str:
    """A Service's full name; Istio completes only names without a dot."""
    return host.lower() if "." in host or host == "*" else f"{host.lower()}.{namespace}.svc.{cluster_domain}"


class _Reader:
    def __init__(self, cluster_domain: str) -> None:
        self._domain = cluster_domain

    def of(self, item: Mapping[str, _Json]) -> Iterator[object]:
        group, kind = str(item["apiVersion"]).partition("/")[0], item["kind"]
        if kind == "List":
            for inner in item["items"]:
                yield from self.of(inner)
            return
        meta, spec = item["metadata"], item.get("spec") or {}
        namespace, name = meta.get("namespace", "default"), meta["name"]
        if (group, kind) == (ISTIO, "VirtualService"):
            yield self._virtual_service(namespace, name, spec)
        elif (group, kind) == (GATEWAY_API, "HTTPRoute"):
            yield self._http_route(namespace, name, spec)
        elif (group, kind) == (ISTIO, "Gateway"):
            yield self._istio_gateway(namespace, name, spec)
        elif (group, kind) == (GATEWAY_API, "Gateway"):
            yield _gateway(namespace, name, spec)
        elif (group, kind) == (ISTIO, "DestinationRule"):
            yield self._destination_rule(namespace, name, spec)
        elif (group, kind) == (GATEWAY_API, "ReferenceGrant"):
            yield from _grants(namespace, spec)
        elif (group, kind) == ("v1", "Service"):
            ports = tuple(int(port["port"]) for port in spec.get("ports") or ())
            yield Service(namespace, name, ports, labels_of(spec.get("selector")))
        elif (group, kind) == ("v1", "Pod"):
            yield Workload(namespace, labels_of(meta.get("labels")))
        elif group == "apps" and kind in ("Deployment", "DaemonSet"):
            yield Workload(namespace, labels_of(spec["template"]["metadata"].get("labels")))

    def _virtual_service(self, namespace: str, name: str, spec: _Json) -> Route:
        hosts = tuple(full_host(host, namespace, self._domain) for host in spec.get("hosts") or ())
        parents = []
        for gateway in spec.get("gateways") or (MESH,):
            place, slash, own = gateway.rpartition("/")
            parents.append(
                Parent(MESH)
                if gateway == MESH
                else Parent("istio", place if slash else namespace, own if slash else gateway)
            )
        rules = tuple(self._virtual_service_rule(namespace, rule) for rule in spec.get("http") or ())
        return Route(Kind.VIRTUAL_SERVICE, namespace, name, hosts, tuple(parents), rules)

    def _virtual_service_rule(self, namespace: str, rule: _Json) -> Rule:
        delegate = rule.get("delegate")
        instead = "redirects" if rule.get("redirect") else "answers itself" if rule.get("directResponse") else ""
        made = []
        for target in rule.get("route") or ():
            place = target["destination"]
            number = (place.get("port") or {}).get("number")
            made.append(
                Destination(
                    full_host(place["host"], namespace, self._domain),
                    None if number is None else int(number),
                    place.get("subset") or "",
                    int(target.get("weight") or 0),
                    place["host"],
                    bool(target.get("headers")),
                )
            )
        return Rule(
            rule.get("name") or "",
            tuple(made),
            instead,
            ((rule.get("rewrite") or {}).get("authority") or "").lower(),
            (delegate.get("namespace") or namespace, delegate["name"]) if delegate else None,
            tuple(map(_virtual_service_match, rule.get("match") or ())),
        )

    def _http_route(self, namespace: str, name: str, spec: _Json) -> Route:
        parents = []
        for ref in spec.get("parentRefs") or ():
            kind = "service" if ref.get("kind") == "Service" else "gateway"
            port = ref.get("port")
            place = Parent(kind, ref.get("namespace") or namespace, ref["name"], ref.get("sectionName") or "", port)
            parents.append(place)
        rules = tuple(self._http_route_rule(namespace, rule) for rule in spec.get("rules") or ())
        hosts = tuple(host.lower() for host in spec.get("hostnames") or ())
        return Route(Kind.HTTP_ROUTE, namespace, name, hosts, tuple(parents), rules)

    def _http_route_rule(self, namespace: str, rule: _Json) -> Rule:
        filters = rule.get("filters") or ()
        instead = "redirects" if any(item["type"] == "RequestRedirect" for item in filters) else ""
        rewrites = [item["urlRewrite"].get("hostname") or "" for item in filters if item["type"] == "URLRewrite"]
        made = []
        for ref in rule.get("backendRefs") or ():
            host = f"{ref['name']}.{ref.get('namespace') or namespace}.svc.{self._domain}"
            if ref.get("kind") == "Hostname":
                host = ref["name"]
            weight = ref.get("weight")
            share = 1 if weight is None else int(weight)
            changes = bool(ref.get("filters"))
            made.append(Destination(host.lower(), int(ref["port"]), "", share, ref["name"], changes))
        authority = next(iter(rewrites), "").lower()
        matches = tuple(map(_http_route_match, rule.get("matches") or ()))
        return Rule(rule.get("name") or "", tuple(made), instead, authority, matches=matches)

    def _istio_gateway(self, namespace: str, name: str, spec: _Json) -> Gateway:
        listeners = []
        for server in spec.get("servers") or ():
            hosts = tuple(host.rpartition("/")[2].lower() for host in server["hosts"])
            listeners.append(Listener(server["port"].get("name") or "", int(server["port"]["number"]), hosts))
        return Gateway("istio", namespace, name, tuple(listeners), labels_of(spec.get("selector")))

    def _destination_rule(self, namespace: str, name: str, spec: _Json) -> DestinationRule:
        subsets = spec.get("subsets") or ()
        policies = [spec.get("trafficPolicy") or {}, *(subset.get("trafficPolicy") or {} for subset in subsets)]
        policies += [port for policy in policies for port in policy.get("portLevelSettings") or ()]
        hashes = [(policy.get("loadBalancer") or {}).get("consistentHash") for policy in policies]
        cookies = [found["httpCookie"]["name"] for found in hashes if found and found.get("httpCookie")]
        return DestinationRule(
            namespace,
            name,
            full_host(spec["host"], namespace, self._domain),
            frozenset(subset["name"] for subset in subsets),
            frozenset(cookies),
            any(hashes),
        )


def _virtual_service_match(match: _Json) -> Matched:
    uri = match.get("uri") or {}
    path = "" if match.get("ignoreUriCase") else uri.get("exact") or uri.get("prefix") or ""
    headers = {
        (name.lower(), value["exact"]) for name, value in (match.get("headers") or {}).items() if "exact" in value
    }
    return Matched(path or "/", frozenset(headers))


def _http_route_match(match: _Json) -> Matched:
    path = match.get("path") or {}
    # The prefix /v1/ takes the path /v1 as well.
    starts = {"Exact": path.get("value", "/"), "PathPrefix": path.get("value", "/").rstrip("/")}
    headers = {
        (item["name"].lower(), item["value"])
        for item in match.get("headers") or ()
        if item.get("type", "Exact") == "Exact"
    }
    return Matched(starts.get(path.get("type", "PathPrefix")) or "/", frozenset(headers))


def _grants(namespace: str, spec: _Json) -> Iterator[Grant]:
    services = [to.get("name") or "" for to in spec["to"] if (to["group"], to["kind"]) == ("", "Service")]
    for source in spec["from"]:
        if (source["group"], source["kind"]) == ("abmesh.dev", "Experiment"):
            yield from (Grant(namespace, source["namespace"], service) for service in services)


def _gateway(namespace: str, name: str, spec: _Json) -> Gateway:
    listeners = tuple(
        Listener(item["name"], int(item["port"]), ((item.get("hostname") or "*").lower(),))
        for item in spec.get("listeners") or ()
    )
    return Gateway("gateway", namespace, name, listeners)
