"""The import contracts of pyproject.toml can fail: each finds a violation that is planted for it.

A contract that nothing can break holds nothing. Each plant goes into a module that already exists or a new one, since a
module must be under the rules by where it lies.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Final

import pytest

from tests.paths import ROOT

pytestmark = pytest.mark.process

PACKAGES: Final = ("abmesh", "controller", "ext_proc")
CONTRACTS: Final = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]

PLANTS: Final = {
    "packages": ("controller/loop.py", "import abmesh.cli.main"),
    "abmesh-folders": ("abmesh/mesh/new.py", "import abmesh.local.processes"),
    "circles": ("controller/decision/policy.py", "import controller.decision.decide"),
    "controller-folders": ("controller/decision/new.py", "import controller.rollout.reconcile"),
    "pure-decisions": ("controller/decision/new.py", "import time"),
    "inference-alone": ("abmesh/inference/new.py", "import abmesh.experiment.metrics"),
    "pure-experiment": ("abmesh/experiment/new.py", "import os"),
    "pure-objects": ("abmesh/kube/in_force.py", "import asyncio"),
    "ext-proc-folders": ("ext_proc/core/new.py", "import ext_proc.service"),
    "pure-core": ("ext_proc/core/new.py", "import asyncio"),
    "pure-grpc": ("ext_proc/transport/grpc_protocol.py", "import socket"),
    "protobuf": ("ext_proc/service.py", "import google.protobuf.message"),
    "official-kubernetes": ("controller/loop.py", "import kubernetes"),
    "http2": ("ext_proc/transport/new.py", "import ngh2"),
}
"""By contract: a file, which may be new, and a line that breaks the contract there."""


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what the contracts are about."""
    folder = tmp_path_factory.mktemp("tree")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def _lint(folder: Path, contract: str) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).with_name("lint-imports")
    command = [str(program), "--contract", contract, "--no-cache"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env={"PYTHONPATH": str(folder)})


def test_every_contract_has_a_plant() -> None:
    assert {contract["id"] for contract in CONTRACTS} == PLANTS.keys()


@pytest.mark.parametrize("contract", PLANTS)
def test_a_planted_violation_breaks_the_contract(tree: Path, contract: str) -> None:
    name, line = PLANTS[contract]
    path = tree / name
    before = path.read_text() if path.exists() else None
    path.write_text(f"{before or ''}\n{line}\n")
    try:
        found = _lint(tree, contract)
    finally:
        if before is None:
            path.unlink()
        else:
            path.write_text(before)
    assert found.returncode == 1, found.stdout + found.stderr
    assert "BROKEN" in found.stdout
    assert f".{path.stem}" in found.stdout
