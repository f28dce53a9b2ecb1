"""Envoy clusters: the document's model servers, and our external-processing server. Pure.

Called by :mod:`abmesh.mesh.bootstrap`; :mod:`abmesh.mesh.variants` needs the names of TLS servers.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Final

import envoy_data_plane.envoy.config.core.v3 as core
from envoy_data_plane.envoy.config.cluster.v3 import (
    CircuitBreakers,
    CircuitBreakersThresholds,
    ClusterCommonLbConfig,
    ClusterDiscoveryType,
    ClusterDnsLookupFamily,
    ClusterEdsClusterConfig,
)
from envoy_data_plane.envoy.config.cluster.v3 import Cluster as EnvoyCluster
from envoy_data_plane.envoy.config.endpoint.v3 import ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints
from envoy_data_plane.envoy.extensions.transport_sockets.tls.v3 import (
    CertificateValidationContext,
    CommonTlsContext,
    SubjectAltNameMatcher,
    SubjectAltNameMatcherSanType,
    TlsCertificate,
    UpstreamTlsContext,
)
from envoy_data_plane.envoy.extensions.upstreams.http.v3 import (
    HttpProtocolOptions,
    HttpProtocolOptionsExplicitHttpConfig,
)
from envoy_data_plane.envoy.type.matcher.v3 import StringMatcher
from envoy_data_plane.envoy.type.v3 import Percent
from envoy_data_plane.google.protobuf import Any

from abmesh.experiment.errors import RenderError, UnknownName
from abmesh.experiment.model import Document
from abmesh.experiment.names import EXT_PROC_CLUSTER
from abmesh.experiment.parts import Cluster, Tls
from abmesh.mesh.addresses import Endpoint as TcpEndpoint
from abmesh.mesh.addresses import UnixSocket, address_of, is_ip
from abmesh.mesh.edge import CONNECTION_BUFFER
from abmesh.mesh.options import ServerTls

_PROTOCOL_OPTIONS: Final = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"

_MODEL_CONNECT: Final = timedelta(seconds=2)
_SERVER_CONNECT: Final = timedelta(milliseconds=250)

_MODEL_IDLE: Final = timedelta(seconds=4)
"""Envoy closes an unused connection to a model server after this time.

uvicorn, which most model servers run on, does so after 5 s. A request sent while the server closes its connection
fails, so Envoy, which sends the requests, must close first.
"""

_NO_LIMIT: Final = 1_000_000
"""By default Envoy's circuit breakers open at 1,024, which a streaming service reaches; model servers limit load."""

_FETCH: Final = timedelta(seconds=5)

_HEALTH_INTERVAL: Final = timedelta(milliseconds=250)
_HEALTH_TIMEOUT: Final = timedelta(milliseconds=500)


def used_clusters(document: Document) -> set[str]:
    """Names of the clusters that the document's routes lead to."""
    used = {variant.cluster for experiment in document.experiments for variant in experiment.variants}
    if document.default_cluster is not None:
        used.add(document.default_cluster)
    return used


def model_clusters(document: Document) -> list[EnvoyCluster]:
    """The clusters that the document's experiments use, in the order of its ``clusters:``.

    Raises:
        RenderError: there is no ``clusters:``.
        UnknownName: a cluster that is used is not among them.
    """
    if document.clusters is None:
        raise RenderError(
            "the document has no clusters:, which rendering for Envoy needs to find the model servers; name every "
            "cluster with its host and port, such as {model-a: {host: 127.0.0.1, port: 8001}}"
        )
    used = used_clusters(document)
    for name in sorted(used):
        if name not in document.clusters:
            raise UnknownName("cluster", name, tuple(document.clusters))
    return [_model_cluster(name, cluster) for name, cluster in document.clusters.items() if name in used]


def server_name(cluster: Cluster) -> str | None:
    """The name of a TLS cluster's server; None without TLS, or if only an IP address is known."""
    if cluster.tls is None:
        return None
    name = cluster.tls.sni or cluster.host
    return None if is_ip(name) else name


def _model_cluster(name: str, cluster: Cluster) -> EnvoyCluster:
    endpoint = TcpEndpoint(cluster.host, cluster.port)
    return EnvoyCluster(
        name=name,
        type=_discovery([endpoint]),
        dns_lookup_family=_lookup([endpoint]),
        connect_timeout=_MODEL_CONNECT,
        per_connection_buffer_limit_bytes=CONNECTION_BUFFER,
        load_assignment=_assignment(name, [endpoint]),
        circuit_breakers=_breakers(),
        typed_extension_protocol_options={
            _PROTOCOL_OPTIONS: Any.pack(
                HttpProtocolOptions(
                    common_http_protocol_options=core.HttpProtocolOptions(idle_timeout=_MODEL_IDLE),
                    explicit_http_config=HttpProtocolOptionsExplicitHttpConfig(
                        http_protocol_options=core.Http1ProtocolOptions()
                    ),
                )
            )
        },
        transport_socket=None if cluster.tls is None else _tls(cluster, cluster.tls),
    )


def ext_proc_cluster(
    targets: Sequence[TcpEndpoint | UnixSocket], streams_per_connection: int, tls: ServerTls | None = None
) -> EnvoyCluster:
    """Our server: HTTP/2, and health-checked, so that Envoy stops asking a server that hangs.

    Panic routing is off: if every endpoint is unhealthy, Envoy must ask none of them and let requests go on at once.
    Connections of an unhealthy endpoint are closed, since those to a machine that vanished would never answer again.

    Args:
        targets: where it listens.
        streams_per_connection: concurrent streams after which Envoy opens another connection.
        tls: how to speak TLS to it; None for plaintext.
    """
    endpoints = [target for target in targets if isinstance(target, TcpEndpoint)]
    cluster = _server_cluster(streams_per_connection, _HEALTH_INTERVAL)
    cluster.type = _discovery(endpoints)
    cluster.dns_lookup_family = _lookup(endpoints)
    cluster.load_assignment = _assignment(EXT_PROC_CLUSTER, targets)
    cluster.transport_socket = None if tls is None else _server_tls(tls, [endpoint.host for endpoint in endpoints])
    return cluster


def discovered_ext_proc_cluster(service: str, streams_per_connection: int, idle_check: timedelta) -> EnvoyCluster:
    """Our server, whose endpoints the control plane sends that also sent this cluster.

    Args:
        service: the control plane's name of the endpoints.
        streams_per_connection: concurrent streams after which Envoy opens another connection.
        idle_check: how often an Envoy that does not use the server asks for its health.
    """
    cluster = _server_cluster(streams_per_connection, idle_check)
    cluster.type = ClusterDiscoveryType.EDS
    cluster.eds_cluster_config = ClusterEdsClusterConfig(
        service_name=service,
        eds_config=core.ConfigSource(
            ads=core.AggregatedConfigSource(), resource_api_version=core.ApiVersion.V3, initial_fetch_timeout=_FETCH
        ),
    )
    return cluster


def _server_cluster(streams_per_connection: int, idle_check: timedelta) -> EnvoyCluster:
    """All but where the server is."""
    return EnvoyCluster(
        name=EXT_PROC_CLUSTER,
        connect_timeout=_SERVER_CONNECT,
        per_connection_buffer_limit_bytes=CONNECTION_BUFFER,
        circuit_breakers=_breakers(),
        health_checks=[
            core.HealthCheck(
                timeout=_HEALTH_TIMEOUT,
                interval=_HEALTH_INTERVAL,
                # Envoy's default for a cluster without traffic is 60 s, too long to wait after a recovery.
                no_traffic_interval=idle_check,
                unhealthy_threshold=2,
                healthy_threshold=1,
                grpc_health_check=core.HealthCheckGrpcHealthCheck(),
            )
        ],
        close_connections_on_host_health_failure=True,
        common_lb_config=ClusterCommonLbConfig(
            healthy_panic_threshold=Percent(value=0),
            update_merge_window=timedelta(),  # by default, a change soon after another waits for up to a second
        ),
        typed_extension_protocol_options={
            _PROTOCOL_OPTIONS: Any.pack(
                HttpProtocolOptions(
                    explicit_http_config=HttpProtocolOptionsExplicitHttpConfig(
                        http2_protocol_options=core.Http2ProtocolOptions(max_concurrent_streams=streams_per_connection)
                    )
                )
            )
        },
    )


def _discovery(endpoints: Sequence[TcpEndpoint]) -> ClusterDiscoveryType:
    named = any(endpoint.is_name for endpoint in endpoints)
    return ClusterDiscoveryType.STRICT_DNS if named else ClusterDiscoveryType.STATIC


def _lookup(endpoints: Sequence[TcpEndpoint]) -> ClusterDnsLookupFamily:
    """IPv4 first for names: Envoy's default is IPv6 first, so ``localhost`` would be ``::1``, where few listen."""
    named = any(endpoint.is_name for endpoint in endpoints)
    return ClusterDnsLookupFamily.V4_PREFERRED if named else ClusterDnsLookupFamily.AUTO


def _assignment(name: str, targets: Sequence[TcpEndpoint | UnixSocket]) -> ClusterLoadAssignment:
    endpoints = [LbEndpoint(endpoint=Endpoint(address=address_of(target))) for target in targets]
    return ClusterLoadAssignment(cluster_name=name, endpoints=[LocalityLbEndpoints(lb_endpoints=endpoints)])


def _breakers() -> CircuitBreakers:
    limits = CircuitBreakersThresholds(
        max_connections=_NO_LIMIT, max_pending_requests=_NO_LIMIT, max_requests=_NO_LIMIT
    )
    return CircuitBreakers(thresholds=[limits])


def _tls(cluster: Cluster, tls: Tls) -> core.TransportSocket:
    """TLS that accepts only a certificate with the expected name, from an authority that the document trusts."""
    name = server_name(cluster)
    common = CommonTlsContext(validation_context=_trusted(tls.ca_file, [name or tls.sni or cluster.host]))
    return _tls_socket(UpstreamTlsContext(sni=name or "", common_tls_context=common))


def _server_tls(tls: ServerTls, hosts: Sequence[str]) -> core.TransportSocket:
    """TLS to our server, which closes the connection unless the handshake negotiates HTTP/2."""
    names = [tls.name] if tls.name else list(dict.fromkeys(hosts))
    common = CommonTlsContext(alpn_protocols=["h2"], validation_context=_trusted(tls.ca, names))
    if tls.cert:
        pair = TlsCertificate(
            certificate_chain=core.DataSource(filename=tls.cert), private_key=core.DataSource(filename=tls.key)
        )
        common.tls_certificates = [pair]
    asked = next((name for name in names if not is_ip(name)), "")
    return _tls_socket(UpstreamTlsContext(sni=asked, common_tls_context=common))


def _trusted(ca_file: str, names: Sequence[str]) -> CertificateValidationContext:
    kinds = SubjectAltNameMatcherSanType
    return CertificateValidationContext(
        trusted_ca=core.DataSource(filename=ca_file),
        match_typed_subject_alt_names=[
            SubjectAltNameMatcher(
                san_type=kinds.IP_ADDRESS if is_ip(name) else kinds.DNS, matcher=StringMatcher(exact=name)
            )
            for name in names
        ],
    )


def _tls_socket(context: UpstreamTlsContext) -> core.TransportSocket:
    return core.TransportSocket(name="envoy.transport_sockets.tls", typed_config=Any.pack(context))
