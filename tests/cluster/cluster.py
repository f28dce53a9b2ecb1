"""A whole cluster: the control plane, and a node whose pods are processes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from tests.cluster.images import Image, shipped
from tests.cluster.node import Node
from tests.cluster.plane.control_plane import ControlPlane
from tests.cluster.programs.catalogue import Programs


@dataclass(frozen=True, slots=True)
class Cluster:
    """A running cluster. Its addresses answer inside its network only.

    Attributes:
        plane: etcd, kube-apiserver, kube-controller-manager and istiod, with ``kubectl``.
        node: where the pods run.
    """

    plane: ControlPlane
    node: Node

    @classmethod
    @contextlib.contextmanager
    def started(
        cls, programs: Programs, folder: Path, table: Mapping[str, Image] | None = None, *, istio: bool = True
    ) -> Iterator[Self]:
        """Start it, and end it with all that it started.

        Args:
            programs: built ones.
            folder: for its files and logs; an empty or a new one.
            table: images that pods may name; those that the project ships by default.
            istio: whether to start istiod.

        Raises:
            Unavailable: this machine cannot run one.
            ClusterError: a program does not become ready.
        """
        with ControlPlane.started(programs, folder, istio=istio) as plane:
            node = Node(plane, shipped() if table is None else table)
            try:
                node.daemon.start()
                yield cls(plane, node)
            finally:
                node.daemon.kill()

    def describe(self) -> dict[str, Any]:
        """How a person or a program reaches it."""
        plane = self.plane
        daemons = [*plane.daemons(), self.node.daemon]
        return {
            "environment": {"KUBECONFIG": str(plane.kubeconfig)},
            "programs": str(plane.programs.folder),
            "network_pid": plane.network.pid,
            "xds": plane.xds,
            "istiod_http": plane.istiod_http,
            "istiod_metrics": plane.istiod_metrics,
            "processes": {daemon.name: daemon.pid for daemon in daemons if daemon.running},
        }
