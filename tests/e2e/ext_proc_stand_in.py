"""A minimal external-processing server that does as the request's ``x-user-id`` says, so that Envoy is tested alone.

Run as a program: ``python ext_proc_stand_in.py ADDRESS`` (``host:port`` or ``unix:/path``); it prints its port.
SIGUSR1 makes it say that it is not serving, SIGUSR2 that it is. The user id is a JSON object:

    set          request headers to set
    set_cookie   value of our dynamic metadata
    sleep        seconds before the answer
    immediate    HTTP status to answer with in the upstream's place
    fail         end the stream with an error
    foreign      value of dynamic metadata in somebody else's namespace

The answer also sets ``x-ab-segment`` to this process's id, and ``x-ab-group`` to the sorted names of the headers that
it was sent if ``set`` asks for ``"x-ab-group": "names"``. A request without a user id is passed on untouched.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from typing import Any

import grpc
from envoy.service.ext_proc.v3 import external_processor_pb2 as messages
from envoy.service.ext_proc.v3 import external_processor_pb2_grpc as services
from grpc_health.v1 import health, health_pb2, health_pb2_grpc


class StandIn:
    async def Process(  # the service definition's own name
        self, requests: AsyncIterator[Any], context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[Any]:
        async for request in requests:
            headers = {header.key: header.raw_value.decode() for header in request.request_headers.headers.headers}
            script = json.loads(headers.get("x-user-id", "null"))
            await asyncio.sleep(script.get("sleep", 0) if script else 0)
            if script and script.get("fail"):
                await context.abort(grpc.StatusCode.INTERNAL, "as asked")
            yield answer(script, sorted(headers))


def answer(script: dict[str, Any] | None, names: list[str]) -> Any:
    response = messages.ProcessingResponse()
    if script and "immediate" in script:
        response.immediate_response.status.code = script["immediate"]
        return response
    common = response.request_headers.response
    if script is None:
        response.request_headers.SetInParent()
        return response
    common.clear_route_cache = True
    for key, value in {"x-ab-segment": str(os.getpid()), **script.get("set", {})}.items():
        sent = ",".join(names) if value == "names" else value
        option = common.header_mutation.set_headers.add()
        option.header.key, option.header.raw_value = key, sent.encode()
        option.append_action = option.OVERWRITE_IF_EXISTS_OR_ADD
    if "set_cookie" in script:
        response.dynamic_metadata.get_or_create_struct("abmesh")["set_cookie"] = script["set_cookie"]
    if "foreign" in script:
        response.dynamic_metadata.get_or_create_struct("foreign")["value"] = script["foreign"]
    return response


async def serve(address: str) -> None:
    server = grpc.aio.server(options=[("grpc.so_reuseport", 1)])
    services.add_ExternalProcessorServicer_to_server(StandIn(), server)
    checks = health.aio.HealthServicer()  # type: ignore[attr-defined]  # grpc-stubs lack the asyncio service
    await checks.set("", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    port = server.add_insecure_port(address)
    await server.start()
    print(port, flush=True)
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stopping.set)
    saying: set[asyncio.Task[None]] = set()  # the loop itself keeps no strong reference

    def say(status: Any) -> None:
        saying.add(loop.create_task(checks.set("", status)))

    loop.add_signal_handler(signal.SIGUSR1, say, health_pb2.HealthCheckResponse.NOT_SERVING)
    loop.add_signal_handler(signal.SIGUSR2, say, health_pb2.HealthCheckResponse.SERVING)
    await stopping.wait()
    await checks.enter_graceful_shutdown()
    await server.stop(5)


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1]))
