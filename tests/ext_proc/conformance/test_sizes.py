"""Metadata, message sizes and compression, on each transport, with grpcio's own client."""

from __future__ import annotations

import contextlib

import grpc
import grpc.aio
import pytest

from tests.ext_proc.clients import PROCESS, USER, ask, connected, opened
from tests.ext_proc.conformance.answers import LARGEST, MESSAGES, UNTOUCHED_BODY, body_message, expected, method
from tests.ext_proc.conformance.served import Served
from tests.ext_proc.samples import request_headers

pytestmark = pytest.mark.process

METADATA = {
    "ascii": [("x-some", "text"), ("x-printable", "".join(map(chr, range(0x20, 0x7F))).strip())],
    "repeated": [("x-some", str(number)) for number in range(20)],
    "binary": [("x-some-bin", bytes(range(256))), ("x-empty-bin", b"")],
    "many": [(f"x-{number}", "v") for number in range(150)],
    "7 KB in one": [("x-large", "v" * 7000)],
    "7 KB in many": [(f"x-{number}", "v" * 60) for number in range(70)],
    "as Envoy's": [("x-request-id", "6f6c8b9e"), ("x-forwarded-for", "10.0.0.1"), ("user-agent", "envoy")],
}


@pytest.mark.parametrize("name", METADATA)
async def test_a_client_may_send_metadata(served: Served, name: str) -> None:
    async with connected(served.tcp) as channel:
        for _ in range(3):  # later calls refer to HPACK's table from the first
            stream = method(channel, "stream_stream")(PROCESS)(metadata=METADATA[name])
            await stream.write(USER)
            await stream.done_writing()
            assert await stream.read() == expected(USER)
            assert await stream.code() == grpc.StatusCode.OK


@pytest.mark.parametrize("size", [9_000, 15_000, 40_000])
async def test_metadata_that_is_too_large_harms_its_own_call_at_most(served: Served, size: int) -> None:
    async with connected(served.tcp) as channel:
        kept = opened(channel)
        await kept.write(USER)
        assert await kept.read() == expected(USER)
        assert await outcome(channel, size) in {grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED}
        await kept.write(USER)
        assert await kept.read() == expected(USER)
        kept.cancel()


async def test_metadata_that_is_far_too_large_harms_its_own_connection_at_most(served: Served) -> None:
    async with connected(served.tcp) as channel, connected(served.tcp) as other:
        for size in (65_500, 100_000):
            assert await outcome(channel, size) in {grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE}
            assert await ask(other) == expected(USER)
            await channel.channel_ready()


async def outcome(channel: grpc.aio.Channel, size: int) -> grpc.StatusCode:
    """The status of a call with this much metadata."""
    running = method(channel, "unary_stream")(PROCESS)(USER, metadata=[("x-large", "v" * size)])
    with contextlib.suppress(grpc.aio.AioRpcError):
        async for answer in running:
            assert answer == expected(USER)
    found: grpc.StatusCode = await running.code()
    return found


@pytest.mark.parametrize("size", [LARGEST - 1, LARGEST])
async def test_a_message_may_have_1_mib(served: Served, size: int) -> None:
    async with connected(served.tcp) as channel:
        assert await ask(channel, body_message(size)) == UNTOUCHED_BODY


async def test_a_larger_message_is_refused_and_nothing_else(served: Served) -> None:
    async with connected(served.tcp) as channel:
        kept = opened(channel)
        await kept.write(USER)
        assert await kept.read() == expected(USER)
        stream = opened(channel)
        await stream.write(body_message(LARGEST + 1))
        with pytest.raises(grpc.aio.AioRpcError):
            await stream.read()
        assert await stream.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        await kept.write(USER)
        assert await kept.read() == expected(USER)
        kept.cancel()


COMPRESSIONS = [grpc.Compression.Gzip, grpc.Compression.Deflate]


@pytest.mark.parametrize("compression", COMPRESSIONS)
async def test_a_client_may_compress(served: Served, compression: grpc.Compression) -> None:
    async with grpc.aio.insecure_channel(served.tcp, compression=compression) as channel:
        large = request_headers([("x-user-id", b"u-1"), ("x-other", b"v" * 5000)])
        stream = opened(channel)
        for message in (large, MESSAGES["request_body"], USER, large):  # small ones are sent uncompressed
            await stream.write(message)
            assert await stream.read() == expected(message)
        await stream.done_writing()
        assert await stream.code() == grpc.StatusCode.OK
        assert await ask(channel, body_message(LARGEST)) == UNTOUCHED_BODY


@pytest.mark.parametrize("compression", COMPRESSIONS)
async def test_a_message_that_unpacks_to_too_much_is_refused(served: Served, compression: grpc.Compression) -> None:
    async with grpc.aio.insecure_channel(served.tcp, compression=compression) as channel:
        for size in (LARGEST + 1, 3 * LARGEST):
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await ask(channel, bytes(size))
            assert raised.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert await ask(channel) == expected(USER)
