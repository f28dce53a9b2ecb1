"""Two gateways that the real istiod configures, one for each kind of route, and abmesh's server as a pod."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
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
from tests.cluster.asking import HOST, OTHER_HOST, Door, Json
from tests.cluster.cluster import Cluster
from tests.cluster.gateways import admin, api_gateway, route_configurations
from tests.cluster.waiting import settled, wait_for
from tests.cluster.workloads import (
    GATEWAY_PORT,
    MODEL_PORT,
    RESTRICTED_CONTAINER,
    deployment,
    gateway,
    istio,
    service,
)

VARIANTS: Final = ("model-a", "model-b")
MIRROR: Final = "shadow"
"""The Deployment and Service that the users' routes mirror to."""

ORIGIN: Final = "https://chat.example.com"
"""The web origin that the VirtualService allows."""

READ: Final = (
    "services",
    "virtualservices",
    "destinationrules",
    "gateways.networking.istio.io",
    "gateways.gateway.networking.k8s.io",
    "httproutes",
)


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


def models() -> list[Json]:
    """Both versions, and what requests are mirrored to, each with a Service."""
    names = (*VARIANTS, MIRROR)
    return [*map(echo, names), *(service(name, {"version": name}, MODEL_PORT, "http") for name in names)]


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


def model_of(cluster: Cluster, namespace: str, name: str) -> Door:
    """Where to ask a version of the model, or the mirror, without a gateway."""
    (pod,) = cluster.plane.read("pods", "", namespace, f"--selector=version={name}")["items"]
    return Door(f"http://{pod['status']['podIP']}:{MODEL_PORT}")


def their_gateways() -> list[Json]:
    """A gateway of Istio's, and one of the Gateway API."""
    return [istio_gateway("edge"), *api_gateway_resources("inner", routes_from="Same")]


def istio_gateway(name: str, **server: Any) -> Json:
    """A gateway of Istio's, with one server: of plain HTTP, unless something else is said."""
    usual = {"port": {"number": 80, "name": "http", "protocol": "HTTP"}, "hosts": ["*"]}
    return istio("Gateway", name, {"selector": {"app": name}, "servers": [usual | server]})


def api_gateway_resources(name: str, *, routes_from: str) -> list[Json]:
    """A gateway of the Gateway API, for the routes of its own namespace (``Same``) or of all (``All``)."""
    allowed = {"namespaces": {"from": routes_from}}
    listener = {"name": "http", "port": 80, "protocol": "HTTP", "allowedRoutes": allowed}
    return [
        _gateway_api("GatewayClass", "istio", {"controllerName": "istio.io/gateway-controller"}),
        _gateway_api("Gateway", name, {"gatewayClassName": "istio", "listeners": [listener]}),
    ]


def their_routes(gateways: Sequence[str] = ("edge",), parent: Mapping[str, str] | None = None) -> list[Json]:
    """What the users of abmesh have: both kinds of route, with settings that must stay.

    Args:
        gateways: of the VirtualServices, as they name them.
        parent: of the HTTPRoute.
    """
    rules = [
        {"match": [{"headers": {"x-user-group": {"exact": "beta"}}}], "route": [_to("model-b", 100)]},
        {
            "name": "v1",
            "match": [{"uri": {"prefix": "/v1/"}}],
            "route": [_to("model-a", 90), _to("model-b", 10)],
            "timeout": "2s",
            "retries": {"attempts": 2, "retryOn": "5xx"},
            "rewrite": {"uri": "/api/"},
            "headers": {"request": {"set": {"x-theirs": "yes"}}, "response": {"set": {"x-answered": "yes"}}},
            "mirror": {"host": MIRROR, "port": {"number": MODEL_PORT}},
            "corsPolicy": {"allowOrigins": [{"exact": ORIGIN}], "allowMethods": ["GET"], "maxAge": "1h"},
        },
    ]
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
            {"type": "RequestMirror", "requestMirror": {"backendRef": {"name": MIRROR, "port": MODEL_PORT}}},
        ],
        "timeouts": {"request": "2s"},
        "backendRefs": [{"name": "model-a", "port": MODEL_PORT}],
    }
    spec = {"parentRefs": [parent or {"name": "inner"}], "hostnames": [HOST], "rules": [rule]}
    return [
        istio("VirtualService", "chat", {"hosts": [HOST], "gateways": list(gateways), "http": rules}),
        simple_route("other", OTHER_HOST, *gateways),
        _gateway_api("HTTPRoute", "chat", spec),
    ]


def simple_route(name: str, host: str, *gateways: str) -> Json:
    """A VirtualService with one rule, `v1`, to model-a."""
    rules = [{"name": "v1", "route": [_to("model-a", 100)]}]
    return istio("VirtualService", name, {"hosts": [host], "gateways": list(gateways), "http": rules})


def _to(name: str, weight: int) -> Json:
    return {"destination": {"host": name, "port": {"number": MODEL_PORT}}, "weight": weight}


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


def variant_of(item: Experiment, user: str) -> str:
    """The variant of a user, by the weights that an experiment has."""
    bucket = bucketing.bucket_of(item.hash_salt, user.encode())
    ranges = item.effective_ranges.items()
    return next(name for name, parts in ranges if any(start <= bucket < stop for start, stop in parts))


def their_objects(cluster: Cluster, namespace: str) -> list[Json]:
    """The users' objects in a namespace, with who wrote what of them."""
    more = "--show-managed-fields"
    return [item for kind in READ for item in cluster.plane.read(kind, "", namespace, more)["items"]]


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
        return variant_of(self._experiment, user)

    @cached_property
    def _experiment(self) -> Experiment:
        return parse(self.said).experiment

    def read(self) -> list[Json]:
        """The users' objects."""
        return their_objects(self.cluster, self.namespace)

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
        return route_configurations(self.cluster, self.namespace, name)

    def admin(self, name: str, path: str) -> str:
        """What a gateway's admin endpoint says."""
        return admin(self.cluster, self.namespace, name, path)


def make_world(cluster: Cluster, namespace: str) -> World:
    """Make it, and wait until both gateways serve the users' routes as they are without abmesh."""
    plane = cluster.plane
    plane.apply(definition())
    plane.kubectl("wait", "--for=condition=Established", "crd/experiments.abmesh.dev", "--timeout=120s")
    plane.apply(
        *models(),
        *gateway("edge", namespace, plane.xds),
        *api_gateway("inner", namespace, plane.xds),
        *server(namespace),
        *their_gateways(),
        *their_routes(),
        namespace=namespace,
    )
    plane.kubectl("rollout", "status", "deployment", "--timeout=120s", namespace=namespace)
    urls = {}
    for name in ("edge", "inner"):
        (pod,) = plane.read("pods", "", namespace, f"--selector=app={name}")["items"]
        urls[name] = f"http://{pod['status']['podIP']}:{GATEWAY_PORT}"
        wait_for(Door(urls[name]).serves, f"the gateway {name} to serve the route")
    world = World(cluster, namespace, urls, experiment(namespace))
    settled(lambda: [world.routes(name) for name in urls], "the gateways' routes")
    return world
