"""The stand-in for a model answers as an OpenAI-compatible server does."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer

from abmesh.local.model_server import Behaviour, ModelServer

INSTANT = Behaviour(latency_ms=1, spread=0, output_tokens=5)
QUESTION = {"messages": [{"role": "user", "content": "What is new"}]}


def _client(behaviour: Behaviour = INSTANT) -> TestClient[Any, Any]:
    return TestClient(TestServer(ModelServer("model-x", behaviour, seed=1).application()))


async def test_a_json_answer_carries_the_words_and_their_count() -> None:
    async with _client() as client:
        answer = await (await client.post("/v1/chat/completions", json=QUESTION)).json()
    words = answer["choices"][0]["message"]["content"].split()
    assert len(words) == 5
    assert answer["usage"] == {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}
    assert (answer["object"], answer["model"]) == ("chat.completion", "model-x")


async def test_a_stream_sends_a_chunk_a_token_then_the_usage_then_done() -> None:
    async with _client() as client:
        response = await client.post("/v1/chat/completions", json={**QUESTION, "stream": True})
        text = await response.text()
    assert response.headers["content-type"] == "text/event-stream"
    lines = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    assert lines[-1] == "[DONE]"
    chunks = [json.loads(line) for line in lines[:-1]]
    content = "".join(choice["delta"].get("content", "") for chunk in chunks for choice in chunk["choices"])
    assert len(content.split()) == 5
    assert chunks[-1]["usage"]["completion_tokens"] == 5
    assert chunks[-2]["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"messages": 3}', b'{"messages": ["x"]}', b"\xff"])
async def test_a_body_that_is_no_question_is_refused(body: bytes) -> None:
    async with _client() as client:
        response = await client.post("/v1/chat/completions", data=body)
        assert response.status == 400
        assert (await response.json())["error"]["type"] == "invalid_request_error"


async def test_the_behaviour_can_be_changed_while_it_runs() -> None:
    async with _client() as client:
        assert (await client.post("/v1/chat/completions", json=QUESTION)).status == 200
        assert (await client.put("/behaviour", json={"error_rate": 1.0})).status == 200
        assert (await client.post("/v1/chat/completions", json=QUESTION)).status == 503
        assert (await client.put("/behaviour", json={"mood": "bad"})).status == 400


async def test_a_cold_model_is_slow_until_it_has_answered_a_few_requests() -> None:
    cold = Behaviour(latency_ms=1, spread=0, output_tokens=1, cold_requests=3, cold_factor=100)
    loop = asyncio.get_running_loop()
    async with _client(cold) as client:
        seconds = []
        for _ in range(6):
            started = loop.time()
            assert (await client.post("/v1/chat/completions", json=QUESTION)).status == 200
            seconds.append(loop.time() - started)
    assert min(seconds[:3]) >= 0.1 > min(seconds[3:])
