"""A stage's evidence waits until every ready server says that it serves its weights, and who does not is named."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

from tests.cluster.cluster import Cluster
from tests.cluster.filters_world import controller_of, owner
from tests.cluster.istio_world import World, experiment, make_world
from tests.cluster.waiting import wait_for

OWNER = "abmesh-controller"
ROLLOUT = {
    "candidate": "model-b",
    "steps": [30, 60, 100],
    "stage": {"minDuration": "1s", "minRequests": 1_000_000},
    "guardrails": [{"metric": "error_rate", "max": "50%"}],
}


def _progressing(world: World) -> dict[str, Any]:
    """The condition Progressing."""
    thing = world.cluster.plane.read("experiments", "chat", world.namespace)
    conditions = thing.get("status", {}).get("conditions", [])
    return next((item for item in conditions if item["type"] == "Progressing"), {})


def test_a_server_that_is_ready_and_hangs_holds_the_stage_by_its_name(
    cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    world, plane = make_world(cluster, namespace), cluster.plane
    plane.apply(owner(OWNER))
    (pod,) = plane.read("pods", "", namespace, "--selector=app=abmesh")["items"]
    name = pod["metadata"]["name"]
    with controller_of(world, tmp_path, OWNER):
        plane.apply(experiment(namespace, rollout=ROLLOUT))
        wait_for(lambda: _progressing(world).get("reason") == "MinRequests", "evidence to begin", 240)

        server = cluster.node.process(namespace, name, "server")
        os.kill(server, signal.SIGSTOP)
        try:
            request = json.dumps({"id": "next-1", "action": "promote", "by": "ada", "arguments": {"step": True}})
            plane.kubectl("annotate", "experiment", "chat", f"abmesh.dev/request={request}", namespace=namespace)
            wait_for(lambda: _progressing(world).get("reason") == "NotServed", "the stage to wait", 240)
            message = _progressing(world)["message"]
            assert f"server pod {name} does not answer" in message
        finally:
            os.kill(server, signal.SIGCONT)
        wait_for(lambda: _progressing(world).get("reason") == "MinRequests", "the stage's evidence to begin", 240)
        assert plane.read("experiments", "chat", namespace)["status"]["candidateWeight"] == "60%"
