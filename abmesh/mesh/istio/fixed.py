"""The two EnvoyFilters that a gateway, or callers, get once: filters that are off, and statistics. Pure.

They change listeners, so old connections drain when they are applied. So they hold whatever any Experiment is likely to
need, and do nothing until a route switches something on.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from functools import cache
from typing import Final

from envoy_data_plane.envoy.config.cluster.v3 import Cluster, ClusterDiscoveryType
from envoy_data_plane.envoy.config.core.v3 import HttpProtocolOptions
from envoy_data_plane.envoy.config.endpoint.v3 import ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints
from envoy_data_plane.envoy.config.listener.v3 import Filter, FilterChain, Listener
from envoy_data_plane.envoy.config.route.v3 import (
    Route,
    RouteAction,
    RouteConfiguration,
    RouteMatch,
    VirtualHost,
)
from envoy_data_plane.envoy.extensions.filters.http.router.v3 import Router
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import (
    HttpConnectionManager,
    HttpFilter,
)
from envoy_data_plane.google.protobuf import Any

from abmesh.experiment.answers import Answers
from abmesh.experiment.model import Document, Experiment
from abmesh.experiment.request_headers import needed_headers
from abmesh.mesh import edge
from abmesh.mesh.addresses import UnixSocket, address_of, parse_ip_endpoint
from abmesh.mesh.clusters import discovered_ext_proc_cluster, ext_proc_cluster
from abmesh.mesh.ext_proc_filter import ext_proc_filter
from abmesh.mesh.istio.envoy_filters import (
    HTTP_CONNECTION_MANAGER,
    ROUTER,
    EnvoyFilter,
    FilterKind,
    Json,
    as_json,
    assemble,
    patch,
)
from abmesh.mesh.istio.scopes import GATEWAYS, Scope
from abmesh.mesh.istio.stats_paths import ISTIO_SCOPE, STATS_PATH
from abmesh.mesh.istio.wanted import Settings
from abmesh.mesh.listener import in_order
from abmesh.mesh.matches import equals
from abmesh.mesh.measured import Kinds
from abmesh.mesh.merge.rendered import strip_forged_headers
from abmesh.mesh.statistics import loggers

ADMIN: Final = "abmesh-admin"
STATISTICS: Final = "abmesh-stats"

_CAPABLE: Final = r"^(1\.([3-9][0-9]|[1-9][0-9]{2})|[2-9])"
"""Versions of Istio's proxy whose Envoy has the access logger. An older one would refuse its whole listener."""

_STREAMS: Final = 100
_GATEWAY_CHECK: Final = timedelta(milliseconds=250)
_CALLER_CHECK: Final = timedelta(seconds=60)
"""How often a proxy that does not use the server asks for its health: a mesh has thousands of idle sidecars."""

_STATS_TIMEOUT: Final = timedelta(seconds=5)


def gateway_filter(scope: Scope, document: Document, ports: Sequence[int], settings: Settings) -> EnvoyFilter:
    """What strips forged headers, counts, and holds our filters, all off.

    Args:
        scope: the proxies.
        document: all Experiments on them.
        ports: of callers' listeners; none at gateways, where every HTTP listener is meant.
        settings: of the installation.
    """
    guard = {"context": scope.context, "proxy": {"proxyVersion": _CAPABLE}}
    patches = [patch("CLUSTER", {"context": scope.context}, "ADD", _server(scope, settings))]
    for port in ports or (0,):
        at = {"portNumber": port} if port else {}
        chain: Json = {"filter": {"name": HTTP_CONNECTION_MANAGER}}
        manager = guard | {"listener": at | {"filterChain": chain}}
        chain = {"filter": {"name": HTTP_CONNECTION_MANAGER, "subFilter": {"name": ROUTER}}}
        router = guard | {"listener": at | {"filterChain": chain}}
        patches.append(patch("NETWORK_FILTER", manager, "MERGE", {"typed_config": _manager()}))
        patches += [patch("HTTP_FILTER", router, "INSERT_BEFORE", item) for item in _filters(document, settings)]
    return assemble(
        FilterKind.GATEWAY,
        scope,
        scope.name,
        patches,
        purpose=(
            f"Once for {scope}: our server's cluster, statistics, and our filters, which a route has to switch on. "
            "Changing it drains connections."
        ),
        experiments=[item.name for item in document.experiments],
    )


def statistics_filter(scope: Scope, experiments: Sequence[Experiment], settings: Settings) -> EnvoyFilter:
    """A listener that answers one request with our statistics, and nothing else."""
    admin = Cluster(
        name=ADMIN,
        type=ClusterDiscoveryType.STATIC,
        connect_timeout=timedelta(seconds=1),
        load_assignment=ClusterLoadAssignment(
            cluster_name=ADMIN,
            endpoints=[
                LocalityLbEndpoints(
                    lb_endpoints=[
                        LbEndpoint(endpoint=Endpoint(address=address_of(parse_ip_endpoint(settings.admin, "admin"))))
                    ]
                )
            ],
        ),
    )
    match = {"context": scope.context}
    patches = [
        patch("CLUSTER", match, "ADD", as_json(admin)),
        patch("LISTENER", match, "ADD", as_json(_statistics_listener(settings))),
    ]
    return assemble(
        FilterKind.STATISTICS,
        scope,
        f"{scope.name}-statistics",
        patches,
        purpose=(
            f"Once for {scope}: the controller reads our statistics at port {settings.statistics.rpartition(':')[2]}. "
            "It answers that one request alone."
        ),
        experiments=[item.name for item in experiments],
    )


def _server(scope: Scope, settings: Settings) -> Json:
    if settings.server_socket:
        return as_json(ext_proc_cluster([UnixSocket(settings.server_socket)], _STREAMS))
    host = f"{settings.server_service}.{settings.server_namespace}.svc.{settings.cluster_domain}"
    check = _GATEWAY_CHECK if scope.context == GATEWAYS else _CALLER_CHECK
    return as_json(discovered_ext_proc_cluster(f"outbound|{settings.server_port}||{host}", _STREAMS, check))


@cache
def _made_manager() -> Filter:
    return Filter(
        typed_config=Any.pack(
            HttpConnectionManager(
                common_http_protocol_options=HttpProtocolOptions(max_headers_count=edge.MAX_HEADERS),
                local_reply_config=edge.too_many_headers(),
                early_header_mutation_extensions=[strip_forged_headers()],
                access_log=loggers(Kinds()),
            )
        )
    )


def _manager() -> Json:
    manager: Json = as_json(_made_manager())["typed_config"]
    for logger in manager["access_log"]:
        # The prefix that Istio's proxies keep, in the field that every version from 1.30 on knows.
        config = logger["typed_config"]
        kept = {key: value for key, value in config.items() if key not in ("@type", "stats_scope")}
        logger["typed_config"] = {"@type": config["@type"], "stat_prefix": ISTIO_SCOPE} | kept
    return manager


def _filters(document: Document, settings: Settings) -> list[Json]:
    needed = [name for name in needed_headers(document) if not name.startswith(settings.header_prefixes)]
    headers = sorted({*settings.headers, *needed})
    asks = ext_proc_filter(headers, settings.message_timeout, prefixes=settings.header_prefixes)
    # The usual script first, so that the first Experiment changes no listener.
    kinds = [Answers(), *(item.answers for item in document.experiments)]
    return [as_json(item) for item in in_order(asks, sorted(dict.fromkeys(kinds), key=lambda kind: kind != Answers()))]


def _statistics_listener(settings: Settings) -> Listener:
    only = [equals(":method", "GET"), equals(":path", STATS_PATH)]
    route = Route(
        match=RouteMatch(path="/stats", headers=only),
        route=RouteAction(cluster=ADMIN, timeout=_STATS_TIMEOUT),
    )
    host = VirtualHost(name=STATISTICS, domains=["*"], routes=[route])
    manager = HttpConnectionManager(
        stat_prefix=STATISTICS,
        route_config=RouteConfiguration(name=STATISTICS, virtual_hosts=[host]),
        http_filters=[HttpFilter(name=ROUTER, typed_config=Any.pack(Router()))],
    )
    return Listener(
        name=STATISTICS,
        # Statistics must stay readable even if clients have taken every connection.
        ignore_global_conn_limit=True,
        address=address_of(parse_ip_endpoint(settings.statistics, "statistics")),
        filter_chains=[FilterChain(filters=[Filter(name=HTTP_CONNECTION_MANAGER, typed_config=Any.pack(manager))])],
    )
