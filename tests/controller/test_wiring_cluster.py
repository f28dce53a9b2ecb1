"""What the flags of a cluster become for the renderer of EnvoyFilters."""

from __future__ import annotations

import pytest

from abmesh.experiment.errors import SettingsError
from controller.settings import Filters, parse_kubernetes
from controller.wiring_cluster import filter_settings


def test_the_servers_address_is_taken_apart() -> None:
    found = filter_settings(
        Filters(server="srv.models.svc.example.org:7000", cluster_domain="example.org", gateway_namespaces=("edge",))
    )
    assert (found.server_service, found.server_namespace, found.server_port) == ("srv", "models", 7000)
    assert (found.cluster_domain, found.gateway_namespaces, found.server_socket) == ("example.org", ("edge",), "")
    assert filter_settings(Filters(server="unix:/var/run/a.sock")).server_socket == "/var/run/a.sock"


@pytest.mark.parametrize(
    "server",
    ["abmesh", "abmesh:50051", "srv.models.svc.other.org:1", "srv.models.svc.cluster.local:0", "unix:a.sock", ""],
)
def test_an_address_that_proxies_cannot_reach_is_refused_with_what_is_allowed(server: str) -> None:
    with pytest.raises(SettingsError, match=r"allowed|write NAME"):
        filter_settings(Filters(server=server))


def test_istiods_address_is_checked_and_filters_come_with_the_cluster() -> None:
    with pytest.raises(SettingsError, match="istiod"):
        Filters(istiod="istiod.istio-system:15014")
    found = parse_kubernetes(True, None, None, Filters(owner="role"))
    assert found is not None
    assert found.filters.owner == "role"
