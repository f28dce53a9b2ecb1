"""What Envoy does, for tests: calls over real gRPC."""

from __future__ import annotations

import contextlib
import urllib.request
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client.parser import text_string_to_metric_families

from tests.ext_proc.samples import request_headers

PROCESS = "/envoy.service.ext_proc.v3.ExternalProcessor/Process"
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING

USER = request_headers([("x-user-id", b"u-1")])


@contextlib.asynccontextmanager
async def connected(address: str) -> AsyncIterator[grpc.aio.Channel]:
    """A separate connection, even if this process already has one to the address."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(address, options=options) as channel:
        yield channel


def opened(channel: grpc.aio.Channel) -> Any:
    """A new stream."""
    return channel.stream_stream(PROCESS)()  # type: ignore[call-arg]  # grpc-stubs asks for what grpc defaults


async def ask(channel: grpc.aio.Channel, message: bytes = USER) -> bytes | None:
    """The answer to one message on its own stream; None if the stream ends cleanly without one.

    Raises:
        grpc.aio.AioRpcError: the stream failed.
    """
    stream = opened(channel)
    await stream.write(message)
    await stream.done_writing()
    answer = await stream.read()
    if isinstance(answer, bytes):
        return answer
    assert await stream.code() == grpc.StatusCode.OK
    return None


async def health(channel: grpc.aio.Channel, service: str = "") -> int:
    """The status from the health service."""
    found = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=service))
    status: int = found.status
    return status


def scrape(url: str) -> dict[str, float]:
    """All samples of a metrics endpoint: ``name{label=value,...}`` to value, labels sorted."""
    with urllib.request.urlopen(url, timeout=10) as answer:
        text = answer.read().decode()
    samples = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            samples[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return samples


def total(samples: dict[str, float], name: str) -> float:
    """The sum of a metric over all its labels."""
    return sum(value for key, value in samples.items() if key.partition("{")[0] == name)
