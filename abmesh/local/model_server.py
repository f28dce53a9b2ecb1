"""An OpenAI-compatible model server that needs no model: it answers in words, at a pace that is set.

The demo, the end-to-end tests and the compose file run it as ``python -m abmesh.local.model_server``. It serves

    POST /v1/chat/completions   JSON, or server-sent events with ``"stream": true``; with usage
    GET  /v1/models
    GET  /healthz
    PUT  /behaviour             {"latency_ms": .., "error_rate": .., ...}: change the pace while it runs
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import random
import sys
import time
import uuid
from dataclasses import asdict, dataclass, replace
from typing import Any

from aiohttp import web

_WORDS = ("the", "model", "answers", "with", "words", "that", "arrive", "at", "the", "pace", "that", "was", "set")


@dataclass(frozen=True, slots=True)
class Behaviour:
    """How the model answers.

    Attributes:
        latency_ms: median time of a whole answer, in milliseconds.
        spread: standard deviation of the time's logarithm; the times are log-normal.
        error_rate: share of requests, 0..1, that get ``error_status`` at once.
        error_status: which HTTP status a failing request gets.
        output_tokens: how many words an answer has.
        first_token_share: share of the time, 0..1, that passes before the first token.
        cold_requests: how many of the first answers are slower, until the model is warm.
        cold_factor: how many times slower.
    """

    latency_ms: float = 150.0
    spread: float = 0.08
    error_rate: float = 0.0
    error_status: int = 503
    output_tokens: int = 12
    first_token_share: float = 0.3
    cold_requests: int = 0
    cold_factor: float = 5.0

    def draw_seconds(self, random_: random.Random, answered: int) -> float:
        """A time for one answer, in seconds, of a model that has answered so many before."""
        warm = self.latency_ms / 1000 * math.exp(random_.gauss(0, self.spread))
        return warm * self.cold_factor if answered < self.cold_requests else warm


class ModelServer:
    """The aiohttp application of one model."""

    def __init__(self, name: str, behaviour: Behaviour, seed: int | None = None) -> None:
        self.name = name
        self.behaviour = behaviour
        self._random = random.Random(seed)
        self._answered = 0

    def application(self) -> web.Application:
        """The routes."""
        application = web.Application(client_max_size=16 * 1024**2)
        application.router.add_post("/v1/chat/completions", self._complete)
        application.router.add_get("/v1/models", self._models)
        application.router.add_get("/healthz", self._health)
        application.router.add_put("/behaviour", self._behave)
        return application

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        try:
            body = await request.json()
            messages = body["messages"]
            prompt = " ".join(str(message.get("content", "")) for message in messages)
            stream = bool(body.get("stream", False))
        except (ValueError, KeyError, TypeError, AttributeError):
            return _error(400, "invalid_request_error", "the body must be JSON with a list of messages")
        behaviour = self.behaviour
        if self._random.random() < behaviour.error_rate:
            return _error(behaviour.error_status, "server_error", f"{self.name} is overloaded")
        words = [self._random.choice(_WORDS) for _ in range(behaviour.output_tokens)]
        usage = {
            "prompt_tokens": len(prompt.split()),
            "completion_tokens": len(words),
            "total_tokens": len(prompt.split()) + len(words),
        }
        seconds = behaviour.draw_seconds(self._random, self._answered)
        self._answered += 1
        envelope = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": self.name}
        if stream:
            return await self._stream(request, envelope, words, usage, seconds)
        await asyncio.sleep(seconds)
        message = {"role": "assistant", "content": " ".join(words)}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return web.json_response({**envelope, "object": "chat.completion", "choices": [choice], "usage": usage})

    async def _stream(
        self,
        request: web.Request,
        envelope: dict[str, Any],
        words: list[str],
        usage: dict[str, int],
        seconds: float,
    ) -> web.StreamResponse:
        first = seconds * self.behaviour.first_token_share
        pause = (seconds - first) / max(1, len(words) - 1)
        response = web.StreamResponse(headers={"content-type": "text/event-stream", "cache-control": "no-cache"})
        common = {**envelope, "object": "chat.completion.chunk"}
        await asyncio.sleep(first)
        await response.prepare(request)
        started = time.monotonic()
        for index, word in enumerate(words):
            # Against the clock, not after each other: many short sleeps would add up to a slower answer.
            await asyncio.sleep(max(0.0, started + index * pause - time.monotonic()))
            delta = {"role": "assistant", "content": word} if index == 0 else {"content": f" {word}"}
            await _send(response, {**common, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
        await _send(response, {**common, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        await _send(response, {**common, "choices": [], "usage": usage})
        await response.write(b"data: [DONE]\n\n")
        await response.write_eof()
        return response

    async def _models(self, _request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": self.name, "object": "model"}]})

    async def _health(self, _request: web.Request) -> web.Response:
        return web.json_response({"model": self.name, "behaviour": asdict(self.behaviour)})

    async def _behave(self, request: web.Request) -> web.Response:
        try:
            self.behaviour = replace(self.behaviour, **await request.json())
        except (ValueError, TypeError) as error:
            return _error(400, "invalid_request_error", str(error))
        return web.json_response(asdict(self.behaviour))


def _error(status: int, kind: str, message: str) -> web.Response:
    return web.json_response({"error": {"type": kind, "message": message}}, status=status)


async def _send(response: web.StreamResponse, chunk: dict[str, Any]) -> None:
    await response.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")


def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    default = Behaviour()
    parser = argparse.ArgumentParser(prog="python -m abmesh.local.model_server", description="A stand-in for a model.")
    parser.add_argument("--name", required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--latency-ms", type=float, default=default.latency_ms)
    parser.add_argument("--spread", type=float, default=default.spread)
    parser.add_argument("--error-rate", type=float, default=default.error_rate)
    parser.add_argument("--output-tokens", type=int, default=default.output_tokens)
    parser.add_argument("--cold-requests", type=int, default=default.cold_requests)
    parser.add_argument("--cold-factor", type=float, default=default.cold_factor)
    parser.add_argument("--seed", type=int)
    options = parser.parse_args()
    behaviour = Behaviour(
        options.latency_ms,
        options.spread,
        options.error_rate,
        output_tokens=options.output_tokens,
        cold_requests=options.cold_requests,
        cold_factor=options.cold_factor,
    )
    server = ModelServer(options.name, behaviour, options.seed)
    web.run_app(
        server.application(),
        host=options.host,
        port=options.port,
        access_log=None,
        # A client that goes away needs no answer any more; as with a real model, the work for it ends.
        handler_cancellation=True,
        print=lambda text: print(text, file=sys.stderr),  # noqa: T201 - a program's ready line
    )


if __name__ == "__main__":
    main()
