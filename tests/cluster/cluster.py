"""A whole cluster: the control plane and a node whose pods are processes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from tests.cluster.plane.control_plane import ControlPlane
from tests.cluster.programs.catalogue import Programs


@dataclass(frozen=True, slots=True)
class Cluster:
    """A running cluster."""

    plane: ControlPlane

    @classmethod
    @contextlib.contextmanager
    def started(cls, programs: Programs, folder: Path) -> Iterator[Self]:
        """Start it, and end it with all that it started."""
        with ControlPlane.started(programs, folder) as plane:
            yield cls(plane)

    def describe(self) -> dict[str, Any]:
        """How a person or a program reaches it."""
        return {
            "environment": {"KUBECONFIG": str(self.plane.kubeconfig)},
            "programs": str(self.plane.programs.folder),
            "network_pid": self.plane.network.pid,
            "xds": self.plane.xds,
            "istiod_http": self.plane.istiod_http,
            "istiod_metrics": self.plane.istiod_metrics,
            "daemons": {daemon.name: daemon.pid for daemon in self.plane.daemons()},
        }
