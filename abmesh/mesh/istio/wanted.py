"""What is asked for: Experiments with the routes that they split, and settings of the installation. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum

from abmesh.experiment.errors import SettingsError
from abmesh.experiment.model import Experiment
from abmesh.mesh.addresses import parse_ip_endpoint
from abmesh.mesh.merge.pieces import Unassigned


class Kind(StrEnum):
    """Kinds of routes that can be split."""

    VIRTUAL_SERVICE = "VirtualService"
    HTTP_ROUTE = "HTTPRoute"


@dataclass(frozen=True, slots=True)
class RouteRef:
    """One rule of somebody's VirtualService or HTTPRoute.

    Attributes:
        kind: which of the two.
        namespace: its namespace.
        name: its name.
        rule: the rule's name; empty if it is the only one and has none.
    """

    kind: Kind
    namespace: str
    name: str
    rule: str = ""

    @property
    def label(self) -> str:
        """The route's name in statistics: ``llm/virtualservice/chat/v1``."""
        return "/".join(part for part in (self.namespace, self.kind.lower(), self.name, self.rule) if part)

    def __str__(self) -> str:
        rule = f", rule {self.rule!r}" if self.rule else ""
        return f"{self.kind} {self.namespace}/{self.name}{rule}"


@dataclass(frozen=True, slots=True)
class Callers:
    """Whose sidecars get the filters of a route inside the mesh.

    Attributes:
        namespaces: those of the callers.
        labels: of the callers' pods, in any namespace.
        everyone: all sidecars of the mesh.
    """

    namespaces: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    everyone: bool = False


@dataclass(frozen=True, slots=True)
class Placed:
    """An Experiment, and where it is placed.

    Attributes:
        experiment: its name is ``namespace/name``; each variant's ``cluster`` is Istio's name of the cluster.
        routes: the rules that it splits.
        unassigned: where their requests go that have no variant; None for the control where the route leads to a
            candidate already, else the route's own destination.
        callers: whose sidecars take part, for routes inside the mesh.
        created: when it was made, as the cluster says it: of two alike, the older one comes first.
    """

    experiment: Experiment
    routes: tuple[RouteRef, ...]
    unassigned: Unassigned | None = None
    callers: Callers = Callers()
    created: str = ""


@dataclass(frozen=True, slots=True)
class Settings:
    """The same for all routes.

    Attributes:
        server_namespace: where the server's Service is.
        server_service: its name.
        server_port: its port.
        server_socket: path of the Unix socket of a server in the gateway's own pod; empty: the Service.
        gateway_namespaces: where gateways may be patched; None: anywhere.
        root_namespace: Istio's own, whose EnvoyFilters reach every namespace.
        cluster_domain: the end of Services' names.
        istio_version: of the control plane.
        headers: names of request headers that the server gets whatever the experiments need.
        header_prefixes: of names of further ones.
        event_origins: web origins whose pages may send events.
        message_timeout: longest wait for the server's answer to one request.
        statistics: where the fenced listener for statistics listens.
        admin: where the proxy's admin endpoint listens.

    Raises:
        SettingsError: an address is none.
    """

    server_namespace: str = "abmesh"
    server_service: str = "abmesh-ext-proc"
    server_port: int = 50051
    server_socket: str = ""
    gateway_namespaces: tuple[str, ...] | None = None
    root_namespace: str = "istio-system"
    cluster_domain: str = "cluster.local"
    istio_version: str = "1.31.0"
    headers: tuple[str, ...] = (":authority", ":path", "cookie", "origin", "x-forwarded-proto")
    header_prefixes: tuple[str, ...] = ("x-user-",)
    event_origins: tuple[str, ...] = ()
    message_timeout: timedelta = timedelta(milliseconds=500)
    statistics: str = "0.0.0.0:15099"
    admin: str = "127.0.0.1:15000"

    def __post_init__(self) -> None:
        parse_ip_endpoint(self.statistics, "statistics")
        parse_ip_endpoint(self.admin, "admin")
        if not 0 < self.server_port < 65536:
            raise SettingsError(f"server_port: found {self.server_port}; allowed: 1 to 65535")
