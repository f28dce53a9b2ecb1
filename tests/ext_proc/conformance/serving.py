"""A program that serves one transport for the tests of this folder, and reports its resources.

    python -m tests.ext_proc.conformance.serving '{"transport": "grpcio", "socket": "/tmp/x.sock"}'

It reads commands, a word and an argument a line, from standard input and answers each with a line of JSON. A process
of its own, so that its memory and its log are the server's alone and a crash is a failed test, not the end of all.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil

from ext_proc.service import Service, compile_rules
from ext_proc.settings import Address, Tcp, Tls, Unix
from ext_proc.telemetry import Counts
from ext_proc.transport.choice import loop_factory
from tests.ext_proc.samples import document

IDENTITY = "feed" * 8
"""Every new identity is this one, so that both transports give the same bytes."""


def new_server(service: Service, options: dict[str, Any]) -> Any:
    """A server that does not listen yet."""
    files = options["tls"]
    tls = None if files is None else Tls(**{name: Path(path) for name, path in files.items()})
    if options["transport"] == "grpcio":
        from ext_proc.transport.grpc_aio import GrpcServer

        return GrpcServer(service, tls)
    from ext_proc.transport.nghttp2 import Nghttp2Server
    from ext_proc.transport.shared import Limits

    return Nghttp2Server(service, tls, Limits(**options["limits"]))


async def serve(options: dict[str, Any]) -> None:
    """Serve until told to stop, or until standard input ends."""
    service = Service(Counts(), identities=lambda: IDENTITY)
    service.rules = compile_rules(document())
    server = new_server(service, options)
    addresses: list[Address] = [Tcp("127.0.0.1", 0), Unix(Path(options["socket"]))]
    own = len(asyncio.all_tasks())
    bound = await server.start(addresses)
    say(addresses=bound)
    process, loop = psutil.Process(), asyncio.get_running_loop()
    commands: asyncio.Queue[str] = asyncio.Queue()
    threading.Thread(target=read_commands, args=(loop, commands), daemon=True).start()
    draining: asyncio.Task[None] | None = None
    while (command := await commands.get()) != "stop":
        name, _, argument = command.partition(" ")
        if name == "counters":
            if argument == "all":
                gc.collect()
            say(
                # grpc.aio keeps one task per stream, and some of its own.
                streams=getattr(server, "open_streams", None),
                connections=getattr(server, "open_connections", None),
                tasks=len(asyncio.all_tasks()) - own,
                rss_mb=process.memory_info().rss / 1e6,
                files=process.num_fds(),
                cpu_seconds=time.process_time(),
            )
        elif name == "set_serving":
            await server.set_serving()
            say()
        elif name == "drain":
            draining = asyncio.create_task(server.drain(float(argument)))
            await asyncio.sleep(0)  # it has begun when we answer
            say()
        elif name == "drained":
            say(drained=draining is not None and draining.done())
        elif name == "abort":
            await server.abort()
            say()
        else:
            say(error=f"unknown command {command!r}")
    if draining is not None:
        await draining
    await server.abort()


def read_commands(loop: asyncio.AbstractEventLoop, commands: asyncio.Queue[str]) -> None:
    """Pass lines to the event loop; the end of the input stops the server."""
    for line in sys.stdin:
        loop.call_soon_threadsafe(commands.put_nowait, line.strip())
    loop.call_soon_threadsafe(commands.put_nowait, "stop")


def say(**values: Any) -> None:
    """Answer a command."""
    sys.stdout.write(json.dumps(values) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Serve with the options from the command line."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    # grpc.aio logs a traceback if a client ends a call at the same moment as the server.
    logging.getLogger("grpc").setLevel(logging.CRITICAL)
    # It ends at a path that is not UTF-8, which our transport survives, and leaves that error in a task.
    logging.getLogger("asyncio").addFilter(lambda record: "UnicodeDecodeError" not in record.getMessage())
    options = json.loads(sys.argv[1])
    with asyncio.Runner(loop_factory=loop_factory(options["transport"])) as runner:
        runner.run(serve(options))


if __name__ == "__main__":
    main()
