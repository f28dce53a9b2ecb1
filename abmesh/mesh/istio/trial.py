"""A bootstrap in which somebody's routes have our EnvoyFilters applied, for a real Envoy to validate. Pure.

The routes are as Istio would render them, as far as the patches tell: what a patch matches is there. The rest of them
is not what Envoy could refuse us for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from abmesh.mesh.istio.apply import applied
from abmesh.mesh.istio.envoy_filters import HTTP_CONNECTION_MANAGER, ROUTER, EnvoyFilter
from abmesh.mesh.istio.scopes import Scope

_TYPES: Final = "type.googleapis.com/envoy.extensions.filters"
_CONTROL_PLANE: Final = "xds-grpc"

_Json = dict[str, Any]


def trials(filters: Sequence[EnvoyFilter]) -> Iterator[tuple[Scope, _Json]]:
    """A bootstrap for each scope, with all EnvoyFilters that reach it.

    Raises:
        RenderError: a value is not of its Envoy type.
    """
    for scope in sorted({item.scope for item in filters}):
        bodies = [item.body for item in filters if item.scope == scope]
        yield scope, applied(_proxy(bodies), bodies, scope.context)


def clusters_of(bodies: Sequence[_Json]) -> list[str]:
    """Names of the clusters that some EnvoyFilters lead to, without those that they add."""
    added = {patch["patch"]["value"]["name"] for patch in _patches(bodies, "CLUSTER")}
    found = {
        entry["name"]
        for patch in _patches(bodies, "HTTP_ROUTE")
        for entry in patch["patch"]["value"].get("route", {}).get("weighted_clusters", {}).get("clusters", ())
    }
    return sorted(found - added)


def _patches(bodies: Sequence[_Json], apply_to: str) -> Iterator[_Json]:
    for body in bodies:
        for patch in body["spec"]["configPatches"]:
            if patch["applyTo"] == apply_to:
                yield patch


def _proxy(bodies: Sequence[_Json]) -> _Json:
    """What Istio would send to a proxy of these routes without us."""
    clusters: list[_Json] = [
        {"name": name, "type": "STATIC", "connect_timeout": "10s", "load_assignment": {"cluster_name": name}}
        for name in clusters_of(bodies)
    ]
    clusters.append({"name": _CONTROL_PLANE, "type": "STATIC", "connect_timeout": "1s"} | _http2())
    ports = {patch["match"]["listener"].get("portNumber", 0) for patch in _patches(bodies, "NETWORK_FILTER")} or {0}
    return {
        "node": {"id": "trial", "cluster": "trial"},
        "dynamic_resources": {
            "ads_config": {
                "api_type": "GRPC",
                "transport_api_version": "V3",
                "grpc_services": [{"envoy_grpc": {"cluster_name": _CONTROL_PLANE}}],
            }
        },
        "static_resources": {"clusters": clusters, "listeners": [_listener(port, bodies) for port in sorted(ports)]},
    }


def _http2() -> _Json:
    kind = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    options: _Json = {"explicit_http_config": {"http2_protocol_options": {}}}
    return {"typed_extension_protocol_options": {kind: {"@type": f"type.googleapis.com/{kind}"} | options}}


def _listener(port: int, bodies: Sequence[_Json]) -> _Json:
    manager = {
        "@type": f"{_TYPES}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "trial",
        "route_config": {"name": "trial", "virtual_hosts": list(_hosts(bodies))},
        "http_filters": [{"name": ROUTER, "typed_config": {"@type": f"{_TYPES}.http.router.v3.Router"}}],
    }
    return {
        "name": f"trial-{port}",
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
        "filter_chains": [{"filters": [{"name": HTTP_CONNECTION_MANAGER, "typed_config": manager}]}],
    }


def _hosts(bodies: Sequence[_Json]) -> Iterator[_Json]:
    rules: dict[tuple[str, str], dict[str, str]] = {}
    for patch in _patches(bodies, "HTTP_ROUTE"):
        vhost = patch["match"]["routeConfiguration"]["vhost"]
        found = rules.setdefault((vhost.get("name", ""), vhost.get("domainName", "")), {})
        action = patch["patch"]["value"].get("route", {})
        entries = action.get("weighted_clusters", {}).get("clusters", ())
        if cluster := action.get("cluster") or next((item["name"] for item in entries), ""):
            found.setdefault(vhost["route"].get("name", ""), cluster)
    for (name, domain), routes in sorted(rules.items()):
        made = [
            {"name": rule, "match": {"prefix": f"/{place}"}, "route": {"cluster": cluster, "timeout": "7s"}}
            for place, (rule, cluster) in enumerate(sorted(routes.items()))
        ]
        yield {"name": name or f"{domain}:80", "domains": [domain or name], "routes": made}
