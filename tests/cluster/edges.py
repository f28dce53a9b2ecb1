"""What users have before they install the chart: four gateways in two namespaces, models and routes in a third."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import trustme

from tests.cluster import istio_world
from tests.cluster.asking import Door, Json, Named
from tests.cluster.cluster import Cluster
from tests.cluster.gateways import (
    HTTPS_PORT,
    api_gateway,
    https_gateway,
    https_server,
    pod_of,
    route_configurations,
)
from tests.cluster.istio_world import api_gateway_resources, istio_gateway, models
from tests.cluster.waiting import settled, wait_for
from tests.cluster.workloads import GATEWAY_PORT, gateway

USERS: Final = "llm"
"""How the namespace of models and routes begins."""

PLACES: Final = {"edge": "ingress", "secure": "ingress", "partner": "partners", "inner": "partners"}
"""In which of the gateways' namespaces each gateway runs; the last is of the Gateway API."""

STARTING: Final = 240.0


@dataclass(frozen=True, slots=True)
class Edge:
    """A gateway that runs.

    Attributes:
        namespace: of its pods.
        name: of its pods' label ``app``.
        door: where users come in.
        before: its route configurations before abmesh was there.
    """

    namespace: str
    name: str
    door: Door
    before: list[Json]


@dataclass(frozen=True, slots=True)
class Users:
    """What users have.

    Attributes:
        namespace: of their models and routes.
        edges: the namespaces of gateways, by name.
        gateways: by name.
    """

    namespace: str
    edges: Mapping[str, str]
    gateways: Mapping[str, Edge]


def prepare(cluster: Cluster) -> Users:
    """Make what users have before they install the chart, and wait until every gateway serves their route."""
    plane, number = cluster.plane, secrets.token_hex(3)
    edges = {name: f"{name}-{number}" for name in dict.fromkeys(PLACES.values())}
    own = f"{USERS}-{number}"
    for namespace in (own, *edges.values()):
        plane.kubectl("create", "namespace", namespace)
    authority = trustme.CA()
    ingress, partners = edges.values()
    plane.apply(
        *gateway("edge", ingress, plane.xds),
        *https_gateway("secure", ingress, plane.xds, authority),
        istio_gateway("edge"),
        istio_gateway("secure", **https_server()),
        namespace=ingress,
    )
    plane.apply(
        *gateway("partner", partners, plane.xds),
        *api_gateway("inner", partners, plane.xds),
        istio_gateway("partner"),
        *api_gateway_resources("inner", routes_from="All"),
        namespace=partners,
    )
    names = [f"{edges[place]}/{name}" for name, place in PLACES.items() if name != "inner"]
    routes = istio_world.their_routes(names, {"name": "inner", "namespace": partners})
    plane.apply(*models(), *routes, namespace=own)
    for namespace in (own, *edges.values()):
        plane.kubectl(
            "rollout", "status", "deployment", f"--timeout={STARTING:g}s", namespace=namespace, limit=STARTING
        )
    trust = Named.trusting(authority.cert_pem.bytes().decode())
    doors = {}
    for name, place in PLACES.items():
        address = pod_of(cluster, edges[place], name)["status"]["podIP"]
        https = f"https://{address}:{HTTPS_PORT}"
        door = Door(https, trust) if name == "secure" else Door(f"http://{address}:{GATEWAY_PORT}")
        wait_for(door.serves, f"the gateway {name} to serve the route", STARTING)
        doors[name] = door

    def configurations() -> dict[str, list[Json]]:
        return {name: route_configurations(cluster, edges[place], name) for name, place in PLACES.items()}

    before = settled(configurations, "the gateways' routes")
    gateways = {name: Edge(edges[place], name, doors[name], before[name]) for name, place in PLACES.items()}
    return Users(own, edges, gateways)
