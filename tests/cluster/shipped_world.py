"""The chart as a person installs it, four gateways of its users, and their models, each in namespaces of their own.

with shipped(cluster) as world:
    world.apply(world.experiment("chat"))
    world.wait_until_programmed("chat")
    world.gateways["edge"].door.ask("user-1").version == world.law("chat", "user-1")
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import subprocess
import sys
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import pytest

from abmesh.experiment.model import Experiment
from abmesh.kube.connection import Connection, connect
from abmesh.kube.in_force import experiment_in_force
from controller.cluster.names import LEASE
from tests.cluster import istio_world
from tests.cluster.asking import Json
from tests.cluster.cluster import Cluster
from tests.cluster.edges import STARTING, USERS, Edge, prepare
from tests.cluster.gateways import admin, route_configurations
from tests.cluster.images import shipped as images
from tests.cluster.istio_world import variant_of
from tests.cluster.releases import Release
from tests.cluster.waiting import wait_for

ISTIODS: Final = ("pilot-discovery", "status")
SETTINGS: Final = (
    # Nothing in the rig scales pods.
    "extProc.autoscaling.enabled=false",
    "extProc.replicas=2",
    # A rollout of hours in seconds.
    "controller.interval=1s",
    "controller.settle=1s",
)


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

    def experiment(self, name: str, *weights: float, **changes: Any) -> Json:
        """An Experiment of the namespace: on both routes, 70 to 30, without a rollout, unless it is changed."""
        made = istio_world.experiment(self.namespace, **changes)
        for variant, weight in zip(made["spec"]["variants"], weights, strict=False):
            variant["weight"] = weight
        return made | {"metadata": made["metadata"] | {"name": name}}

    def apply(self, *experiments: Json) -> None:
        """Apply Experiments as a person does."""
        self.cluster.plane.apply(*experiments)

    def delete(self, *names: str, namespace: str = "") -> None:
        """Delete Experiments, all of them if none is named, and wait until the gateways are as before abmesh."""
        which = names or ("--all",)
        self.cluster.plane.kubectl("delete", "experiment", *which, namespace=namespace or self.namespace)
        wait_for(lambda: not self.filters(), "no EnvoyFilter of ours to be left", STARTING)
        for name in self.gateways:
            wait_for(lambda name=name: self.as_before(name), f"the routes of {name} to be as before", STARTING)  # type: ignore[misc]

    def thing(self, name: str) -> Json:
        """An Experiment as it is now: of the namespace, or ``NAMESPACE/NAME``."""
        namespace, _, own = name.rpartition("/")
        return self.cluster.plane.read("experiment", own, namespace or self.namespace)

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

    def as_before(self, name: str) -> bool:
        """Whether a gateway's route configurations are as they were before abmesh."""
        found = self.gateways[name]
        return route_configurations(self.cluster, found.namespace, found.name) == found.before

    def why(self, name: str) -> str:
        """What a gateway's Envoy counted of its calls to our servers, such as timeouts and failures."""
        found = self.gateways[name]
        return admin(self.cluster, found.namespace, found.name, "/stats?filter=ext_proc&usedonly")

    def their_versions(self) -> dict[tuple[str, str, str], str]:
        """A digest of each of the users' objects, by namespace, kind and name; any write but istiod's changes it."""
        return {
            (namespace, item["kind"], item["metadata"]["name"]): _version(item)
            for namespace in (self.namespace, *self.edges.values())
            for item in istio_world.their_objects(self.cluster, namespace)
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

    def metrics(self) -> str:
        """What the controller that leads says on its ``/metrics``; empty if nobody leads, or it does not answer."""
        leader = self.leader()
        for pod in self.pods("controller"):
            if pod["metadata"]["name"] == leader:
                with (
                    contextlib.suppress(OSError),
                    urllib.request.urlopen(f"http://{pod['status']['podIP']}:9103/metrics", timeout=5) as answer,
                ):
                    text: str = answer.read().decode()
                    return text
        return ""

    def counted(self) -> Counter[str]:
        """Requests by variant, as the metrics of the controller that leads have them."""
        found: Counter[str] = Counter()
        pattern = r'^llm_requests_total\{[^}]*model_version="([^"]+)"[^}]*\} ([0-9.e+]+)$'
        for variant, value in re.findall(pattern, self.metrics(), re.MULTILINE):
            found[variant] += int(float(value))
        return found

    def ticks(self) -> float:
        """How often the leader has looked, if it can read all gateways; 0 if it cannot."""
        text = self.metrics()
        answering = rf'^abmesh_controller_sources\{{state="answering"\}} {len(self.gateways)}\.0$'
        ticks = re.search(r"^abmesh_controller_ticks_total ([0-9.e+]+)$", text, re.MULTILINE)
        return float(ticks[1]) if ticks and re.search(answering, text, re.MULTILINE) else 0.0

    def scale(self, replicas: int) -> None:
        """Let so many controllers run, and wait until they do."""
        name = f"deployment/{self.release.name}-controller"
        self.cluster.plane.kubectl("scale", name, f"--replicas={replicas}", namespace=self.release.namespace)
        wait_for(lambda: len(self.pods("controller")) == replicas, f"{replicas} controllers", STARTING)
        gone = "--selector=app.kubernetes.io/component=controller"
        if not replicas:
            wait_for(
                lambda: not self.cluster.plane.read("pods", "", self.release.namespace, gone)["items"],
                "the controllers to be gone",
                STARTING,
            )
        self.cluster.plane.kubectl("rollout", "status", name, namespace=self.release.namespace, limit=STARTING)

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
        assert done.returncode == 0 or not check, f"{done.stdout}\n{done.stderr}"
        return done


def rollout(*steps: float, run: str = "first") -> Json:
    """A rollout of model-b in stages of seconds, which is rolled back if more than 5% fail."""
    return {
        "candidate": "model-b",
        "steps": steps,
        "run": run,
        "stage": {"minDuration": "2s", "minRequests": 20},
        "guardrails": [{"metric": "error_rate", "max": "5%"}],
    }


def _version(item: Json) -> str:
    """Changes with its resourceVersion, unless istiod alone has written what its own analysis found, in the status."""
    meta = item["metadata"]
    fields = [each for each in meta["managedFields"] if (each["manager"], each.get("subresource")) != ISTIODS]
    rest = {key: value for key, value in item.items() if key not in ("metadata", "status")}
    known = {key: value for key, value in meta.items() if key not in ("resourceVersion", "managedFields")}
    content = json.dumps([rest, known, fields], sort_keys=True)
    return f"{len(fields)} managers, {hashlib.sha256(content.encode()).hexdigest()[:16]}"


@contextlib.contextmanager
def shipped(cluster: Cluster, *settings: str) -> Iterator[Shipped]:
    """Make all of it and install the chart; afterwards uninstall it, if that was not done, and delete the rest."""
    plane, users = cluster.plane, prepare(cluster)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KUBECONFIG", str(plane.kubeconfig))
        connection = connect()
    released = users.namespace.replace(USERS, "abmesh", 1)
    plane.kubectl("create", "namespace", released)
    world = Shipped(cluster, Release(cluster, released), users.namespace, users.gateways, users.edges, connection)
    try:
        world.install(*settings)
        yield world
    except BaseException:
        _report(world)
        raise
    finally:
        with contextlib.suppress(Exception):  # the namespaces go in any case
            world.release.uninstall()
        plane.delete_namespaces(world.namespace, world.release.namespace, *world.edges.values())
        plane.kubectl("delete", "crd", "experiments.abmesh.dev", "--ignore-not-found")


def _report(world: Shipped) -> None:
    """Write what the chart's pods said to standard error, for whoever reads why a test failed."""
    with contextlib.suppress(Exception):
        for component, container in (("controller", "controller"), ("ext-proc", "ext-proc")):
            for pod in world.pods(component):
                name = pod["metadata"]["name"]
                text = world.cluster.node.log(world.release.namespace, name, container)
                sys.stderr.write(f"--- {name}\n{text[-10_000:]}\n")
        sys.stderr.write(json.dumps(world.cluster.plane.read("experiments", "", world.namespace), indent=1)[-20_000:])
