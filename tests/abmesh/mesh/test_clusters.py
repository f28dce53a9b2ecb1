from typing import Any

import pytest
from betterproto2 import Casing

from abmesh.experiment.errors import RenderError, UnknownName
from abmesh.experiment.model import Document
from abmesh.mesh.addresses import Endpoint, UnixSocket
from abmesh.mesh.clusters import ext_proc_cluster, model_clusters
from abmesh.mesh.options import ServerTls
from tests.abmesh.mesh.documents import document, experiment

OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


def rendered(of: Document) -> dict[str, dict[str, Any]]:
    return {cluster.name: cluster.to_dict(casing=Casing.SNAKE) for cluster in model_clusters(of)}


def test_only_clusters_that_are_used_are_rendered_in_the_documents_order() -> None:
    assert list(rendered(document(experiment(clusters=("b", "a"))))) == ["a", "b"]
    assert list(rendered(document(experiment(clusters=("b", "b")), default_cluster="a"))) == ["a", "b"]


def test_a_document_without_clusters_is_refused_with_what_to_do() -> None:
    with pytest.raises(RenderError, match=r"has no clusters:.*name every cluster with its host and port"):
        model_clusters(document(clusters=None))


def test_a_cluster_that_is_not_described_is_reported() -> None:
    bare = document(clusters=None).model_copy(update={"clusters": {}})
    with pytest.raises(UnknownName, match="no cluster named 'a'"):
        model_clusters(bare)


def test_addresses_are_static_and_names_are_resolved_with_ipv4_first() -> None:
    clusters = {"a": {"host": "::1", "port": 1}, "b": {"host": "model-b", "port": 2}}
    found = rendered(document(clusters=clusters))
    assert [(found[name]["type"], found[name].get("dns_lookup_family")) for name in "ab"] == [
        ("STATIC", None),
        ("STRICT_DNS", "V4_PREFERRED"),
    ]


@pytest.mark.parametrize(
    ("host", "tls", "sni", "kind", "name"),
    [
        ("api.example.com", True, "api.example.com", "DNS", "api.example.com"),
        ("10.0.0.1", {"sni": "models.internal"}, "models.internal", "DNS", "models.internal"),
        ("10.0.0.1", True, None, "IP_ADDRESS", "10.0.0.1"),
        ("model.svc", {"sni": "10.0.0.9"}, None, "IP_ADDRESS", "10.0.0.9"),
    ],
)
def test_tls_asks_for_and_verifies_one_name(host: str, tls: Any, sni: str | None, kind: str, name: str) -> None:
    clusters = {"a": {"host": host, "port": 443, "tls": tls}, "b": {"host": "b", "port": 1}}
    config = rendered(document(clusters=clusters))["a"]["transport_socket"]["typed_config"]
    assert config["@type"].endswith("tls.v3.UpstreamTlsContext")
    assert config.get("sni") == sni
    verified = config["common_tls_context"]["validation_context"]
    assert verified["trusted_ca"] == {"filename": "/etc/ssl/certs/ca-certificates.crt"}
    assert verified["match_typed_subject_alt_names"] == [{"san_type": kind, "matcher": {"exact": name}}]


def test_our_server_is_health_checked_over_http2_and_never_asked_in_panic() -> None:
    cluster = ext_proc_cluster([Endpoint("10.0.0.1", 1), UnixSocket("/s")], 3).to_dict(casing=Casing.SNAKE)
    assert (cluster["name"], cluster["type"]) == ("abmesh-ext-proc", "STATIC")
    check = cluster["health_checks"][0]
    assert check["grpc_health_check"] == {}
    assert check["no_traffic_interval"] == check["interval"]
    assert cluster["common_lb_config"] == {"healthy_panic_threshold": {}, "update_merge_window": "0s"}
    http = cluster["typed_extension_protocol_options"][OPTIONS]["explicit_http_config"]
    assert http == {"http2_protocol_options": {"max_concurrent_streams": 3}}
    endpoints = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]
    assert [endpoint["endpoint"]["address"] for endpoint in endpoints] == [
        {"socket_address": {"address": "10.0.0.1", "port_value": 1}},
        {"pipe": {"path": "/s"}},
    ]


def test_our_servers_name_is_resolved() -> None:
    assert ext_proc_cluster([Endpoint("abmesh", 1)], 1).to_dict()["type"] == "STRICT_DNS"


@pytest.mark.parametrize(
    ("targets", "name", "sni", "verified"),
    [
        (
            [Endpoint("abmesh", 1), Endpoint("10.0.0.1", 1)],
            "",
            "abmesh",
            [("DNS", "abmesh"), ("IP_ADDRESS", "10.0.0.1")],
        ),
        ([Endpoint("10.0.0.1", 1), Endpoint("10.0.0.1", 2)], "", None, [("IP_ADDRESS", "10.0.0.1")]),
        ([UnixSocket("/s")], "abmesh.local", "abmesh.local", [("DNS", "abmesh.local")]),
    ],
)
def test_tls_to_our_server_agrees_on_http2_and_verifies_its_hosts_or_a_name(
    targets: list[Any], name: str, sni: str | None, verified: list[tuple[str, str]]
) -> None:
    tls = ServerTls("/ca.pem", name, "/envoy.pem", "/envoy.key")
    cluster = ext_proc_cluster(targets, 1, tls).to_dict(casing=Casing.SNAKE)
    config = cluster["transport_socket"]["typed_config"]
    common = config["common_tls_context"]
    assert config.get("sni") == sni
    assert common["alpn_protocols"] == ["h2"]
    assert common["validation_context"]["trusted_ca"] == {"filename": "/ca.pem"}
    names = common["validation_context"]["match_typed_subject_alt_names"]
    assert [(found["san_type"], found["matcher"]["exact"]) for found in names] == verified
    assert common["tls_certificates"] == [
        {"certificate_chain": {"filename": "/envoy.pem"}, "private_key": {"filename": "/envoy.key"}}
    ]


def test_our_server_is_reached_in_plain_text_unless_tls_is_asked_for() -> None:
    assert "transport_socket" not in ext_proc_cluster([Endpoint("abmesh", 1)], 1).to_dict(casing=Casing.SNAKE)
