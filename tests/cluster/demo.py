"""The demo's story in a cluster: the shipped chart rolls out a new model, as `kubectl get abx -w` shows it.

It goes the way of docs/kubernetes.md, with examples/kubernetes/cpu, in minutes that are seconds here.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, Final

import pytest

from abmesh.kube.client import Client
from abmesh.kube.connection import connect
from abmesh.kube.resources import EXPERIMENTS
from tests.charts.support import EXAMPLES, of_kind
from tests.charts.support import read as objects_of
from tests.cluster.asking import Door, Json
from tests.cluster.cluster import Cluster
from tests.cluster.gateways import api_gateway, pod_of
from tests.cluster.istio_world import api_gateway_resources
from tests.cluster.load import Load
from tests.cluster.releases import Release
from tests.cluster.waiting import wait_for
from tests.cluster.workloads import GATEWAY_PORT

FOLDER: Final = EXAMPLES / "cpu"
NAMESPACE: Final = "chat-demo"
QUESTION: Final = {"model": "chat", "messages": [{"role": "user", "content": "What should we roll out next?"}]}
LONGEST_SECONDS: Final = 600.0
STAGE: Final = {"minDuration": "5s", "minRequests": 50}
_STARTING: Final = 240.0
_ENDED: Final = ("Promoted", "RolledBack", "Concluded", "Manual")

Say = Callable[[str], None]


def run_demo(cluster: Cluster, say: Say, *, rate: float = 100.0, **rollout: Any) -> bool:
    """Tell the story in a cluster that runs; whether the new model was promoted. What it made stays.

    Args:
        cluster: whose network this thread is in.
        say: is told what happens.
        rate: requests of all users per second.
        rollout: fields of the example's rollout to change.
    """
    plane = cluster.plane
    say("Starting two models, and a gateway with a route to the present one ...")
    plane.apply(*objects_of(FOLDER / "models.yaml").values())
    gateway_class, _ = api_gateway_resources("chat", routes_from="Same")
    plane.apply(gateway_class, *objects_of(FOLDER / "routing.yaml").values())
    # Elsewhere Istio makes these pods from the Gateway.
    plane.apply(*api_gateway("chat", NAMESPACE, plane.xds, drain=45), namespace=NAMESPACE)
    plane.kubectl("rollout", "status", "deployment", f"--timeout={_STARTING:g}s", namespace=NAMESPACE, limit=_STARTING)
    address = pod_of(cluster, NAMESPACE, "chat")["status"]["podIP"]
    door = Door(f"http://{address}:{GATEWAY_PORT}")
    wait_for(lambda: door.serves(path="/v1/models"), "the gateway to serve the route", _STARTING)

    say("helm install abmesh charts/abmesh --namespace abmesh --create-namespace --wait ...")
    plane.kubectl("create", "namespace", "abmesh")
    Release(cluster, "abmesh").install(*_settings(cluster), wait=True)

    (item,) = of_kind(objects_of(FOLDER / "experiment.yaml"), "Experiment").values()
    item["spec"]["rollout"] |= {"stage": STAGE} | rollout
    name = item["metadata"]["name"]
    say(f"kubectl apply -f experiment.yaml   # with stages of seconds; {rate:g} requests of users per second begin now")
    plane.apply(item)
    say(f"kubectl -n {NAMESPACE} get abx -w")
    users = [f"user-{number}" for number in range(2000)]
    load = Load({"chat": door}, users, rate, path="/v1/chat/completions", body=QUESTION)
    started = time.monotonic()
    with _watching(cluster):
        status = asyncio.run(_followed(cluster, name, load))
    _summarise(status, load, time.monotonic() - started, say)
    return status.get("phase") == "Promoted"


def _settings(cluster: Cluster) -> tuple[str, ...]:
    return (
        f"gatewayNamespaces={{{NAMESPACE}}}",
        f"istio.monitoring={cluster.plane.istiod_metrics.removesuffix('/metrics')}",
        "extProc.autoscaling.enabled=false",
        "controller.interval=1s",
        "controller.settle=2s",
    )


@contextlib.contextmanager
def _watching(cluster: Cluster) -> Iterator[None]:
    """Show what kubectl prints of every change, while the block runs."""
    plane = cluster.plane
    command = [plane.programs.path("kubectl"), "--namespace", NAMESPACE, "get", "abx", "--watch"]
    process = subprocess.Popen(plane.network.command(command), env=plane.environment(), stdin=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait()


async def _followed(cluster: Cluster, name: str, load: Load) -> Json:
    """The status at the end of the rollout, or when its time is over. Users send requests until then."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KUBECONFIG", str(cluster.plane.kubeconfig))
        client = Client(connect())
    ends = time.monotonic() + LONGEST_SECONDS
    status: Json = {}
    async with load.running():
        while status.get("phase") not in _ENDED and time.monotonic() < ends:
            await asyncio.sleep(0.5)
            status = (await asyncio.to_thread(client.get, EXPERIMENTS, NAMESPACE, name)).get("status") or {}
    await asyncio.sleep(1)  # for kubectl to print it
    return status


def _summarise(status: Json, load: Load, seconds: float, say: Say) -> None:
    say(f"{status.get('phase', 'nothing')} after {seconds:.0f} s: {status.get('reason', '')}")
    answers = Counter(each.version or "unassigned" for each in load.sent)
    failed = Counter(each.version or "unassigned" for each in load.sent if each.status != 200)
    for variant, requests in sorted(answers.items()):
        say(f"  {variant:<12} {requests:>6} requests  {failed[variant]:>4} failed")
