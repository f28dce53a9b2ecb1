"""The tiers of the tests, and the settings of the property tests.

``make check`` leaves out what is marked ``process`` (starts one) or ``simulation`` (simulates experiments by the
hundred); ``make test`` runs these too; only ``make soak`` runs what is marked ``soak`` (long). ``envoy`` (runs a real
Envoy) implies ``process``. ``make test ARGS="--hypothesis-profile thorough"`` tries far more examples.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from abmesh.local.processes import LOWEST_PORT, PORTS_VARIABLE, first_ephemeral_port
from tests.paths import ROOT
from tests.process_guard import ProcessGuard

# No deadline per example: a shared machine may stall at any of them. In CI the examples are the same for the same code,
# so that what fails there fails here with CI=1 as well.
settings.register_profile("abmesh", deadline=None, max_examples=50, derandomize=bool(os.environ.get("CI")))
settings.register_profile("soak", deadline=None, max_examples=500)
settings.register_profile("thorough", deadline=None, max_examples=3000)
settings.load_profile("abmesh")

E2E = ROOT / "tests" / "e2e"
DRILLS = ROOT / "tests" / "drills"
SIMULATIONS = ROOT / "tests" / "bench" / "simulations"


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(ProcessGuard(), "process-guard")
    if worker := os.environ.get("PYTEST_XDIST_WORKER"):
        _take_ports_of_its_own(int(worker.removeprefix("gw")), int(os.environ["PYTEST_XDIST_WORKER_COUNT"]))


def _take_ports_of_its_own(worker: int, workers: int) -> None:
    """Keep the workers of pytest-xdist from choosing the same free port at the same moment."""
    size = (first_ephemeral_port() - LOWEST_PORT) // workers
    first = LOWEST_PORT + worker * size
    os.environ[PORTS_VARIABLE] = f"{first}-{first + size - 1}"


@pytest.hookimpl(tryfirst=True)  # before pytest deselects by -m
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark by folder, and as ``process`` whatever runs Envoy."""
    for item in items:
        if item.path.is_relative_to(E2E) or item.path.is_relative_to(DRILLS) or item.get_closest_marker("envoy"):
            item.add_marker("process")
        if item.path.is_relative_to(SIMULATIONS):
            item.add_marker("simulation")


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A folder like ``tmp_path`` whose path leaves room for that of a Unix socket, which has 90 bytes."""
    folder = Path(tempfile.mkdtemp(prefix="abmesh-"))
    yield folder
    shutil.rmtree(folder)
