"""What the stand-in kubelet decides, without a cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.cluster.images import repository
from tests.cluster.kubelet.environment import ConfigError
from tests.cluster.kubelet.fields import expand, field, resource_field
from tests.cluster.kubelet.probes import Tally, port_number
from tests.cluster.kubelet.sandbox import Identity
from tests.cluster.kubelet.security import identity
from tests.cluster.kubelet.status import ContainerState, pod_status, terminated
from tests.cluster.kubelet.volumes import write_atomically

POD: dict[str, Any] = {
    "metadata": {"name": "a", "namespace": "n", "uid": "u", "labels": {"app": "web"}, "annotations": {"x/y": "z"}},
    "spec": {
        "initContainers": [{"name": "side", "image": "i", "restartPolicy": "Always"}, {"name": "once", "image": "i"}],
        "containers": [{"name": "main", "image": "i"}],
    },
}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("metadata.name", "a"),
        ("metadata.labels['app']", "web"),
        ("metadata.annotations['x/y']", "z"),
        ("metadata.labels['none']", ""),
        ("metadata.labels", 'app="web"'),
        ("status.podIP", "10.244.1.1"),
        ("spec.serviceAccountName", "default"),
    ],
)
def test_a_pod_says_its_fields(path: str, value: str) -> None:
    assert field(POD, path, "10.244.1.1") == value


def test_an_unknown_field_is_named() -> None:
    with pytest.raises(ValueError, match=r"no field spec\.nothing of a pod"):
        field(POD, "spec.nothing", "")


def test_variables_expand_as_in_a_cluster() -> None:
    known = {"A": "1", "B": "$(A)"}
    assert expand("$(A) $(B) $(C) $$(A) $A", known) == "1 $(A) $(C) $(A) $A"


@pytest.mark.parametrize(("amount", "value"), [("500m", "1"), ("2", "2"), ("1Mi", "1048576"), ("1k", "1000")])
def test_limits_are_whole_cpus_and_bytes(amount: str, value: str) -> None:
    assert resource_field({"resources": {"limits": {"x": amount}}}, "limits.x") == value


def test_a_probe_decides_after_so_many_in_a_row() -> None:
    tally = Tally(success_threshold=1, failure_threshold=2)
    assert [tally.add(good) for good in (False, True, False, False, True)] == [None, True, None, False, True]


def test_a_port_may_be_given_by_name() -> None:
    container = {"name": "main", "ports": [{"name": "http", "containerPort": 80}]}
    assert port_number(container, "http") == 80
    assert port_number(container, 81) == 81
    with pytest.raises(ValueError, match="container main has no port 'grpc'"):
        port_number(container, "grpc")


def test_an_image_is_known_by_its_last_name() -> None:
    references = ("abmesh", "abmesh:dev", "ghcr.io/x/abmesh:1@sha256:0", "localhost:5000/abmesh")
    assert {repository(reference) for reference in references} == {"abmesh"}


def test_a_pod_is_ready_when_its_containers_and_sidecars_are() -> None:
    running = ContainerState(process=5, identity="process://5", started=True, ready=True)
    states = {"side": ContainerState(process=4, started=True), "once": ContainerState(final=True), "main": running}
    status = pod_status(POD, states, True, "10.244.1.1", {})
    assert status["phase"] == "Running"
    assert _condition(status, "Ready")["status"] == "False"
    states["side"].ready = True
    later = pod_status(POD, states, True, "10.244.1.1", status)
    assert _condition(later, "Ready")["status"] == "True"
    assert _condition(later, "Initialized") == _condition(status, "Initialized")


@pytest.mark.parametrize(("code", "phase"), [(0, "Succeeded"), (3, "Failed"), (-9, "Failed")])
def test_a_pod_ends_as_its_containers_do(code: int, phase: str) -> None:
    state = ContainerState(final=True)
    state.ended = terminated(code, state)
    states = {"side": ContainerState(), "once": ContainerState(), "main": state}
    assert pod_status(POD, states, True, "10.244.1.1", {})["phase"] == phase


def test_a_killed_container_exits_with_137() -> None:
    assert terminated(-9, ContainerState())["exitCode"] == 137


def test_a_containers_security_context_overrides_its_pods() -> None:
    pod = {"spec": {"securityContext": {"runAsUser": 7, "fsGroup": 9}}}
    container = {"securityContext": {"runAsUser": 8, "capabilities": {"drop": ["ALL"]}}}
    assert identity(pod, container, 1) == Identity(8, 8, [9], no_capabilities=True)
    assert identity({"spec": {}}, {}, 1) == Identity(1, 1, [])


def test_a_container_that_must_not_be_root_needs_a_user() -> None:
    with pytest.raises(ConfigError, match="image will run as root"):
        identity({"spec": {"securityContext": {"runAsNonRoot": True}}}, {}, 0)


def test_a_volume_changes_at_one_moment_and_keeps_its_links(tmp_path: Path) -> None:
    write_atomically(tmp_path, {"a": b"1", "b": b"1"})
    first = (tmp_path / "..data").readlink()
    write_atomically(tmp_path, {"a": b"1", "b": b"1"})
    assert (tmp_path / "..data").readlink() == first
    write_atomically(tmp_path, {"a": b"2", "deep/c": b"2"})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "deep" / "c").read_bytes() == b"2"
    assert sorted(entry.name for entry in tmp_path.iterdir() if not entry.name.startswith("..")) == ["a", "deep"]
    assert len([entry for entry in tmp_path.iterdir() if entry.is_dir() and not entry.is_symlink()]) == 1


def _condition(status: dict[str, Any], kind: str) -> dict[str, Any]:
    found: dict[str, Any]
    (found,) = (condition for condition in status["conditions"] if condition["type"] == kind)
    return found
