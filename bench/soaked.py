"""The server that :mod:`bench.soak` loads: one transport, which says every moment what it keeps.

    python -m bench.soaked nghttp2

Its first line of JSON has the address; every further one the open streams and connections, the memory in MB (10^6
bytes), and how many calls took the usual, short way. It begins with its memory of answers full, and ends with its
standard input.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any, Final

import psutil

from bench import soak_messages
from ext_proc.service import Service
from ext_proc.settings import Tcp
from ext_proc.transport.choice import loop_factory

_PERIOD: Final = 0.25


async def serve(transport: str) -> None:
    """Serve until standard input ends."""
    service = soak_messages.new_service()
    for user in range(soak_messages.WARMING_USERS):
        service.answer(soak_messages.message(soak_messages.USERS + user, decides=True))
    usual = _counted() if transport == "nghttp2" else None
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
        rss_mb = process.memory_info().rss / 1e6
        _say(streams=streams, connections=connections, rss_mb=rss_mb, usual=usual and usual[0])
    await server.abort()


def _new_server(transport: str, service: Service) -> Any:
    if transport == "grpcio":
        from ext_proc.transport.grpc_aio import GrpcServer

        return GrpcServer(service)
    from ext_proc.transport.nghttp2 import Nghttp2Server

    return Nghttp2Server(service)


def _counted() -> list[int]:
    """Count the calls that take the short way to its end, which makes no stream; a list of this one number."""
    from ext_proc.transport.calls import Calls

    counted, answer_usual = [0], Calls.answer_usual

    def counting(calls: Calls, stream_id: int, data: bytes) -> None:
        answer_usual(calls, stream_id, data)
        counted[0] += stream_id not in calls._streams

    # The server itself need not count this.
    Calls.answer_usual = counting  # type: ignore[method-assign, assignment]
    return counted


def _say(**values: Any) -> None:
    sys.stdout.write(json.dumps(values) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=loop_factory("nghttp2" if sys.argv[1] == "nghttp2" else "grpcio")) as runner:
        runner.run(serve(sys.argv[1]))
