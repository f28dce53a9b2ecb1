"""Objects that tests of a cluster apply: pods as PodSecurity `restricted` wants them, and an Istio gateway."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from tests.cluster.plane import settings
from tests.cluster.programs.catalogue import ISTIO_VERSION

Object = dict[str, Any]

RESTRICTED_POD: Final[Object] = {
    "runAsNonRoot": True,
    "runAsUser": 65532,
    "runAsGroup": 65532,
    "fsGroup": 65532,
    "seccompProfile": {"type": "RuntimeDefault"},
}
RESTRICTED_CONTAINER: Final[Object] = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}
MODEL_PORT: Final = 8000
GATEWAY_PORT: Final = 8080


def deployment(name: str, labels: Mapping[str, str], spec: Mapping[str, Any], replicas: int = 1) -> Object:
    """A Deployment of pods with such labels; their ``spec`` gets the restricted security context and a short grace."""
    template = {
        "metadata": {"labels": dict(labels)},
        "spec": {"securityContext": RESTRICTED_POD, "terminationGracePeriodSeconds": 5, **spec},
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {"replicas": replicas, "selector": {"matchLabels": dict(labels)}, "template": template},
    }


def model(name: str, labels: Mapping[str, str], replicas: int = 1) -> Object:
    """A Deployment of model servers that answer with a name."""
    container = {
        "name": "server",
        "image": "model-server:1",
        "args": ["--name", name, "--port", str(MODEL_PORT), "--latency-ms", "1"],
        "ports": [{"name": "http", "containerPort": MODEL_PORT}],
        "securityContext": RESTRICTED_CONTAINER,
        "readinessProbe": {"httpGet": {"path": "/healthz", "port": "http"}, "periodSeconds": 1},
    }
    return deployment(name, labels, {"containers": [container]}, replicas)


def service(name: str, selector: Mapping[str, str], port: int, target: int | str) -> Object:
    """A Service with one HTTP port."""
    spec = {"selector": dict(selector), "ports": [{"name": "http", "port": port, "targetPort": target}]}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec}


def gateway(
    name: str, namespace: str, xds: str, *, port: int = 80, target: int = GATEWAY_PORT, drain: int = 1
) -> list[Object]:
    """Envoy as a gateway that istiod configures over ADS: its bootstrap, the Deployment and its Service.

    Its pods are labelled ``app: NAME`` and listen on ``target`` for an Istio Gateway's server of ``port``, once a
    Service with that target port selects them. When a listener changes, its old connections end after ``drain``
    seconds, with the requests on them; Istio waits 45.
    """
    boot = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": f"{name}-bootstrap"},
        "data": {"envoy.json": json.dumps(gateway_bootstrap(name, namespace, xds))},
    }
    domain = f"{namespace}.svc.cluster.local"
    arguments = ["-c", "/etc/envoy/envoy.json", "--service-node", f"router~$(POD_IP)~$(POD_NAME).{namespace}~{domain}"]
    arguments += ["--service-cluster", f"{name}.{namespace}", "--concurrency", "1", "--disable-hot-restart"]
    arguments += ["--log-level", "warning", "--drain-time-s", str(drain)]
    container = {
        "name": "istio-proxy",
        "image": "envoy:1.40",
        "args": arguments,
        "env": [_from_field("POD_IP", "status.podIP"), _from_field("POD_NAME", "metadata.name")],
        "ports": [{"name": "http", "containerPort": target}],
        "securityContext": RESTRICTED_CONTAINER,
        "volumeMounts": [{"name": "bootstrap", "mountPath": "/etc/envoy", "readOnly": True}],
        "readinessProbe": {"tcpSocket": {"port": "http"}, "periodSeconds": 1},
    }
    volumes = [{"name": "bootstrap", "configMap": {"name": f"{name}-bootstrap"}}]
    pods = deployment(name, {"app": name}, {"containers": [container], "volumes": volumes})
    return [boot, pods, service(name, {"app": name}, port, target)]


def gateway_bootstrap(name: str, namespace: str, xds: str) -> Object:
    """Envoy's bootstrap: all else comes from istiod. The admin endpoint is the pod's own, as in Istio's proxy."""
    host, _, port = xds.rpartition(":")
    ads = {"resource_api_version": "V3", "ads": {}}
    h2 = {
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": {"http2_protocol_options": {}},
        }
    }
    metadata = {
        "NAMESPACE": namespace,
        "LABELS": {"app": name},
        "ISTIO_VERSION": ISTIO_VERSION,
        "CLUSTER_ID": settings.CLUSTER_ID,
        "WORKLOAD_NAME": name,
    }
    return {
        "admin": {"address": _socket("127.0.0.1", 15000)},
        "node": {"metadata": metadata},
        "dynamic_resources": {
            "ads_config": {
                "api_type": "DELTA_GRPC",
                "transport_api_version": "V3",
                "grpc_services": [{"envoy_grpc": {"cluster_name": "xds-grpc"}}],
            },
            "lds_config": ads,
            "cds_config": ads,
        },
        "static_resources": {
            "clusters": [
                {
                    "name": "xds-grpc",
                    "type": "STATIC",
                    "connect_timeout": "1s",
                    "load_assignment": {
                        "cluster_name": "xds-grpc",
                        "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _socket(host, int(port))}}]}],
                    },
                    "typed_extension_protocol_options": h2,
                }
            ]
        },
    }


def istio(kind: str, name: str, spec: Mapping[str, Any]) -> Object:
    """An object of Istio's networking API."""
    return {
        "apiVersion": "networking.istio.io/v1",
        "kind": kind,
        "metadata": {"name": name},
        "spec": dict(spec),
    }


def addresses(slices: Sequence[Mapping[str, Any]]) -> set[str]:
    """Addresses of the ready endpoints of EndpointSlices."""
    endpoints = [endpoint for entry in slices for endpoint in entry.get("endpoints") or []]
    return {found for endpoint in endpoints if endpoint["conditions"].get("ready") for found in endpoint["addresses"]}


def _socket(host: str, port: int) -> Object:
    return {"socket_address": {"address": host, "port_value": port}}


def _from_field(name: str, path: str) -> Object:
    return {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}
