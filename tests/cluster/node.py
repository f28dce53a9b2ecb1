"""The node of a cluster: the stand-in kubelet's process, and what tests want of its pods' processes and logs."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import psutil

from tests.cluster import images
from tests.cluster.errors import ClusterError
from tests.cluster.images import Image
from tests.cluster.plane.control_plane import ControlPlane
from tests.cluster.plane.daemon import Daemon
from tests.paths import ROOT

_KUBELET: Final = "tests.cluster.kubelet"
_FIRST: Final = '"$@" & wait'
"""The first process of the namespace: a shell, which buries orphans. When it ends, the kernel ends all others."""


class Node:
    """The one node.

    Attributes:
        daemon: its kubelet, in a process namespace of its own: what ends it ends every pod.
    """

    def __init__(self, plane: ControlPlane, table: Mapping[str, Image]) -> None:
        self._plane = plane
        self._folder = plane.files.folder / "node"
        self._folder.mkdir(parents=True, exist_ok=True)
        images.save(table, self._folder / "images.json")
        kubelet = [sys.executable, "-m", _KUBELET, str(plane.kubeconfig), str(self._folder)]
        kubelet.append(str(self._folder / "images.json"))
        namespace = ["unshare", "--pid", "--fork", "--kill-child=SIGKILL", "--mount", "--mount-proc"]
        self.daemon = Daemon(
            "kubelet",
            plane.network.command([*namespace, "sh", "-c", _FIRST, "sh", *kubelet]),
            plane.files.folder / "kubelet.log",
            (self._folder / "ready").exists,
            {"PYTHONPATH": str(ROOT)},
        )

    def log(self, namespace: str, pod: str, container: str) -> str:
        """What a container wrote so far, over all its runs, also after its pod is gone; empty if nothing."""
        file = self._folder / "logs" / namespace / pod / f"{container}.log"
        return file.read_text(errors="replace") if file.exists() else ""

    def process(self, namespace: str, pod: str, container: str) -> int:
        """Process id of a running container's program, as this process sees it.

        Raises:
            ClusterError: it does not run.
        """
        status = self._plane.read("pod", pod, namespace)["status"]
        entries = [*status.get("containerStatuses", []), *status.get("initContainerStatuses", [])]
        for entry in entries:
            if entry["name"] == container and "running" in entry["state"]:
                inside = int(entry["containerID"].removeprefix("process://"))
                return self._outside(inside)
        raise ClusterError(f"container {container} of {namespace}/{pod} does not run")

    def tokens(self, pod: Mapping[str, Any]) -> list[Path]:
        """Files with a pod's tokens for the API server, which the kubelet keeps fresh."""
        return [*(self._folder / "pods" / pod["metadata"]["uid"] / "volumes").glob("*/token")]

    @contextlib.contextmanager
    def without_kubelet(self) -> Iterator[None]:
        """The kubelet is frozen while the context lasts: pods run, and nobody looks after them."""
        found = psutil.Process(self.daemon.pid).children(recursive=True)
        (kubelet,) = (each for each in found if each.cmdline()[1:3] == ["-m", _KUBELET])
        kubelet.suspend()
        try:
            yield
        finally:
            kubelet.resume()

    def _outside(self, inside: int) -> int:
        """The process id that a process of the node's namespace has out here."""
        namespace = Path(f"/proc/{self.daemon.pid}/ns/pid_for_children").readlink()
        for folder in Path("/proc").iterdir():
            if not folder.name.isdecimal():
                continue
            try:
                if (folder / "ns" / "pid").readlink() == namespace and _innermost(folder) == inside:
                    return int(folder.name)
            except OSError:  # ended meanwhile
                continue
        raise ClusterError(f"no process {inside} runs on the node")


def _innermost(folder: Path) -> int:
    lines = (folder / "status").read_text().splitlines()
    (ids,) = (line.split()[1:] for line in lines if line.startswith("NSpid:"))
    return int(ids[-1])
