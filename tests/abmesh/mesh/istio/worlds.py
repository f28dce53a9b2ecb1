"""A small cluster for the tests of EnvoyFilters: the guides' two versions of a model, and ways to change it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from abmesh.experiment.model import Experiment
from abmesh.mesh.istio.reading import read
from abmesh.mesh.istio.render import Rendered, render
from abmesh.mesh.istio.wanted import Kind, Placed, RouteRef, Settings

Json = dict[str, Any]
ISTIO, GATEWAY_API = "networking.istio.io/v1", "gateway.networking.k8s.io/v1"
HOST = "llm-inference.llm.svc.cluster.local"
A, B = f"outbound|8000|model-a|{HOST}", f"outbound|8000|model-b|{HOST}"


def thing(api: str, kind: str, name: str, namespace: str, spec: Mapping[str, Any], **meta: Any) -> Json:
    """An object."""
    return {"apiVersion": api, "kind": kind, "metadata": {"name": name, "namespace": namespace, **meta}, "spec": spec}


def service(name: str = "llm-inference", namespace: str = "llm", ports: Sequence[int] = (8000,), **spec: Any) -> Json:
    """A Service."""
    return thing("v1", "Service", name, namespace, {"ports": [{"port": port} for port in ports], **spec})


def subsets(*names: str, host: str = "llm-inference", name: str = "models", **policy: Any) -> Json:
    """A DestinationRule."""
    spec: Json = {"host": host, "subsets": [{"name": item} for item in names]}
    return thing(ISTIO, "DestinationRule", name, "llm", spec | ({"trafficPolicy": policy} if policy else {}))


def gateway(name: str = "edge", namespace: str = "edge", hosts: Sequence[str] = ("*",), **selector: str) -> Json:
    """A gateway of Istio's API."""
    servers = [{"port": {"number": 80, "name": "http", "protocol": "HTTP"}, "hosts": list(hosts)}]
    return thing(ISTIO, "Gateway", name, namespace, {"selector": selector or {"app": "edge"}, "servers": servers})


def to(subset: str = "", weight: int | None = None, host: str = "llm-inference", **more: Any) -> Json:
    """A destination of a VirtualService."""
    place: Json = {"host": host} | ({"subset": subset} if subset else {})
    return {"destination": place} | ({} if weight is None else {"weight": weight}) | more


BETA: Json = {"match": [{"headers": {"x-user-group": {"exact": "beta"}}}], "route": [to("model-b")]}
SPLIT: Json = {"name": "v1", "route": [to("model-a", 90), to("model-b", 10)]}


def virtual_service(
    *rules: Mapping[str, Any],
    name: str = "chat",
    hosts: Sequence[str] = ("chat.example.com",),
    gateways: Sequence[str] = ("edge/edge",),
    namespace: str = "llm",
) -> Json:
    """A VirtualService; by default as the guides have it, with the second rule named."""
    spec: Json = {"http": list(rules or (BETA, SPLIT))}
    spec |= {"hosts": list(hosts)} if hosts else {}
    spec |= {"gateways": list(gateways)} if gateways else {}
    return thing(ISTIO, "VirtualService", name, namespace, spec)


def http_route(*rules: Mapping[str, Any], name: str = "chat", **spec: Any) -> Json:
    """An HTTPRoute; by default with one rule that goes to one Service."""
    usual = {"name": "v1", "backendRefs": [{"name": "llm-inference", "port": 8000}]}
    whole: Json = {
        "parentRefs": [{"name": "chat-gw", "namespace": "edge"}],
        "hostnames": ["chat.example.com"],
        "rules": list(rules or (usual,)),
    }
    return thing(GATEWAY_API, "HTTPRoute", name, "llm", whole | spec)


def api_gateway(name: str = "chat-gw", hostname: str | None = None) -> Json:
    """A Gateway of the Gateway API."""
    listener: Json = {"name": "http", "port": 80, "protocol": "HTTP"} | ({"hostname": hostname} if hostname else {})
    return thing(GATEWAY_API, "Gateway", name, "edge", {"gatewayClassName": "istio", "listeners": [listener]})


USUAL = (service(), subsets("model-a", "model-b"), gateway(), virtual_service())


def experiment(name: str = "chat", a: str = A, b: str = B, **changes: Any) -> Experiment:
    """An Experiment of the namespace ``llm``."""
    said = {
        "name": name,
        "match": {"path_prefix": "/v1/"},
        "unit": [{"header": "x-user-id"}],
        "variants": [
            {"name": "model-a", "cluster": a, "weight": 95, "control": True},
            {"name": "model-b", "cluster": b, "weight": 5},
        ],
        **changes,
    }
    return Experiment.model_validate(said).model_copy(update={"name": f"llm/{name}"})


def ref(kind: Kind = Kind.VIRTUAL_SERVICE, name: str = "chat", rule: str = "v1", namespace: str = "llm") -> RouteRef:
    """A rule."""
    return RouteRef(kind, namespace, name, rule)


def placed(of: Experiment | None = None, *routes: RouteRef, **more: Any) -> Placed:
    """An Experiment on its routes; by default on the usual one."""
    return Placed(of or experiment(), routes or (ref(),), **more)


def rendered(objects: Iterable[Json] = USUAL, *wanted: Placed, **settings: Any) -> Rendered:
    """What comes of Experiments in a cluster."""
    return render(wanted or (placed(),), read(objects), Settings(**settings))


def patches(of: Rendered, kind: str) -> list[Json]:
    """The patches of all EnvoyFilters of a kind."""
    return [patch for item in of.filters if item.kind == kind for patch in item.body["spec"]["configPatches"]]


def entries(of: Rendered) -> list[Json]:
    """The weighted clusters of the first route."""
    found: list[Json] = patches(of, "route")[1]["patch"]["value"]["route"]["weighted_clusters"]["clusters"]
    return found


def refusals(of: Rendered) -> list[str]:
    """The reasons, in order."""
    return [str(item.reason) for item in of.refusals]
