"""Short runs of ``python -m bench.soak``: full load with random aborts."""

from __future__ import annotations

import pytest

from bench.soak import soak
from tests.ext_proc.conformance.served import TRANSPORTS, skip_unless_there

pytestmark = pytest.mark.process


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_under_full_load_only_aborted_calls_fail_and_nothing_is_left(
    transport: str,
) -> None:
    await check(transport, seconds=3 if transport == "nghttp2" else 1.5, connections=32)


@pytest.mark.soak
@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_the_same_holds_for_thirty_seconds(transport: str) -> None:
    await check(transport, seconds=30, connections=256 if transport == "nghttp2" else 32)


async def check(transport: str, seconds: float, connections: int) -> None:
    skip_unless_there(transport)
    ours = transport == "nghttp2"
    soaked = await soak(transport, seconds, connections)
    faults = soaked.faults()
    if not ours:  # grpc.aio keeps some of the memory of calls that are reset
        faults = [fault for fault in faults if "memory" not in fault]
    assert not faults
    assert soaked.answered > 100
    assert (soaked.usual is not None) == ours
    places = ("headers", "amid the message", "message", "after the message", "half-closed")
    assert all(soaked.given_up[where] for where in places)
