"""A gateway that the real istiod configures sends a VirtualService's traffic to pods."""

from __future__ import annotations

import json
import urllib.error
import urllib.request

from tests.cluster.cluster import Cluster
from tests.cluster.waiting import wait_for
from tests.cluster.workloads import GATEWAY_PORT, gateway, istio, model, service


def _model(url: str, **headers: str) -> str:
    """Name of the model that answers; the status if none does."""
    request = urllib.request.Request(f"{url}/v1/models", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            name: str = json.load(answer)["data"][0]["id"]
            return name
    except urllib.error.HTTPError as error:
        return str(error.code)
    except OSError as error:
        return type(error).__name__


def test_a_virtual_service_routes_to_two_models(cluster: Cluster, namespace: str) -> None:
    host = f"llm.{namespace}.svc.cluster.local"
    labels = {name: {"app": "llm", "version": name} for name in ("model-a", "model-b")}

    def to(subset: str) -> list[dict[str, object]]:
        return [{"destination": {"host": host, "subset": subset, "port": {"number": 80}}}]

    routes = [
        {"name": "b", "match": [{"headers": {"x-model": {"exact": "b"}}}], "route": to("model-b")},
        {"name": "a", "route": to("model-a")},
    ]
    servers = [{"port": {"number": 80, "name": "http", "protocol": "HTTP"}, "hosts": ["*"]}]
    subsets = [{"name": name, "labels": {"version": name}} for name in labels]
    cluster.plane.apply(
        *(model(name, found) for name, found in labels.items()),
        service("llm", {"app": "llm"}, 80, "http"),
        *gateway("gw", namespace, cluster.plane.xds),
        istio("Gateway", "gw", {"selector": {"app": "gw"}, "servers": servers}),
        istio("DestinationRule", "llm", {"host": host, "subsets": subsets}),
        istio("VirtualService", "llm", {"hosts": ["*"], "gateways": ["gw"], "http": routes}),
        namespace=namespace,
    )
    cluster.plane.kubectl("rollout", "status", "deployment", "--timeout=120s", namespace=namespace)
    (pod,) = cluster.plane.read("pods", "", namespace, "--selector=app=gw")["items"]
    url = f"http://{pod['status']['podIP']}:{GATEWAY_PORT}"
    wait_for(lambda: _model(url) == "model-a", "the gateway to reach model-a")
    wait_for(lambda: _model(url, **{"x-model": "b"}) == "model-b", "the gateway to reach model-b")
    assert [_model(url, **{"x-model": name}) for name in ("a", "b") * 10] == ["model-a", "model-b"] * 10
