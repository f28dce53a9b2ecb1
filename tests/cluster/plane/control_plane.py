"""A real control plane: etcd, kube-apiserver, kube-controller-manager and istiod, in a network of their own.

with ControlPlane.started(programs(), folder) as plane, plane.network.entered():
    plane.kubectl("get", "namespaces")
    plane.api_server.freeze()
"""

from __future__ import annotations

import contextlib
import json
import os
import ssl
import subprocess
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from tests.cluster.errors import ClusterError
from tests.cluster.plane import settings
from tests.cluster.plane.daemon import Daemon
from tests.cluster.plane.network import NODE, Network
from tests.cluster.plane.reading import Reader
from tests.cluster.plane.settings import Files
from tests.cluster.programs.catalogue import Programs

KUBECTL_LIMIT = 120.0


class KubectlError(ClusterError):
    """kubectl said no; holds what it said."""


@dataclass(frozen=True, slots=True)
class ControlPlane:
    """A running control plane. Its addresses answer inside its network only.

    Attributes:
        programs: that it runs.
        files: kubeconfig and all else; ``files.folder`` holds the logs.
        network: that it runs in; ``network.pid`` names the namespace.
        etcd: and the three others are to be killed, frozen and restarted.
        api_server: kube-apiserver.
        controller_manager: kube-controller-manager.
        istiod: pilot-discovery.
        reader: reads objects without kubectl.
    """

    programs: Programs
    files: Files
    network: Network
    etcd: Daemon
    api_server: Daemon
    controller_manager: Daemon
    istiod: Daemon
    reader: Reader

    @classmethod
    @contextlib.contextmanager
    def started(cls, programs: Programs, folder: Path, *, istio: bool = True) -> Iterator[Self]:
        """Start it, and end it with all that it started.

        Args:
            programs: built ones.
            folder: for its files and logs; an empty or a new one.
            istio: whether to start istiod, with its custom resources and the Gateway API's.

        Raises:
            Unavailable: this machine cannot run one.
            ClusterError: a program does not become ready.
        """
        files = Files(folder.resolve())
        files.write()
        network = Network.create()
        plane = cls(programs, files, network, **_daemons(programs, files), reader=Reader(files))
        try:
            with network.entered():
                plane._start(istio)
            yield plane
        finally:
            plane._stop()

    @property
    def kubeconfig(self) -> Path:
        """Of the user whom everything is allowed."""
        return self.files.kubeconfig

    @property
    def xds(self) -> str:
        """Where istiod serves Envoy's configuration, ``HOST:PORT``."""
        return f"{NODE}:{settings.XDS_PORT}"

    @property
    def istiod_http(self) -> str:
        """URL of istiod's readiness and ``/debug``; from loopback its debug pages ask for no token."""
        return f"http://127.0.0.1:{settings.ISTIOD_HTTP_PORT}"

    @property
    def istiod_metrics(self) -> str:
        """URL of istiod's metrics, as pods reach it too."""
        return f"http://{NODE}:{settings.ISTIOD_METRICS_PORT}/metrics"

    def environment(self) -> dict[str, str]:
        """Environment of a program that talks to the cluster: kubeconfig, and the built programs on the PATH."""
        return os.environ | {
            "KUBECONFIG": str(self.kubeconfig),
            # Every cluster has the same address, by which kubectl would keep what another one's API server offers.
            "KUBECACHEDIR": str(self.files.folder / "kubectl"),
            "PATH": f"{self.programs.folder}:{os.environ['PATH']}",
        }

    def run(self, *command: str, given: str = "", limit: float = KUBECTL_LIMIT) -> subprocess.CompletedProcess[str]:
        """Run a program inside the network and with the kubeconfig, such as helm; its exit code is the caller's."""
        return subprocess.run(
            self.network.command(command),
            input=given,
            capture_output=True,
            text=True,
            env=self.environment(),
            timeout=limit,
            check=False,
        )

    def kubectl(self, *arguments: str, namespace: str = "", given: str = "", limit: float = KUBECTL_LIMIT) -> str:
        """What kubectl prints.

        Args:
            arguments: of kubectl.
            namespace: instead of `default`.
            given: on its standard input, for ``-f -``.
            limit: seconds.

        Raises:
            KubectlError: it failed.
        """
        scope = ["--namespace", namespace] if namespace else []
        done = self.run(self.programs.path("kubectl"), *scope, *arguments, given=given, limit=limit)
        if done.returncode != 0:
            raise KubectlError(f"kubectl {' '.join(arguments)} failed:\n{done.stderr.strip()}")
        return done.stdout

    def apply(self, *objects: Mapping[str, Any], namespace: str = "") -> None:
        """Apply objects by kubectl, server-side and strictly."""
        given = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
        self.kubectl("apply", "--server-side", "--validate=strict", "-f", "-", namespace=namespace, given=given)

    def read(self, kind: str, name: str = "", namespace: str = "", *more: str) -> dict[str, Any]:
        """An object, or a list, as kubectl gets it; ``more`` are flags of its."""
        selectors = [flag.removeprefix("--selector=") for flag in more if flag.startswith("--selector=")]
        if len(selectors) == len(more) < 2 and (seen := self.reader.read(kind, name, namespace, "".join(selectors))):
            return seen
        arguments = ["get", kind, *filter(None, [name]), "--output", "json", *more]
        found: dict[str, Any] = json.loads(self.kubectl(*arguments, namespace=namespace))
        return found

    def delete_namespaces(self, *names: str) -> None:
        """Delete namespaces. Nobody waits for their end, but their gateways are gone at once.

        An Istio Gateway selects pods of every namespace, so that one which is still there while the next test's
        gateways start gives those its routes.
        """
        for name in names:
            self.kubectl("delete", "gateways.networking.istio.io,virtualservices", "--all", namespace=name)
        self.kubectl("delete", "namespace", *names, "--wait=false")

    def compact_etcd(self) -> int:
        """Forget all but the newest state, so that a watch from an older version gets 410; the revision kept."""
        status = json.loads(_call(f"{settings.ETCD}/v3/maintenance/status", body=b"{}"))
        revision = int(status["header"]["revision"])
        order = json.dumps({"revision": revision, "physical": True}).encode()
        _call(f"{settings.ETCD}/v3/kv/compaction", body=order)
        return revision

    def daemons(self) -> list[Daemon]:
        """All four, in the order of their start."""
        return [self.etcd, self.api_server, self.controller_manager, self.istiod]

    def ended(self) -> list[Daemon]:
        """Those that ended by themselves, and that a cluster would start again.

        istiod 1.31 does: it panics ("close of closed channel") when it stops leading for the second time, as when the
        API server was away twice.
        """
        return [daemon for daemon in self.daemons() if daemon.ended]

    def _start(self, istio: bool) -> None:
        self.etcd.start()
        self.api_server.start()
        self.controller_manager.launch()
        if istio:
            self._start_istio()
        self.controller_manager.wait_until_ready()

    def _start_istio(self) -> None:
        crds = [argument for file in self.programs.crds() for argument in ("--filename", str(file))]
        self.kubectl("apply", "--server-side", *crds)
        # Not by apply, which reads the schemas of all resources: a second after the custom resources that takes long.
        self.kubectl("create", "namespace", settings.ISTIO_NAMESPACE)
        mesh = f"--from-file=mesh={self.files.mesh_config}"
        self.kubectl("create", "configmap", "istio", mesh, namespace=settings.ISTIO_NAMESPACE)
        self.istiod.start()

    def _stop(self) -> None:
        # kube-apiserver takes more than 10 s to end by itself while watches are open, and nothing is to be saved.
        for daemon in reversed(self.daemons()):
            daemon.kill()
        self.network.close()


def _daemons(programs: Programs, files: Files) -> dict[str, Daemon]:
    def daemon(
        name: str, flags: list[str], ready: Callable[[], bool], environment: Mapping[str, str] | None = None
    ) -> Daemon:
        return Daemon(name, [programs.path(name), *flags], files.folder / f"{name}.log", ready, environment)

    manager = f"https://127.0.0.1:{settings.CONTROLLER_MANAGER_PORT}/healthz"
    istiod = f"http://127.0.0.1:{settings.ISTIOD_HTTP_PORT}/ready"
    return {
        "etcd": daemon("etcd", settings.etcd_flags(files), lambda: '"true"' in _call(f"{settings.ETCD}/health")),
        "api_server": daemon(
            "kube-apiserver",
            settings.api_server_flags(files),
            lambda: _call(f"{settings.API}/readyz", token=files.admin_token) == "ok",
        ),
        "controller_manager": daemon(
            "kube-controller-manager", settings.controller_manager_flags(files), lambda: _call(manager) == "ok"
        ),
        "istiod": daemon(
            "pilot-discovery",
            settings.istiod_flags(files),
            lambda: _call(istiod) is not None,
            settings.istiod_environment(files),
        ),
    }


def _call(url: str, token: str = "", body: bytes | None = None) -> str:
    """What a URL answers, to a POST if there is a body; an OSError unless it is a success.

    Certificates are of the programs' own making, and are not checked.
    """
    headers = {"authorization": f"Bearer {token}"} if token else {}
    request = urllib.request.Request(url, body, headers)
    context = ssl._create_unverified_context()
    with urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
    ).open(request, timeout=2) as response:
        text: str = response.read().decode()
    return text
