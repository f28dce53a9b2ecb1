"""Two gateways that the real istiod configures, one for each kind of route, and abmesh's server as a pod."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Final

from abmesh.experiment import bucketing
from abmesh.experiment.model import Experiment
from abmesh.kube.objects import parse
from abmesh.kube.schema import definition
from abmesh.mesh.istio.placing import place
from abmesh.mesh.istio.reading import read
from abmesh.mesh.istio.render import Rendered, render
from abmesh.mesh.istio.wanted import Settings
from tests.cluster.cluster import Cluster
from tests.cluster.waiting import wait_for
from tests.cluster.workloads import (
    GATEWAY_PORT,
    MODEL_PORT,
    RESTRICTED_CONTAINER,
    deployment,
    gateway,
    istio,
    service,
)

Json = dict[str, Any]
VARIANTS: Final = ("model-a", "model-b")
HOST: Final = "chat.example.com"
OTHER_HOST: Final = "other.example.com"
API_NAME: Final = "gateway.networking.k8s.io/gateway-name"
READ: Final = (
    "services",
    "virtualservices",
    "destinationrules",
    "gateways.networking.istio.io",
    "gateways.gateway.networking.k8s.io",
    "httproutes",
)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a client got, and what the upstream says that it was sent."""

    status: int
    version: str
    upstream: Json
    headers: Mapping[str, str]


def ask(url: str, user: str = "", host: str = HOST, path: str = "/v1/x", **headers: str) -> Answer:
    """One request; underscores in the names of headers stand for dashes."""
    sent = {name.replace("_", "-"): value for name, value in headers.items()} | {"host": host}
    request = urllib.request.Request(url + path, headers=sent | ({"x-user-id": user} if user else {}))
    try:
        with urllib.request.urlopen(request, timeout=15) as answer:
            return _answer(answer.status, answer)
    except urllib.error.HTTPError as error:
        with error:
            return _answer(error.code, error)


def _answer(status: int, answer: Any) -> Answer:
    text = answer.read().decode()
    upstream = json.loads(text) if text.startswith("{") else {}
    found = {name.lower(): value for name, value in answer.headers.items()}
    return Answer(status, found.get("x-model-version", ""), upstream, found)


def ask_all(url: str, users: Sequence[str], **more: str) -> list[Answer]:
    """One request of each user, some at a time."""
    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(lambda user: ask(url, user, **more), users))


def echo(name: str) -> Json:
    """A Deployment that echoes, as a version of a model."""
    text = Path(__file__).with_name("echo.py").read_text()
    container = {
        "name": "server",
        "image": "python:3",
        "args": ["-c", text, name, str(MODEL_PORT)],
        "ports": [{"name": "http", "containerPort": MODEL_PORT}],
        "securityContext": RESTRICTED_CONTAINER,
        "readinessProbe": {"tcpSocket": {"port": "http"}, "periodSeconds": 1},
    }
    return deployment(name, {"app": "llm", "version": name}, {"containers": [container]})


def api_gateway(name: str, namespace: str, xds: str) -> list[Json]:
    """The pods of a Gateway of the Gateway API, as Istio labels them, with the Service that Istio looks for."""
    boot, pods, _ = gateway(name, namespace, xds)
    found = json.loads(boot["data"]["envoy.json"])
    labels = {"app": name, API_NAME: name}
    found["node"]["metadata"]["LABELS"] = labels
    boot["data"]["envoy.json"] = json.dumps(found)
    pods["spec"]["template"]["metadata"]["labels"] = labels
    ports = service(f"{name}-istio", {API_NAME: name}, 80, GATEWAY_PORT)
    return [boot, pods, ports]


def server(namespace: str) -> list[Json]:
    """The external-processing server, which follows the Experiments of the namespace."""
    listening = ("--listen=0.0.0.0:50051", "--metrics=0.0.0.0:9102")
    container = {
        "name": "server",
        "image": "abmesh:dev",
        "args": ["ext-proc", "--kubernetes", "--namespace", namespace, *listening],
        "ports": [{"name": "grpc", "containerPort": 50051}],
        "securityContext": RESTRICTED_CONTAINER,
        "readinessProbe": {"tcpSocket": {"port": "grpc"}, "periodSeconds": 1},
    }
    ports = service("abmesh-ext-proc", {"app": "abmesh"}, 50051, "grpc")
    ports["spec"]["ports"][0]["name"] = "grpc"
    ports["spec"]["ports"].append({"name": "metrics", "port": 9102, "targetPort": 9102})
    subject = {"kind": "ServiceAccount", "name": "abmesh", "namespace": namespace}
    rbac = "rbac.authorization.k8s.io"
    rule = {"apiGroups": ["abmesh.dev"], "resources": ["experiments"], "verbs": ["get", "list", "watch"]}
    return [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "abmesh"}},
        {"apiVersion": f"{rbac}/v1", "kind": "Role", "metadata": {"name": "abmesh"}, "rules": [rule]},
        {
            "apiVersion": f"{rbac}/v1",
            "kind": "RoleBinding",
            "metadata": {"name": "abmesh"},
            "roleRef": {"apiGroup": rbac, "kind": "Role", "name": "abmesh"},
            "subjects": [subject],
        },
        deployment("abmesh", {"app": "abmesh"}, {"serviceAccountName": "abmesh", "containers": [container]}),
        ports,
    ]


def their_routes() -> list[Json]:
    """What the users of abmesh have: both kinds of route, with settings that must stay."""

    def to(name: str, weight: int) -> Json:
        return {"destination": {"host": name, "port": {"number": MODEL_PORT}}, "weight": weight}

    rules = [
        {"match": [{"headers": {"x-user-group": {"exact": "beta"}}}], "route": [to("model-b", 100)]},
        {
            "name": "v1",
            "match": [{"uri": {"prefix": "/v1/"}}],
            "route": [to("model-a", 90), to("model-b", 10)],
            "timeout": "2s",
            "retries": {"attempts": 2, "retryOn": "5xx"},
            "rewrite": {"uri": "/api/"},
            "headers": {"request": {"set": {"x-theirs": "yes"}}, "response": {"set": {"x-answered": "yes"}}},
        },
    ]
    servers = [{"port": {"number": 80, "name": "http", "protocol": "HTTP"}, "hosts": ["*"]}]
    changed = {"set": [{"name": "x-theirs", "value": "yes"}]}
    answered = {"set": [{"name": "x-answered", "value": "yes"}]}
    rule = {
        "name": "v1",
        "matches": [{"path": {"type": "PathPrefix", "value": "/v1/"}}],
        "filters": [
            {"type": "RequestHeaderModifier", "requestHeaderModifier": changed},
            {"type": "ResponseHeaderModifier", "responseHeaderModifier": answered},
            {
                "type": "URLRewrite",
                "urlRewrite": {"path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/api/"}},
            },
        ],
        "timeouts": {"request": "2s"},
        "backendRefs": [{"name": "model-a", "port": MODEL_PORT}],
    }
    spec = {"parentRefs": [{"name": "inner"}], "hostnames": [HOST], "rules": [rule]}
    listener = {"name": "http", "port": 80, "protocol": "HTTP", "allowedRoutes": {"namespaces": {"from": "Same"}}}
    return [
        istio("Gateway", "edge", {"selector": {"app": "edge"}, "servers": servers}),
        istio("VirtualService", "chat", {"hosts": [HOST], "gateways": ["edge"], "http": rules}),
        istio(
            "VirtualService",
            "other",
            {"hosts": [OTHER_HOST], "gateways": ["edge"], "http": [{"name": "v1", "route": [to("model-a", 100)]}]},
        ),
        _gateway_api("GatewayClass", "istio", {"controllerName": "istio.io/gateway-controller"}),
        _gateway_api("Gateway", "inner", {"gatewayClassName": "istio", "listeners": [listener]}),
        _gateway_api("HTTPRoute", "chat", spec),
    ]


def _gateway_api(kind: str, name: str, spec: Mapping[str, Any]) -> Json:
    metadata = {"name": name}
    return {"apiVersion": "gateway.networking.k8s.io/v1", "kind": kind, "metadata": metadata, "spec": dict(spec)}


def experiment(namespace: str, **changes: Any) -> Json:
    """An Experiment on both routes."""
    weights = {"model-a": 70, "model-b": 30}
    spec = {
        "routes": [
            {"kind": "VirtualService", "name": "chat", "rule": "v1"},
            {"kind": "HTTPRoute", "name": "chat", "rule": "v1"},
        ],
        "match": {"pathPrefix": "/v1/"},
        "unit": [{"header": "x-user-id"}],
        "variants": [
            {
                "name": name,
                "backend": {"service": name, "port": MODEL_PORT},
                "weight": weights[name],
                **({"control": True} if name == "model-a" else {}),
            }
            for name in VARIANTS
        ],
        **changes,
    }
    metadata = {"name": "chat", "namespace": namespace}
    return {"apiVersion": "abmesh.dev/v1alpha1", "kind": "Experiment", "metadata": metadata, "spec": spec}


@dataclass(frozen=True)
class World:
    """A namespace with all of it.

    Attributes:
        cluster: where it is.
        namespace: its own.
        urls: of the gateways, by name.
        said: the Experiment.
    """

    cluster: Cluster
    namespace: str
    urls: Mapping[str, str]
    said: Json

    def law(self, user: str) -> str:
        """The variant of a user."""
        item = self._experiment
        bucket = bucketing.bucket_of(item.hash_salt, user.encode())
        ranges = item.effective_ranges.items()
        return next(name for name, parts in ranges if any(start <= bucket < stop for start, stop in parts))

    @cached_property
    def _experiment(self) -> Experiment:
        return parse(self.said).experiment

    def read(self) -> list[Json]:
        """The users' objects."""
        return [item for kind in READ for item in self.cluster.plane.read(kind, "", self.namespace)["items"]]

    def rendered(self) -> Rendered:
        """Our EnvoyFilters for what is there. A server that a busy machine holds up leaves no user unassigned."""
        found = parse(self.said)
        placed = place(self.namespace, found.spec, found.experiment)
        patient = Settings(server_namespace=self.namespace, message_timeout=timedelta(seconds=10))
        return render([placed], read(self.read()), patient)

    def versions(self) -> dict[tuple[str, str], str]:
        """What the API server calls the present form of each of the users' objects."""
        return {(item["kind"], item["metadata"]["name"]): item["metadata"]["resourceVersion"] for item in self.read()}

    def routes(self, name: str) -> list[Json]:
        """The route configurations that a gateway has."""
        dump = json.loads(self.admin(name, "/config_dump?resource=dynamic_route_configs"))
        found = [item["route_config"] for item in dump.get("configs", ())]
        return sorted(found, key=lambda item: str(item["name"]))

    def admin(self, name: str, path: str) -> str:
        """What a gateway's admin endpoint says, which only its own pod reaches."""
        (pod,) = self.cluster.plane.read("pods", "", self.namespace, f"--selector=app={name}")["items"]
        process = self.cluster.node.process(self.namespace, pod["metadata"]["name"], "istio-proxy")
        code = f"import urllib.request; print(urllib.request.urlopen('http://127.0.0.1:15000{path}').read().decode())"
        command = ["nsenter", "-t", str(process), "-n", sys.executable, "-c", code]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout


def make_world(cluster: Cluster, namespace: str) -> World:
    """Make it, and wait until both gateways serve the users' routes as they are without abmesh."""
    plane = cluster.plane
    plane.apply(definition())
    plane.kubectl("wait", "--for=condition=Established", "crd/experiments.abmesh.dev", "--timeout=120s")
    plane.apply(
        *(echo(name) for name in VARIANTS),
        *(service(name, {"version": name}, MODEL_PORT, "http") for name in VARIANTS),
        *gateway("edge", namespace, plane.xds),
        *api_gateway("inner", namespace, plane.xds),
        *server(namespace),
        *their_routes(),
        namespace=namespace,
    )
    plane.kubectl("rollout", "status", "deployment", "--timeout=120s", namespace=namespace)
    urls = {}
    for name in ("edge", "inner"):
        (pod,) = plane.read("pods", "", namespace, f"--selector=app={name}")["items"]
        urls[name] = f"http://{pod['status']['podIP']}:{GATEWAY_PORT}"
        wait_for(partial(_served, urls[name]), f"the gateway {name} to serve the route")
    return World(cluster, namespace, urls, experiment(namespace))


def _served(url: str) -> bool:
    try:
        return ask(url).status == 200
    except OSError:
        return False
