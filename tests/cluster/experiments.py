"""What tests of the controller's stores need of a real API server: the CRD, two namespaces, and a way in."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import pytest

from abmesh.kube.client import Client
from abmesh.kube.connection import Connection, connect
from tests.cluster.cluster import Cluster
from tests.cluster.plane.control_plane import ControlPlane
from tests.cluster.waiting import wait_for
from tests.controller.cluster.support import ClusterWorld

CRD = Path(__file__).parents[2] / "charts/abmesh/files/experiments.abmesh.dev.yaml"


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
        plane.kubectl("apply", "--server-side", "--force-conflicts", "--filename", str(CRD))
        plane.kubectl("wait", "--for=condition=Established", "crd/experiments.abmesh.dev", "--timeout=60s")
        wait_for(lambda: plane.kubectl("get", "experiments", "-A", "--output=name") is not None, "the CRD", 30)
        number = secrets.token_hex(3)
        names = f"llm-{number}", f"abmesh-{number}"
        for name in names:
            plane.kubectl("create", "namespace", name)
        return cls(plane, connect(), *names)

    def client(self, timeout: float = 10.0) -> Client:
        return Client(self.connection, timeout)

    def world(self, **fields: object) -> ClusterWorld:
        """An Experiment, Envoys, a clock, and a controller in this process."""
        return ClusterWorld(self.client, self.namespace, self.own, **fields)  # type: ignore[arg-type]  # the caller's

    @property
    def connect(self) -> Callable[[], Client]:
        return self.client
