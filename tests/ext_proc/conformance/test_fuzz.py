"""Arbitrary bytes over the network: nghttp2 does not crash, log a traceback, keep a stream, or fail anybody else.

:mod:`tests.ext_proc.transport.test_connection_fuzz` tries many more, without a network.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.ext_proc.conformance.checks import served_well
from tests.ext_proc.conformance.mangling import RECORDINGS, batches, conversations, mangled
from tests.ext_proc.conformance.peer import Peer
from tests.ext_proc.conformance.served import Served, serving

pytestmark = pytest.mark.process

# Each example opens its own connections, and checks at its end that the server is unchanged.
_CHECKS = [HealthCheck.large_base_example, HealthCheck.too_slow]
# The network costs fifty times what the bytes do; in test_connection_fuzz.py examples are cheap.
fuzzing = settings(suppress_health_check=_CHECKS, max_examples=settings().max_examples // 8)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server of its own: on a busy machine, grpcio's clients linger on that of other tests."""
    with serving(tmp_path_factory.mktemp("fuzz"), "nghttp2") as server:
        server.command("set_serving")
        yield server


def throw(served: Served, data: bytes, *, leaves: bool) -> None:
    """Send bytes, then read the answers, or close at once."""
    with contextlib.suppress(ConnectionRefusedError), Peer(served.tcp) as found:  # refused: see served_well
        found.send(data)
        if not leaves:
            found.raw.settimeout(0.01)
            with contextlib.suppress(TimeoutError, ConnectionError):
                while found.raw.recv(1 << 16):
                    pass


def others_are_served(served: Served) -> None:
    """Check that the server still serves, and keeps nothing."""
    served_well(served)
    served.forgets()


def test_recordings_are_served_as_they_are(served: Served) -> None:
    for data in RECORDINGS.values():
        throw(served, data, leaves=False)
    others_are_served(served)


@fuzzing
@given(batches(conversations()), st.booleans())
def test_any_frames_in_any_order_harm_nobody(served: Served, thrown: list[bytes], leaves: bool) -> None:
    for data in thrown:
        throw(served, data, leaves=leaves)
    others_are_served(served)


@fuzzing
@given(batches(mangled()), st.booleans())
def test_mangled_recordings_harm_nobody(served: Served, thrown: list[bytes], leaves: bool) -> None:
    for data in thrown:
        throw(served, data, leaves=leaves)
    others_are_served(served)
