"""Which programs a cluster runs, how they are built, and the name of the folder that holds them.

The pins stand in ``tools/go.mod`` alone. The folder's name is a digest of all that decides what the programs are, so a
change of a pin or of a flag builds anew, and two checkouts with the same pins share what was built.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

TOOLS: Final = Path(__file__).parents[1] / "tools"
"""The Go module that pins the programs."""

ISTIO_VERSION: Final = "1.31.0"
"""What istiod says it is: its module is pinned by a commit, whose name says no version."""

CRDS: Final = ("istio.yaml", "gateway-api.yaml")
"""Custom resources that are kept beside the programs, in the folder ``crds``."""


@dataclass(frozen=True, slots=True)
class Program:
    """One program.

    Attributes:
        name: of its file.
        package: Go package of its main function; `.` is the one in ``tools``.
    """

    name: str
    package: str


PROGRAMS: Final = (
    Program("etcd", "."),
    Program("kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver"),
    Program("kube-controller-manager", "k8s.io/kubernetes/cmd/kube-controller-manager"),
    Program("kubectl", "k8s.io/kubernetes/cmd/kubectl"),
    Program("pilot-discovery", "istio.io/istio/pilot/cmd/pilot-discovery"),
    Program("istioctl", "istio.io/istio/istioctl/cmd/istioctl"),
    Program("helm", "helm.sh/helm/v3/cmd/helm"),
)


@dataclass(frozen=True, slots=True)
class Pins:
    """Versions in ``go.mod``, as ``(major, minor, patch)`` or with their leading v."""

    go: tuple[int, ...]
    etcd: str
    kubernetes: str
    helm: str
    gateway_api: str


def read_pins(go_mod: str) -> Pins:
    """The versions that a ``go.mod`` pins.

    Raises:
        ValueError: one of them is missing.
    """

    def version(module: str) -> str:
        found = re.search(rf"^(?:require)?\s*{re.escape(module)} (v\S+)", go_mod, re.MULTILINE)
        if found is None:
            raise ValueError(f"go.mod does not pin {module}")
        return found[1]

    go = re.search(r"^go ([0-9.]+)$", go_mod, re.MULTILINE)
    if go is None:
        raise ValueError("go.mod says no version of Go")
    return Pins(
        tuple(map(int, go[1].split("."))),
        version("go.etcd.io/etcd/server/v3"),
        version("k8s.io/kubernetes"),
        version("helm.sh/helm/v3"),
        version("sigs.k8s.io/gateway-api"),
    )


def stamps(pins: Pins) -> Mapping[str, str]:
    """Variables that the linker sets, by name.

    A program that is built without says that it is version `v0.0.0-master+$Format:%H$`, which kubectl cannot read and
    Helm refuses by a chart's ``kubeVersion``; and Helm believes that Kubernetes is v1.20.
    """
    major, minor = pins.kubernetes.removeprefix("v").split(".")[:2]
    kubernetes = "k8s.io/component-base/version"
    helm = "helm.sh/helm/v3"
    return {
        f"{kubernetes}.gitVersion": pins.kubernetes,
        f"{kubernetes}.gitMajor": major,
        f"{kubernetes}.gitMinor": minor,
        f"{helm}/internal/version.version": pins.helm,
        f"{helm}/pkg/chartutil.k8sVersionMajor": major,
        f"{helm}/pkg/chartutil.k8sVersionMinor": minor,
        f"{helm}/pkg/lint/rules.k8sVersionMajor": major,
        f"{helm}/pkg/lint/rules.k8sVersionMinor": minor,
        "istio.io/istio/pkg/version.buildVersion": ISTIO_VERSION,
    }


def build_flags(pins: Pins) -> list[str]:
    """Flags of ``go build``: no paths of this machine, no symbols, versions stamped."""
    linker = " ".join(["-s", "-w", *(f"-X {name}={value}" for name, value in stamps(pins).items())])
    return ["-trimpath", f"-ldflags={linker}"]


def digest(tools: Path = TOOLS) -> str:
    """Name of the folder of the programs: 16 hexadecimal digits."""
    go_mod = (tools / "go.mod").read_text()
    parts = [go_mod, (tools / "go.sum").read_text(), (tools / "etcd.go").read_text()]
    parts += [*build_flags(read_pins(go_mod)), platform.system(), platform.machine(), *CRDS]
    parts += [f"{program.name} {program.package}" for program in PROGRAMS]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def cache_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """Where built programs of all versions lie: below ``XDG_CACHE_HOME``, else below ``~/.cache``."""
    home = environment.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "abmesh" / "cluster"


@dataclass(frozen=True, slots=True)
class Programs:
    """The built programs.

    Attributes:
        folder: that holds them all, and the folder ``crds``.
    """

    folder: Path

    def path(self, name: str) -> str:
        """Path of a program."""
        return str(self.folder / name)

    def missing(self) -> list[str]:
        """Names of what is not built yet."""
        names = [program.name for program in PROGRAMS if not (self.folder / program.name).exists()]
        return names + [f"crds/{name}" for name in CRDS if not (self.folder / "crds" / name).exists()]

    def crds(self) -> list[Path]:
        """Files of custom resources, of Istio and of the Gateway API."""
        return [self.folder / "crds" / name for name in CRDS]


def programs(cache: Path | None = None) -> Programs:
    """The programs of this checkout, built or not."""
    return Programs((cache or cache_folder()) / digest())
