"""docs/kubernetes.md says what the chart does: its values, objects, ports and reasons exist."""

from __future__ import annotations

import re
from typing import Any, Final

import pytest

from tests.charts.support import MANIFEST, containers, of_kind, pods, read, values
from tests.paths import ROOT

PAGE: Final = (ROOT / "docs" / "kubernetes.md").read_text(encoding="utf-8")


def _section(heading: str) -> str:
    found = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    assert found, heading
    return found


def _default(path: str) -> Any:
    """The default of a value; the user's own keys below labels, and items of lists, are as good as their owner."""
    found: Any = values()
    for key in re.sub(r"\[\d+\].*", "", path).split("."):
        if key == "release":
            return found
        found = found[key]
    return found


def test_every_value_that_it_names_exists() -> None:
    set_ = re.findall(r"--set '?([\w.\[\]]+)=", PAGE)
    said = re.findall(r"`((?:[a-z]+[A-Z]\w*|\w+\.\w+[\w.]*))(?:[:=][^`]*)?`", PAGE)
    named = {*set_, *(name for name in said if name.partition(".")[0] in values())}
    assert len(named) > 12
    for name in sorted(named):
        _default(name)


def test_every_object_of_the_manifest_has_a_row() -> None:
    rows = _section("What each resource is for")
    for key in read(MANIFEST):
        kind = {"ClusterRoleBinding": "ClusterRole", "RoleBinding": "Role"}.get(key.kind, key.kind)
        kind = kind.replace("NetworkPolicy", "NetworkPolicies")
        assert kind in rows, key


def test_ports_of_the_network_table_are_those_of_the_pods() -> None:
    ports = {
        port["containerPort"]
        for pod in pods(read(MANIFEST)).values()
        for container in containers(pod)
        for port in container["ports"]
    }
    said = set(map(int, re.findall(r"\| (\d+), ", _section("Network"))))
    assert said == ports | {15099, 15014}


def test_it_troubleshoots_reasons_that_the_renderer_has() -> None:
    refusals = pytest.importorskip("abmesh.mesh.istio.refusals", reason="this tree renders nothing for Istio yet")
    said = set(re.findall(r"^\| `([A-Z][a-z]+[A-Z]\w+)` \|", _section("Troubleshooting"), re.MULTILINE))
    assert len(said) > 5
    assert said - {"ImagePullBackOff"} <= {str(reason) for reason in refusals.Reason}


def test_the_roles_that_it_names_are_there() -> None:
    roles = {f"`{name}`" for name in of_kind(read(MANIFEST), "ClusterRole") if name.endswith(("view", "edit"))}
    assert roles == {
        word for word in re.findall(r"`abmesh-\w+`", _section("What each resource is for")) if word in roles
    }
