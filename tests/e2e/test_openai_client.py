"""The client that people use, asking a model directly and through abmesh: nothing differs but the counts."""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import openai
import pytest
from aiohttp import web
from openai.types.chat import ChatCompletionChunk

from abmesh.experiment.parts import Price
from abmesh.local.stack import Stack, fetch
from controller.evidence.columns import Parser
from controller.evidence.summary import VariantEvidence
from controller.evidence.summing import summarize
from controller.sources.envoy_admin import QUERY
from tests.e2e.support import eventually, stack

pytestmark = pytest.mark.envoy

REQUESTS = 1000
PRICES = {"model-a": Price(input=0.15, output=0.6), "model-b": Price(input=0.05, output=0.2)}

DOCUMENT = """\
version: 1
clusters:
  model-a: {{host: 127.0.0.1, port: {port}}}
  model-b: {{host: 127.0.0.1, port: {port}}}
experiments:
  - name: chat
    match: {{path_prefix: /v1/}}
    unit: [{{header: x-user-id}}]
    variants:
      - {{name: model-a, cluster: model-a, weight: 50, control: true, price: {{input: 0.15, output: 0.6}}}}
      - {{name: model-b, cluster: model-b, weight: 50, price: {{input: 0.05, output: 0.2}}}}
"""


async def _answer(request: web.Request) -> web.StreamResponse:
    """An answer that is a function of the question alone."""
    asked = await request.json()
    dice = random.Random(hashlib.sha256(json.dumps(asked["messages"]).encode()).hexdigest())
    words = [dice.choice(['"usage": {"completion_tokens": 7}', "Grüße", "\n\n", "{}", "token"]) for _ in range(20)]
    usage = {"prompt_tokens": dice.randrange(1, 5000), "completion_tokens": dice.randrange(1, 5000)}
    usage["total_tokens"] = sum(usage.values())
    common = {"id": f"chatcmpl-{dice.random()}", "created": 1_700_000_000, "model": "m"}
    if not asked.get("stream"):
        message = {"role": "assistant", "content": " ".join(words), "refusal": None}
        choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
        return web.json_response({**common, "object": "chat.completion", "choices": [choice], "usage": usage})
    response = web.StreamResponse(headers={"content-type": "text/event-stream; charset=utf-8"})
    await response.prepare(request)
    for word in words:
        choice = {"index": 0, "delta": {"content": word}, "finish_reason": None}
        chunk = {**common, "object": "chat.completion.chunk", "choices": [choice], "usage": None}
        await response.write(f"data: {json.dumps(chunk)}\n\n".encode())
    last = {**common, "object": "chat.completion.chunk", "choices": [], "usage": usage}
    await response.write(f"data: {json.dumps(last)}\n\ndata: [DONE]\n\n".encode())
    await response.write_eof()
    return response


@asynccontextmanager
async def _model() -> AsyncIterator[int]:
    """A model server on a port of its own."""
    application = web.Application()
    application.router.add_post("/v1/chat/completions", _answer)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


@dataclass
class Bill:
    """What a client counted for one variant."""

    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    bodies: dict[int, Any] = field(default_factory=dict)

    def add(self, number: int, usage: Any, body: Any) -> None:
        self.requests += 1
        self.input_tokens += usage.prompt_tokens
        self.output_tokens += usage.completion_tokens
        self.bodies[number] = body


async def _ask(client: openai.AsyncOpenAI, number: int, bills: dict[str, Bill]) -> None:
    """One question, streamed if its number is odd; the answer goes on the bill of the variant that gave it.

    Every other streamed answer is read as the bytes that came, and every other one as the client's own chunks.
    """
    headers = {"x-user-id": f"user-{number % 97}"}
    messages: Any = [{"role": "user", "content": f"question {number}"}]
    if number % 2 == 0:
        raw = await client.chat.completions.with_raw_response.create(
            model="m", messages=messages, extra_headers=headers
        )
        usage = raw.parse().usage
        bills.setdefault(raw.headers.get("x-model-version", ""), Bill()).add(number, usage, raw.content)
        return
    async with client.chat.completions.with_streaming_response.create(
        model="m", messages=messages, stream=True, stream_options={"include_usage": True}, extra_headers=headers
    ) as response:
        bill = bills.setdefault(response.headers.get("x-model-version", ""), Bill())
        if number % 4 == 1:
            body = b"".join([piece async for piece in response.iter_bytes()])
            *_, last, done = body.removesuffix(b"\n\n").split(b"\n\n")
            assert done == b"data: [DONE]"
            bill.add(number, ChatCompletionChunk.model_validate_json(last.removeprefix(b"data: ")).usage, body)
            return
        stream = await response.parse()
        chunks = [chunk async for chunk in stream]
    bill.add(number, chunks[-1].usage, [chunk.model_dump_json() for chunk in chunks])


async def _ask_all(url: str) -> dict[str, Bill]:
    bills: dict[str, Bill] = {}
    waiting = iter(range(REQUESTS))

    async def worker(client: openai.AsyncOpenAI) -> None:
        for number in waiting:
            await _ask(client, number, bills)

    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=60) as client:
        await asyncio.gather(*(worker(client) for _ in range(8)))
    return bills


async def _counted(running: Stack) -> dict[str, VariantEvidence]:
    """What Envoy counted, as the controller reads it."""
    query = "&".join(f"{name}={value}" for name, value in QUERY.items())
    text = await fetch(f"{running.admin}/stats?{query}")
    assert text is not None
    return summarize(Parser().parse(text.encode()).counts("chat"), PRICES, PRICES)


async def test_answers_are_the_same_and_tokens_and_costs_are_the_clients_own_to_the_last(tmp_path: Path) -> None:
    async with _model() as port:
        direct = await _ask_all(f"http://127.0.0.1:{port}")
        async with stack(tmp_path, DOCUMENT.format(port=port), models=()) as running:
            through = await _ask_all(running.url)

            async def all_counted() -> bool:
                return sum(item.requests for item in (await _counted(running)).values()) == REQUESTS

            await eventually(all_counted)
            found = await _counted(running)
            log = (running.folder / "envoy.log").read_text()
    assert set(direct) == {""}
    assert set(through) == set(PRICES)
    bodies = {number: body for bill in through.values() for number, body in bill.bodies.items()}
    assert bodies == direct[""].bodies
    for name, bill in through.items():
        amounts, price = found[name].amounts, PRICES[name]
        assert found[name].codes == {200: bill.requests}
        assert (amounts["input_tokens"], amounts["output_tokens"]) == (bill.input_tokens, bill.output_tokens)
        assert amounts["usage"] == bill.requests
        # In billionths of a dollar, of which a token costs a whole number here: rounding slice by slice loses nothing.
        per_token = [round(dollars * 1000) for dollars in (price.input, price.output)]
        assert per_token == pytest.approx([price.input * 1000, price.output * 1000])
        assert amounts["cost"] == bill.input_tokens * per_token[0] + bill.output_tokens * per_token[1]
        assert "refusals" not in amounts
        assert "broken" not in amounts
    assert "[error]" not in log
