"""The tiers of the tests, and the settings of the property tests.

Markers sort the tests: ``process`` (starts a process; not in ``make check``), ``soak`` (long; only in ``make soak``)
and ``envoy`` (runs a real Envoy, which implies ``process``). ``make test ARGS="--hypothesis-profile thorough"`` tries
far more examples.
"""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

from tests.paths import ROOT
from tests.process_guard import ProcessGuard

# No deadline per example: a shared machine may stall at any of them. In CI the examples are the same for the same code,
# so that what fails there fails here with CI=1 as well.
settings.register_profile("abmesh", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.register_profile("thorough", deadline=None, max_examples=3000)
settings.load_profile("abmesh")

E2E = ROOT / "tests" / "e2e"


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(ProcessGuard(), "process-guard")


@pytest.hookimpl(tryfirst=True)  # before pytest deselects by -m
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as ``process`` whatever runs Envoy or lies in tests/e2e."""
    for item in items:
        if item.path.is_relative_to(E2E) or item.get_closest_marker("envoy"):
            item.add_marker("process")
