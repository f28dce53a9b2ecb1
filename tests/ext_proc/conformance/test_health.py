"""The health service of each transport."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from ext_proc import wire
from tests.ext_proc.clients import NOT_SERVING, SERVING, connected, health
from tests.ext_proc.conformance.answers import EOF, method
from tests.ext_proc.conformance.served import TRANSPORTS, Served, serving

pytestmark = pytest.mark.process

SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


@pytest.mark.parametrize("service", ["", wire.SERVICE])
async def test_both_names_are_serving(served: Served, service: str) -> None:
    for address in served.addresses:
        async with connected(address) as channel:
            assert await health(channel, service) == SERVING


@pytest.mark.parametrize("service", ["other", "envoy.service.ext_proc.v3", "é"])
async def test_for_an_unknown_service_check_fails_and_watch_stays_open(served: Served, service: str) -> None:
    async with connected(served.tcp) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await health(channel, service)
        assert raised.value.code() == grpc.StatusCode.NOT_FOUND
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=service))
        assert (await watch.read()).status == SERVICE_UNKNOWN
        assert not watch.done()
        watch.cancel()


def test_the_synchronous_client_may_ask(served: Served) -> None:
    with grpc.insecure_channel(served.tcp) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        assert stub.Check(health_pb2.HealthCheckRequest(), timeout=30).status == SERVING
        watch = stub.Watch(health_pb2.HealthCheckRequest())
        assert next(watch).status == SERVING
        watch.cancel()


async def test_a_bad_health_check_is_an_error(served: Served) -> None:
    async with connected(served.tcp) as channel:
        for name in ("Check", "Watch"):
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                async for _ in method(channel, "unary_stream")(f"/grpc.health.v1.Health/{name}")(b"\xff"):
                    pass
            # grpcio's own answer to a message that it cannot parse; INTERNAL is what gRPC's list of codes has for it.
            assert raised.value.code() in {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN}


async def test_watches_that_are_cancelled_are_forgotten(served: Served) -> None:
    async with connected(served.tcp) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        for _ in range(6):
            watches = [stub.Watch(health_pb2.HealthCheckRequest(service=wire.SERVICE)) for _ in range(16)]
            for watch in watches:
                assert (await watch.read()).status == SERVING
            for watch in watches:
                watch.cancel()
            await asyncio.to_thread(served.forgets_streams)


async def test_a_watch_has_a_deadline_like_any_call(served: Served) -> None:
    async with connected(served.tcp) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=0.3)
        assert (await watch.read()).status == SERVING
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await watch.read()
        assert raised.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_watchers_get_every_change_and_the_end(tmp_path: Path, transport: str) -> None:
    with serving(tmp_path, transport) as server:
        async with connected(server.tcp) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            watches = [stub.Watch(health_pb2.HealthCheckRequest(service=name)) for name in ("", wire.SERVICE)]
            for watch in watches:
                assert (await watch.read()).status == NOT_SERVING
            assert await health(channel) == NOT_SERVING
            server.command("set_serving")
            for watch in watches:
                assert (await watch.read()).status == SERVING
            server.command("drain 10")
            for watch in watches:
                assert (await watch.read()).status == NOT_SERVING
                assert await watch.read() is EOF
                assert await watch.code() == grpc.StatusCode.OK
