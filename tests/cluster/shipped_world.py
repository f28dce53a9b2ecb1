"""The chart as a person installs it, four gateways of its users, and their models, each in namespaces of their own.

with shipped(cluster) as world:
    world.apply(world.experiment("chat"))
    world.wait_until_programmed("chat")
    world.gateways["edge"].door.ask("user-1").version == world.law("chat", "user-1")
"""

from __future__ import annotations

import contextlib
import json
import secrets
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import pytest
import trustme

from abmesh.experiment.model import Experiment
from abmesh.kube.connection import Connection, connect
from abmesh.kube.in_force import experiment_in_force
from controller.cluster.names import LEASE
from tests.cluster import istio_world
from tests.cluster.asking import Door, Json, Named
from tests.cluster.cluster import Cluster
from tests.cluster.gateways import HTTPS_PORT, api_gateway, https_gateway, https_server, pod_of, route_configurations
from tests.cluster.images import shipped as images
from tests.cluster.istio_world import api_gateway_resources, istio_gateway, models, variant_of
from tests.cluster.releases import Release
from tests.cluster.waiting import wait_for
from tests.cluster.workloads import GATEWAY_PORT, gateway

SETTINGS: Final = (
    # Nothing in the rig scales pods.
    "extProc.autoscaling.enabled=false",
    "extProc.replicas=2",
    # A rollout of hours in seconds.
    "controller.interval=1s",
    "controller.settle=1s",
)
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


@dataclass(frozen=True)
class Shipped:
    """A cluster with all of it.

    Attributes:
        cluster: where it is.
        release: the chart's, installed.
        namespace: of the users' models, routes and Experiments.
        gateways: by name; three for the VirtualServices, of which `secure` has a certificate, and `inner` for the
            HTTPRoute.
        edges: the namespaces of gateways, by name.
        connection: to the API server, with every right.
    """

    cluster: Cluster
    release: Release
    namespace: str
    gateways: Mapping[str, Edge]
    edges: Mapping[str, str]
    connection: Connection

    def settings(self, *more: str) -> tuple[str, ...]:
        """What the chart is installed with."""
        monitoring = self.cluster.plane.istiod_metrics.removesuffix("/metrics")  # there is no DNS
        places = ",".join(self.edges.values())
        return (*SETTINGS, f"istio.monitoring={monitoring}", f"gatewayNamespaces={{{places}}}", *more)

    def install(self, *more: str) -> None:
        """Install or upgrade the chart, and wait until all of it is ready."""
        self.release.install(*self.settings(*more), wait=True)

    def experiment(self, name: str, **changes: Any) -> Json:
        """An Experiment of the namespace: on both routes, 70 to 30, without a rollout, unless it is changed."""
        made = istio_world.experiment(self.namespace, **changes)
        return made | {"metadata": made["metadata"] | {"name": name}}

    def apply(self, *experiments: Json) -> None:
        """Apply Experiments as a person does."""
        self.cluster.plane.apply(*experiments)

    def delete(self, *names: str) -> None:
        """Delete Experiments, and wait until the gateways are as they were before abmesh."""
        self.cluster.plane.kubectl("delete", "experiment", *names, "--ignore-not-found", namespace=self.namespace)
        wait_for(lambda: not self.filters(), "no EnvoyFilter of ours to be left", STARTING)
        for name in self.gateways:
            wait_for(lambda name=name: self.as_before(name), f"the routes of {name} to be as before", STARTING)  # type: ignore[misc]

    def thing(self, name: str) -> Json:
        """An Experiment as it is now."""
        return self.cluster.plane.read("experiment", name, self.namespace)

    def status(self, name: str) -> Json:
        """The status of an Experiment; empty at first."""
        found: Json = self.thing(name).get("status", {})
        return found

    def condition(self, name: str, kind: str) -> Json:
        """One condition of an Experiment; empty if it has none of that type."""
        return next((item for item in self.status(name).get("conditions", ()) if item["type"] == kind), {})

    def wait_until_programmed(self, name: str, doors: tuple[str, ...] = ()) -> None:
        """Wait until gateways, all of them if none is named, split an Experiment's traffic."""
        wait_for(
            lambda: self.condition(name, "Programmed").get("status") == "True", f"{name} to be programmed", STARTING
        )
        for door in doors or self.gateways:
            wait_for(
                lambda door=door: self.gateways[door].door.ask("user-0").version,  # type: ignore[misc]
                f"{door} to assign users",
                STARTING,
            )

    def in_force(self, name: str) -> Experiment:
        """An Experiment with the weights in force now, by the function that servers ask too."""
        return experiment_in_force(self.thing(name))

    def law(self, name: str, user: str) -> str:
        """The variant of a user now."""
        return variant_of(self.in_force(name), user)

    def filters(self) -> dict[tuple[str, str], Json]:
        """All EnvoyFilters where gateways are, by namespace and name."""
        found = [
            item
            for namespace in self.edges.values()
            for item in self.cluster.plane.read("envoyfilters", "", namespace)["items"]
        ]
        return {(item["metadata"]["namespace"], item["metadata"]["name"]): item for item in found}

    def routes(self, name: str) -> list[Json]:
        """The route configurations of a gateway."""
        found = self.gateways[name]
        return route_configurations(self.cluster, found.namespace, found.name)

    def as_before(self, name: str) -> bool:
        """Whether a gateway's route configurations are as they were before abmesh."""
        return self.routes(name) == self.gateways[name].before

    def their_versions(self) -> dict[tuple[str, str, str], str]:
        """resourceVersion of each of the users' objects, by namespace, kind and name."""
        return {
            (namespace, *key): version
            for namespace in (self.namespace, *self.edges.values())
            for key, version in istio_world.versions_of(istio_world.their_objects(self.cluster, namespace)).items()
        }

    def pods(self, component: str) -> list[Json]:
        """The chart's pods of a component, ``controller`` or ``ext-proc``, that are not about to end."""
        selector = f"--selector=app.kubernetes.io/component={component}"
        found = self.cluster.plane.read("pods", "", self.release.namespace, selector)["items"]
        return [item for item in found if "deletionTimestamp" not in item["metadata"]]

    def servers(self) -> list[str]:
        """``http://HOST:PORT`` of each server pod's metrics and ``/generation``."""
        return [f"http://{item['status']['podIP']}:9102" for item in self.pods("ext-proc")]

    def leader(self) -> str:
        """Name of the pod that leads; empty if nobody does."""
        with contextlib.suppress(Exception):
            spec = self.cluster.plane.read("lease", LEASE, self.release.namespace)["spec"]
            return str(spec.get("holderIdentity") or "").rpartition("-")[0]
        return ""

    def command(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run abmesh's own command on the cluster, for this world's Experiments."""
        plane, image = self.cluster.plane, images()["abmesh"]
        environment = plane.environment() | dict(image.environment) | {"ABMESH_NAMESPACE": self.release.namespace}
        command = [*image.entrypoint, *arguments, "--kubernetes", f"--namespace={self.namespace}"]
        done = subprocess.run(
            plane.network.command(command),
            capture_output=True,
            text=True,
            env=environment,
            timeout=STARTING,
            check=False,
        )
        assert done.returncode == 0 or not check, done
        return done


@contextlib.contextmanager
def shipped(cluster: Cluster, *settings: str) -> Iterator[Shipped]:
    """Make all of it and install the chart; afterwards uninstall it, if that was not done, and delete the rest."""
    world = _prepared(cluster)
    plane = cluster.plane
    try:
        world.install(*settings)
        yield world
    except BaseException:
        _report(world)
        raise
    finally:
        with contextlib.suppress(Exception):  # the namespaces go in any case
            world.release.uninstall()
        for namespace in (world.namespace, world.release.namespace, *world.edges.values()):
            plane.kubectl("delete", "namespace", namespace, "--wait=false")
        plane.kubectl("delete", "crd", "experiments.abmesh.dev", "--ignore-not-found")


def _prepared(cluster: Cluster) -> Shipped:
    """What users have before they install the chart."""
    plane, number = cluster.plane, secrets.token_hex(3)
    edges = {name: f"{name}-{number}" for name in dict.fromkeys(PLACES.values())}
    own, released = f"llm-{number}", f"abmesh-{number}"
    for namespace in (own, released, *edges.values()):
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
    gateways = {}
    for name, place in PLACES.items():
        address = pod_of(cluster, edges[place], name)["status"]["podIP"]
        https = f"https://{address}:{HTTPS_PORT}"
        door = Door(https, trust) if name == "secure" else Door(f"http://{address}:{GATEWAY_PORT}")
        wait_for(door.serves, f"the gateway {name} to serve the route", STARTING)
        gateways[name] = Edge(edges[place], name, door, route_configurations(cluster, edges[place], name))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KUBECONFIG", str(plane.kubeconfig))
        connection = connect()
    return Shipped(cluster, Release(cluster, released), own, gateways, edges, connection)


def _report(world: Shipped) -> None:
    """Write what the chart's pods said to standard error, for whoever reads why a test failed."""
    with contextlib.suppress(Exception):
        for component, container in (("controller", "controller"), ("ext-proc", "ext-proc")):
            for pod in world.pods(component):
                name = pod["metadata"]["name"]
                text = world.cluster.node.log(world.release.namespace, name, container)
                sys.stderr.write(f"--- {name}\n{text[-10_000:]}\n")
        sys.stderr.write(json.dumps(world.cluster.plane.read("experiments", "", world.namespace), indent=1)[-20_000:])
