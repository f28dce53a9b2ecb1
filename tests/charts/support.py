"""Reads the chart and what was rendered from it, and says where a pod breaks the form that PodSecurity restricts to."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ruamel.yaml import YAML

from tests.paths import ROOT

CHART: Final = ROOT / "charts" / "abmesh"
MANIFEST: Final = ROOT / "deploy" / "abmesh.yaml"
GATEWAY_NAMESPACE: Final = ROOT / "deploy" / "gateway-namespace.yaml"
EXAMPLES: Final = ROOT / "examples" / "kubernetes"

Thing = dict[str, Any]
"""A Kubernetes object, or a part of one."""

CLUSTER_WIDE: Final = frozenset({"ClusterRole", "ClusterRoleBinding", "CustomResourceDefinition", "Namespace"})


@dataclass(frozen=True, order=True, slots=True)
class Key:
    """Which object it is; the namespace is empty where there is none."""

    kind: str
    namespace: str
    name: str


def documents(text: str) -> list[Thing]:
    """The objects of a YAML text; empty documents are left out."""
    return [item for item in YAML(typ="safe").load_all(text) if item]


def by_key(items: list[Thing]) -> dict[Key, Thing]:
    """The objects by what identifies them; each may stand there once."""
    keyed = {_key(item): item for item in items}
    assert len(keyed) == len(items), "the same object stands there twice"
    return keyed


def read(path: Path) -> dict[Key, Thing]:
    """The objects of a file."""
    return by_key(documents(path.read_text(encoding="utf-8")))


def _key(item: Thing) -> Key:
    metadata = item["metadata"]
    return Key(item["kind"], metadata.get("namespace", ""), metadata["name"])


def of_kind(items: Mapping[Key, Thing], kind: str) -> dict[str, Thing]:
    """The objects of one kind, by name."""
    return {key.name: item for key, item in items.items() if key.kind == kind}


def pods(items: Mapping[Key, Thing]) -> dict[Key, Thing]:
    """The specification of the pods that each object makes."""
    kinds = ("Deployment", "Job")
    return {key: item["spec"]["template"]["spec"] for key, item in items.items() if key.kind in kinds}


def containers(pod: Thing) -> list[Thing]:
    """All containers of a pod."""
    found: list[Thing] = [*pod.get("initContainers", ()), *pod["containers"]]
    return found


Rules = dict[tuple[str, str, tuple[str, ...]], frozenset[str]]
"""Verbs, by group, resource and the names that it is limited to."""


def rules(role: Thing) -> Rules:
    """What a role allows."""
    found: Rules = {}
    for rule in role["rules"]:
        for group in rule["apiGroups"]:
            for resource in rule["resources"]:
                key = (group, resource, tuple(rule.get("resourceNames", ())))
                found[key] = found.get(key, frozenset()) | frozenset(rule["verbs"])
    return found


def unrestricted(pod: Thing) -> list[str]:
    """Where a pod breaks the form that PodSecurity's level `restricted` asks for, or what we promise beyond it.

    The checks are those of the Pod Security Standards, and two of ours: a user by number, and a read-only root.
    """
    return [*_pod_problems(pod), *(text for item in containers(pod) for text in _container_problems(item))]


def _pod_problems(pod: Thing) -> Iterator[str]:
    context = pod.get("securityContext", {})
    if context.get("runAsNonRoot") is not True:
        yield "runAsNonRoot is not true"
    if not context.get("runAsUser"):
        yield "runAsUser is root or not set"
    if context.get("seccompProfile", {}).get("type") not in ("RuntimeDefault", "Localhost"):
        yield "no seccomp profile"
    for field in ("hostNetwork", "hostPID", "hostIPC"):
        if pod.get(field):
            yield field
    for volume in pod.get("volumes", ()):
        kinds = set(volume) - {"name"}
        if not kinds <= {"configMap", "downwardAPI", "emptyDir", "projected", "secret", "persistentVolumeClaim"}:
            yield f"volume {volume['name']} is a {', '.join(kinds)}"


def _container_problems(container: Thing) -> Iterator[str]:
    name, context = container["name"], container.get("securityContext", {})
    if context.get("allowPrivilegeEscalation") is not False:
        yield f"{name}: allowPrivilegeEscalation is not false"
    if context.get("privileged"):
        yield f"{name}: privileged"
    if context.get("capabilities", {}).get("drop") != ["ALL"]:
        yield f"{name}: capabilities are not dropped"
    if not set(context.get("capabilities", {}).get("add", ())) <= {"NET_BIND_SERVICE"}:
        yield f"{name}: capabilities are added"
    if context.get("readOnlyRootFilesystem") is not True:
        yield f"{name}: the root file system can be written to"
    if context.get("runAsUser") == 0:
        yield f"{name}: runs as root"
    if any("hostPort" in port for port in container.get("ports", ())):
        yield f"{name}: a port of the host"


def schema() -> Thing:
    """The schema of the chart's values."""
    found: Thing = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    return found


def values() -> Thing:
    """The chart's own values."""
    (found,) = documents((CHART / "values.yaml").read_text(encoding="utf-8"))
    return found
