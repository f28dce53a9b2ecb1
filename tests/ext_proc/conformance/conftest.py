"""The servers that the tests of this folder share.

What our transports do with calls, health, draining and TLS is tested on both (``served``, ``own``). What the HTTP/2
engine does with frames is tested on nghttp2 alone (``nghttp2``): grpcio's HTTP/2 is not ours.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.ext_proc.conformance.served import TRANSPORTS, Served, serving


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Served]]:
    """One server of each transport, started when it is first needed, for all tests that leave it unchanged."""
    started: dict[str, Served] = {}
    with contextlib.ExitStack() as stack:

        def server_of(transport: str) -> Served:
            if transport not in started:
                server = stack.enter_context(serving(tmp_path_factory.mktemp(transport), transport))
                server.command("set_serving")
                started[transport] = server
            return started[transport]

        yield server_of


@pytest.fixture(params=TRANSPORTS)
def served(request: pytest.FixtureRequest, shared: Callable[[str], Served]) -> Iterator[Served]:
    """The shared server of each transport, which must be unharmed after the test and have no stream left."""
    server = shared(request.param)
    yield server
    server.forgets_streams()
    server.unharmed()


@pytest.fixture
def nghttp2(shared: Callable[[str], Served]) -> Iterator[Served]:
    """The shared server of nghttp2, which must be unharmed after the test and have no stream left."""
    server = shared("nghttp2")
    yield server
    server.forgets_streams()
    server.unharmed()


@pytest.fixture(params=TRANSPORTS)
def own(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Served]:
    """A server of each transport that the test may stop."""
    with serving(tmp_path / request.param, request.param) as server:
        server.command("set_serving")
        yield server
