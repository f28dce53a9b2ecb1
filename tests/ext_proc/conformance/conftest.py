"""Every test that asks for ``served`` runs against both transports."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ext_proc.conformance.served import TRANSPORTS, Served, serving


@pytest.fixture(scope="session", params=TRANSPORTS)
def shared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server of each transport, for all tests that leave it as it was."""
    with serving(tmp_path_factory.mktemp(request.param), request.param) as server:
        server.tell("set_serving")
        yield server


@pytest.fixture
def served(shared: Served) -> Iterator[Served]:
    """The shared server, which must be unharmed after the test and have nothing left of it."""
    yield shared
    shared.forgets_streams()
    shared.unharmed()


@pytest.fixture(params=TRANSPORTS)
def own(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Served]:
    """A server of each transport that the test may stop."""
    with serving(tmp_path / request.param, request.param) as server:
        server.tell("set_serving")
        yield server
