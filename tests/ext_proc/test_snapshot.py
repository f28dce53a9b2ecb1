import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from abmesh.experiment.errors import DocumentError, Problem
from abmesh.experiment.secret_source import SecretSource
from abmesh.experiment.source import State, Trouble
from abmesh.experiment.store import Rejected, Snapshot
from ext_proc import snapshot
from ext_proc.service import Service
from ext_proc.snapshot import Follower
from ext_proc.telemetry import Config, Counts
from tests.ext_proc.samples import document, headers_set, request_headers


def good(generation: int, name: str = "chat-model") -> Snapshot:
    return Snapshot(document({"name": name}), "", generation)


REFUSED = Rejected(DocumentError("x.yaml", (Problem("a", 1, "one"), Problem("b", 2, "two"))), 99)


class Watched:
    """A store whose states the test provides, and a follower of it."""

    def __init__(self) -> None:
        self.states: asyncio.Queue[State | Exception] = asyncio.Queue()
        self.service = Service(Counts())
        self.became_valid = 0
        self.now = 100.0
        self.follower = Follower(self._watch, self.service, self._on_valid, lambda: self.now)

    async def _watch(self) -> AsyncIterator[State]:
        while True:
            state = await self.states.get()
            try:
                if isinstance(state, Exception):
                    raise state
                yield state
            finally:
                self.states.task_done()  # reached once the follower asks for the next one

    async def _on_valid(self) -> None:
        self.became_valid += 1

    @property
    def config(self) -> Config:
        return self.service.counts.config

    async def show(self, state: State | Exception) -> None:
        """Provide a state, and wait until the follower has handled it."""
        await self.states.put(state)
        await self.states.join()

    def assigns(self) -> str | None:
        """The experiment that a request gets."""
        return headers_set(self.service.answer(request_headers([("x-user-id", b"u")]))).get("x-ab-experiment")


@pytest.fixture
async def watched(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Watched]:
    monkeypatch.setattr(snapshot, "_RETRY_SECONDS", 0.0)
    made = Watched()
    task = asyncio.create_task(made.follower.run())
    yield made
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_good_document_takes_effect(watched: Watched) -> None:
    assert watched.assigns() is None
    await watched.show(good(1))
    assert watched.follower.seen.is_set()
    assert watched.assigns() == "chat-model"
    assert watched.config == Config(1, 100.0)
    assert watched.became_valid == 1


async def test_a_newer_good_document_replaces_it(watched: Watched) -> None:
    await watched.show(good(1))
    watched.now = 200.0
    await watched.show(good(2, "newer"))
    assert watched.assigns() == "newer"
    assert watched.config.valid
    assert watched.config == Config(2, 200.0)
    assert watched.became_valid == 1


async def test_a_refused_edit_changes_nothing_but_is_reported(
    watched: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    await watched.show(good(1))
    await watched.show(REFUSED)
    assert watched.assigns() == "chat-model"
    assert watched.config == Config(1, 100.0, 1, "x.yaml:1: a: one | x.yaml:2: b: two")
    assert "generation 0000000000001 stays in force: x.yaml:1: a: one | x.yaml:2: b: two" in caplog.text


async def test_a_refused_first_document_is_seen_but_not_valid(watched: Watched) -> None:
    await watched.show(REFUSED)
    assert watched.follower.seen.is_set()
    assert watched.became_valid == 0
    assert watched.assigns() is None
    await watched.show(good(1))
    assert watched.became_valid == 1
    assert watched.config.valid


async def test_reverting_to_the_document_in_force_is_valid_without_a_reload(watched: Watched) -> None:
    await watched.show(good(1))
    rules = watched.service.rules
    await watched.show(REFUSED)
    watched.now = 200.0
    await watched.show(good(1))
    assert watched.service.rules is rules
    assert watched.config == Config(1, 100.0, 1)


async def test_a_watch_that_fails_is_restarted_and_counted(watched: Watched, caplog: pytest.LogCaptureFixture) -> None:
    await watched.show(good(1))
    await watched.show(RuntimeError("disk on fire"))
    assert watched.assigns() == "chat-model"
    assert watched.service.counts.errors == {"watch": 1}
    assert not watched.config.valid
    assert "RuntimeError: disk on fire" in caplog.text
    await watched.show(good(2, "newer"))
    assert watched.assigns() == "newer"
    assert watched.config.valid


async def test_a_changed_secret_takes_effect_and_is_named_but_not_shown(
    watched: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    def salted(salt: str) -> Snapshot:
        source = SecretSource(file="/run/salt").holding(salt)
        found = document()
        experiments = (found.experiments[0].model_copy(update={"salt": "", "secret_salt": source}),)
        return Snapshot(found.model_copy(update={"experiments": experiments}), "", 1)

    await watched.show(salted("a" * 32))
    rules = watched.service.rules
    await watched.show(salted("a" * 32))
    assert watched.service.rules is rules
    assert "secret changed" not in caplog.text
    await watched.show(salted("b" * 32))
    assert watched.service.rules is not rules
    assert "secret changed: chat-model: secret_salt: file /run/salt: every user" in caplog.text
    assert "b" * 32 not in caplog.text


async def test_trouble_is_told_and_what_is_in_force_stays(watched: Watched, caplog: pytest.LogCaptureFixture) -> None:
    await watched.show(good(1))
    await watched.show(Trouble("cannot list: refused"))
    assert watched.config == Config(1, 100.0, trouble="cannot list: refused")
    assert watched.config.valid
    assert watched.assigns() == "chat-model"
    assert watched.service.counts.errors == {"watch": 1}
    assert "changes cannot be followed, generation 0000000000001 stays in force: cannot list: refused" in caplog.text
    await watched.show(Trouble(""))
    assert watched.config == Config(1, 100.0)


async def test_trouble_before_the_first_document_does_not_make_the_server_wait(watched: Watched) -> None:
    await watched.show(Trouble("cannot list"))
    assert watched.follower.seen.is_set()
    assert watched.became_valid == 0


async def test_refused_experiments_are_counted_and_told_once_each(
    watched: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    one = replace(good(1), refused={"llm/a": "bad weights"}, digests={"chat-model": 7})
    await watched.show(one)
    assert (watched.config.rejected, watched.config.valid, watched.config.digests) == (1, False, {"chat-model": 7})
    assert watched.became_valid == 1
    assert "experiment llm/a refused, its traffic passes untouched: bad weights" in caplog.text
    await watched.show(replace(one, generation=2, refused={**one.refused, "chat-model": "bad steps"}))
    assert watched.config.rejected == 2
    assert "experiment chat-model refused, what was accepted of it stays in force: bad steps" in caplog.text
    await watched.show(good(3))
    assert (watched.config.rejected, watched.config.valid) == (2, True)
    assert "experiment llm/a is no longer refused" in caplog.text
