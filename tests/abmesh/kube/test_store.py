from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from abmesh.experiment.source import Source, State, Trouble
from abmesh.experiment.store import Snapshot
from abmesh.kube import spec as specs
from abmesh.kube import store as stores
from abmesh.kube.generation import generation_of, salt_digest
from abmesh.kube.resources import EXPERIMENTS
from abmesh.kube.store import KubeStore
from tests.abmesh.kube.experiments import spec
from tests.abmesh.kube.fake_api import FakeApi


class Watched:
    def __init__(self) -> None:
        self.states: list[State] = []

    @property
    def snapshots(self) -> list[Snapshot]:
        return [state for state in self.states if isinstance(state, Snapshot)]

    async def until(self, condition: Callable[[Snapshot], bool]) -> Snapshot:
        await self.reached(lambda: bool(self.snapshots) and condition(self.snapshots[-1]))
        return self.snapshots[-1]

    async def reached(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(15):
            while not condition():  # noqa: ASYNC110 - the fake runs in another thread
                await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def watching(api: FakeApi, namespace: str | None = None, **options: Any) -> AsyncIterator[Watched]:
    watched = Watched()
    source: Source = KubeStore(api.connection, namespace, **options)

    async def run() -> None:
        async for state in source.watch():
            watched.states.append(state)

    task = asyncio.create_task(run())
    try:
        yield watched
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def weights(snapshot: Snapshot, name: str = "llm/chat") -> dict[str, int]:
    return snapshot.document.experiment(name).weights


async def test_a_cluster_without_experiments_is_a_valid_state(api: FakeApi) -> None:
    async with watching(api) as watched:
        found = await watched.until(lambda _: True)
        assert found.document.experiments == ()
        assert found.generation == generation_of({})


async def test_an_edit_of_weights_is_served_without_a_controller(api: FakeApi) -> None:
    api.put(EXPERIMENTS, "llm", "chat", spec=spec())
    async with watching(api) as watched:
        first = await watched.until(lambda it: weights(it) == {"model-a": 9000, "model-b": 1000})
        api.put(EXPERIMENTS, "llm", "chat", spec=spec(weights={"model-a": 50, "model-b": 50}))
        second = await watched.until(lambda it: weights(it) == {"model-a": 5000, "model-b": 5000})
        assert first.generation != second.generation == generation_of(second.digests)


async def test_only_the_named_namespace_is_served(api: FakeApi) -> None:
    api.put(EXPERIMENTS, "llm", "chat", spec=spec())
    api.put(EXPERIMENTS, "web", "chat", spec=spec())
    async with watching(api, "web") as watched:
        found = await watched.until(lambda it: bool(it.document.experiments))
        assert [experiment.name for experiment in found.document.experiments] == ["web/chat"]


async def test_a_refused_edit_keeps_the_last_good_form_and_serves_the_others(api: FakeApi) -> None:
    api.put(EXPERIMENTS, "llm", "chat", spec=spec())
    async with watching(api) as watched:
        await watched.until(lambda it: bool(it.document.experiments))
        api.put(EXPERIMENTS, "llm", "chat", spec=spec(weights={"model-a": 90, "model-b": 20}))
        api.put(EXPERIMENTS, "llm", "other", spec=spec(weights={"model-a": 1, "model-b": 99}))
        found = await watched.until(lambda it: len(it.document.experiments) == 2 and bool(it.refused))
        assert weights(found) == {"model-a": 9000, "model-b": 1000}
        assert weights(found, "llm/other") == {"model-a": 100, "model-b": 9900}
        assert list(found.refused) == ["llm/chat"]


async def test_a_fresh_server_leaves_a_refused_object_out(api: FakeApi) -> None:
    api.put(EXPERIMENTS, "llm", "chat", spec=spec(weights={"model-a": 90, "model-b": 20}))
    async with watching(api) as watched:
        found = await watched.until(lambda it: bool(it.refused))
        assert found.document.experiments == ()


async def test_what_changes_nothing_that_is_served_is_no_news(api: FakeApi) -> None:
    api.put(EXPERIMENTS, "llm", "chat", spec=spec())
    async with watching(api) as watched:
        await watched.until(lambda it: bool(it.document.experiments))
        before = len(watched.states)
        seen = {"lastSeenSpecWeights": {"model-a": 90, "model-b": 10}}
        api.put(EXPERIMENTS, "llm", "chat", spec=spec(), status=seen | {"reason": "waiting"})
        api.put(EXPERIMENTS, "llm", "last", spec=spec())
        await watched.until(lambda it: len(it.document.experiments) == 2)
        assert len(watched.states) == before + 1


async def test_trouble_is_told_and_over(api: FakeApi) -> None:
    api.fail(403, times=1000, message="cannot list")
    async with watching(api) as watched:
        await watched.reached(lambda: bool(watched.states))
        assert isinstance(watched.states[0], Trouble)
        assert "may not list experiments.abmesh.dev" in watched.states[0].message
        api.heal()
        await watched.until(lambda _: True)
        assert Trouble("") in watched.states


async def test_origins_of_events_are_a_setting(api: FakeApi) -> None:
    async with watching(api, event_origins=("https://a.example",)) as watched:
        assert (await watched.until(lambda _: True)).document.event_origins == ("https://a.example",)


@pytest.fixture
def salts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(specs, "SECRETS_FOLDER", str(tmp_path))
    monkeypatch.setattr(stores, "_SECRETS_SECONDS", 0.05)
    return tmp_path


async def test_a_mounted_salt_is_used_and_followed(api: FakeApi, salts: Path) -> None:
    api.put(EXPERIMENTS, "llm", "chat", spec=spec(saltFile="salt"))
    async with watching(api) as watched:
        found = await watched.until(lambda it: bool(it.refused))
        assert "no such file" in found.refused["llm/chat"]
        (salts / "salt").write_text("s" * 32)
        found = await watched.until(lambda it: not it.refused and bool(it.document.experiments))
        assert found.document.experiments[0].hash_salt == "s" * 32


async def test_another_salt_than_the_users_were_assigned_with_is_refused(api: FakeApi, salts: Path) -> None:
    (salts / "salt").write_text("s" * 32)
    api.put(EXPERIMENTS, "llm", "chat", spec=spec(saltFile="salt"))
    async with watching(api) as watched:
        found = await watched.until(lambda it: bool(it.document.experiments))
        status = {"saltDigest": salt_digest(found.document.experiments[0])}
        api.put(EXPERIMENTS, "llm", "chat", spec=spec(saltFile="salt"), status=status)
        (salts / "salt").write_text("t" * 32)
        found = await watched.until(lambda it: bool(it.refused))
        assert found.document.experiments[0].hash_salt == "s" * 32
        assert "every user would be assigned anew" in found.refused["llm/chat"]
        assert "t" * 32 not in str(found.refused)
        (salts / "salt").write_text("s" * 32)
        await watched.until(lambda it: not it.refused)
