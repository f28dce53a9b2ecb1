"""Which servers there are, and what each says that it serves. Pure, but for asking what was read.

A server is ready or not as Kubernetes has it. One that is not gets no requests of gateways, so nobody waits for it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from abmesh.kube.watching import Listing
from abmesh.mesh.istio.scopes import Scope
from controller.cluster.filters.pods import Pod, selected

SERVICE: Final = "kubernetes.io/service-name"
"""Label of the EndpointSlices of a Service."""

PORT: Final = "metrics"
"""Name of the Service's port at which a server says what it serves."""

SIDECAR_PORT: Final = "ab-metrics"
"""Name of the same port of a server in the proxies' own pods."""


@dataclass(frozen=True, slots=True)
class Server:
    """One that is ready.

    Attributes:
        name: what people call it.
        address: base address of its HTTP port; empty if it has none that is known.
    """

    name: str
    address: str = ""


@dataclass(frozen=True, slots=True)
class Servers:
    """All that are ready.

    Attributes:
        found: each once, by name.
        trouble: why they may not be known, in words; empty if they are.
    """

    found: tuple[Server, ...] = ()
    trouble: str = ""


class ServiceServers:
    """Those of a Service.

    Args:
        namespace: the Service's.
        name: the Service's.
    """

    def __init__(self, namespace: str, name: str) -> None:
        self._service = f"the Service {namespace}/{name}"
        self._listing: Listing | None = None

    def take(self, listing: Listing) -> None:
        """Take in the Service's EndpointSlices."""
        self._listing = listing

    def __call__(self) -> Servers:
        """As they are now."""
        listing = self._listing
        if listing is None or not listing.at:
            said = "" if listing is None else listing.trouble
            return Servers(trouble=said or f"the EndpointSlices of {self._service} have not been listed yet")
        found = {server.name: server for item in listing.items.values() for server in _of_slice(item)}
        if not found:
            return Servers(trouble=f"{self._service} has no server that is ready")
        return Servers(tuple(found[name] for name in sorted(found)))


def _of_slice(item: Mapping[str, Any]) -> Iterable[Server]:
    ports = [port.get("port") for port in item.get("ports") or () if port.get("name") == PORT]
    for endpoint in item.get("endpoints") or ():
        if (endpoint.get("conditions") or {}).get("ready") is False:
            continue
        host = (endpoint.get("addresses") or [""])[0]
        name = (endpoint.get("targetRef") or {}).get("name") or host
        yield Server(f"server pod {name}", _address(host, ports[0]) if ports and ports[0] and host else "")


def sidecar_servers(pods: Callable[[], Iterable[Pod]], scopes: Callable[[], Iterable[Scope]]) -> Servers:
    """Those in the proxies' own pods.

    Args:
        pods: all pods where proxies may be.
        scopes: the proxies of the filters that are in force.
    """
    wanted = frozenset(scopes())
    found = []
    for pod in pods():
        conditions = {item["type"]: item["status"] for item in (pod.get("status") or {}).get("conditions") or ()}
        ready = conditions.get("Ready") == "True" and "deletionTimestamp" not in pod["metadata"]
        if ready and selected(pod, wanted):
            name = f"the server in pod {pod['metadata']['namespace']}/{pod['metadata']['name']}"
            found.append(Server(name, _address((pod.get("status") or {}).get("podIP", ""), _sidecar_port(pod))))
    return Servers(tuple(sorted(found, key=lambda server: server.name)), "" if found else "no proxy is ready")


def _sidecar_port(pod: Pod) -> int | None:
    spec = pod.get("spec") or {}
    containers = [*(spec.get("containers") or ()), *(spec.get("initContainers") or ())]
    ports = [port for container in containers for port in container.get("ports") or ()]
    return next((port["containerPort"] for port in ports if port.get("name") == SIDECAR_PORT), None)


def _address(host: str, port: int | None) -> str:
    if not host or port is None:
        return ""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


_SHOWN: Final = 3
"""Most servers that a sentence names."""

_GENERATION: Final = re.compile(r"[0-9a-f]{13}")


@dataclass(frozen=True, slots=True)
class Said:
    """What a server answered.

    Attributes:
        generations: of each experiment that it accepts, by name.
        failure: why there is no answer, in words; empty if there is one.
    """

    generations: Mapping[str, str]
    failure: str = ""


def said_of(page: Any) -> Said:
    """What a server's page says."""
    found = page.get("experiments") if isinstance(page, dict) else None
    if not isinstance(found, dict):
        return Said({}, "does not say what it serves")
    return Said({str(name): str(value) for name, value in found.items() if _GENERATION.fullmatch(str(value))})


def behind(name: str, generation: str, answers: Sequence[tuple[Server, Said]]) -> str:
    """Which servers do not serve a generation of an experiment, and what they said; empty if all do."""
    late = []
    for server, said in answers:
        present = said.generations.get(name)
        if said.failure:
            late.append(f"{server.name} {said.failure}")
        elif present is None:
            late.append(f"{server.name} does not accept it, and its log says why")
        elif present != generation:
            late.append(f"{server.name} serves generation {present} of it, not {generation}")
    more = f", and {len(late) - _SHOWN} more" if len(late) > _SHOWN else ""
    return "; ".join(late[:_SHOWN]) + more
