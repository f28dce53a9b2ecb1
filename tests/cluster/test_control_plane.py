"""The control plane is the real one, in the pinned versions, and its programs can be made to fail."""

from __future__ import annotations

import json
import re
import time
import urllib.request

import pytest

from tests.cluster.cluster import Cluster
from tests.cluster.plane.control_plane import KubectlError
from tests.cluster.plane.settings import ETCD
from tests.cluster.programs.catalogue import ISTIO_VERSION, TOOLS, read_pins
from tests.cluster.waiting import wait_for

PINS = read_pins((TOOLS / "go.mod").read_text())


def _get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:
        text: str = answer.read().decode()
    return text


def test_the_versions_are_those_that_are_pinned(cluster: Cluster) -> None:
    versions = json.loads(cluster.plane.kubectl("version", "--output", "json"))
    assert versions["clientVersion"]["gitVersion"] == versions["serverVersion"]["gitVersion"] == PINS.kubernetes
    assert "v" + json.loads(_get(f"{ETCD}/version"))["etcdserver"] == PINS.etcd
    # Metrics of proxies have a version as well.
    assert re.search(
        rf'^pilot_info\{{.*version="{re.escape(ISTIO_VERSION)}-', _get(cluster.plane.istiod_metrics), re.MULTILINE
    )
    helm = cluster.plane.run(cluster.plane.programs.path("helm"), "version", "--short")
    assert helm.stdout.startswith(PINS.helm)
    istioctl = cluster.plane.run(cluster.plane.programs.path("istioctl"), "version", "--remote=false")
    assert ISTIO_VERSION in istioctl.stdout


def test_istio_and_the_gateway_api_are_served(cluster: Cluster) -> None:
    groups = cluster.plane.kubectl("api-versions").split()
    assert {"networking.istio.io/v1alpha3", "networking.istio.io/v1", "gateway.networking.k8s.io/v1"} <= set(groups)


def test_what_the_server_does_not_know_is_refused(cluster: Cluster, namespace: str) -> None:
    unknown = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "dataa": {}}
    with pytest.raises(KubectlError, match=r"dataa.*field not declared|unknown field.*dataa"):
        cluster.plane.apply(unknown, namespace=namespace)


def test_objects_outlive_a_killed_api_server_and_a_killed_etcd(cluster: Cluster, namespace: str) -> None:
    plane = cluster.plane
    plane.kubectl("create", "configmap", "kept", "--from-literal=a=1", namespace=namespace)
    plane.api_server.kill()
    with pytest.raises(KubectlError, match="refused"):
        plane.kubectl("get", "configmap", "kept", namespace=namespace)
    plane.etcd.restart()
    plane.api_server.start()
    assert plane.read("configmap", "kept", namespace)["data"] == {"a": "1"}


def test_a_frozen_api_server_answers_nobody_until_it_is_thawed(cluster: Cluster) -> None:
    cluster.plane.api_server.freeze()
    try:
        began = time.monotonic()
        with pytest.raises(KubectlError, match=r"(?i)timeout|deadline"):
            cluster.plane.kubectl("get", "namespaces", "--request-timeout=1s")
        assert time.monotonic() - began >= 1
    finally:
        cluster.plane.api_server.thaw()
    wait_for(cluster.plane.api_server.is_ready, "an API server that answers again")
    assert "default" in cluster.plane.kubectl("get", "namespaces")


def test_a_watch_from_before_a_compaction_is_told_so(cluster: Cluster, namespace: str) -> None:
    plane = cluster.plane
    plane.kubectl("create", "configmap", "old", "--from-literal=a=1", namespace=namespace)
    old = plane.read("configmap", "old", namespace)["metadata"]["resourceVersion"]
    for number in range(3):
        plane.kubectl("annotate", "configmap", "old", f"n={number}", "--overwrite", namespace=namespace)
    assert plane.compact_etcd() > int(old)
    plane.api_server.restart()  # its own cache still has what etcd forgot
    watch = f"/api/v1/namespaces/{namespace}/configmaps?watch=1&timeoutSeconds=5&resourceVersion={old}"
    assert '"code":410' in plane.kubectl("get", "--raw", watch)


def test_istiod_starts_again_on_the_same_address(cluster: Cluster) -> None:
    before = cluster.plane.istiod.pid
    cluster.plane.istiod.restart()
    assert cluster.plane.istiod.pid != before
    assert _get(f"{cluster.plane.istiod_http}/ready") is not None


def test_nothing_leaves_the_network(cluster: Cluster) -> None:
    with pytest.raises(OSError, match="unreachable"):
        urllib.request.build_opener(urllib.request.ProxyHandler({})).open("http://192.0.2.1/", timeout=5)
