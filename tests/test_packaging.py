"""What is in the wheel: our packages, and nothing that would hide another's."""

from __future__ import annotations

import subprocess
import sys
import zipfile

import pytest

from tests.paths import ROOT

pytestmark = pytest.mark.process

PACKAGES = {"abmesh", "ext_proc", "controller"}


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The files of the wheel."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def test_the_wheel_holds_our_packages_and_no_envoy(names: list[str]) -> None:
    top = {name.partition("/")[0] for name in names}
    assert {name for name in top if not name.endswith(".dist-info")} == PACKAGES


def test_the_wheel_holds_every_module_and_the_licence(names: list[str]) -> None:
    modules = {str(path.relative_to(ROOT)) for package in PACKAGES for path in (ROOT / package).rglob("*.py")}
    assert modules <= set(names)
    assert "abmesh/mesh/answers.lua" in names, "Envoy's script is read from the package"
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_the_folder_envoy_holds_data_only() -> None:
    assert (ROOT / "envoy" / "bootstrap.yaml").exists()
    assert not list((ROOT / "envoy").rglob("*.py"))


def test_importing_envoy_finds_the_installed_messages_from_the_root_of_the_repository() -> None:
    code = "import envoy.service.ext_proc.v3.external_processor_pb2 as found; print(found.ProcessingRequest.__name__)"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    assert result.stdout.strip() == "ProcessingRequest"
