"""What tests of the controller's stores need of a real API server: the CRD, two namespaces, and a way in."""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import pytest

from abmesh.kube.client import Client
from abmesh.kube.connection import Connection, connect
from abmesh.kube.errors import Missing, Unreachable
from abmesh.kube.resources import EXPERIMENTS, Resource
from tests.cluster.cluster import Cluster
from tests.cluster.plane.control_plane import ControlPlane
from tests.cluster.waiting import wait_for
from tests.controller.cluster.support import ClusterWorld, manifest

CRD = Path(__file__).parents[2] / "charts/abmesh/files/experiments.abmesh.dev.yaml"

NAMESPACES: Final = Resource("", "v1", "namespaces", "Namespace", namespaced=False)


@dataclass(frozen=True)
class Place:
    """Two namespaces of one test: of its Experiments, and of the controller's own objects."""

    plane: ControlPlane
    connection: Connection
    namespace: str
    own: str

    @classmethod
    def made(cls, cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Self:
        plane = cluster.plane
        monkeypatch.setenv("KUBECONFIG", str(plane.kubeconfig))
        connection, number = connect(), secrets.token_hex(3)
        client = Client(connection)
        if not _served(client):
            plane.kubectl("apply", "--server-side", "--force-conflicts", "--filename", str(CRD))
            wait_for(lambda: _served(client), "the kind Experiment", 60)
        names = f"llm-{number}", f"abmesh-{number}"
        for name in names:
            client.create(NAMESPACES, None, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        return cls(plane, connection, *names)

    def client(self, timeout: float = 10.0) -> Client:
        return Client(self.connection, timeout)

    def world(self, **fields: object) -> ClusterWorld:
        """An Experiment, Envoys, a clock, and a controller in this process."""
        return ClusterWorld(self.client, self.namespace, self.own, **fields)  # type: ignore[arg-type]  # the caller's

    def apply(self, body: dict[str, Any], *more: str) -> str:
        """What ``kubectl apply`` says."""
        given = json.dumps(manifest(self.namespace, "chat", body))
        return self.plane.kubectl("apply", *more, "--filename", "-", given=given)


def _served(client: Client) -> bool:
    try:
        client.list(EXPERIMENTS)
    except (Missing, Unreachable):
        return False
    return True
