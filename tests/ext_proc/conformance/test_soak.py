"""A short version of ``python -m bench.soak``: full load, of which some is given up at random."""

from __future__ import annotations

import pytest

from bench.soak import soak
from tests.ext_proc.conformance.served import TRANSPORTS, skip_unless_there


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_under_full_load_with_aborts_nothing_fails_that_was_not_aborted_and_nothing_is_left(
    transport: str,
) -> None:
    skip_unless_there(transport)
    busy = transport == "nghttp2"
    soaked = await soak(transport, seconds=8 if busy else 3, connections=256 if busy else 32)
    faults = soaked.faults()
    if not busy:  # grpc.aio keeps some of the memory of calls that are reset
        faults = [fault for fault in faults if "memory" not in fault]
    assert not faults
    assert soaked.answered > 100
    assert (soaked.usual is not None) == busy
    places = ("headers", "amid the message", "message", "after the message", "half-closed")
    assert all(soaked.given_up[where] for where in places)
