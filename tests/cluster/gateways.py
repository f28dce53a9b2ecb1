"""Envoys of users' gateways: of the Gateway API, with certificate files, and what the admin endpoint of each says."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Final

import trustme

from tests.cluster import secrets_server
from tests.cluster.asking import HOST, Json
from tests.cluster.cluster import Cluster
from tests.cluster.workloads import GATEWAY_PORT, RESTRICTED_CONTAINER, gateway, service

API_NAME: Final = "gateway.networking.k8s.io/gateway-name"
HTTPS_PORT: Final = 8443
CERTIFICATES: Final = "/etc/certificates"
_SOCKET: Final = "/run/secrets-server/socket"


def api_gateway(name: str, namespace: str, xds: str, drain: int = 1) -> list[Json]:
    """The pods of a Gateway of the Gateway API, as Istio labels them, with the Service that Istio looks for."""
    boot, pods, _ = gateway(name, namespace, xds, drain=drain)
    found = json.loads(boot["data"]["envoy.json"])
    labels = {"app": name, API_NAME: name}
    found["node"]["metadata"]["LABELS"] = labels
    boot["data"]["envoy.json"] = json.dumps(found)
    pods["spec"]["template"]["metadata"]["labels"] = labels
    ports = service(f"{name}-istio", {API_NAME: name}, 80, GATEWAY_PORT)
    return [boot, pods, ports]


def https_gateway(name: str, namespace: str, xds: str, authority: trustme.CA) -> list[Json]:
    """A gateway on port 443 with a certificate for :data:`HOST` in files, as a native sidecar serves them to Envoy."""
    boot, pods, ports = gateway(name, namespace, xds, port=443, target=HTTPS_PORT)
    found = json.loads(boot["data"]["envoy.json"])
    (ads,) = found["static_resources"]["clusters"]
    address = {"endpoint": {"address": {"pipe": {"path": _SOCKET}}}}
    assignment = {"cluster_name": secrets_server.CLUSTER, "endpoints": [{"lb_endpoints": [address]}]}
    found["static_resources"]["clusters"].append(ads | {"name": secrets_server.CLUSTER, "load_assignment": assignment})
    boot["data"]["envoy.json"] = json.dumps(found)

    issued = authority.issue_cert(HOST)
    pem = {
        "tls.crt": b"".join(blob.bytes() for blob in issued.cert_chain_pems).decode(),
        "tls.key": issued.private_key_pem.bytes().decode(),
    }
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": f"{name}-certificate"}, "stringData": pem}
    socket = {"name": "socket", "mountPath": _SOCKET.rpartition("/")[0]}
    files = {"name": "certificate", "mountPath": CERTIFICATES, "readOnly": True}
    sidecar = {
        "name": "secrets",
        "image": "python:3",
        "restartPolicy": "Always",
        "args": ["-m", secrets_server.__name__, _SOCKET],
        "securityContext": RESTRICTED_CONTAINER,
        "volumeMounts": [socket, files],
    }
    spec = pods["spec"]["template"]["spec"]
    spec["initContainers"] = [sidecar]
    spec["volumes"] += [
        {"name": "socket", "emptyDir": {}},
        {"name": "certificate", "secret": {"secretName": f"{name}-certificate"}},
    ]
    spec["containers"][0]["volumeMounts"] += [socket, files]
    return [secret, boot, pods, ports]


def https_server() -> Json:
    """The server of an Istio Gateway that shows the certificate."""
    tls = {
        "mode": "SIMPLE",
        "serverCertificate": f"{CERTIFICATES}/tls.crt",
        "privateKey": f"{CERTIFICATES}/tls.key",
    }
    return {"port": {"number": 443, "name": "https", "protocol": "HTTPS"}, "hosts": ["*"], "tls": tls}


def pod_of(cluster: Cluster, namespace: str, name: str) -> Json:
    """The one pod that is labelled ``app: NAME``."""
    (pod,) = cluster.plane.read("pods", "", namespace, f"--selector=app={name}")["items"]
    found: Json = pod
    return found


def admin(cluster: Cluster, namespace: str, name: str, path: str) -> str:
    """What a gateway's admin endpoint says, which only its own pod reaches."""
    pod = pod_of(cluster, namespace, name)["metadata"]["name"]
    process = cluster.node.process(namespace, pod, "istio-proxy")
    code = f"import urllib.request; print(urllib.request.urlopen('http://127.0.0.1:15000{path}').read().decode())"
    command = ["nsenter", "-t", str(process), "-n", sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout


def route_configurations(cluster: Cluster, namespace: str, name: str) -> list[Json]:
    """The route configurations that a gateway has, by their names."""
    dump = json.loads(admin(cluster, namespace, name, "/config_dump?resource=dynamic_route_configs"))
    found = [item["route_config"] for item in dump.get("configs", ())]
    return sorted(found, key=lambda item: str(item["name"]))
