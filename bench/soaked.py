"""The server that :mod:`bench.soak` loads: one transport, which says every moment what it keeps.

    python -m bench.soaked nghttp2

Its first line of JSON has the address; every further one the open streams and connections, and the memory in MB
(10^6 bytes). It ends with its standard input.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any, Final

import psutil

from experiment.codec import parse
from ext_proc.service import Service, compile_rules
from ext_proc.settings import Tcp
from ext_proc.telemetry import Counts
from ext_proc.transport.choice import loop_factory

_DOCUMENT: Final = """\
version: 1
experiments:
  - name: chat-model
    match: {path_prefix: /v1/}
    unit: [{header: x-user-id}]
    variants:
      - {name: model-a, cluster: model-a, weight: 90, control: true}
      - {name: model-b, cluster: model-b, weight: 10}
"""
_PERIOD: Final = 0.25


async def serve(transport: str) -> None:
    """Serve until standard input ends."""
    service = Service(Counts())
    service.rules = compile_rules(parse(_DOCUMENT, "the soak's document"))
    server = _new_server(transport, service)
    (address,) = await server.start([Tcp("127.0.0.1", 0)])
    own = len(asyncio.all_tasks())
    _say(address=address)
    loop, process = asyncio.get_running_loop(), psutil.Process()
    over = loop.run_in_executor(None, sys.stdin.read)
    while not over.done():
        await asyncio.wait({over}, timeout=_PERIOD)
        # grpc.aio does not say how many streams are open, but has a task for each.
        streams = getattr(server, "open_streams", len(asyncio.all_tasks()) - own)
        connections = getattr(server, "open_connections", None)
        _say(streams=streams, connections=connections, rss_mb=process.memory_info().rss / 1e6)
    await server.abort()


def _new_server(transport: str, service: Service) -> Any:
    if transport == "grpcio":
        from ext_proc.transport.grpc_aio import GrpcServer

        return GrpcServer(service)
    from ext_proc.transport.nghttp2 import Nghttp2Server

    return Nghttp2Server(service)


def _say(**values: Any) -> None:
    sys.stdout.write(json.dumps(values) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=loop_factory("nghttp2" if sys.argv[1] == "nghttp2" else "grpcio")) as runner:
        runner.run(serve(sys.argv[1]))
