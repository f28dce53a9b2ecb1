"""Pins, flags and the cache of the programs. These tests start nothing."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.cluster.programs.catalogue import PROGRAMS, TOOLS, Programs, build_flags, cache_folder, digest, read_pins
from tests.cluster.programs.go import REQUIREMENTS, parse_version, pinned_version

PINS = read_pins((TOOLS / "go.mod").read_text())


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """A copy of the tools' module."""
    return Path(shutil.copytree(TOOLS, tmp_path / "tools"))


def test_kubernetes_helm_and_etcd_are_pinned_to_releases() -> None:
    assert PINS.kubernetes.startswith("v1.37.")
    assert PINS.helm.startswith("v3.")
    assert PINS.etcd.startswith("v3.")
    assert not any("-" in version for version in (PINS.kubernetes, PINS.helm, PINS.etcd, PINS.gateway_api))


def test_a_missing_pin_is_named() -> None:
    with pytest.raises(ValueError, match=r"does not pin go\.etcd\.io/etcd/server/v3"):
        read_pins("module x\n\ngo 1.26.0\n")


def test_every_tool_of_go_mod_is_a_program_and_the_other_way_round() -> None:
    tools = (TOOLS / "go.mod").read_text().partition("tool (")[2].partition(")")[0].split()
    assert {*tools, "."} == {program.package for program in PROGRAMS}


def test_the_stamps_follow_the_pins() -> None:
    linker = build_flags(PINS)[1]
    assert f"-X k8s.io/component-base/version.gitVersion={PINS.kubernetes} " in linker
    assert f"-X helm.sh/helm/v3/internal/version.version={PINS.helm} " in linker
    assert "-X helm.sh/helm/v3/pkg/chartutil.k8sVersionMinor=37 " in linker


@pytest.mark.parametrize("file", ["go.mod", "go.sum", "etcd.go"])
def test_any_change_of_what_is_built_gives_another_folder(tools: Path, file: str) -> None:
    before = digest(tools)
    assert before == digest()
    with (tools / file).open("a") as text:
        text.write("\n// changed\n")
    assert digest(tools) != before


def test_the_cache_follows_xdg_and_lies_outside_the_tree() -> None:
    assert cache_folder({"XDG_CACHE_HOME": "/var/cache/me"}) == Path("/var/cache/me/abmesh/cluster")
    assert cache_folder({}) == Path.home() / ".cache" / "abmesh" / "cluster"


def test_what_is_missing_is_told_apart_from_what_is_built(tmp_path: Path) -> None:
    found = Programs(tmp_path)
    assert found.missing() == [program.name for program in PROGRAMS] + ["crds/istio.yaml", "crds/gateway-api.yaml"]
    (tmp_path / "crds").mkdir()
    for name in found.missing():
        (tmp_path / name).touch()
    assert found.missing() == []


def test_the_version_of_go_is_read_as_numbers() -> None:
    assert parse_version("go version go1.26.8 linux/amd64\n") == (1, 26, 8)
    assert parse_version("go version go1.27 linux/arm64\n") == (1, 27)
    assert parse_version("go: command not found") == ()


def test_the_go_of_pypi_is_new_enough_for_go_mod() -> None:
    assert tuple(map(int, pinned_version(REQUIREMENTS.read_text()).split("."))) >= PINS.go
