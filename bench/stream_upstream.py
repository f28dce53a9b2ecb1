"""A model server that streams chunks at a fixed rate, each with the time at which it was written.

``python -m bench.stream_upstream PORT``; started by :mod:`bench.streams`. A request's query says how many chunks to
send and how many a second. The time is the monotonic clock's, which all processes of a machine share.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Final

from aiohttp import web

MOST_CHUNKS: Final = 10_000


async def stream(request: web.Request) -> web.StreamResponse:
    """Chunks of an OpenAI-style answer, the last with the usage."""
    count = min(int(request.query["count"]), MOST_CHUNKS)
    rate = float(request.query["rate"])
    response = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await response.prepare(request)
    started = time.monotonic()
    for number in range(count):
        await asyncio.sleep(max(0.0, started + number / rate - time.monotonic()))
        chunk = {
            "id": "chatcmpl-1",
            "object": "chat.completion.chunk",
            "sent": time.monotonic_ns(),
            "choices": [{"index": 0, "delta": {"content": " token"}, "finish_reason": None}],
        }
        await response.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")
    usage = {"prompt_tokens": 10, "completion_tokens": count, "total_tokens": count + 10}
    await response.write(b"data: " + json.dumps({"choices": [], "usage": usage}).encode() + b"\n\ndata: [DONE]\n\n")
    await response.write_eof()
    return response


async def ready(_request: web.Request) -> web.Response:
    """That it serves."""
    return web.Response(text="ready")


def main() -> None:
    """Serve on a port of the loopback interface until ended."""
    application = web.Application()
    application.router.add_get("/healthz", ready)
    application.router.add_route("*", "/v1/{rest:.*}", stream)
    web.run_app(application, host="127.0.0.1", port=int(sys.argv[1]), access_log=None, print=None)


if __name__ == "__main__":
    main()
