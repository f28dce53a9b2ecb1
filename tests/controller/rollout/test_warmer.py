"""Warm-up requests against a real HTTP server."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer, unused_port

from abmesh.experiment.model import Experiment
from controller.decision.warmup import AGAIN_AFTER, Progress, Target, WarmupState, judge_warmup, target_of
from controller.records import Cause, DecisionRecord, ExperimentState, Kind, Phase, adopt
from controller.rollout.tick import Outcome, TickReport
from controller.rollout.warmer import Warmer
from controller.wording.verdicts import warmup_text
from tests.controller.support import NAME, START, experiment

SECRET = "s3cret"


@dataclass
class Model:
    """A warm-up listener with a model behind it that records its requests."""

    slow: int = 0
    status: int = 200
    seen: list[dict[str, Any]] = field(default_factory=list)
    now: int = 0
    most: int = 0
    gate: asyncio.Event | None = None
    url: str = ""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.text()
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.seen.append({"method": request.method, "path": request.path, "body": body, "headers": headers})
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            if self.gate is not None:
                await self.gate.wait()
            await asyncio.sleep(0.05 if len(self.seen) <= self.slow else 0.005)
            return web.Response(status=self.status, text="x" * 100_000, headers={"location": "/elsewhere"})
        finally:
            self.now -= 1


@asynccontextmanager
async def _model(**changes: Any) -> AsyncIterator[Model]:
    model = Model(**changes)
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", model.answer)
    async with TestServer(app, handler_cancellation=True) as server:
        model.url = str(server.make_url("")).rstrip("/")
        yield model


@asynccontextmanager
async def _warmer(*listeners: str, **options: Any) -> AsyncIterator[Warmer]:
    warmer = Warmer(listeners, **options)
    try:
        yield warmer
    finally:
        await warmer.close()


def _subject(weight: float = 0, **warmup: Any) -> tuple[Experiment, ExperimentState]:
    # A wide tolerance: a busy machine must not keep anything from settling.
    said = {"path": "/v1/x", "settled": "60%", **warmup}
    subject = experiment(weight=weight, rollout={"warmup": said})
    return subject, adopt(subject, Phase.PROGRESSING, "s", START)


def _target(**warmup: Any) -> Target:
    found = target_of(*_subject(**warmup))
    assert found is not None
    return found


def _report(warms: Target | None, cause: Cause = Cause.WARMING, **changes: Any) -> TickReport:
    decision = DecisionRecord(id="d", kind=Kind.HOLD, cause=cause, reason="r", at=START)
    _, state = _subject()
    return TickReport(1, outcomes=(Outcome(NAME, state, state.weights, decision, warms=warms),), **changes)


def _progress(warmer: Warmer) -> Progress:
    return warmer.warmups().known[NAME][1]


def _tasks() -> list[asyncio.Task[Any]]:
    """Running warm-ups."""
    return [task for task in asyncio.all_tasks() if "warm-up" in task.get_name()]


async def _until(condition: Callable[[], bool], seconds: float = 30) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - it waits for a server's and a client's progress
            await asyncio.sleep(0.005)


async def _reach(warmer: Warmer, target: Target, wanted: WarmupState, now: datetime = START) -> Progress:
    """Progress once the warm-up has reached a state, at a time of the loop's clock."""
    await _until(lambda: judge_warmup(target.warmup, _progress(warmer), now).state is wanted)
    return _progress(warmer)


async def test_a_cold_model_is_warmed_until_it_answers_at_a_steady_pace() -> None:
    target = _target(settled="20%", max_requests=1000)
    async with _model(slow=4) as model, _warmer(model.url) as warmer:
        warmer.follow(_report(target), START)
        await _reach(warmer, target, WarmupState.WARM)
        await _until(lambda: not _tasks())
        progress = _progress(warmer)
        assert progress.requests >= 10
        assert (progress.failed, progress.listeners, progress.began) == (0, 1, START)
        assert progress.first_ms is not None
        assert progress.after_ms is not None
        assert progress.first_ms >= 50 > progress.after_ms >= 5
        # More ticks send no more requests.
        for _ in range(3):
            warmer.follow(_report(target), START)
        assert not _tasks()
        assert len(model.seen) == progress.requests


async def test_requests_carry_what_the_document_says_and_what_envoy_routes_on() -> None:
    target = _target(body='{"messages": []}', headers={"Authorization": SECRET}, min_requests=2)
    async with _model() as model, _warmer(model.url) as warmer:
        warmer.follow(_report(target), START)
        await _reach(warmer, target, WarmupState.WARM)
    seen = model.seen[0]
    assert (seen["method"], seen["path"], seen["body"]) == ("POST", "/v1/x", '{"messages": []}')
    assert seen["headers"]["x-model-version"] == "model-b"
    assert seen["headers"]["x-ab-experiment"] == NAME
    assert seen["headers"]["content-type"] == "application/json"
    assert seen["headers"]["authorization"] == SECRET


async def test_a_get_has_no_body_and_a_documents_content_type_comes_first() -> None:
    for warmup in ({"method": "GET"}, {"body": "x", "headers": {"content-type": "text/plain"}}):
        target = _target(min_requests=2, **warmup)
        async with _model() as model, _warmer(model.url) as warmer:
            warmer.follow(_report(target), START)
            await _reach(warmer, target, WarmupState.WARM)
        assert model.seen[0]["method"] == target.warmup.method
        assert model.seen[0]["body"] == target.warmup.body
        if target.warmup.body:
            assert model.seen[0]["headers"]["content-type"] == "text/plain"


async def test_as_many_requests_run_at_the_same_time_as_the_document_says() -> None:
    target = _target(concurrency=4)
    async with _model(gate=asyncio.Event()) as model, _warmer(model.url) as warmer:
        warmer.follow(_report(target), START)
        await _until(lambda: model.now == 4)
        assert model.gate is not None
        model.gate.set()
        await _reach(warmer, target, WarmupState.WARM)
        assert model.most == 4
        # Requests still in flight at the end are cancelled.
        await _until(lambda: model.now == 0)


async def test_every_listener_gets_requests_in_turn() -> None:
    target = _target()
    async with _model() as one, _model() as two, _warmer(one.url, two.url) as warmer:
        warmer.follow(_report(target), START)
        progress = await _reach(warmer, target, WarmupState.WARM)
        assert progress.listeners == 2
        assert abs(len(one.seen) - len(two.seen)) <= 1


@pytest.mark.parametrize("status", [500, 503, 404, 429, 302])
async def test_failed_requests_end_at_the_limit_and_are_reported(status: int) -> None:
    target = _target(max_requests=12, min_requests=12)
    noted: list[bool] = []
    async with _model(status=status) as model:
        note = lambda _target, succeeded, _seconds: noted.append(succeeded)  # noqa: E731
        async with _warmer(model.url, on_request=note, first_pause=0) as warmer:
            warmer.follow(_report(target), START)
            progress = await _reach(warmer, target, WarmupState.FAILED)
            assert (progress.requests, progress.failed, progress.failing) == (12, 12, 12)
            assert progress.problem == f"status {status}"
            assert len(model.seen) == 12
            assert noted == [False] * 12


async def test_an_unreachable_listener_is_reported() -> None:
    target = _target(max_requests=4, min_requests=2)
    async with _warmer(f"http://127.0.0.1:{unused_port()}", first_pause=0) as warmer:
        warmer.follow(_report(target), START)
        progress = await _reach(warmer, target, WarmupState.FAILED)
        assert progress.problem.startswith("no connection: ")


async def test_it_pauses_after_a_failed_request() -> None:
    target = _target(max_requests=100)
    async with _model(status=503) as model, _warmer(model.url, first_pause=3600) as warmer:
        warmer.follow(_report(target), START)
        await _until(lambda: bool(_progress(warmer).failed))
        for _ in range(100):  # another request would arrive within a few turns of the loop
            await asyncio.sleep(0)
        assert len(model.seen) == 1


async def test_a_warm_up_of_a_model_that_never_answers_ends_at_max_duration() -> None:
    target = _target(max_duration="200ms", concurrency=2)
    async with _model(gate=asyncio.Event()) as model, _warmer(model.url) as warmer:
        warmer.follow(_report(target), START)
        await _until(lambda: model.now == 2)
        await _until(lambda: model.now == 0)
        assert len(model.seen) == 2
        result = judge_warmup(target.warmup, _progress(warmer), START + timedelta(milliseconds=200))
        assert warmup_text(result).startswith("could not warm up: no request was answered within 200ms")


async def test_a_failed_warm_up_starts_again_after_a_while() -> None:
    target = _target(max_requests=2, min_requests=2)
    async with _model(status=503) as model, _warmer(model.url, first_pause=0) as warmer:
        warmer.follow(_report(target), START)
        await _reach(warmer, target, WarmupState.FAILED)
        noticed = START + timedelta(seconds=5)
        model.status = 200
        for now in (noticed, noticed + AGAIN_AFTER - timedelta(seconds=1)):
            warmer.follow(_report(target, Cause.WARMUP_FAILED), now)
            assert _progress(warmer).began == START
        warmer.follow(_report(target, Cause.WARMUP_FAILED), noticed + AGAIN_AFTER)
        progress = await _reach(warmer, target, WarmupState.WARM, noticed + AGAIN_AFTER)
        assert progress.began == noticed + AGAIN_AFTER
        assert (progress.failed, progress.problem) == (0, "")


async def test_it_starts_when_the_rollout_waits_for_it_and_continues_through_other_holds() -> None:
    target = _target(min_requests=1000, max_requests=1000)
    async with _model() as model, _warmer(model.url) as warmer:
        warmer.follow(_report(target, Cause.MISSING_DATA), START)
        assert warmer.warmups().known == {}
        warmer.follow(_report(target), START)
        await _until(lambda: len(model.seen) > 3)
        warmer.follow(_report(target, Cause.MISSING_DATA), START)
        warmer.follow(TickReport(1, superseded=(NAME,)), START)
        warmer.follow(TickReport(1, failures={NAME: "no disk"}), START)
        assert _progress(warmer).requests > 0
        await _until(lambda: len(model.seen) > 8)


@pytest.mark.parametrize(
    "ends",
    [_report(None, Cause.PAUSED), _report(None, Cause.STARTING), TickReport(1), TickReport(None, "not valid")],
    ids=["paused", "started", "taken out of the document", "document refused"],
)
async def test_it_ends_when_there_is_nothing_to_warm_up(ends: TickReport) -> None:
    target = _target(min_requests=1000, max_requests=1000)
    async with _model(gate=asyncio.Event()) as model, _warmer(model.url) as warmer:
        warmer.follow(_report(target), START)
        await _until(lambda: model.now == 1)
        warmer.follow(ends, START)
        assert warmer.warmups().known == {}
        await _until(lambda: model.now == 0)
        assert len(model.seen) == 1


async def test_another_target_starts_a_new_warm_up() -> None:
    target, other = _target(min_requests=1000, max_requests=1000), _target(path="/v2/y")
    async with _model() as model, _warmer(model.url) as warmer:
        warmer.follow(_report(target), START)
        await _until(lambda: len(model.seen) > 3)
        warmer.follow(_report(other), START + timedelta(seconds=5))
        progress = await _reach(warmer, other, WarmupState.WARM)
        assert progress.began == START + timedelta(seconds=5)
        assert warmer.warmups().of(target) == Progress(listeners=1)


async def test_a_clock_set_back_moves_the_start_back() -> None:
    target = _target(min_requests=1000, max_requests=1000)
    async with _model() as model, _warmer(model.url) as warmer:
        warmer.follow(_report(target), START)
        warmer.follow(_report(target), START - timedelta(hours=1))
        assert _progress(warmer).began == START - timedelta(hours=1)


async def test_without_a_listener_nothing_starts() -> None:
    async with _warmer() as warmer:
        warmer.follow(_report(_target()), START)
        assert warmer.warmups().known == {}
        assert warmer.warmups().of(_target()) == Progress(listeners=0)


async def test_closing_ends_running_warm_ups() -> None:
    async with _model(gate=asyncio.Event()) as model:
        async with _warmer(model.url) as warmer:
            warmer.follow(_report(_target()), START)
            await _until(lambda: model.now == 1)
        await _until(lambda: model.now == 0)
        assert not _tasks()


async def test_nothing_that_a_request_carries_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    headers = {"authorization": SECRET, "x-key": SECRET}
    target = _target(body=SECRET, headers=headers, max_requests=2, min_requests=2)
    async with _model(status=500) as model, _warmer(model.url, first_pause=0) as warmer:
        warmer.follow(_report(target), START)
        progress = await _reach(warmer, target, WarmupState.FAILED)
        await warmer.close()
    assert SECRET not in caplog.text
    assert SECRET not in progress.model_dump_json()
